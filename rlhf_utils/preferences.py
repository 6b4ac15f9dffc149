"""Preference records: judgements on pairs of responses, by people or by simulated annotators.

One record is one judgement, one line of JSON. The lesson, the command line, the site and the annotation tool all read
and write this form.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from rlhf_utils.artifacts import text_hash
from rlhf_utils.errors import UserError
from rlhf_utils.generation import sample_texts
from rlhf_utils.progress import progress
from rlhf_utils.runtime import use_threads
from rlhf_utils.tasks.base import Review, Task

Choice = Literal["a", "b", "tie"]  #: the response shown first, the second, or neither
CHOICES = ("a", "b", "tie")


@dataclass(frozen=True)
class Preference:
    """One judgement. ``prompt + response`` is the text that was judged, so a response keeps its leading space.

    Attributes:
        pair_id: the same for all judgements of one pair.
        prompt: what both responses continue; may be empty.
        response_a: shown first.
        response_b: shown second.
        choice: ``a``, ``b`` or ``tie``.
        annotator: a pseudonym.
        seconds: how long the judgement took; 0 if it was simulated.
        created_at: ISO 8601, UTC.
        source: which tool or rule made it.
    """

    pair_id: str
    prompt: str
    response_a: str
    response_b: str
    choice: Choice
    annotator: str
    seconds: float
    created_at: str
    source: str


@dataclass(frozen=True)
class PreferenceConfig:
    """How many pairs are judged, and how reliably."""

    pairs: int = 8000  #: for training the reward model
    held_out_pairs: int = 500  #: for measuring it; other prompts
    annotators: int = 5  #: simulated people; each pair goes to one of them
    temperature: float = 0.15  #: of their noise: a gap of this size in the judge's score is seen 73 times in 100
    seed: int = 0  #: of all that is drawn at random


def pair_id(prompt: str, response_a: str, response_b: str) -> str:
    """A name for a pair that doesn't depend on which response is shown first.

    Args:
        prompt: what both responses continue.
        response_a: shown first.
        response_b: shown second.

    Returns:
        Twelve hexadecimal digits of a hash.
    """
    return text_hash([prompt, *sorted([response_a, response_b])])[:12]


def choice_probability(score_a: float, score_b: float, temperature: float) -> float:
    r"""Chance that a simulated annotator prefers a, :math:`\sigma((g_a - g_b)/\tau)` (Bradley and Terry 1952).

    Args:
        score_a: the judge's score :math:`g_a` of the first text.
        score_b: :math:`g_b` of the second.
        temperature: τ, above 0, in the unit of the scores; the larger, the more the choice is left to chance.
    """
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, (score_a - score_b) / temperature))))


def sample_pairs(
    model: PreTrainedModel,
    task: Task,
    prompts: Sequence[str],
    number: int,
    generator: torch.Generator,
    threads: int | None = None,
) -> list[tuple[str, str, str]]:
    """Pairs of different, finished responses to the same prompt: (prompt, response a, response b).

    A response that ran into the length cap is drawn again, since people are asked about finished texts; the penalty
    for a missing EOS is PPO's business.

    Args:
        model: the language model that writes, in general the SFT model.
        task: gives tokenizer and length cap.
        prompts: drawn with replacement.
        number: of pairs.
        generator: draws prompts and tokens.
        threads: see :func:`rlhf_utils.runtime.use_threads`.

    Raises:
        UserError: too few responses reach their EOS.
    """
    use_threads(threads)
    found: list[tuple[str, str, str]] = []
    batch = 128
    bar = progress(range(20 * math.ceil(number / batch)), "sampling pairs", total=math.ceil(number / batch))
    for _ in bar:
        chosen = [prompts[i] for i in torch.randint(len(prompts), (batch,), generator=generator).tolist()]
        samples = sample_texts(model, task.tokenizer, chosen * 2, task.max_new_tokens, generator=generator)
        responses, ended = samples.responses(task.tokenizer), samples.ended.tolist()
        for i, prompt in enumerate(chosen):
            a, b = responses[i], responses[i + batch]
            if ended[i] and ended[i + batch] and a != b:
                found.append((prompt, a, b))
        if len(found) >= number:
            return found[:number]
    raise UserError(
        f"Only {len(found)} of {number} pairs of finished responses could be sampled.",
        "Train SFT for longer, or raise --max-new-tokens, so that responses reach their EOS.",
    )


def annotate(
    pairs: Sequence[tuple[str, str, str]], task: Task, config: PreferenceConfig, seed: int
) -> list[Preference]:
    """Simulated judgements: each pair goes to one annotator, who sees the judge's scores through noise.

    Args:
        pairs: (prompt, response a, response b).
        task: gives the judge.
        config: gives the number of annotators and the temperature of their noise.
        seed: of choices and of who judges which pair.

    Returns:
        One record a pair, in the pairs' order; there are no ties.
    """
    scores_a = task.judge.scores([p + a for p, a, _ in pairs])
    scores_b = task.judge.scores([p + b for p, _, b in pairs])
    rng = random.Random(seed)
    records = []
    for (prompt, a, b), score_a, score_b in zip(pairs, scores_a, scores_b, strict=True):
        prefers_a = rng.random() < choice_probability(score_a, score_b, config.temperature)
        records.append(
            Preference(
                pair_id=pair_id(prompt, a, b),
                prompt=prompt,
                response_a=a,
                response_b=b,
                choice="a" if prefers_a else "b",
                annotator=f"simulated-{rng.randrange(config.annotators)}",
                seconds=0.0,
                created_at="1970-01-01T00:00:00Z",  # a clock would make two equal runs differ
                source=f"{task.name}: {task.judge.name} with noise",
            )
        )
    return records


def ranked_by_judge(pairs: Sequence[tuple[str, str, str]], task: Task) -> list[tuple[str, str]]:
    """(better, worse) texts of (prompt, a, b) as the judge ranks them without noise; ties are left out.

    Args:
        pairs: (prompt, response a, response b).
        task: gives the judge.
    """
    scores_a = task.judge.scores([p + a for p, a, _ in pairs])
    scores_b = task.judge.scores([p + b for p, _, b in pairs])
    return [
        (p + a, p + b) if score_a > score_b else (p + b, p + a)
        for (p, a, b), score_a, score_b in zip(pairs, scores_a, scores_b, strict=True)
        if score_a != score_b
    ]


def from_labels(reviews: Sequence[Review], number: int, source: str, seed: int) -> list[Preference]:
    """Preferences that a labelled data set implies: a positive text before a negative one, sides drawn by chance.

    Each text is used once before any is used twice.

    Args:
        reviews: labelled texts, 1 = positive, 0 = negative.
        number: of records.
        source: what the records say of where they come from.
        seed: of the order and the sides.

    Raises:
        UserError: one of the labels is missing.
    """
    rng = random.Random(seed)
    positive, negative = ([r.text for r in reviews if r.label == label] for label in (1, 0))
    if not positive or not negative:
        raise UserError("The data has only one label.", "Reward modelling needs positive and negative rows.")
    records = []
    for good, bad in itertools.islice(zip(_rounds(positive, rng), _rounds(negative, rng), strict=True), number):
        first = rng.random() < 0.5
        a, b = (good, bad) if first else (bad, good)
        records.append(
            Preference(
                pair_id("", a, b),
                "",
                a,
                b,
                "a" if first else "b",
                "label",
                0.0,
                "1970-01-01T00:00:00Z",
                source,
            )
        )
    return records


def _rounds(texts: list[str], rng: random.Random) -> Iterator[str]:
    """All texts in random order, then all in another order, without end."""
    while True:
        yield from rng.sample(texts, len(texts))


def chosen_rejected(records: Iterable[Preference]) -> list[tuple[str, str]]:
    """Whole texts as (chosen, rejected); ties say nothing about the order and are left out.

    Args:
        records: judgements, of which each gives one pair.
    """
    pairs = []
    for r in records:
        texts = (r.prompt + r.response_a, r.prompt + r.response_b)
        if r.choice != "tie":
            pairs.append(texts if r.choice == "a" else texts[::-1])
    return pairs


def to_trl(records: Iterable[Preference]) -> list[dict[str, str]]:
    """Rows with TRL's columns ``prompt``, ``chosen`` and ``rejected``; ties are left out.

    Args:
        records: judgements, of which each gives one row.
    """
    rows = []
    for r in records:
        if r.choice != "tie":
            chosen, rejected = (r.response_a, r.response_b) if r.choice == "a" else (r.response_b, r.response_a)
            rows.append({"prompt": r.prompt, "chosen": chosen, "rejected": rejected})
    return rows


def write_records(records: Iterable[Preference], path: Path) -> None:
    """Write JSON lines.

    Args:
        records: one line each, in their order.
        path: of the file, which is replaced.
    """
    path.write_text("".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in records), encoding="utf8")


def read_records(path: Path) -> list[Preference]:
    """Read JSON lines.

    Args:
        path: of a file with one record a line; empty lines are passed over.

    Raises:
        UserError: the file is missing or empty, or a line isn't a record (its number is named).
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file.", "Give a file of preference records, one JSON object a line.")
    names = [f.name for f in fields(Preference)]
    records = []
    for number, line in enumerate(path.read_text(encoding="utf8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            record = Preference(**{name: row[name] for name in names})
        except json.JSONDecodeError:
            raise UserError(f"{path}, line {number}: not JSON.", "Each line must be one JSON object.") from None
        except (KeyError, TypeError) as error:
            missing = f"the field {error} is missing" if isinstance(error, KeyError) else "not an object"
            raise UserError(
                f"{path}, line {number}: {missing}.", f"A record has the fields {', '.join(names)}."
            ) from None
        wrong = [n for n in names if n != "seconds" and not isinstance(row[n], str)]
        if wrong:
            raise UserError(f"{path}, line {number}: {wrong[0]} is not a text.", "Give it in quotation marks.")
        if record.choice not in CHOICES:
            raise UserError(f"{path}, line {number}: choice is {record.choice!r}.", "It must be a, b or tie.")
        records.append(record)
    if not records:
        raise UserError(f"{path} holds no preference.", "Label at least one pair first.")
    return records


def now() -> str:
    """The time as records carry it: ISO 8601, UTC, whole seconds."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
