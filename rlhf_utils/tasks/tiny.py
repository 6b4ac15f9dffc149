"""The default task: a language of 549 words whose grammar knows every sentence's sentiment.

It needs no network and no GPU. The base model, a GPT-2 of under 0.6 million parameters that was pretrained on seven
domains, ships with the package; ``python -m rlhf_utils pretrain`` makes it again.
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
from rlhf_utils.tasks.tiny_language import GRAMMAR

BASE_MODEL = Path(__file__).parent / "base_model"
SPECIAL = ["<pad>", "<eos>", "<unk>"]
TRAIN_REVIEWS = 12_000
VALIDATION_REVIEWS = 1000
MAX_NEW_TOKENS = 20
VALIDATION_SHARE = 10  #: one sentence in ten


@dataclass(frozen=True)
class Verdict:
    """What the gold judge thinks of a text.

    Attributes:
        sentiment: in [-1, 1], of the first sentence, or of the opinion with which a broken one begins; 0 where there is
            none.
        grammatical: share of the words that the grammar can read; a missing full stop counts as an unread word.
        repetition: share of the words that repeat an opinion word already used.
        run_on: share of the words that come after the first sentence.
    """

    sentiment: float
    grammatical: float
    repetition: float
    run_on: float

    @property
    def score(self) -> float:
        r"""The judge's number, at most 1.

        .. math:: \text{sentiment} - (1 - \text{grammatical}) - \text{repetition} - \text{run-on}
        """
        return self.sentiment - (1 - self.grammatical) - self.repetition - self.run_on


class GoldJudge:
    """Judges any sequence of words by the grammar that wrote the language."""

    name = "gold judge"

    def verdict(self, text: str) -> Verdict:
        """Read a text word by word and say what is good and bad about it."""
        words = text.split()
        if not words:
            return Verdict(0.0, 0.0, 0.0, 0.0)
        opinions = [w for w in words if w in GRAMMAR.opinion_words]
        repetition = (len(opinions) - len(set(opinions))) / len(words)
        first = GRAMMAR.parse(words, "text")
        if not first.ends:  # broken or unfinished: a reader still takes in the opinion with which it begins
            opinion = GRAMMAR.parse(words, "verdict").ends
            sentiment = opinion[max(opinion)] if opinion else 0.0
            return Verdict(sentiment, first.furthest / (len(words) + (words[-1] != ".")), repetition, 0.0)
        end = max(first.ends)
        readable = end
        while readable < len(words) and (more := GRAMMAR.parse(words, "text", readable).ends):
            readable = max(more)
        run_on = (len(words) - end) / len(words)
        return Verdict(first.ends[end] or 0.0, readable / len(words), repetition, run_on)

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The verdicts' scores."""
        return [self.verdict(text).score for text in texts]


def is_validation(sentence: str) -> bool:
    """Whether a sentence belongs to validation: decided by its hash, so no sentence is ever on both sides."""
    return int(hashlib.sha256(sentence.encode()).hexdigest(), 16) % VALIDATION_SHARE == 0


def sentences(symbol: str, seed: int, validation: bool) -> Iterator[tuple[str, float]]:
    """An endless stream of distinct sentences of one side, each with its sentiment (0 outside film reviews)."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        words, sentiment = GRAMMAR.write(symbol, rng)
        text = " ".join(words)
        opinions = [w for w in words if w in GRAMMAR.opinion_words]
        repeats = len(set(opinions)) < len(opinions)  # the judge would deduct for it, so the language avoids it
        if text not in seen and not repeats and is_validation(text) == validation:
            seen.add(text)
            yield text, sentiment or 0.0


def reviews(number: int, seed: int, validation: bool) -> list[Review]:
    """Distinct film reviews with a clear sentiment, labelled by its sign."""
    found: list[Review] = []
    for text, sentiment in sentences("review", seed, validation):
        if abs(sentiment) >= 0.1:
            found.append(Review(text, int(sentiment > 0)))
        if len(found) == number:
            return found
    raise AssertionError("unreachable: the stream is endless")


def opening(text: str) -> str:
    """The words before the first opinion, at most four: what a prompt may give away without deciding the verdict."""
    words = text.split()
    first = next((i for i, w in enumerate(words) if w in GRAMMAR.opinion_words), len(words))
    return " ".join(words[: min(first, 4)])


def prompts(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Distinct openings of the texts, split by their hash: four in five to train on, the others to evaluate on."""
    found = [p for p in dict.fromkeys(map(opening, texts)) if p]
    held_out = [int(hashlib.sha256(p.encode()).hexdigest(), 16) % 5 == 0 for p in found]
    train = [p for p, out in zip(found, held_out, strict=True) if not out]
    return train, [p for p, out in zip(found, held_out, strict=True) if out]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, split at spaces."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *GRAMMAR.words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def base_config() -> GPT2Config:
    """GPT-2's architecture at 1/260 of its size, without dropout."""
    words = tokenizer()
    return GPT2Config(
        vocab_size=len(words),
        n_positions=48,
        n_embd=128,
        n_layer=2,
        n_head=4,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, in one kernel: a step takes a tenth less
        # GPT-2's 0.02 suits 768 dimensions. At 128 the words' polarity was not learnt in two minutes with it.
        initializer_range=0.08,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=words.eos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def language_key() -> str:
    """Hash of the vocabulary, of sentences with their sentiments and of the base model's shape.

    No library's version enters, so the record that ships with the base model holds under any of them.
    """
    config = base_config()
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "initializer_range")
    written = itertools.islice(sentences("text", seed=0, validation=False), 1000)
    return make_key(
        shape={name: getattr(config, name) for name in sizes},
        words=text_hash(GRAMMAR.words),
        sentences=text_hash(f"{text} {sentiment}" for text, sentiment in written),
    )


def load_base_model() -> GPT2LMHeadModel:
    """The shipped base model, in float32."""
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
    """The task ``tiny``."""
    train = reviews(TRAIN_REVIEWS, seed=1, validation=False)
    train_prompts, eval_prompts = prompts([r.text for r in train])
    judge = GoldJudge()
    validation = reviews(VALIDATION_REVIEWS, seed=2, validation=True)
    verdicts = judge.scores([r.text for r in validation])
    right = [(score > 0) == (r.label == 1) for score, r in zip(verdicts, validation, strict=True)]
    return Task(
        name="tiny",
        tokenizer=tokenizer(),
        load_base_model=load_base_model,
        train=train,
        validation=validation,
        train_prompts=train_prompts,
        eval_prompts=eval_prompts,
        judge=judge,
        judge_accuracy=fmean(right),
        feedback="annotators",
        max_new_tokens=MAX_NEW_TOKENS,
        key=make_key(language=language_key(), base=base_model_facts(), code=code_hash("rlhf_utils.tasks.tiny")),
    )
