"""Do annotators agree, and by more than chance would have it?

Cohen's kappa is in scikit-learn (:func:`sklearn.metrics.cohen_kappa_score`). Here is what works with any number of
annotators and with missing judgements. All functions take a table of annotators by units; for preferences
:func:`judgement_table` makes it from records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_utils.preferences import Preference

Metric = Literal["nominal", "ordinal", "interval"]  #: what counts as a disagreement, and how much
Table = NDArray[np.float64]  #: annotators × pairs


def judgement_table(records: Iterable[Preference]) -> tuple[list[str], list[str], Table]:
    """Records as a table of annotators by pairs, whichever response each annotator saw first.

    Of an annotator's repeated judgements of one pair the first counts.

    Args:
        records: judgements.

    Returns:
        The annotators' names, the pairs' names, and a table (annotators, pairs): 1 = the response that comes first in
        alphabetical order was preferred, −1 = the other, 0 = a tie, NaN = not judged.
    """
    first: dict[tuple[str, str], float] = {}
    for r in records:
        value = {"a": 1.0, "b": -1.0, "tie": 0.0}[r.choice]
        first.setdefault((r.annotator, r.pair_id), value if r.response_a <= r.response_b else 0.0 - value)
    annotators, pairs = (list(dict.fromkeys(key[i] for key in first)) for i in (0, 1))
    table = np.full((len(annotators), len(pairs)), np.nan)
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (annotators, pairs))
    for (annotator, pair), value in first.items():
        table[rows[annotator], columns[pair]] = value
    return annotators, pairs, table


def _counts(table: ArrayLike) -> tuple[Table, Table]:
    """Distinct values (V,), and how often each unit with two or more judgements got each of them (U, V)."""
    values = np.asarray(table, float)
    if values.ndim != 2:
        raise ValueError(f"The table has {values.ndim} dimensions; it needs two: annotators and units.")
    judged = ~np.isnan(values)
    values = values[:, judged.sum(0) >= 2]
    if not values.size:
        raise ValueError("No unit was judged twice, so nothing can be compared.")
    distinct = np.unique(values[~np.isnan(values)])
    return distinct, (values[:, :, None] == distinct).sum(0).astype(float)


def raw_agreement(table: ArrayLike) -> float:
    r"""Share of the pairs of judgements of one unit that are equal.

    .. math:: A_o = \frac{\sum_u \sum_v n_{uv} (n_{uv} - 1)}{\sum_u m_u (m_u - 1)}

    with :math:`n_{uv}` judgements of value v and :math:`m_u` judgements in all of the unit u. For two annotators it is
    the share of units on which they agree.

    Args:
        table: (annotators, units), NaN = missing.

    Raises:
        ValueError: no unit was judged twice.
    """
    _, counts = _counts(table)
    judgements = counts.sum(1)
    return float((counts * (counts - 1)).sum() / (judgements * (judgements - 1)).sum())


def _distances(distinct: Table, totals: Table, metric: Metric) -> Table:
    """Squared distances (V, V) between values, of which ``totals`` tells how often each occurs."""
    if metric == "nominal":
        return 1.0 - np.eye(len(distinct))
    if metric == "interval":
        return (distinct[:, None] - distinct) ** 2
    if metric == "ordinal":  # how many judgements lie between two values, the ends counted half
        middle = totals.cumsum() - totals / 2
        return (middle[:, None] - middle) ** 2
    raise ValueError(f"The metric is {metric!r}; it must be nominal, ordinal or interval.")


def krippendorff_alpha(table: ArrayLike, metric: Metric = "nominal") -> float:
    r"""Krippendorff's alpha: one minus observed over expected disagreement.

    .. math:: \alpha_K = 1 - \frac{D_o}{D_e}, \qquad
        D_o = \frac1n \sum_{c,k} o_{ck}\, \delta^2_{ck}, \qquad
        D_e = \frac{1}{n(n-1)} \sum_{c,k} n_c n_k\, \delta^2_{ck}

    where :math:`o_{ck} = \sum_u n_{uc}(n_{uk} - [c = k]) / (m_u - 1)` counts how often c and k meet in a unit,
    :math:`n_c = \sum_k o_{ck}` and :math:`n = \sum_c n_c`. Units with fewer than two judgements don't count. Source:
    Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).

    Args:
        table: (annotators, units), NaN = missing.
        metric: ``nominal``: different or not; ``ordinal``: ranks; ``interval``: squared differences.

    Returns:
        1 if all agree, about 0 if they agree as chance would have it, below 0 if less; NaN if only one value occurs,
        since then there is nothing to tell apart.

    Raises:
        ValueError: no unit was judged twice, or the metric is unknown.
    """
    distinct, counts = _counts(table)
    weights = 1 / (counts.sum(1) - 1)
    coincidences = (counts * weights[:, None]).T @ counts - np.diag(weights @ counts)  # (V, V)
    totals = coincidences.sum(1)
    number = totals.sum()
    distances = _distances(distinct, totals, metric)
    expected = (np.outer(totals, totals) * distances).sum() / (number * (number - 1))
    observed = (coincidences * distances).sum() / number
    return float(1 - observed / expected) if expected > 0 else float("nan")


def bootstrap_interval(
    statistic: Callable[[Table], float], table: ArrayLike, seed: int = 0, draws: int = 500, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a statistic over units drawn with replacement; draws where it is NaN are left out.

    Args:
        statistic: of a table, such as :func:`krippendorff_alpha`.
        table: (annotators, units), NaN = missing; units without two judgements are left out.
        seed: of the draws.
        draws: how many.
        level: that the interval should cover.

    Raises:
        ValueError: no unit was judged twice, or the statistic is NaN in every draw.
    """
    values = np.asarray(table, float)
    _counts(values)
    values = values[:, (~np.isnan(values)).sum(0) >= 2]
    rng = np.random.default_rng(seed)
    found = np.array([statistic(values[:, rng.integers(values.shape[1], size=values.shape[1])]) for _ in range(draws)])
    found = found[~np.isnan(found)]
    if not found.size:
        raise ValueError("The statistic is not a number in any draw.")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
