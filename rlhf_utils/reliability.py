"""How far can each annotator be trusted? Estimates that need no right answers, only several people on the same pairs.

:func:`dawid_skene` takes a table of annotators by units, as in :mod:`rlhf_utils.agreement`. :func:`bradley_terry`
scores the texts themselves. :func:`position_bias` and :func:`reading_times` look at one person's records. Cohen's kappa
is scikit-learn's (:func:`sklearn.metrics.cohen_kappa_score`).

All of them believe the majority. If most people have one taste, whoever has the opposite one gets a reliability below
one half; which of the two is right isn't in the data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import logsigmoid

from rlhf_utils.agreement import judgement_table
from rlhf_utils.evaluation import wilson_interval
from rlhf_utils.preferences import Preference

Array = NDArray[np.float64]
WORDS_PER_MINUTE = 600.0  #: nobody reads faster; see :func:`reading_times`
SMALLEST = 1e-300  #: stands in for a probability of 0 where its logarithm is taken


# -- Dawid and Skene


@dataclass(frozen=True)
class DawidSkene:
    """What :func:`dawid_skene` finds. A annotators, U units, J values."""

    values: Array  #: (J,), rising
    prior: Array  #: (J,), share of units whose true value is each of them
    confusion: Array  #: (A, J, J), chance that an annotator says l (last) where j (middle) is true
    posterior: Array  #: (U, J), chance that a unit's true value is each of them
    log_likelihoods: tuple[float, ...]  #: of the judgements, before each step; never falls without pseudocounts

    @property
    def accuracy(self) -> Array:
        r"""(A,), chance that an annotator is right, :math:`\sum_j p_j \pi^{(a)}_{jj}`."""
        return np.einsum("j,ajj->a", self.prior, self.confusion)

    @property
    def answers(self) -> Array:
        """(U,), the likeliest value of each unit; of equally likely ones the smallest."""
        return self.values[self.posterior.argmax(1)]


def dawid_skene(table: ArrayLike, pseudocount: float = 0.0, steps: int = 200, tolerance: float = 1e-9) -> DawidSkene:
    r"""True answers and everybody's errors at once, by expectation and maximisation.

    .. math:: P(\text{judgements of } u, \text{truth } j) = p_j \prod_{a} \pi^{(a)}_{j, x_{au}}

    Annotators err independently given the truth: where j is true, annotator a says l with probability
    :math:`\pi^{(a)}_{jl}`. It begins with each unit's share of votes as :math:`T_{uj}`, then takes turns:

    .. math:: p_j = \frac1U \sum_u T_{uj}, \qquad
        \pi^{(a)}_{jl} = \frac{c + \sum_u T_{uj} [x_{au} = l]}{J c + \sum_u T_{uj} [x_{au} \text{ given}]}, \qquad
        T_{uj} \propto p_j \prod_a \pi^{(a)}_{j, x_{au}}

    Source: Dawid and Skene, Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm (1979), which
    has no pseudocount: c = 0.

    Args:
        table: (annotators, units), NaN = not judged. Units that nobody judged keep the prior.
        pseudocount: c; above 0, somebody with few judgements isn't taken for infallible.
        steps: at most.
        tolerance: it stops when the log-likelihood gains no more than this for each judgement.

    Raises:
        ValueError: the table hasn't two dimensions, or is empty.
    """
    votes = np.asarray(table, float)
    if votes.ndim != 2 or np.isnan(votes).all():
        raise ValueError("The table needs two dimensions, annotators and units, and a judgement.")
    values = np.unique(votes[~np.isnan(votes)])
    said = (votes[:, :, None] == values).astype(float)  # (A, U, J)
    number = said.sum(0)  # (U, J)
    judged = number.sum(1, keepdims=True)
    posterior = np.where(judged > 0, number / np.maximum(judged, 1), 1 / len(values))
    found: list[float] = []
    for _ in range(steps):
        prior = posterior.mean(0)
        counts = np.einsum("uj,aul->ajl", posterior, said) + pseudocount
        totals = counts.sum(2, keepdims=True)
        # Somebody who judged nothing where j is true has no row of their own; any would do.
        confusion = np.where(totals > 0, counts / np.where(totals > 0, totals, 1), 1 / len(values))
        joint = np.log(np.maximum(prior, SMALLEST)) + np.einsum(
            "ajl,aul->uj", np.log(np.maximum(confusion, SMALLEST)), said
        )
        highest = joint.max(1, keepdims=True)
        evidence = highest[:, 0] + np.log(np.exp(joint - highest).sum(1))
        posterior = np.exp(joint - evidence[:, None])
        found.append(float(evidence.sum()))
        if len(found) > 1 and found[-1] - found[-2] <= tolerance * number.sum():
            break
    return DawidSkene(values, prior, confusion, posterior, tuple(found))


def estimate_reliability(
    records: Iterable[Preference], pseudocount: float = 1.0
) -> tuple[dict[str, float], list[Preference]]:
    """Each annotator's chance to be right, and one record a pair with the likeliest answer.

    Ties are left out, as training leaves them out. An answer weighs the votes: somebody who is right in 9 of 10 cases
    counts twice as much as somebody who is right in 3 of 4, since log 9 = 2 log 3, and somebody at one half nothing.

    Args:
        records: judgements. Their sides may differ; of an annotator's repeated ones the first counts.
        pseudocount: see :func:`dawid_skene`.

    Returns:
        Reliabilities by name, and the records, whose annotator is ``dawid-skene``; pairs in their order.

    Raises:
        ValueError: every record is a tie.
    """
    decided = [r for r in records if r.choice != "tie"]
    if not decided:
        raise ValueError("There is no judgement but ties.")
    names, pairs, table = judgement_table(decided)
    # A pair's name says nothing about which text is better, so both answers must be treated alike: each pair is taken
    # twice, the second time with its texts exchanged.
    result = dawid_skene(np.concatenate([table, -table], axis=1), pseudocount)
    answers = dict(zip(pairs, result.posterior[: len(pairs)] @ result.values, strict=True))
    first: dict[str, Preference] = {}
    for r in decided:
        first.setdefault(r.pair_id, r)
    kept = []
    for pair, r in first.items():
        a_is_better = (answers[pair] >= 0) == (r.response_a <= r.response_b)
        kept.append(replace(r, choice="a" if a_is_better else "b", annotator="dawid-skene", seconds=0.0))
    return dict(zip(names, result.accuracy.tolist(), strict=True)), kept


# -- Bradley and Terry, with annotators


@dataclass(frozen=True)
class AnnotatorEffects:
    """What :func:`bradley_terry` finds. I items, A annotators."""

    scores: Array  #: (I,), in log-odds; their mean is near 0
    reliability: Array  #: (A,), chance to take the side of the better item: 1 careful, 1/2 a coin, 0 the opposite
    position: Array  #: (A,), log-odds that being shown first adds
    log_likelihood: float  #: of the judgements


def bradley_terry(
    first: ArrayLike,
    second: ArrayLike,
    first_won: ArrayLike,
    annotator: ArrayLike,
    virtual_games: float = 0.5,
    reliability_counts: tuple[float, float] = (2.0, 1.0),
    position_deviation: float = 1.0,
) -> AnnotatorEffects:
    r"""Scores of items from pairwise judgements by people who differ in reliability and in their liking for one side.

    .. math:: q = \eta_a\, \sigma(s_i - s_j) + (1 - \eta_a)\, \sigma(s_j - s_i), \qquad
        P(\text{first}) = \sigma\left(\log\frac{q}{1 - q} + w_a\right)

    Item i is shown first and j second. With :math:`\eta_a = 1` and :math:`w_a = 0` for all it is Bradley and Terry's
    model; with :math:`w_a = 0`, the model of Chen et al., Pairwise Ranking Aggregation in a Crowdsourced Setting
    (2013). The position effect :math:`w_a` is ours; Bugakova et al., Aggregation of Pairwise Comparisons with Reduction
    of Biases (2019), model such effects in general.

    What is maximised is the log-likelihood plus, with weight ``virtual_games``, :math:`\log \sigma(s_i) + \log
    \sigma(-s_i)` for each item, as in Chen et al.: it has won and lost against an item whose score is 0, so that no
    score is infinite. Likewise each annotator comes with a few right and wrong judgements, and :math:`w_a` is normal
    around 0. Exchange all signs and set :math:`\eta` to :math:`1 - \eta`, and the likelihood is the same; the search
    starts on the side on which most annotators are right.

    Args:
        first: (N,), number of the item that is shown first, from 0.
        second: (N,), number of the other.
        first_won: (N,), 1 if the first was chosen, 0 if the second; 1/2 for a tie, which counts half for each.
        annotator: (N,), number of who judged, from 0.
        virtual_games: see above, at least a little over 0.
        reliability_counts: right and wrong judgements that each annotator comes with.
        position_deviation: standard deviation of the position effects.

    Raises:
        ValueError: the sequences differ in length or are empty, or a number is out of range.
    """
    i, j, who = (torch.as_tensor(np.asarray(x), dtype=torch.long) for x in (first, second, annotator))
    won = torch.as_tensor(np.asarray(first_won, float))
    if not len(won) or not len(i) == len(j) == len(who) == len(won):
        raise ValueError("There have to be as many first as second items, results and annotators, and at least one.")
    if min(int(x.min()) for x in (i, j, who)) < 0 or bool(((won < 0) | (won > 1)).any()):
        raise ValueError("Items and annotators are numbered from 0; a result lies between 0 and 1.")
    right, wrong = reliability_counts
    items, people = int(torch.stack([i, j]).max()) + 1, int(who.max()) + 1
    scores, logits, position = (
        torch.zeros(items, dtype=torch.float64),
        torch.full((people,), math.log(right / wrong), dtype=torch.float64),
        torch.zeros(people, dtype=torch.float64),
    )
    parameters = [x.requires_grad_() for x in (scores, logits, position)]

    def log_likelihood() -> torch.Tensor:
        gap = scores[i] - scores[j]
        careful, contrary = logsigmoid(logits)[who], logsigmoid(-logits)[who]
        for_first = torch.logaddexp(careful + logsigmoid(gap), contrary + logsigmoid(-gap))
        for_second = torch.logaddexp(careful + logsigmoid(-gap), contrary + logsigmoid(gap))
        odds = for_first - for_second + position[who]
        return (won * logsigmoid(odds) + (1 - won) * logsigmoid(-odds)).sum()

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        virtual = virtual_games * (logsigmoid(scores) + logsigmoid(-scores)).sum()
        known = (right * logsigmoid(logits) + wrong * logsigmoid(-logits)).sum()
        sides = (position**2).sum() / (2 * position_deviation**2)
        value = -(log_likelihood() + virtual + known - sides)
        value.backward()
        return value

    optimiser = torch.optim.LBFGS(
        parameters, max_iter=1000, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )
    optimiser.step(loss)
    with torch.no_grad():
        found = float(log_likelihood())
    return AnnotatorEffects(
        scores.detach().numpy(), logits.detach().sigmoid().numpy(), position.detach().numpy(), found
    )


def annotator_effects(records: Sequence[Preference]) -> tuple[dict[str, float], AnnotatorEffects, list[str]]:
    """:func:`bradley_terry` of records, each text an item.

    Args:
        records: judgements, of which ``response_a`` was shown first.

    Returns:
        Reliabilities by name; all that was found; and the texts, prompt and response, in the order of the scores.
        Annotators are in the order in which they first occur.
    """
    texts = {t: None for r in records for t in (r.prompt + r.response_a, r.prompt + r.response_b)}
    numbers = {text: n for n, text in enumerate(texts)}
    people = {name: n for n, name in enumerate(dict.fromkeys(r.annotator for r in records))}
    result = bradley_terry(
        [numbers[r.prompt + r.response_a] for r in records],
        [numbers[r.prompt + r.response_b] for r in records],
        [{"a": 1.0, "b": 0.0, "tie": 0.5}[r.choice] for r in records],
        [people[r.annotator] for r in records],
    )
    return dict(zip(people, result.reliability.tolist(), strict=True)), result, list(numbers)


# -- one person's records


@dataclass(frozen=True)
class PositionBias:
    """How often the response that was shown first was chosen, ties apart."""

    share: float  #: one half is due where sides are drawn by chance; NaN if there is no choice
    number: int  #: of choices
    low: float  #: end of the 95 % interval
    high: float  #: the other end


def position_bias(records: Iterable[Preference]) -> PositionBias:
    """How often ``response_a``, which was shown first, was chosen, with Wilson's interval (Wilson 1927).

    It says something only where the sides were drawn by chance: if one system always stands first, its quality is in
    the number too.

    Args:
        records: of one person, or of several.
    """
    choices = [r.choice == "a" for r in records if r.choice != "tie"]
    if not choices:
        return PositionBias(math.nan, 0, 0.0, 1.0)
    share = sum(choices) / len(choices)
    return PositionBias(share, len(choices), *wilson_interval(share, len(choices)))


@dataclass(frozen=True)
class ReadingTimes:
    """How long judgements took."""

    median: float  #: seconds; NaN if no time was measured
    too_fast: float  #: share of them that were quicker than their texts can be read; NaN likewise
    number: int  #: of judgements whose time was measured


def reading_times(records: Iterable[Preference], words_per_minute: float = WORDS_PER_MINUTE) -> ReadingTimes:
    """Median seconds a judgement, and the share that was too quick for somebody who read both texts.

    Most adults read 175 to 300 words of English non-fiction a minute, silently and for understanding (Brysbaert, How
    Many Words Do We Read per Minute?, 2019). The default of 600 is twice the upper end, so whoever is counted as too
    fast skimmed at best. It says little of texts with few words, where moving a finger takes longer than reading.

    Args:
        records: whose ``seconds`` are above 0; others weren't measured.
        words_per_minute: a speed that can't be reached. The prompt counts once, both responses count.
    """
    measured = [r for r in records if r.seconds > 0]
    if not measured:
        return ReadingTimes(math.nan, math.nan, 0)
    words = [len(f"{r.prompt} {r.response_a} {r.response_b}".split()) for r in measured]
    quick = sum(r.seconds < 60 * n / words_per_minute for r, n in zip(measured, words, strict=True))
    return ReadingTimes(statistics.median(r.seconds for r in measured), quick / len(measured), len(measured))
