r"""When the proxy rises and gold falls: measuring it, fitting it, and three ways to hold it back.

Gold is what people want, the proxy is the reward model that a policy is trained on. The module reads top to bottom: how
much of a gain is lost again, the functional forms of Gao et al. 2023 with their fits and peaks, stopping by a few gold
labels, smaller reward models, and rewards made of several. Sources: Gao et al. 2023, arXiv 2210.10760 (forms); Coste et
al. 2024, arXiv 2310.02743 (ensembles).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_utils.generation import Samples
from rlhf_utils.models import RewardModel
from rlhf_utils.ppo import ScoreScale
from rlhf_utils.reward import Reward

Form = Literal["bon", "rl"]  #: which of the two functions of :func:`gain_of_form`
Combine = Literal["mean", "worst"]  #: how several reward models become one


def lost_share(start: float, peak: float, end: float) -> float:
    r"""Share of a gain that is lost again, :math:`(g_\text{peak} - g_\text{end}) / (g_\text{peak} - g_\text{start})`.

    Args:
        start: gold at the beginning.
        peak: gold where it was highest.
        end: gold at the end; the share exceeds 1 where it lies below the start.

    Raises:
        ValueError: there was no gain.
    """
    if peak <= start:
        raise ValueError("there was no gain, so no share of it can be lost")
    return (peak - end) / (peak - start)


def lost_share_error(start: tuple[float, float], peak: tuple[float, float], end: tuple[float, float]) -> float:
    r"""Standard error of :func:`lost_share`, to first order, for three independent means.

    With :math:`s = (p - e)/(p - a)`: :math:`\partial s/\partial a = s/(p - a)`,
    :math:`\partial s/\partial p = (1 - s)/(p - a)` and :math:`\partial s/\partial e = -1/(p - a)`.

    Args:
        start: mean and standard error, as the next two.
        peak: likewise.
        end: likewise.
    """
    gain, share = peak[0] - start[0], lost_share(start[0], peak[0], end[0])
    return math.hypot(share * start[1], (1 - share) * peak[1], end[1]) / gain


def gain_of_form(form: Form, d: Tensor, alpha: float, beta: float) -> Tensor:
    r"""Gold gained over the start at the distance :math:`d = \sqrt{\mathrm{KL}}`.

    .. math:: R_\text{bon}(d) = d\,(\alpha - \beta d), \qquad R_\text{RL}(d) = d\,(\alpha - \beta \log d)

    Gao et al. (2023), section 3.1. The second one's slope is infinite at 0 where β is positive.

    Args:
        form: ``bon`` for best-of-n, ``rl`` for reinforcement learning.
        d: square roots of nats, above 0, (N,).
        alpha: gold a unit of d.
        beta: how fast that wears off; not the KL coefficient.
    """
    return d * (alpha - beta * (d if form == "bon" else d.log()))


@dataclass(frozen=True)
class Fit:
    """A form fitted to points.

    Attributes:
        form: which one.
        alpha: its first coefficient.
        beta: its second.
        residual: root of the mean squared distance of the points, in points of gold.
    """

    form: Form
    alpha: float
    beta: float
    residual: float

    def __call__(self, d: Tensor) -> Tensor:
        """Gold gained at these distances, (N,)."""
        return gain_of_form(self.form, d, self.alpha, self.beta)

    @property
    def peak(self) -> float:
        r"""The distance of the highest gold: :math:`\alpha/2\beta` (``bon``) or :math:`e^{\alpha/\beta - 1}` (``rl``).

        Infinite where the form never turns down.
        """
        if self.beta <= 0:
            return math.inf
        ratio = self.alpha / self.beta
        return ratio / 2 if self.form == "bon" else math.exp(min(ratio - 1, 700.0))


def fit_form(form: Form, d: Tensor, gain: Tensor) -> Fit:
    r"""Least squares for α and β; both forms are linear in them.

    Args:
        form: which one.
        d: distances above 0, (N,), at least two different ones.
        gain: gold less gold at the start, (N,).

    Raises:
        ValueError: fewer than two points, or one with d = 0.
    """
    if len(d) < 2 or (d <= 0).any():
        raise ValueError("a fit needs two points or more, all with d above 0")
    d, gain = d.double(), gain.double()
    columns = torch.stack([gain_of_form(form, d, 1.0, 0.0), gain_of_form(form, d, 0.0, 1.0)], -1)
    alpha, beta = torch.linalg.lstsq(columns, gain.unsqueeze(-1), driver="gelsd").solution.squeeze(-1).tolist()
    residual = (gain - gain_of_form(form, d, alpha, beta)).square().mean().sqrt().item()
    return Fit(form, alpha, beta, residual)


def stop_by_labels(labels: Tensor, number: int, repeats: int, generator: torch.Generator) -> float:
    """Gold of the snapshot that a few gold labels choose, judged by labels that had no say in the choice.

    Args:
        labels: gold scores of L samples of each of S snapshots, (S, L).
        number: of labels that are looked at, a snapshot; below L.
        repeats: how many draws of these labels are averaged.
        generator: draws them.

    Raises:
        ValueError: no label would be left to judge by.
    """
    if not 0 < number < labels.shape[1]:
        raise ValueError(f"{number} of {labels.shape[1]} labels leave none to judge the choice by")
    found = 0.0
    for _ in range(repeats):
        order = torch.randperm(labels.shape[1], generator=generator)
        chosen = labels[:, order[:number]].mean(1).argmax()
        found += labels[chosen, order[number:]].mean().item()
    return found / repeats


def cut_reward_model(lm: PreTrainedModel, blocks: int) -> RewardModel:
    """A smaller reward model: a GPT-2 trunk's first blocks, its final layer norm, and a fresh head.

    Unlike a small model from nothing it keeps what pretraining has put into the embedding and these blocks.

    Args:
        lm: a GPT-2; it is left as it is.
        blocks: how many to keep, at least 1.

    Raises:
        ValueError: the trunk has fewer blocks, or none would be left.
    """
    model = RewardModel(lm)
    if not 1 <= blocks <= len(model.trunk.h):
        raise ValueError(f"the trunk has {len(model.trunk.h)} blocks, so {blocks} can't be kept")
    # The configuration stays the object that the attention layers hold: the unpadded pass speaks to them through it.
    model.trunk.h = model.trunk.h[:blocks]
    return model


def member_scores(rewards: Sequence[Reward], scales: Sequence[ScoreScale], samples: Samples) -> Tensor:
    """Each member's score in its own deviations under the SFT model, (members, B): so that none shouts louder.

    Args:
        rewards: the members.
        scales: of each member, mean and deviation of its raw scores on samples of the SFT model.
        samples: B of them.
    """
    return torch.stack([(reward(samples) - s.mean) / s.std for reward, s in zip(rewards, scales, strict=True)])


def ensemble_reward(rewards: Sequence[Reward], scales: Sequence[ScoreScale], combine: Combine) -> Reward:
    """Several reward models as one reward: their mean, or the lowest of their scores (Coste et al. 2024).

    Args:
        rewards: the members.
        scales: of each member, on samples of the SFT model.
        combine: ``mean`` or ``worst``.
    """

    def reward(samples: Samples) -> Tensor:
        scores = member_scores(rewards, scales, samples)
        return scores.mean(0) if combine == "mean" else scores.min(0).values

    return reward
