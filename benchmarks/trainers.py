"""SFT, reward model and DPO side by side: ours and TRL's trainers.

Each contender is a process of its own; they take turns, one training run at a time, on the same model, texts, batch
size, learning rate, schedule and number of optimizer steps. ``make bench`` runs it.

What is timed is unequal in TRL's favour: ours covers the whole function, from text to trained weights, TRL's only
``train()``, since its constructor tokenises. ``train()`` starts with a garbage collection of a third of a second, which
a longer run would not feel, so the table gives the ratio without what precedes the first step, too. Our SFT always
groups texts by length and TRL's can do so, so it is measured with and without. The mean loss tells whether both did the
same; it is a mean over batches, so grouping by length changes it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from bench import Contender, Facts, machine, make_model, spread, take_turns

from rlhf_utils.dpo import encode_pairs
from rlhf_utils.sft import encode_texts
from rlhf_utils.tasks import load_task
from rlhf_utils.tasks.base import Review
from rlhf_utils.tasks.tiny import opening

CONTENDERS = [Contender("ours", "ours_trainers.py"), Contender("TRL", "trl_trainers.py")]
MAX_TOKENS = 48  # no text of the tiny task is longer


@dataclass(frozen=True)
class Comparison:
    """One kind of training.

    Attributes:
        trainer: ``sft``, ``reward`` or ``dpo``.
        batch_size: texts or pairs a step.
        sampling: in which order TRL's trainer takes them.
    """

    name: str
    trainer: str
    batch_size: int
    learning_rate: float
    sampling: str = "random"


COMPARISONS = [
    Comparison("SFT", "sft", 64, 1e-3),
    Comparison("SFT, TRL's grouped by length", "sft", 64, 1e-3, "group_by_length"),
    Comparison("reward model", "reward", 32, 1e-3),
    Comparison("DPO", "dpo", 32, 3e-4),
]


def same_opening(reviews: Sequence[Review], number: int) -> list[dict[str, str]]:
    """Pairs of a positive and a negative review that begin with the same words, which are the prompt."""
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: {0: [], 1: []})
    for review in reviews:
        found[opening(review.text)][review.label].append(review.text)
    pairs = (
        {"prompt": prompt, "chosen": good[len(prompt) :], "rejected": bad[len(prompt) :]}
        for prompt, sides in found.items()
        if prompt
        for good, bad in zip(sides[1], sides[0], strict=False)
    )
    return list(itertools.islice(pairs, number))


def count_tokens(trainer: str, texts: Sequence[str], pairs: Sequence[dict[str, str]]) -> int:
    """Real tokens of a round, EOS included; a pair's prompt counts with each of its responses."""
    tokenizer = load_task("tiny").tokenizer
    if trainer == "sft":
        return sum(map(len, encode_texts(tokenizer, texts, MAX_TOKENS)))
    return sum(2 * len(p) + len(c) + len(r) for p, c, r in encode_pairs(tokenizer, pairs, MAX_TOKENS))


def table_rows(name: str, tokens: int, facts: dict[str, list[Facts]]) -> list[str]:
    """One row of the table for each contender."""
    lines = []
    for contender, rows in facts.items():
        both = list(zip(rows, facts["ours"], strict=True))
        whole = [theirs["seconds"] / mine["seconds"] for theirs, mine in both]
        steps = [(theirs["seconds"] - theirs["startup"]) / mine["seconds"] for theirs, mine in both]
        cells = [
            name,
            contender,
            f"{statistics.median(tokens / row['seconds'] for row in rows):.0f}",
            *("1" if contender == "ours" else spread(ratios) for ratios in (whole, steps)),
            f"{max(row['peak_mib'] for row in rows):.0f}",
            f"{max(row['peak_mib'] - row['loaded_mib'] for row in rows):.0f}",
            f"{statistics.mean(row['loss'] for row in rows):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def compare(model_name: str, comparisons: Sequence[Comparison], steps: int, rounds: int, threads: int) -> str:
    """Run the comparisons on one model and write them as text."""
    task = load_task("tiny")
    model = make_model(model_name, task.tokenizer)
    lines = [
        f"Model {model_name}: {model.num_parameters():,} parameters; {steps} optimizer steps a round, {threads} "
        f"thread(s), {rounds} rounds.",
        "",
        "| training | | tokens/s | its time / ours | without its start-up | peak MiB | above imports | mean loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        number = steps * c.batch_size
        texts, pairs = [r.text for r in task.train[:number]], same_opening(task.train, number)
        if min(len(texts), len(pairs)) < number:
            raise SystemExit(
                f"error: {steps} steps need {number} texts and pairs; there are {len(texts)}, {len(pairs)}."
            )
        work = {
            "trainer": c.trainer,
            "texts": texts,
            "pairs": pairs,
            "batch_size": c.batch_size,
            "learning_rate": c.learning_rate,
            "kl_coef": 0.5,
            "sampling": c.sampling,
            "threads": threads,
            "device": "cpu",
        }
        facts, _ = take_turns(CONTENDERS, work, model, task.tokenizer, rounds)
        wrong = [name for name, rows in facts.items() if any(row["steps"] != steps for row in rows)]
        if wrong:
            raise SystemExit(f"error: {c.name}: not {steps} optimizer steps: {', '.join(wrong)}")
        lines += table_rows(c.name, count_tokens(c.trainer, texts, pairs), facts)
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny"], help="names that bench.py knows")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["sft", "reward", "dpo"], help="sft, reward, dpo")
    parser.add_argument("--keep", type=Path, help="file for the result")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen = [c for c in COMPARISONS if c.trainer in args.only]
    tables = [compare(name, chosen, args.steps, args.rounds, args.threads) for name in args.models]
    text = "\n\n".join([machine(), *tables]) + "\n"
    print(text)
    if args.keep:
        args.keep.write_text(text)


if __name__ == "__main__":
    main()
