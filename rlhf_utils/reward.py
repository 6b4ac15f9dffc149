"""The reward: a model learnt from preferences or labels, or any function of text in its place."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_utils.errors import UserError
from rlhf_utils.generation import Samples
from rlhf_utils.models import RewardModel
from rlhf_utils.progress import progress
from rlhf_utils.runtime import evaluating, seed_everything, use_threads
from rlhf_utils.sft import encode_texts
from rlhf_utils.tasks.base import TextReward
from rlhf_utils.tensors import right_pad
from rlhf_utils.training import check_finite, make_optimizer

Reward = Callable[[Samples], Tensor]
"""Scores (B,) of finished samples, on the samples' device; what PPO calls."""


@dataclass(frozen=True)
class RewardConfig:
    """Settings of the reward model's training."""

    epochs: int = 3  #: passes over the pairs; Stiennon et al. and InstructGPT take one on far larger models
    batch_size: int = 32  #: pairs a step
    learning_rate: float = 1e-3  #: AdamW's, at its highest
    warmup: float = 0.05  #: share of the steps over which the rate rises
    weight_decay: float = 0.01  #: on weights with two or more dimensions
    max_tokens: int = 48  #: longer texts are cut
    seed: int = 0  #: of all that is drawn at random


@dataclass(frozen=True)
class RewardResult:
    """What happened in training.

    Attributes:
        losses: of every step, nats a pair.
        accuracies: share of each batch's pairs that the model ranked as the record says, before the step.
    """

    losses: list[float]
    accuracies: list[float]


def pairwise_loss(chosen_scores: Tensor, rejected_scores: Tensor, margins: Tensor | None = None) -> Tensor:
    r"""Negative log-likelihood of the choices under Bradley–Terry, in nats.

    .. math:: L = -\frac1B \sum_b \log\sigma(r(x_b, y^+_b) - r(x_b, y^-_b) - m_b)

    Christiano et al. (2017), Stiennon et al. (2020); the margin is that of Touvron et al. (2023).

    Args:
        chosen_scores: (B,).
        rejected_scores: (B,).
        margins: (B,), by how much the chosen score should win; None = 0.
    """
    gaps = chosen_scores - rejected_scores
    return -F.logsigmoid(gaps if margins is None else gaps - margins).mean()


def pointwise_loss(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Binary cross-entropy of labels given scores as logits, in nats.

    .. math:: L = -\frac1B \sum_b \left[ l_b \log\sigma(s_b) + (1 - l_b) \log(1 - \sigma(s_b)) \right]

    The score stays the logit. Were the reward :math:`\sigma(s)`, it would saturate: the best texts would all get 1.

    Args:
        scores: (B,).
        labels: (B,), 1 = positive.
    """
    return F.binary_cross_entropy_with_logits(scores, labels.float())


def score_rows(model: RewardModel, rows: Sequence[Sequence[int]], pad_id: int, batch_size: int = 256) -> Tensor:
    """Scores of token rows without gradient, in the rows' order, on the CPU. Returns ``(len(rows),)``.

    Args:
        model: the reward model.
        rows: token ids, each row with its EOS.
        pad_id: the id that fills up shorter rows; it doesn't change a score.
        batch_size: rows at a time; it doesn't either, up to rounding.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    scores = torch.empty(len(rows))
    device = model.head.weight.device
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            index = order[start : start + batch_size]
            ids, mask = right_pad([rows[i] for i in index], pad_id)
            scores[index] = model(ids.to(device), mask.to(device)).float().cpu()
    return scores


def score_texts(
    model: RewardModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int = 48
) -> Tensor:
    """Scores of whole texts, each read with EOS behind it. Returns ``(len(texts),)`` on the CPU.

    Args:
        model: the reward model.
        tokenizer: with distinct PAD and EOS.
        texts: prompt and response as one text each.
        max_tokens: longer texts are cut there and have no EOS.
    """
    return score_rows(model, encode_texts(tokenizer, texts, max_tokens), tokenizer.pad_token_id)


def train_reward_model(
    model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    config: RewardConfig,
    threads: int | None = None,
) -> RewardResult:
    """Fit a reward model in place to pairs of texts.

    Args:
        model: as :class:`~rlhf_utils.models.RewardModel` starts it.
        tokenizer: with distinct PAD and EOS.
        pairs: (chosen, rejected) as whole texts.
        config: the settings.
        threads: see :func:`rlhf_utils.runtime.use_threads`.

    Raises:
        TrainingError: the loss or the gradient is not finite; the weights are those before that step.
        UserError: there is no pair.
    """
    if not pairs:
        raise UserError("There is no pair to learn from; ties don't count.", "Prefer a or b in at least one pair.")
    use_threads(threads)
    seed_everything(config.seed)
    rng = random.Random(config.seed)
    chosen = encode_texts(tokenizer, [c for c, _ in pairs], config.max_tokens)
    rejected = encode_texts(tokenizer, [r for _, r in pairs], config.max_tokens)
    device, pad_id = model.head.weight.device, tokenizer.pad_token_id
    per_epoch = math.ceil(len(pairs) / config.batch_size)
    total = config.epochs * per_epoch
    optimizer, schedule = make_optimizer(model, config.learning_rate, total, config.warmup, config.weight_decay)
    result = RewardResult([], [])
    model.train()
    bar = progress(range(total), "reward model")
    for step in bar:
        if step % per_epoch == 0:
            order = rng.sample(range(len(pairs)), len(pairs))
        start = step % per_epoch * config.batch_size
        index = order[start : start + config.batch_size]
        # Both texts of a pair go through one forward pass: chosen rows first, rejected rows behind them.
        ids, mask = right_pad([chosen[i] for i in index] + [rejected[i] for i in index], pad_id)
        good, bad = model(ids.to(device), mask.to(device)).chunk(2)
        loss = pairwise_loss(good, bad)
        check_finite(loss, "reward model", step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        check_finite(norm, "reward model", step)
        optimizer.step()
        schedule.step()
        result.losses.append(loss.item())
        result.accuracies.append((good > bad).float().mean().item())
        bar.set_postfix(loss=f"{result.losses[-1]:.3f}", refresh=False)
    model.eval()
    return result


def pair_accuracy(
    model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    max_tokens: int = 48,
) -> float:
    """Share of (better, worse) pairs of texts that the model ranks so; a tie counts half.

    Args:
        model: the reward model.
        tokenizer: with distinct PAD and EOS.
        pairs: (better, worse) as whole texts.
        max_tokens: longer texts are cut there and have no EOS.

    Returns:
        From 0 to 1; ½ is chance.
    """
    scores = score_texts(model, tokenizer, [t for pair in pairs for t in pair], max_tokens).view(-1, 2)
    gaps = scores[:, 0] - scores[:, 1]
    return ((gaps > 0).float() + 0.5 * (gaps == 0).float()).mean().item()


def best_threshold(scores: Tensor, labels: Tensor) -> float:
    """The score that separates the labels best on these rows: positive is what lies above it.

    Args:
        scores: (N,).
        labels: (N,), 1 = positive.
    """
    ordered, index = scores.sort()
    is_positive = labels[index].float()
    # Cutting below row i calls rows i.. positive: right are the negatives before i and the positives from i on.
    negatives_before = torch.cat([torch.zeros(1), (1 - is_positive).cumsum(0)])
    positives_after = torch.cat([is_positive.flip(0).cumsum(0).flip(0), torch.zeros(1)])
    right = negatives_before + positives_after
    right[1:-1][ordered[1:] == ordered[:-1]] = -1  # no threshold parts equal scores
    cut = int(right.argmax())
    edges = torch.cat([ordered[:1] - 1, ordered, ordered[-1:] + 1])
    return float((edges[cut] + edges[cut + 1]) / 2)


def model_reward(model: RewardModel) -> Reward:
    """The reward model as what PPO calls: it reads prompt and response, cut at the EOS, from the samples themselves.

    Args:
        model: the reward model; it is read without gradient.
    """

    def reward(samples: Samples) -> Tensor:
        with evaluating(model):
            return model(samples.input_ids, samples.attention_mask).float()

    return reward


def text_reward(function: TextReward, tokenizer: PreTrainedTokenizerBase) -> Reward:
    """Any function from texts to numbers as what PPO calls: a classifier, a length, a regular expression.

    Args:
        function: gives one number for each of a list of whole texts, prompt included.
        tokenizer: turns the samples into texts.
    """

    def reward(samples: Samples) -> Tensor:
        scores = function(samples.texts(tokenizer))
        return torch.as_tensor(list(scores), dtype=torch.float32, device=samples.input_ids.device)

    return reward
