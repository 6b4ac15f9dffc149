r"""Is one policy better than another? Win rates, paired comparisons, and how many samples they take.

An outcome is 1 where the first policy's response was preferred, 0 where the second's was, and ½ for a tie. All
functions are pure. The interval of one share is :func:`rlhf_utils.evaluation.wilson_interval`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_utils.evaluation import wilson_interval

Values = NDArray[np.float64]  #: numbers in any shape


def normal_quantile(probability: float) -> float:
    r"""The z with :math:`P(Z \le z)` = ``probability`` for a standard normal Z: 1.96 for 0.975, 0.84 for 0.8.

    Args:
        probability: above 0 and below 1.
    """
    return NormalDist().inv_cdf(probability)


@dataclass(frozen=True)
class WinRate:
    """How often the first of two policies was preferred, a tie counting one half.

    Attributes:
        wins: of the first policy.
        ties: neither was preferred.
        losses: of the first policy.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    wins: int
    ties: int
    losses: int
    low: float
    high: float

    @property
    def number(self) -> int:
        """Of comparisons."""
        return self.wins + self.ties + self.losses

    @property
    def rate(self) -> float:
        """(wins + ties / 2) / number."""
        return (self.wins + self.ties / 2) / self.number


def win_rate(scores_a: ArrayLike, scores_b: ArrayLike) -> WinRate:
    r"""Win rate of a over b from a judge's scores on the same prompts; equal scores are ties.

    The interval is Wilson's for the rate. Ties make it conservative: an outcome between 0 and 1 with mean p has a
    variance of at most :math:`p(1 - p)`, and half wins lie below that.

    Args:
        scores_a: (N,), one a prompt.
        scores_b: (N,), for the same prompts in the same order.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    a, b = _pair(scores_a, scores_b)
    wins, ties = int((a > b).sum()), int((a == b).sum())
    low, high = wilson_interval((wins + ties / 2) / len(a), len(a))
    return WinRate(wins, ties, len(a) - wins - ties, low, high)


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Values, Values]:
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"two rows of equal length are needed, not {first.shape} and {second.shape}")
    return first, second


def sign_test(wins: int, losses: int) -> float:
    r"""Two-sided p-value of the exact sign test; for paired yes-or-no outcomes it is McNemar's exact test.

    .. math:: p = \min\Bigl(1,\; 2 \sum_{k=0}^{\min(w, l)} \binom{w + l}{k} 2^{-(w + l)}\Bigr)

    Ties say nothing about the direction and are left out beforehand. McNemar (1947).

    Args:
        wins: w, comparisons that the first policy won.
        losses: l, that it lost.
    """
    number = wins + losses
    tail = sum(math.comb(number, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**number)


@dataclass(frozen=True)
class Difference:
    """A difference of two means, a less b, in the unit of the scores.

    Attributes:
        mean: the difference.
        standard_error: of it.
    """

    mean: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by the normal approximation."""
        half = normal_quantile(0.975) * self.standard_error
        return self.mean - half, self.mean + half


def paired_difference(scores_a: ArrayLike, scores_b: ArrayLike) -> Difference:
    r"""Mean of the differences on the same prompts, with the standard error :math:`\mathrm{std}(a_i - b_i)/\sqrt N`.

    Args:
        scores_a: (N,), one a prompt, N of at least 2.
        scores_b: (N,), for the same prompts in the same order.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    a, b = _pair(scores_a, scores_b)
    return Difference(float((a - b).mean()), float((a - b).std(ddof=1) / math.sqrt(len(a))))


def unpaired_difference(scores_a: ArrayLike, scores_b: ArrayLike) -> Difference:
    r"""Difference of the means of independent samples, :math:`\sqrt{\mathrm{var}(a)/N_a + \mathrm{var}(b)/N_b}`.

    Args:
        scores_a: :math:`(N_a,)`, two or more.
        scores_b: :math:`(N_b,)`, two or more, of other samples.
    """
    a, b = np.asarray(scores_a, float), np.asarray(scores_b, float)
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    return Difference(float(a.mean() - b.mean()), error)


def sample_size(share: float, null: float = 0.5, power: float = 0.8, level: float = 0.95) -> int:
    r"""Comparisons that it takes to tell a win rate from another, two-sided.

    .. math:: n = \left(\frac{z_{1-\alpha/2}\sqrt{p_0(1-p_0)} + z_{\text{power}}\sqrt{p_1(1-p_1)}}{p_1 - p_0}\right)^2

    Args:
        share: the true win rate :math:`p_1`.
        null: what it is to be told from, :math:`p_0`.
        power: chance to find the difference if it is there.
        level: 1 − α, the confidence.

    Raises:
        ValueError: the two shares are equal.
    """
    if share == null:
        raise ValueError("no number of samples tells a share from itself")
    z_level, z_power = normal_quantile((1 + level) / 2), normal_quantile(power)
    reach = z_level * math.sqrt(null * (1 - null)) + z_power * math.sqrt(share * (1 - share))
    return math.ceil((reach / (share - null)) ** 2)


def two_sample_size(share_a: float, share_b: float, power: float = 0.8, level: float = 0.95) -> int:
    r"""Samples *of each* policy that it takes to tell two shares apart, each policy judged by itself.

    .. math:: n = \left(\frac{z_{1-\alpha/2}\sqrt{2 \bar p (1 - \bar p)}
              + z_{\text{power}}\sqrt{p_a(1-p_a) + p_b(1-p_b)}}{p_a - p_b}\right)^2, \quad \bar p = \tfrac12 (p_a + p_b)

    Args:
        share_a: the true share :math:`p_a` of the first policy.
        share_b: :math:`p_b` of the second.
        power: chance to find the difference if it is there.
        level: 1 − α, the confidence.

    Raises:
        ValueError: the two shares are equal.
    """
    if share_a == share_b:
        raise ValueError("no number of samples tells a share from itself")
    z_level, z_power, middle = normal_quantile((1 + level) / 2), normal_quantile(power), (share_a + share_b) / 2
    reach = z_level * math.sqrt(2 * middle * (1 - middle))
    reach += z_power * math.sqrt(share_a * (1 - share_a) + share_b * (1 - share_b))
    return math.ceil((reach / (share_a - share_b)) ** 2)


def exact_power(number: int, share: float, level: float = 0.95) -> float:
    """Chance that the sign test on ``number`` comparisons without ties rejects ½, by summing over all outcomes.

    Args:
        number: of comparisons.
        share: the true win rate.
        level: 1 − α, the confidence.
    """
    total = 0.0
    for wins in range(number + 1):
        if sign_test(wins, number - wins) <= 1 - level:
            total += math.comb(number, wins) * share**wins * (1 - share) ** (number - wins)
    return total


def none_seen(rate: float, number: int) -> float:
    r"""Chance that a failure of the given rate isn't seen in a number of samples, :math:`(1 - p)^n`.

    Args:
        rate: p, the share of responses that fail.
        number: n, of samples.
    """
    return (1 - rate) ** number


def largest_unseen_rate(number: int, level: float = 0.95) -> float:
    r"""The highest failure rate that fits with no failure in n samples, :math:`1 - (1 - \text{level})^{1/n}`.

    About 3/n at 95 %, the rule of three (Hanley and Lippman-Hand 1983).

    Args:
        number: n, of samples without a failure.
        level: confidence that the true rate is no higher.
    """
    return 1 - (1 - level) ** (1 / number)


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[object],
    statistic: Callable[[Values], float] = np.mean,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic over clusters drawn with replacement.

    Samples for one prompt resemble each other. Drawing whole prompts keeps that resemblance; drawing samples would
    count each as a fresh piece of evidence and give an interval that is too narrow.

    Args:
        values: (N,).
        clusters: of each value, such as its prompt, (N,).
        statistic: of the values of the drawn clusters.
        draws: how many.
        seed: of the draws.
        level: that the interval should cover.

    Raises:
        ValueError: values and clusters differ in number, or there are fewer than two clusters.
    """
    table = np.asarray(values, float)
    if len(table) != len(clusters):
        raise ValueError("there must be one cluster for each value")
    members: dict[object, list[int]] = {}
    for i, name in enumerate(clusters):
        members.setdefault(name, []).append(i)
    rows = [np.array(found) for found in members.values()]
    if len(rows) < 2:
        raise ValueError("an interval over clusters takes two of them")
    rng = np.random.default_rng(seed)
    found = [
        statistic(table[np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])])
        for _ in range(draws)
    ]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Spread:
    """Where a number's spread comes from; standard deviations in the number's unit.

    Attributes:
        between: from one training run to the next, with infinitely many samples of each.
        within: from one set of samples to the next, of the same run.
    """

    between: float
    within: float


def spread(table: ArrayLike) -> Spread:
    r"""Split the spread of a number over training runs from that over samples (one-way analysis of variance).

    .. math:: \mathrm{within}^2 = \overline{\mathrm{var}_j(x_{ij})}, \qquad
              \mathrm{between}^2 = \max\bigl(0,\ \mathrm{var}_i(\bar x_i) - \mathrm{within}^2 / K\bigr)

    Args:
        table: (runs, sets of samples), two or more of each; K is the number of sets.

    Raises:
        ValueError: there are fewer than two runs or sets.
    """
    x = np.asarray(table, float)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError("two runs with two sets of samples each are the least")
    within = x.var(axis=1, ddof=1).mean()
    between = max(0.0, x.mean(axis=1).var(ddof=1) - within / x.shape[1])
    return Spread(math.sqrt(between), math.sqrt(within))


def length_controlled(outcomes: ArrayLike, length_gaps: ArrayLike, steps: int = 50) -> float:
    r"""The win rate at equal lengths, by logistic regression on the difference of lengths.

    .. math:: P(\text{a wins}) = \sigma\bigl(c + s \tanh(\Delta\ell / \mathrm{std}(\Delta\ell))\bigr), \qquad
              \text{answer: } \sigma(c)

    A small version of Dubois et al. (2024, arXiv 2404.04475), without their terms for the prompt's difficulty.

    Args:
        outcomes: 1, ½ or 0, (N,).
        length_gaps: length of a less length of b, (N,).
        steps: of Newton's method.

    Raises:
        ValueError: all lengths are equal, so there is nothing to control for.
    """
    y, gaps = _pair(outcomes, length_gaps)
    if not gaps.std():
        raise ValueError("all differences in length are the same")
    x = np.stack([np.ones_like(gaps), np.tanh(gaps / gaps.std())], axis=1)  # (N, 2)
    weights = np.zeros(2)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ weights))
        # A trace of a penalty keeps the step finite where one side wins always.
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        weights = weights + np.linalg.solve(hessian, x.T @ (y - p) - 1e-6 * weights)
    return float(1 / (1 + math.exp(-weights[0])))
