"""What RLHF does to two criteria at once: faithfulness and coverage of summaries, before and after PPO and GRPO.

The task ``summaries``, whole chains, three seeds. Annotators see the gold judge's score through noise; a row's weight
says how much of that score is faithfulness, the rest being coverage. All weights of a seed share the SFT model and the
pairs, so that only the choices differ. One more policy of each seed has a reward model that was trained on the task's
own choices at four times the rate, which breaks what the model copies with. Each policy is measured on 1024 samples for
held-out reports, by the criteria themselves and not by any weighted sum. Of each reward model the row tells as well
how much of the copying is left with which it began.

Run by ``make experiments``; ``python experiments/summaries.py --show`` prints the table again.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import statistics
from collections import defaultdict
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from rlhf_utils import experiments
from rlhf_utils.algorithms import default_config
from rlhf_utils.evaluation import evaluation_prompts, sequence_kl
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.generation import sample_texts
from rlhf_utils.pipeline import Chain, Settings, load_chain
from rlhf_utils.preferences import annotate, ranked_by_judge
from rlhf_utils.reward import pair_accuracy
from rlhf_utils.tasks.summaries import SEPARATOR, GoldJudge, reports

SEEDS = 3
WEIGHTS = (0.5, 1.0, 0.0)  # of faithfulness; the first is the task's own
RATES = (1, 4)  # the reward model's learning rate, in units of the task's own
SAMPLES = 1024
BATCH = 256
LOOKUPS, LOOKUP_SEED = 256, 77


def all_rows() -> list[Row]:
    """SFT, PPO and GRPO with the task's annotators; PPO with those who look at one criterion, and with a high rate."""
    kinds = [(0.5, name, 1) for name in ("sft", "ppo", "grpo")] + [(w, "ppo", 1) for w in WEIGHTS[1:]]
    kinds.append((0.5, "ppo", RATES[1]))
    names = ("weight", "policy", "rate")
    return [{"seed": seed} | dict(zip(names, kind, strict=True)) for seed in range(SEEDS) for kind in kinds]


@functools.cache
def prepared(seed: int, weight: float, rate: int) -> Chain:
    """The chain of a seed with annotators of a weight and a reward model's rate; the rest is the task's own chain."""
    chain = load_chain("summaries", seed, lambda settings: with_rate(settings, rate))
    chain.threads = 1
    if weight == WEIGHTS[0]:
        return chain
    pairs = [(r.prompt, r.response_a, r.response_b) for r in chain.preferences]
    task = replace(chain.task, judge=GoldJudge(weight))
    records = annotate(pairs, task, chain.settings.preferences, seed)
    return Chain(chain.task, chain.settings, chain.root, str(chain.device), 1, records)


def with_rate(settings: Settings, rate: int) -> Settings:
    """The settings with so many times the reward model's learning rate."""
    reward = settings.reward
    return replace(settings, reward=replace(reward, learning_rate=rate * reward.learning_rate))


def measure(model: PreTrainedModel, chain: Chain, seed: int) -> Row:
    """Means of what the judge notes about a policy's summaries, and their standard errors where claims rest on them."""
    task, generator = chain.task, torch.Generator().manual_seed(20_000 + seed)
    prompts = evaluation_prompts(task.eval_prompts, SAMPLES, seed)
    noted: dict[str, list[float]] = defaultdict(list)
    for start in range(0, SAMPLES, BATCH):
        batch = prompts[start : start + BATCH]
        samples = sample_texts(model, task.tokenizer, batch, task.max_new_tokens, generator=generator)
        noted["kl"] += sequence_kl(model, chain.sft_model, samples).tolist()
        noted["reward"] += chain.reward(samples).tolist()
        for text in samples.texts(task.tokenizer):
            verdict, words = task.judge.verdict(text), text.partition(SEPARATOR)[2].split()
            for name in ("faithfulness", "coverage", "grammatical", "repetition", "score"):
                noted[name].append(getattr(verdict, name))
            noted["perfect"].append(verdict.score == 1)
            noted["positive"].append(verdict.score > 0)
            noted["words"].append(len(words))
            noted["claims"].append(1 + words.count("and") if words else 0)
    found: Row = {name: statistics.fmean(values) for name, values in noted.items()}
    for name in ("faithfulness", "coverage", "score"):
        found[f"{name}_error"] = statistics.stdev(noted[name]) / SAMPLES**0.5
    return found


def lookup(trunk: PreTrainedModel, chain: Chain) -> float:
    """How much of its attention the head that copies gives to the right place, as a mean over reports.

    It is the first head of the second layer. Behind the name of a person, with which the summary begins, it should look
    at the word behind that name in the report.
    """
    trunk, found = copy.deepcopy(trunk), []
    trunk.set_attn_implementation("eager")  # the only one that tells where it looked
    for report in itertools.islice(reports(LOOKUP_SEED, validation=True), LOOKUPS):
        words = f"{report.prompt} {report.facts[0].claim[0]}".split()
        ids = torch.tensor(chain.task.tokenizer([" ".join(words)])["input_ids"])
        with torch.no_grad():
            attention = trunk(ids, output_attentions=True).attentions[1][0, 0]
        found.append(attention[-1, words.index(words[-1]) + 1].item())
    return statistics.fmean(found)


def compute(row: Row) -> Row:
    """Train one policy, unless it is the SFT model, and measure it."""
    chain = prepared(row["seed"], row["weight"], row["rate"])
    if row["policy"] == "sft":
        model = chain.sft_model
    else:
        model, _ = chain.aligned(default_config(row["policy"], chain.settings.ppo))
    result = measure(model, chain, row["seed"])
    own = replace(chain.task, judge=GoldJudge(row["weight"]))
    ranked = ranked_by_judge(held_out_pairs(row["seed"]), own)
    result["pair_accuracy"] = pair_accuracy(chain.reward_model, chain.task.tokenizer, ranked)
    result["lookup"] = lookup(chain.reward_model.trunk, chain)
    result["lookup_sft"] = lookup(chain.sft_model.base_model, chain)
    return result


def held_out_pairs(seed: int) -> list[tuple[str, str, str]]:
    """The chain's held-out pairs, split into prompt and responses again."""
    found = []
    for better, worse in prepared(seed, WEIGHTS[0], RATES[0]).held_out_pairs:
        cut = better.index(SEPARATOR) + len(SEPARATOR)
        found.append((better[:cut], better[cut:], worse[cut:]))
    return found


MODULES = ("rlhf_utils.pipeline", "rlhf_utils.tasks.summaries")
EXPERIMENT = Experiment("summaries", all_rows(), compute, MODULES)


def table(rows: list[Row]) -> str:
    """Means and deviations over the seeds."""
    groups: dict[tuple[str, float, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["policy"], row["weight"], row["rate"]].append(row)
    names = ("faithfulness", "coverage", "score", "perfect", "repetition", "words", "kl", "pair_accuracy", "lookup")
    lines = [f"| policy | weight | rate | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for (policy, weight, rate), found in groups.items():
        columns = ([r[name] for r in found] for name in names)
        cells = (f"{statistics.mean(c):.3f} ± {statistics.stdev(c):.3f}" for c in columns)
        lines.append(f"| {policy} | {weight} | {rate} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    parser.add_argument("--workers", type=int, help="rows at a time; as many as there are cores unless given")
    arguments = parser.parse_args()
    if not arguments.show:
        experiments.run(EXPERIMENT, arguments.workers)
    print(table(experiments.read(EXPERIMENT.name)[1]))
