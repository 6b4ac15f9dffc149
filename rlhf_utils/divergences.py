r"""Divergences of distributions that are written down in full, and what their estimators do to a gradient.

Everything here is a sum over all N outcomes (responses, or tokens of one place), so there is no sampling error:
what an estimator gives *on average* can be held against what it should give. Sources: Schulman, "Approximating KL
Divergence" (2020); Liu et al. (2025), arXiv 2510.01555; Shah et al. (2025), arXiv 2512.21852; Tang and Munos (2025),
arXiv 2506.09477.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_divergence(logp: Tensor, logq: Tensor) -> Tensor:
    r"""The divergence itself, :math:`\mathrm{KL}(p\,\|\,q) = \sum_y p(y) \log\frac{p(y)}{q(y)}`, in nats.

    Args:
        logp: log-probabilities of all outcomes, (..., N); −∞ where p is 0, and such outcomes count 0.
        logq: likewise for q, (..., N).

    Returns:
        (...), at least 0; ∞ if q is 0 where p is not.
    """
    p = logp.exp()
    return torch.where(p > 0, p * (logp - logq), torch.zeros_like(p)).sum(-1)


def chi_square(logp: Tensor, logq: Tensor) -> Tensor:
    r"""Pearson's divergence, :math:`\chi^2(p\,\|\,q) = \sum_y p(y)^2 / q(y) - 1`. (..., N) twice → (...).

    Args:
        logp: log-probabilities of all outcomes under p.
        logq: under q; nowhere minus infinity where p isn't 0.
    """
    return (2 * logp - logq).exp().sum(-1) - 1


def moments(logp: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a number that depends on the outcome, under p.

    Args:
        logp: log-probabilities of all outcomes, (..., N); outcomes with probability 0 count 0, whatever their value.
        values: one number an outcome, (..., N).

    Returns:
        Mean and standard deviation of a single draw, both (...).
    """
    p = logp.exp()
    kept = torch.where(p > 0, values, torch.zeros_like(values))
    mean = (p * kept).sum(-1)
    return mean, (p * (kept - mean.unsqueeze(-1)) ** 2).sum(-1).sqrt()


def penalty_in_reward(logp: Tensor, penalty: Tensor) -> Tensor:
    r"""A scalar whose gradient is what a penalty does on average when it stands in the reward.

    .. math:: \mathbb{E}_{y\sim\pi}[k(y)\,\nabla\log\pi(y)] = \sum_y \pi(y)\,k(y)\,\nabla\log\pi(y)

    The penalty is a number there: no gradient flows through it. With :math:`k_1` this is
    :math:`\nabla\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})`.

    Args:
        logp: log-probabilities of all outcomes under the policy, (N,), with gradient.
        penalty: k of each outcome, (N,).
    """
    return (logp.exp().detach() * penalty.detach() * logp).sum()


def penalty_as_loss(logp: Tensor, penalty: Tensor) -> Tensor:
    r"""A scalar whose gradient is what a penalty does on average when it is added to the loss.

    .. math:: \mathbb{E}_{y\sim\pi}[\nabla k(y)] = \sum_y \pi(y)\,\nabla k(y)

    The samples are numbers there: no gradient flows through the probability of drawing them. With :math:`k_1` this is
    0, with :math:`k_2` it is :math:`\nabla\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})`, with :math:`k_3`
    :math:`\nabla\mathrm{KL}(\pi_\mathrm{ref}\,\|\,\pi)`.

    Args:
        logp: log-probabilities of all outcomes under the policy, (N,).
        penalty: k of each outcome, (N,), with gradient.
    """
    return (logp.exp().detach() * penalty).sum()
