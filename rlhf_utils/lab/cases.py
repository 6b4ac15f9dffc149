"""The laboratory of broken PPO: runs by letter, and a check of what the reader thinks is wrong with each.

The letters tell nothing: they follow the hashes of the names. ``run("C", chain)`` computes a run, ``check("C", name)``
says whether the name is right, and ``explain`` gives the answer away.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlhf_utils.lab.faults import FAULTS
from rlhf_utils.lab.loop import LAB_CONFIG, METRICS, Run
from rlhf_utils.lab.reading import (
    DEVIATIONS,
    JUDGED,
    LATE,
    SIGNS,
    TITLES,
    healthy_runs,
    panel,
    runs_of,
    separation,
)
from rlhf_utils.pipeline import Chain
from rlhf_utils.plotting import show, show_table

OPEN = "sign-flipped"  #: solved before the reader's eyes, so it has no letter


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


LETTERS: dict[str, str] = dict(zip("ABCDEFGHIJKLMN", sorted({"healthy", *SIGNS} - {OPEN}, key=_order), strict=True))

# For each version: what it does to the curves, and where to look, without its name.
TOLD: dict[str, tuple[str, str]] = {
    "healthy": (
        "No line of the decision table fits, and judge and log agree; a curve may lie outside a band of six runs.",
        "Go through the decision table from the top. Does a line of it really fit, by its own numbers?",
    ),
    "aliased-reference": (
        "The logged KL is exactly 0 in every batch, since both models are one; fresh samples say otherwise.",
        "One of the logged curves disagrees with the same quantity measured afresh.",
    ),
    "kl-without-gradient": (
        "The KL is logged rightly and grows far beyond the band, since a number without a gradient costs nothing.",
        "The policy drifts, and the log says so. What should have held it back?",
    ),
    "kl-swapped": (
        "The logged KL is negative from the second batch on, and drifting is paid for, so the text falls apart.",
        "A mean over 128 responses is below 0 for 29 updates. Which quantity can't be?",
    ),
    "old-recomputed": (
        "The ratio is 1 at every step, so nothing is ever clipped: the clip fraction is exactly 0.",
        "Look for a number that is exactly the same in each update and shouldn't be.",
    ),
    "off-by-one": (
        "The samples' surprise exceeds the entropy by more than ten nats a token before anything was learnt.",
        "Read the first batch. Does the policy find its own samples as likely as it should?",
    ),
    "sharp-sampling": (
        "The samples are likelier than the policy's own entropy allows: the surprise gap lies below 0 throughout.",
        "A mean that should be 0 up to noise has the same sign in every update.",
    ),
    "dropout-in-update": (
        "The first ratio of an update isn't 1: the log-ratio is of the order of 1 where 0.000001 is due.",
        "What is known about the policy before the first optimizer step of an update?",
    ),
    "returns-after-whitening": (
        "The policy learns, but the value loss stays near 0.5, since the targets' errors are scaled back to 1.",
        "The policy is well. Which part of the loss doesn't get better?",
    ),
    "score-on-pad": (
        "The score never rises, and the value loss is tiny: almost no reward reaches any token.",
        "Nothing is learnt. Is there anything to learn from? The value loss is the mean square of what there is.",
    ),
    "sign-flipped": (
        "The score falls from the first update on: the update makes good responses rarer.",
        "In which direction does the score go?",
    ),
    "padding-counts": (
        "The first batch is as long as its longest response, and the policy is surprised by tokens it never chose.",
        "Compare the length in the first batch with that of a healthy run, and then the surprise gap.",
    ),
    "not-cut-at-eos": (
        "All responses have ended and all have the length of the cap, which can't both be; the samples show the rest.",
        "Two curves of the first batch contradict each other.",
    ),
    "scores-not-normalised": (
        "The first value loss is many times the healthy one, since the scores' deviation isn't 1; the KL follows, as"
        " each nat is now cheap.",
        "What is the unit of the score? The value loss of the first batch is half its mean square.",
    ),
    "rows-mixed-up": (
        "The score doesn't rise although the rewards are as large as they should be and the policy moves.",
        "There is reward and there is movement, but not towards the reward. Read the samples beside their scores.",
    ),
}


def names() -> list[str]:
    """What can be handed to :func:`check`."""
    return sorted(LETTERS.values())


def version(letter: str) -> str:
    """The name behind a letter.

    Raises:
        ValueError: there is no such letter.
    """
    if letter not in LETTERS:
        raise ValueError(f"There is no version {letter!r}; choose one of {', '.join(LETTERS)}.")
    return LETTERS[letter]


def run(letter: str, chain: Chain, seed: int = 0, updates: int | None = None) -> Run:
    """Compute a version's run.

    Args:
        letter: of the version.
        chain: gives the SFT model, the reward and the prompts.
        seed: of the samples and minibatches.
        updates: only the first ones; all 30 if None. The learning rate is that of the whole run either way.
    """
    return FAULTS[version(letter)](chain, replace(LAB_CONFIG, seed=seed)).run(updates)


def verdict(letter: str, name: str) -> tuple[bool, str]:
    """Whether a version has this name, and what to say about it."""
    truth = version(letter)
    if name not in TOLD:
        return False, f"There is no {name!r}; choose one of {', '.join(names())}."
    if name == truth:
        return True, f"{letter} is {name}. {TOLD[truth][0]}"
    return False, f"{letter} isn't {name}. That would look so: {TOLD[name][0]} A hint: {TOLD[truth][1]}"


def check(letter: str, name: str) -> None:
    """Print whether a version has this name; a hint if not."""
    print(verdict(letter, name)[1])


def _short(value: float) -> str:
    """Few digits, but a 0 only where the number is exactly 0: that may be the symptom."""
    if value == 0:
        return "0"
    if abs(value) < 0.0005:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", "−")
    return f"{value:.3f}" if abs(value) < 0.01 else f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _spread(values: Sequence[float]) -> str:
    low, high = (_short(v).replace("-", "−") for v in (min(values), max(values)))
    return low if low == high else f"{low} … {high}"


def digest(rows: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Metric, first batch, mean of the last ten updates; each as lowest … highest run, healthy runs in brackets."""
    healthy = healthy_runs(rows)
    table = []
    for metric in METRICS:
        cells = [TITLES[metric]]
        for window in (slice(0, 1), LATE):
            ours, theirs = (
                _spread([statistics.fmean(r["curves"][metric][window]) for r in group]) for group in (shown, healthy)
            )
            cells.append(f"{ours} ({theirs})")
        table.append(cells)
    for name, title in JUDGED.items():
        ours, theirs = (_spread([r["final"][name] for r in group]) for group in (shown, healthy))
        table.append([title, "", f"{ours} ({theirs})"])
    return table


def samples(row: dict[str, Any], batch: str = "last") -> list[list[str]]:
    """Prompt and response, the score that the loop gave, the judge's score."""
    return [[f"{prompt} …{text}", f"{score:.2f}", f"{judged:.2f}"] for prompt, text, score, judged in row[batch]]


def show_case(letter: str, rows: Sequence[dict[str, Any]]) -> None:
    """Figure, numbers and samples of a version's three runs for testing, without its name."""
    show_version(f"Version {letter}", version(letter), rows)


def show_version(title: str, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """The same under any title."""
    found = runs_of(rows, name)
    late = {m: _spread([statistics.fmean(r["curves"][m][LATE]) for r in found]) for m in ("score", "kl", "value_loss")}
    show(
        panel(rows, found),
        alt=f"{title}: eleven curves of three runs over the grey band of six healthy runs. In the last ten updates the "
        f"score is {late['score']}, the logged KL {late['kl']} nats, the value loss {late['value_loss']}.",
        caption=f"{title}: three runs (vermilion) over the six healthy ones (grey, lowest to highest), by update.",
    )
    show_table(["", "first batch", "updates 21–30"], digest(rows, found))
    show_table([f"{title}, last batch", "its score", "judge"], samples(found[-1]))


def separation_table(rows: Sequence[dict[str, Any]]) -> str:
    """Each version's sign, and how far its runs lie from the healthy mean along it."""
    lines = ["| version | sign | nearest run for testing (healthy deviations) | separates |", "|---|---|---|---|"]
    for name, found in separation(rows).items():
        nearest = min(found)
        lines.append(f"| {name} | {SIGNS[name].told()} | {nearest:.1f} | {'yes' if nearest > DEVIATIONS else 'no'} |")
    return "\n".join(lines)
