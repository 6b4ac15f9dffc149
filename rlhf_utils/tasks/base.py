"""What a task is: where the text comes from and who judges it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.errors import UserError


@dataclass(frozen=True)
class Review:
    """A labelled text; ``label`` is 1 for positive and 0 for negative."""

    text: str  #: the whole of it
    label: int  #: 1 or 0


class Judge(Protocol):
    """Scores whole texts; independent of the reward model that a policy is trained on.

    Attributes:
        name: what it is, for tables.
    """

    name: str

    def scores(self, texts: Sequence[str]) -> list[float]:
        """One number a text, higher is better; a text counts as positive where it is above 0."""
        ...


TextReward = Callable[[Sequence[str]], Sequence[float]]
"""Any function from texts to scores can be the reward."""


@dataclass(frozen=True)
class Task:
    """Text, models and judge of one problem; every lesson is the same code on any of them.

    Attributes:
        name: ``tiny``, ``summaries``, ``sst2`` or ``imdb``.
        tokenizer: with distinct PAD and EOS.
        load_base_model: gives a fresh copy of the base language model.
        train: labelled texts for SFT and, where feedback is ``labels``, for the reward model.
        validation: labelled texts that nothing is trained on.
        train_prompts: openings that PPO learns from.
        eval_prompts: other openings, for evaluation.
        judge: scores finished texts.
        judge_accuracy: share of the validation rows whose label the judge reproduces.
        feedback: where preferences come from: ``annotators`` compare samples of the SFT policy by the judge's score
            with noise; ``labels`` prefer a positive text to a negative one.
        max_new_tokens: cap on a response's length.
        key: hash of all that the texts and the base model depend on.
        load_reward: a ready reward that takes the place of a trained reward model, if the task has one.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    load_base_model: Callable[[], PreTrainedModel]
    train: list[Review]
    validation: list[Review]
    train_prompts: list[str]
    eval_prompts: list[str]
    judge: Judge
    judge_accuracy: float
    feedback: Literal["annotators", "labels"]
    max_new_tokens: int
    key: str
    load_reward: Callable[[], TextReward] | None = None


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, add_pad: bool = False) -> PreTrainedTokenizerBase:
    """Make sure that the tokenizer has an EOS and a PAD, and that they differ.

    Were PAD the same token as EOS, as is common with GPT-2, a mask made from ``ids != pad`` would hide every EOS from
    the loss, and the policy would never learn to stop.

    Args:
        tokenizer: as loaded.
        add_pad: add a PAD where there is none; the model's embedding must then be resized.

    Raises:
        UserError: there is no EOS, no PAD, or they are one.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("The tokenizer has no EOS token.", "Set tokenizer.eos_token to the token that ends a text.")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        if not add_pad:
            raise UserError(
                "The tokenizer has no PAD token of its own.",
                "Add one: tokenizer.add_special_tokens({'pad_token': '<|pad|>'}).",
            )
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer
