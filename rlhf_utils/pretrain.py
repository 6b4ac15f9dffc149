"""How the base model of the tiny task is made: pretraining on all domains, from nothing, in about two minutes."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

from rlhf_utils.artifacts import make_key, text_hash
from rlhf_utils.sft import SFTConfig, encode_texts, train_sft, validation_loss
from rlhf_utils.tasks import tiny

RECIPE = SFTConfig(epochs=2.0, batch_size=64, learning_rate=3e-3, warmup=0.02, weight_decay=0.01, seed=0)
TEXTS = 120_000
VALIDATION_TEXTS = 2_000


def corpus(number: int = TEXTS, validation: bool = False) -> list[str]:
    """Distinct sentences of all domains; four in five are film reviews, since the others soon repeat themselves."""
    stream = tiny.sentences("text", seed=4 if validation else 3, validation=validation)
    return [text for text, _ in itertools.islice(stream, number)]


def recipe_key() -> str:
    """Hash of the recipe, of the language and of the corpus's first thousand sentences."""
    return make_key(recipe=RECIPE, texts=TEXTS, language=tiny.language_key(), corpus=text_hash(corpus(1000)))


def pretrain(folder: Path = tiny.BASE_MODEL) -> dict[str, object]:
    """Train the base model from nothing and write it as fp16 safetensors with the facts of its making.

    Returns:
        The facts: recipe, keys, parameters, seconds and the losses of the fp16 weights in nats a token, on validation
        sentences of all domains and on those of film reviews.
    """
    start = time.monotonic()
    words = tiny.tokenizer()
    torch.manual_seed(RECIPE.seed)
    model = GPT2LMHeadModel(tiny.base_config())
    validation = corpus(VALIDATION_TEXTS, validation=True)
    train_sft(model, words, corpus(), validation, RECIPE, description="pretraining")
    weights = {n: p.detach().half().contiguous() for n, p in model.named_parameters() if n != "lm_head.weight"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name].float())
    films = [r.text for r in tiny.reviews(tiny.VALIDATION_REVIEWS, seed=2, validation=True)]
    losses = {
        name: validation_loss(model, encode_texts(words, texts, RECIPE.max_tokens), words.pad_token_id)
        for name, texts in (("all_domains", validation), ("film_reviews", films))
    }
    facts = {
        "recipe_key": recipe_key(),
        "recipe": asdict(RECIPE),
        "texts": TEXTS,
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation_loss": losses,
        "seconds_when_made": round(time.monotonic() - start, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf8")
    return facts
