import importlib.util
import json
import platform
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_utils import experiments
from rlhf_utils.errors import UserError
from rlhf_utils.experiments import Experiment, compute_row

FOLDER = Path(__file__).parents[1] / "experiments"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(script):
    spec = importlib.util.spec_from_file_location(script, FOLDER / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[script] = module
    spec.loader.exec_module(module)
    return module


MODULES = [load(script) for script in SCRIPTS]
EXPERIMENTS = {e.name: e for m in MODULES for e in (m.EXPERIMENTS if hasattr(m, "EXPERIMENTS") else [m.EXPERIMENT])}
# How near a row computed anew has to come, where the experiment's figures are means over many samples.
CLOSE = {"distance_to_optimum": {"share": 0.03, "j_optimum": 0.03}}


def double(row):
    """A computation for these tests."""
    if row["x"] < 0:
        raise RuntimeError("stopped here")
    return {"y": 2 * row["x"]}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "folder", lambda: tmp_path)
    return tmp_path


def test_results_are_kept_with_the_hash_of_what_made_them(results):
    experiment = Experiment("doubles", [{"x": 1}, {"x": 2}], double, ["rlhf_utils.tensors"])
    experiments.run(experiment, workers=1)
    header, rows = experiments.read("doubles")
    assert (header["settings"], header["code"]) == (experiment.settings, experiment.code)
    assert [(row["x"], row["y"]) for row in rows] == [(1, 2), (2, 4)]
    assert replace(experiment, rows=[{"x": 1}]).settings != experiment.settings
    assert replace(experiment, modules=["rlhf_utils.sft"]).code != experiment.code


@pytest.mark.parametrize("changed", [False, True])
def test_results_of_other_code_are_confirmed_or_computed_again(results, changed):
    experiment = Experiment("doubles", [{"x": 1}, {"x": 2}], double, ["rlhf_utils.tensors"])
    path = experiments.run(experiment, workers=1)
    if changed:  # the kept results are not what the code gives now
        path.write_text(path.read_text().replace('"y": 2', '"y": 55').replace('"y": 4', '"y": 55'))
    marked = path.read_text().replace('"seconds": ', '"mark": 1, "seconds": ')
    path.write_text(marked)
    other = replace(experiment, modules=["rlhf_utils.sft"])
    experiments.run(other, workers=1)
    header, rows = experiments.read("doubles")
    assert header["code"] == other.code
    assert [row["y"] for row in rows] == [2, 4]
    assert all(("mark" in row) == (not changed) for row in rows)  # kept as they were, or new


def test_rows_agree_in_nine_digits_and_not_in_eight():
    row = {"a": [0.1, {"b": 3.0}], "seconds": 1.0, "n": 3, "word": "x"}
    assert experiments._same(row, {**row, "seconds": 2.0, "a": [0.1 + 1e-13, {"b": 3.0}]})
    assert not experiments._same(row, {**row, "a": [0.1 + 1e-9, {"b": 3.0}]})
    # What is 0 but for the rounding of a long sum: a difference of means that are equal.
    assert experiments._same({"x": 1.2e-11}, {"x": -3.4e-11})
    assert not experiments._same({"x": 1.2e-9}, {"x": 0.0})
    for other in ({"n": 4}, {"word": "y"}, {"a": [0.1]}, {"a": [0.1, {"c": 3.0}]}):
        assert not experiments._same(row, row | other)


def test_a_stopped_run_goes_on_where_it_was(results):
    broken = Experiment("doubles", [{"x": 1}, {"x": -1}], double, ["rlhf_utils.tensors"])
    with pytest.raises(RuntimeError, match="stopped here"):
        experiments.run(broken, workers=1)
    lines = (results / "doubles.partial").read_text().splitlines()
    assert json.loads(lines[1])["y"] == 2
    assert not (results / "doubles.jsonl").exists()
    # What waits in the file is not computed again: a mark in it survives. Other settings begin anew.
    (results / "doubles.partial").write_text("\n".join([lines[0], lines[1].replace('"y": 2', '"y": 77')]) + "\n")
    with pytest.raises(RuntimeError):
        experiments.run(broken, workers=1)
    assert "77" in (results / "doubles.partial").read_text()
    experiments.run(replace(broken, rows=[{"x": 1}, {"x": 3}]), workers=1)
    assert [row["y"] for row in experiments.read("doubles")[1]] == [2, 6]


def test_without_the_repository_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "__file__", str(tmp_path / "rlhf_utils" / "experiments.py"))
    with pytest.raises(UserError, match="clone"):
        experiments.folder()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_kept_results_are_those_of_the_code_as_it_is(name):
    experiment = EXPERIMENTS[name]
    header, rows = experiments.read(name)
    if header["python"].split(".")[:2] != platform.python_version().split(".")[:2]:
        pytest.skip(f"the hash is of Python {header['python']}'s syntax tree")
    remedy = f"run `make experiments`: code or settings of {name} have changed"
    assert (header["settings"], header["code"]) == (experiment.settings, experiment.code), remedy
    assert [{k: row[k] for k in settings} for row, settings in zip(rows, experiment.rows, strict=True)] == list(
        experiment.rows
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_row_drawn_at_random_comes_out_again(name):
    """Another processor rounds differently and so samples differently: figures may move a little, not more."""
    experiment = EXPERIMENTS[name]
    row = random.SystemRandom().choice(experiments.read(name)[1])
    again = compute_row(experiment, {k: row[k] for k in experiment.rows[0]})
    assert again.keys() == row.keys()
    for figure, tolerance in CLOSE.get(name, {}).items():
        assert again[figure] == pytest.approx(row[figure], abs=tolerance), row


LESSON = """---
jupytext: {{text_representation: {{extension: .md, format_name: myst}}}}
---

```{{code-cell}} ipython3
from myst_nb import glue
from rlhf_utils import sft
from rlhf_utils.plotting import show
from rlhf_utils.tensors import whiten

SEED = 0
```

```{{code-cell}} ipython3
assert SEED < 2
glue("x_twice", 2.0 * SEED, display=False)  # {remark}
```

```{{code-cell}} ipython3
:tags: [seeds]

show_seeds("01_lesson", {{}})
```
"""


@pytest.fixture
def lesson_seeds(tmp_path, monkeypatch):
    module = load("lesson_seeds")
    (tmp_path / "01_lesson.md").write_text(LESSON.format(remark="a comment"))
    monkeypatch.setattr(module, "LESSONS", tmp_path)
    return module


def test_a_lesson_runs_with_another_seed(lesson_seeds):
    script = sys.modules["__main__"]
    assert [lesson_seeds.compute({"lesson": "01_lesson", "seed": seed}) for seed in (0, 1)] == [
        {"x_twice": 0.0},
        {"x_twice": 2.0},
    ]
    assert sys.modules["__main__"] is script  # or the pool's next row isn't found
    with pytest.raises(RuntimeError, match=r"01_lesson with seed 2: AssertionError"):
        lesson_seeds.compute({"lesson": "01_lesson", "seed": 2})


def test_a_lessons_hash_is_of_what_its_cells_do(lesson_seeds, tmp_path):
    before = lesson_seeds.cells_hash("01_lesson")
    assert lesson_seeds.modules("01_lesson") == ["rlhf_utils.sft", "rlhf_utils.tensors"]
    path = tmp_path / "01_lesson.md"
    path.write_text(LESSON.format(remark="another") + "\nProse.\n")
    assert lesson_seeds.cells_hash("01_lesson") == before
    path.write_text(LESSON.format(remark="").replace("2.0 *", "3.0 *"))
    assert lesson_seeds.cells_hash("01_lesson") != before
    path.write_text("no seed")
    with pytest.raises(ValueError, match="SEED = 0"):
        lesson_seeds.cells("01_lesson")
