"""The conditional task: a report, two summaries of it, and a judge who reads all three.

What makes a summary good depends on the text before it, so a reward model must compare, and a policy must copy. Two
graded criteria, faithfulness and coverage, pull in different directions as soon as the policy is unsure. It needs no
network and no GPU; ``python -m rlhf_utils pretrain --task summaries`` makes its base model again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_utils.artifacts import code_hash, make_key, text_hash
from rlhf_utils.tasks.base import Review, Task
from rlhf_utils.tasks.induction import wire_induction
from rlhf_utils.tasks.summaries_language import (
    AND,
    DEEDS,
    IMPORTANT,
    MINOR,
    PERSONS,
    SEPARATOR,
    STOP,
    THINGS,
    Claim,
    Fact,
    Report,
    careless_summary,
    grade,
    sentence,
    words,
    write_report,
)

BASE_MODEL = Path(__file__).parent / "summaries_model"
AGAIN = "again"  #: a word of pretraining alone
SPECIAL = ["<pad>", "<eos>", "<unk>"]
TRAIN_REPORTS = 12_000
VALIDATION_REPORTS = 1000
EVAL_REPORTS = 1000
MAX_NEW_TOKENS = 14  #: three claims and EOS; a good summary has at most nine tokens
ROOM = 8  #: words that a summary may have: two claims, "and", and the full stop
VALIDATION_SHARE = 10  #: one report in ten


@dataclass(frozen=True)
class Verdict:
    """What the gold judge thinks of a summary.

    Attributes:
        faithfulness: share of what the summary says that the report says, in [0, 1].
        coverage: share of what the important facts say that the summary tells, in [0, 1].
        grammatical: share of the summary's words that can be read; a missing full stop counts as an unread word.
        repetition: share of the claims about somebody whom an earlier claim was about.
        excess: words beyond the room that a summary has.
        weight: of faithfulness against coverage.
    """

    faithfulness: float
    coverage: float
    grammatical: float
    repetition: float
    excess: int
    weight: float = 0.5

    @property
    def score(self) -> float:
        r"""The judge's number, at most 1, with the weight :math:`w`.

        .. math:: 2\,\bigl(w \cdot \text{faithfulness} + (1 - w) \cdot \text{coverage}\bigr) - 1 \\
                  {} - (1 - \text{grammatical}) - \text{repetition} - \text{excess}/10
        """
        quality = self.weight * self.faithfulness + (1 - self.weight) * self.coverage
        return 2 * quality - 1 - (1 - self.grammatical) - self.repetition - self.excess / 10


def read_facts(report: Sequence[str]) -> list[Fact]:
    """The facts of a report's words; sentences of another form say nothing about anybody."""
    facts, start = [], 0
    for place, word in enumerate(report):
        if word == STOP:
            part, start = report[start:place], place + 1
            if len(part) == 4 and part[0] in IMPORTANT + MINOR and _is_claim(part[1:]):
                facts.append(Fact(part[0], tuple(part[1:])))
    return facts


def _is_claim(part: Sequence[str]) -> bool:
    return len(part) == 3 and part[0] in PERSONS and part[1] in DEEDS and part[2] in THINGS


def read_summary(summary: Sequence[str]) -> tuple[list[Claim], int]:
    """The claims of a summary's words, and how many words could be read before the first that doesn't fit."""
    claims: list[Claim] = []
    place = 0
    while True:
        for offset, known in enumerate((PERSONS, DEEDS, THINGS)):
            if place + offset >= len(summary) or summary[place + offset] not in known:
                return claims, place + offset
        claims.append(tuple(summary[place : place + 3]))
        place += 3
        if place < len(summary) and summary[place] == STOP:
            return claims, place + 1
        if place >= len(summary) or summary[place] != AND:
            return claims, place
        place += 1


class GoldJudge:
    """Reads report and summary word by word and compares them.

    Args:
        weight: of faithfulness; coverage gets the rest.
    """

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight
        self.name = "gold judge" if weight == 0.5 else f"judge with weight {weight:g}"

    def verdict(self, text: str) -> Verdict:
        """Grade the words behind the first separator against those before it."""
        report, _, summary = (part.split() for part in text.partition(SEPARATOR))
        claims, read = read_summary(summary)
        grades = grade(read_facts(report), claims)
        unfinished = not summary or summary[-1] != STOP
        grammatical = read / (len(summary) + unfinished)
        repetition = 1 - len({person for person, *_ in claims}) / len(claims) if claims else 0.0
        excess = max(0, len(summary) - ROOM)
        return Verdict(grades.faithfulness, grades.coverage, grammatical, repetition, excess, self.weight)

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The verdicts' scores."""
        return [self.verdict(text).score for text in texts]


def is_validation(report: Report) -> bool:
    """Whether a report belongs to validation: decided by its hash, so no report is ever on both sides."""
    return int(hashlib.sha256(report.text.encode()).hexdigest(), 16) % VALIDATION_SHARE == 0


def reports(seed: int, validation: bool) -> Iterator[Report]:
    """An endless stream of distinct reports of one side."""
    rng, seen = random.Random(seed), set()
    while True:
        report = write_report(rng)
        if report.text not in seen and is_validation(report) == validation:
            seen.add(report.text)
            yield report


def rows(number: int, seed: int, validation: bool) -> list[Review]:
    """Reports with careless summaries, labelled by whether the judge ought to call the summary good.

    The label comes from what the writer wrote down, not from reading the text.
    """
    rng, found = random.Random(seed + 1000), []
    for report in itertools.islice(reports(seed, validation), number):
        claims = careless_summary(report, rng)
        grades, text = grade(report.facts, claims), sentence(claims)
        score = grades.faithfulness + grades.coverage - 1 - max(0, len(text.split()) - ROOM) / 10
        found.append(Review(f"{report.prompt} {text}", int(score > 0)))
    return found


def echoing(report: Report, rng: random.Random) -> str:
    """Three facts of a report, twelve times one of them: much to copy in few words.

    They are drawn with replacement. If each were told once, a model could pass by elimination: name what hasn't been
    told yet, and never learn whose it is.
    """
    claims = rng.choices([f.claim for f in report.facts[:3]], k=12)
    return f" {STOP} ".join(map(" ".join, claims))


def retelling(report: Report, rng: random.Random) -> str:
    """A report and four times something that it says, with replacement: to learn to copy from it."""
    return f"{report.text} {AGAIN} {sentence(rng.choices([f.claim for f in report.facts], k=4))}"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, split at spaces."""
    known = [*SPECIAL, *sorted({*words(), AGAIN})]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def base_config() -> GPT2Config:
    """Narrower and deeper than the tiny task's: two layers can copy, and a third can use what they found."""
    known = tokenizer()
    return GPT2Config(
        vocab_size=len(known),
        n_positions=48,
        n_embd=96,
        n_layer=3,
        n_head=4,
        activation_function="gelu_pytorch_tanh",
        initializer_range=0.04,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=known.eos_token_id,
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
    )


def fresh_model() -> GPT2LMHeadModel:
    """An untrained model that starts with an induction head; see :mod:`rlhf_utils.tasks.induction`."""
    model = GPT2LMHeadModel(base_config())
    wire_induction(model)
    return model


def language_key() -> str:
    """Hash of the vocabulary, of reports with summaries and of the base model's shape; no library's version enters."""
    config = base_config()
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "initializer_range")
    return make_key(
        shape={name: getattr(config, name) for name in sizes},
        words=text_hash(tokenizer().convert_ids_to_tokens(range(len(tokenizer())))),
        rows=text_hash(f"{row.label} {row.text}" for row in rows(1000, seed=0, validation=False)),
    )


def load_base_model() -> GPT2LMHeadModel:
    """The shipped base model, in float32: it can retell a report, and has never seen a summary."""
    model = GPT2LMHeadModel(base_config())
    weights = {name: tensor.float() for name, tensor in load_file(BASE_MODEL / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # the output layer shares the embedding's weights
        raise ValueError(f"the shipped base model doesn't fit its configuration: {missing or unexpected}")
    return model.eval()


def base_model_facts() -> dict[str, object]:
    """What was recorded when the shipped base model was made: its recipe, keys and validation losses (nats a token)."""
    return json.loads((BASE_MODEL / "facts.json").read_text(encoding="utf8"))


def load() -> Task:
    """The task ``summaries``."""
    judge = GoldJudge()
    train, validation = rows(TRAIN_REPORTS, 1, validation=False), rows(VALIDATION_REPORTS, 2, validation=True)
    verdicts = judge.scores([row.text for row in validation])
    fresh = {report.prompt for report in itertools.islice(reports(5, validation=True), EVAL_REPORTS)}
    seen = [prompt_of(row.text) for row in validation]
    return Task(
        name="summaries",
        tokenizer=tokenizer(),
        load_base_model=load_base_model,
        train=train,
        validation=validation,
        train_prompts=[prompt_of(row.text) for row in train],
        eval_prompts=sorted(fresh - set(seen)),
        judge=judge,
        judge_accuracy=fmean((score > 0) == (r.label == 1) for score, r in zip(verdicts, validation, strict=True)),
        feedback="annotators",
        max_new_tokens=MAX_NEW_TOKENS,
        key=make_key(language=language_key(), base=base_model_facts(), code=code_hash("rlhf_utils.tasks.summaries")),
    )


def prompt_of(text: str) -> str:
    """The report and the separator of a whole text."""
    report, separator, _ = text.partition(SEPARATOR)
    return report + separator
