# The book's commands. `make book` and `make test` set up what they need and do nothing twice.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
TRL112 := .venv-trl112

.PHONY: book notebooks links pdf epub zip slides test test-all lint format lock clean parity bench experiments assignments

book: $(READY)
	@$(RUN) -m rlhf_utils.book build

# One `.ipynb` a lesson in `_build/notebooks`, and what else the branch of that name holds.
notebooks: book
	@$(RUN) -m rlhf_utils.book notebooks

# Asks every address that the book names. Needs a network, and nothing else does.
links: $(READY)
	@$(RUN) -m rlhf_utils.book links

test: book
	$(RUN) -m pytest

test-all: book
	$(RUN) -m pytest -m ''

# Made of the built book: `_build/book.pdf`, `_build/book.epub`, `_build/book-site.zip`, and the decks of `course/slides` as
# HTML and PDF in `_build/slides`.
pdf epub zip slides: book
	@$(RUN) -m rlhf_utils.book $@

# One update of TRL 1.12.0's PPO, recorded anew in an environment of its own, against the committed recording and ours.
parity: $(READY) $(TRL112)/.ready
	$(TRL112)/bin/python -W ignore benchmarks/parity/make_fixture.py _build/parity.safetensors
	$(RUN) benchmarks/parity/compare.py _build/parity.safetensors --committed tests/data/trl_ppo.safetensors \
		--keep benchmarks/results/parity.md

# The students' notebooks and the staff's in `_course`. The secret comes from RLHF_COURSE_TERM, the roster from ROSTER.
assignments: $(READY)
	@$(RUN) -m course.kit build $(if $(ROSTER),--roster $(ROSTER))

# Side by side with what one would otherwise use; wants idle cores. Results are kept as text.
bench: $(READY) $(TRL112)/.ready
	$(RUN) benchmarks/bench.py --keep benchmarks/results/ppo.md
	$(RUN) benchmarks/trainers.py --keep benchmarks/results/trainers.md
	$(RUN) benchmarks/scaling.py --keep benchmarks/results/scaling.jsonl
	$(RUN) benchmarks/annotation_load.py --keep benchmarks/results/annotation.md

# Grids and many seeds; a stopped run goes on where it was. What is up to date is not computed again.
experiments: $(READY)
	$(RUN) experiments/broken_ppo.py
	$(RUN) experiments/distance_to_optimum.py
	$(RUN) experiments/how_many_comparisons.py
	$(RUN) experiments/unreliable_annotators.py
	$(RUN) experiments/gold_on_the_frontier.py
	$(RUN) experiments/ppo_histories.py
	$(RUN) experiments/frontier.py
	$(RUN) experiments/overoptimisation.py
	$(RUN) experiments/best_of_n_pools.py
	$(RUN) experiments/four_methods.py
	$(RUN) experiments/critic_free.py
	$(RUN) experiments/checked_sums.py
	$(RUN) experiments/same_comparisons.py
	$(RUN) experiments/summaries.py
	$(RUN) experiments/cheaper_rates.py
	$(RUN) experiments/cheaper_training.py
	$(RUN) experiments/cheaper_steps.py
	$(RUN) experiments/staleness.py
	$(RUN) experiments/explorables.py
	$(RUN) experiments/lesson_seeds.py

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# What the pinned requirements resolved to in this environment, without the project itself.
lock: $(READY)
	$(RUN) -m pip freeze --exclude-editable --exclude rlhf_utils > requirements.lock.txt

# The environment and the lessons' kept outputs stay: `rm -rf .venv _build` takes those as well.
clean:
	rm -rf _build/html _build/attempt _build/jupyter_execute _build/lessons.json .pytest_cache .ruff_cache

# Made anew when the requirements or the project's metadata change, and only then.
$(READY): requirements.txt pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(READY)

$(TRL112)/.ready: benchmarks/parity/requirements.txt
	test -x $(TRL112)/bin/python || $(PYTHON) -m venv $(TRL112)
	$(TRL112)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/parity/requirements.txt
	@touch $@
