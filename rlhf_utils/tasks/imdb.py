"""IMDB: a language model and a classifier that others trained, so that only PPO is left to do.

The reward is a plug-in here. Any function from texts to numbers takes its place in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from rlhf_utils.artifacts import code_hash, make_key, text_hash
from rlhf_utils.errors import UserError
from rlhf_utils.tasks.base import Review, Task, TextReward
from rlhf_utils.tasks.sst2 import (
    OFFLINE,
    ClassifierJudge,
    first_line,
    hub_options,
    load_model,
    load_tokenizer,
    read_rows,
    side,
    word_prompts,
)

MODEL = "lvwerra/gpt2-imdb"
CLASSIFIER = "lvwerra/distilbert-imdb"
DATASET = ("stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31")
MAX_NEW_TOKENS = 24
MAX_WORDS = 40  #: of a review: its beginning, of the length that the policy writes


def classifier_reward(source: str, batch_size: int = 64) -> TextReward:
    """A ready sentiment classifier as a reward: its logit of the positive class.

    Unlike a probability, a logit never saturates.

    Args:
        source: folder or hub name of a sequence classifier whose last class is the positive one.
        batch_size: texts at a time.

    Raises:
        UserError: it can't be loaded.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **hub_options(source))
        model = AutoModelForSequenceClassification.from_pretrained(source, **hub_options(source)).eval()
    except Exception as error:
        raise UserError(f"The classifier {source} could not be loaded ({first_line(error)}).", OFFLINE) from None
    # Padding on the left would shift the positions of every text but the longest, and so their scores.
    tokenizer.padding_side = "right"

    def score(texts: Sequence[str]) -> list[float]:
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(texts), batch_size):
                batch = list(texts[start : start + batch_size])
                inputs = tokenizer(batch, padding=True, truncation=True, return_tensors="pt").to(model.device)
                scores += model(**inputs).logits[:, -1].float().tolist()
        return scores

    return score


def beginning(review: Review) -> Review:
    """A review's first words, without line-break tags."""
    words = review.text.replace("<br />", " ").split()
    return Review(" ".join(words[:MAX_WORDS]), review.label)


def load(
    dataset: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
    load_reward: Callable[[], TextReward] | None = None,
) -> Task:
    """The task ``imdb``.

    Args:
        dataset: folder with the splits train and test; else ``RLHF_UTILS_IMDB``, else the hub.
        model: folder, hub name or ``from-config``; else ``RLHF_UTILS_GPT2_IMDB``, else ``lvwerra/gpt2-imdb``.
        tokenizer: folder or hub name; else ``RLHF_UTILS_TOKENIZER``, else the model's own.
        load_reward: gives the reward; else the classifier in ``RLHF_UTILS_CLASSIFIER`` or ``lvwerra/distilbert-imdb``.

    Raises:
        UserError: something can't be loaded.
    """
    source = model or os.environ.get("RLHF_UTILS_GPT2_IMDB") or MODEL
    words_from = tokenizer or os.environ.get("RLHF_UTILS_TOKENIZER") or ("gpt2" if source == "from-config" else source)
    words = load_tokenizer(words_from, None)
    rows = read_rows(dataset or os.environ.get("RLHF_UTILS_IMDB"), *DATASET, text_column="text")
    train = [beginning(r) for r in rows["train"]]
    validation = [beginning(r) for r in rows["validation"]]
    ours = [r for r in train if side(r.text, 2) == 0]
    others = [r for r in train if side(r.text, 2) == 1]
    judge = ClassifierJudge([r.text for r in others], [r.label for r in others])
    verdicts = judge.scores([r.text for r in validation])
    train_prompts, eval_prompts = word_prompts([r.text for r in ours])
    classifier = os.environ.get("RLHF_UTILS_CLASSIFIER") or CLASSIFIER
    return Task(
        name="imdb",
        tokenizer=words,
        load_base_model=lambda: load_model(source, None, words),
        train=ours,
        validation=validation,
        train_prompts=train_prompts,
        eval_prompts=eval_prompts,
        judge=judge,
        judge_accuracy=fmean((s > 0) == (r.label == 1) for s, r in zip(verdicts, validation, strict=True)),
        feedback="labels",
        max_new_tokens=MAX_NEW_TOKENS,
        key=make_key(
            model=source,
            tokenizer=words_from,
            reward=classifier,
            texts=text_hash(r.text for r in train),
            code=code_hash("rlhf_utils.tasks.imdb"),
        ),
        load_reward=load_reward or (lambda: classifier_reward(classifier)),
    )
