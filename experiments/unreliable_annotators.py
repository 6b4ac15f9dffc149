"""What unreliable annotators do to a reward model, and how much of it can be mended without knowing the truth.

The tiny task, each seed with its own SFT model, pairs and crowd. Ten people judge 300 pairs, three of them each, in
random order of the sides. In one crowd all are careful; in the other two don't read and two have the opposite taste. A
reward model learns from all judgements as they are, from the majority of each pair, from the answers of Dawid and
Skene, which weigh the votes, or from those annotators whom the estimate calls right in at least 60 of 100 cases. It is
held against the gold judge on fresh pairs for prompts that nothing was trained on.

Run by ``make experiments``; ``python experiments/unreliable_annotators.py --show`` prints the table again.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import statistics
from collections import defaultdict
from dataclasses import replace

import torch

from rlhf_utils import experiments
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.models import RewardModel
from rlhf_utils.pipeline import Chain, load_chain
from rlhf_utils.preferences import (
    Preference,
    choice_probability,
    chosen_rejected,
    pair_id,
    ranked_by_judge,
    sample_pairs,
)
from rlhf_utils.reliability import estimate_reliability
from rlhf_utils.reward import pair_accuracy, train_reward_model
from rlhf_utils.runtime import seed_everything

# Taste of each: 1 as the judge, 0 doesn't read, −1 the opposite.
CROWDS = {"careful": (1,) * 10, "mixed": (1,) * 6 + (0, 0) + (-1, -1)}
LEARNT_FROM = ("all", "majority", "weighed", "dropped")
SEEDS = 4
PAIRS = 300
VOTES = 3
NOISE = 0.15  # the book's
LEAST = 0.6  # reliability below which somebody is left out
TEST_PAIRS = 2000
PASSES = 2
FEWEST_STEPS = 30  # as in how_many_comparisons.py


def all_rows() -> list[Row]:
    """Every crowd and every way to learn from it."""
    return [
        {"seed": seed, "crowd": crowd, "learnt_from": way}
        for seed in range(SEEDS)
        for crowd in CROWDS
        for way in LEARNT_FROM
    ]


@functools.cache
def prepared(seed: int) -> tuple[Chain, list[tuple[str, str, str]], list[tuple[str, str]]]:
    """The chain of a seed, the pairs that are judged, and (better, worse) texts to test on."""
    chain = load_chain("tiny", seed)
    chain.threads = 1
    pairs = [(r.prompt, r.response_a, r.response_b) for r in chain.preferences]
    random.Random(seed).shuffle(pairs)
    generator = torch.Generator().manual_seed(10_000 + seed)
    fresh = sample_pairs(chain.sft_model, chain.task, chain.task.eval_prompts, TEST_PAIRS, generator, 1)
    return chain, pairs[:PAIRS], ranked_by_judge(fresh, chain.task)


@functools.cache
def judgements(seed: int, crowd: str) -> list[Preference]:
    """Three judgements of each pair, by three of the crowd."""
    chain, pairs, _ = prepared(seed)
    scores = [chain.task.judge.scores([p + side for p, side in sides]) for sides in _sides(pairs)]
    rng = random.Random(1000 * seed + list(CROWDS).index(crowd))
    records = []
    for (prompt, a, b), score_a, score_b in zip(pairs, *scores, strict=True):
        for who in rng.sample(range(len(CROWDS[crowd])), VOTES):
            wants_a = rng.random() < choice_probability(CROWDS[crowd][who] * (score_a - score_b), 0.0, NOISE)
            first, second = (a, b) if rng.random() < 0.5 else (b, a)
            choice = "a" if wants_a == (first == a) else "b"
            record = (pair_id(prompt, a, b), prompt, first, second, choice, f"person-{who}", 0.0)
            records.append(Preference(*record, "1970-01-01T00:00:00Z", "unreliable_annotators"))
    return records


def _sides(pairs: list[tuple[str, str, str]]) -> list[list[tuple[str, str]]]:
    return [[(p, a) for p, a, _ in pairs], [(p, b) for p, _, b in pairs]]


def majority(records: list[Preference]) -> list[Preference]:
    """One record a pair, with the response that most people chose; the votes are odd."""
    votes: dict[str, list[Preference]] = defaultdict(list)
    for r in records:
        votes[r.pair_id].append(r)
    kept = []
    for same in votes.values():
        better = statistics.mode(r.response_a if r.choice == "a" else r.response_b for r in same)
        kept.append(replace(same[0], choice="a" if better == same[0].response_a else "b"))
    return kept


def compute(row: Row) -> Row:
    """Train one reward model."""
    chain, pairs, test = prepared(row["seed"])
    task, tokenizer = chain.task, chain.task.tokenizer
    records = judgements(row["seed"], row["crowd"])
    reliability, weighed = estimate_reliability(records)
    kept = {
        "all": records,
        "majority": majority(records),
        "weighed": weighed,
        "dropped": [r for r in records if reliability[r.annotator] >= LEAST],
    }[row["learnt_from"]]
    learnt = chosen_rejected(kept)
    truth = set(ranked_by_judge(pairs, task))
    apart = [pair for pair in learnt if pair in truth or pair[::-1] in truth]
    steps_a_pass = math.ceil(len(learnt) / chain.settings.reward.batch_size)
    passes = max(PASSES, math.ceil(FEWEST_STEPS / steps_a_pass))
    seed_everything(row["seed"])
    model = RewardModel(chain.sft_model)
    train_reward_model(model, tokenizer, learnt, replace(chain.settings.reward, epochs=passes, seed=row["seed"]), 1)
    tastes = CROWDS[row["crowd"]]
    return {
        "records": len(learnt),
        "label_agreement": sum(pair in truth for pair in apart) / len(apart),
        "accuracy": pair_accuracy(model, tokenizer, test),
        "estimated": {
            str(taste): statistics.mean(reliability[f"person-{n}"] for n, t in enumerate(tastes) if t == taste)
            for taste in sorted(set(tastes))
        },
        "test_pairs": len(test),
    }


EXPERIMENT = Experiment(
    "unreliable_annotators",
    all_rows(),
    compute,
    ("rlhf_utils.pipeline", "rlhf_utils.reward", "rlhf_utils.reliability"),
)


def table(rows: list[Row]) -> str:
    """Mean and standard deviation over the seeds."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["crowd"], row["learnt_from"]].append(row)
    lines = ["| crowd | learnt from | records | right records | pair accuracy |", "|---|---|---|---|---|"]
    for (crowd, way), found in groups.items():
        records, right, hits = ([r[k] for r in found] for k in ("records", "label_agreement", "accuracy"))
        accuracy = f"{statistics.mean(hits):.3f} ± {statistics.stdev(hits):.3f}"
        lines.append(
            f"| {crowd} | {way} | {statistics.mean(records):.0f} | {statistics.mean(right):.3f} | {accuracy} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    parser.add_argument("--workers", type=int, help="rows at a time; as many as there are cores unless given")
    arguments = parser.parse_args()
    if not arguments.show:
        experiments.run(EXPERIMENT, arguments.workers)
    print(table(experiments.read(EXPERIMENT.name)[1]))
