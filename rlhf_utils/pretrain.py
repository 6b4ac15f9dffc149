"""How the base models of the embedded tasks are made: pretraining from nothing, in some minutes on two cores."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

from rlhf_utils.artifacts import make_key, text_hash
from rlhf_utils.sft import SFTConfig, encode_texts, train_sft, validation_loss
from rlhf_utils.tasks import summaries, tiny

RECIPE = SFTConfig(epochs=2.0, batch_size=64, learning_rate=3e-3, warmup=0.02, weight_decay=0.01, seed=0)
TEXTS = 120_000
VALIDATION_TEXTS = 2_000
SUMMARIES_RECIPE = SFTConfig(epochs=1.0, batch_size=32, learning_rate=2e-3, warmup=0.04, weight_decay=0.01, seed=0)
SUMMARIES_TEXTS = 20_000
SHARES = {"echoing": 0.2, "retelling": 0.8}  #: of the kinds of texts


def corpus(number: int = TEXTS, validation: bool = False) -> list[str]:
    """Distinct sentences of all domains; four in five are film reviews, since the others soon repeat themselves."""
    stream = tiny.sentences("text", seed=4 if validation else 3, validation=validation)
    return [text for text, _ in itertools.islice(stream, number)]


def summaries_corpus(
    number: int = SUMMARIES_TEXTS, validation: bool = False, shares: Mapping[str, float] = SHARES
) -> list[str]:
    """Facts told over and over, and reports with something of them told again. No summaries."""
    seed = 4 if validation else 3
    rng = random.Random(seed + 1000)
    kinds, weights = [getattr(summaries, name) for name in shares], list(shares.values())
    stream = itertools.islice(summaries.reports(seed, validation), number)
    return [rng.choices(kinds, weights)[0](report, rng) for report in stream]


@dataclass(frozen=True)
class Pretraining:
    """What an embedded task's base model is made from.

    Attributes:
        world: the task's module: tokenizer, shape, keys, folder.
        recipe: of the training.
        texts: how many.
        start: gives the untrained model.
        corpus: gives so many texts, of training or of validation.
        checks: gives named validation texts, on which the losses are recorded.
    """

    world: ModuleType
    recipe: SFTConfig
    texts: int
    start: Callable[[], GPT2LMHeadModel]
    corpus: Callable[..., list[str]]
    checks: Callable[[], Mapping[str, list[str]]]


def _tiny_checks() -> dict[str, list[str]]:
    films = [r.text for r in tiny.reviews(tiny.VALIDATION_REVIEWS, seed=2, validation=True)]
    return {"all_domains": corpus(VALIDATION_TEXTS, validation=True), "film_reviews": films}


def _summaries_checks() -> dict[str, list[str]]:
    return {name: summaries_corpus(VALIDATION_TEXTS // 2, True, {name: 1.0}) for name in ("retelling", "echoing")}


#: How the base model of each embedded task was made.
TASKS = {
    "tiny": Pretraining(tiny, RECIPE, TEXTS, lambda: GPT2LMHeadModel(tiny.base_config()), corpus, _tiny_checks),
    "summaries": Pretraining(
        summaries, SUMMARIES_RECIPE, SUMMARIES_TEXTS, summaries.fresh_model, summaries_corpus, _summaries_checks
    ),
}


def recipe_key(task: str = "tiny") -> str:
    """Hash of the recipe, of the language and of the corpus's first thousand texts."""
    made = TASKS[task]
    first = text_hash(made.corpus(1000))
    return make_key(recipe=made.recipe, texts=made.texts, language=made.world.language_key(), corpus=first)


def pretrain(folder: Path | None = None, task: str = "tiny") -> dict[str, object]:
    """Train a base model from nothing and write it as ``fp16`` safetensors with the facts of its making.

    Args:
        folder: to write; the package's own unless given.
        task: whose base model; a key of :data:`TASKS`.

    Returns:
        The facts: recipe, keys, parameters, seconds and the losses of the ``fp16`` weights in nats a token, on several
        sets of validation texts.
    """
    start = time.monotonic()
    made = TASKS[task]
    folder = folder or made.world.BASE_MODEL
    words = made.world.tokenizer()
    torch.manual_seed(made.recipe.seed)
    model = made.start()
    checks = made.checks()
    validation = next(iter(checks.values()))
    train_sft(model, words, made.corpus(made.texts), validation, made.recipe, description="pretraining")
    weights = {n: p.detach().half().contiguous() for n, p in model.named_parameters() if n != "lm_head.weight"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name].float())
    facts = {
        "recipe_key": recipe_key(task),
        "recipe": asdict(made.recipe),
        "texts": made.texts,
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation_loss": {
            name: validation_loss(model, encode_texts(words, texts, made.recipe.max_tokens), words.pad_token_id)
            for name, texts in checks.items()
        },
        "seconds_when_made": round(time.monotonic() - start, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf8")
    return facts
