import math

import numpy as np
import pytest

from rlhf_utils.preferences import Preference, pair_id
from rlhf_utils.reliability import (
    annotator_effects,
    bradley_terry,
    dawid_skene,
    estimate_reliability,
    position_bias,
    reading_times,
)

_ = math.nan


def record(choice, annotator="ann", a=" one", b=" two", seconds=0.0, prompt="p"):
    return Preference(pair_id(prompt, a, b), prompt, a, b, choice, annotator, seconds, "2024-05-01T10:00:00Z", "test")


def votes(truth, accuracy, rng):
    """(annotators, units) of 0 and 1 from people who err independently."""
    right = rng.random((len(accuracy), len(truth))) < np.array(accuracy)[:, None]
    return np.where(right, truth, 1 - truth).astype(float)


# -- Dawid and Skene


def test_one_step_by_hand():
    # Shares of 1: 1, 1/3, 1/3, so p_1 = 5/9. A says 1 in 4/5 of the 1s and 1/2 of the 0s, C likewise; B in 3/5 and 0.
    # Unit 2 (1, 0, 0): 5/9 · 4/5 · 2/5 · 1/5 = 8/225 against 4/9 · 1/2 · 1 · 1/2 = 25/225. Unit 3 likewise.
    found = dawid_skene([[1, 1, 0], [1, 0, 0], [1, 0, 1]], steps=1)
    assert found.prior == pytest.approx([4 / 9, 5 / 9])
    assert found.confusion[:, 1, 1] == pytest.approx([4 / 5, 3 / 5, 4 / 5])
    assert found.confusion[:, 0, 1] == pytest.approx([1 / 2, 0, 1 / 2], abs=1e-12)
    assert found.posterior[:, 1] == pytest.approx([1, 8 / 33, 8 / 33])
    # Evidence: 5/9 · 4/5 · 3/5 · 4/5 = 48/225 for unit 1, 33/225 for the others.
    assert found.log_likelihoods[0] == pytest.approx(math.log(48 / 225) + 2 * math.log(33 / 225))
    assert found.accuracy == pytest.approx([4 / 9 / 2 + 5 / 9 * 4 / 5, 4 / 9 + 5 / 9 * 3 / 5, 4 / 9 / 2 + 4 / 9])


def test_who_agrees_on_everything_is_always_right():
    table = np.tile([1.0, 0, 0, 1], (3, 1))
    found = dawid_skene(table)
    assert found.accuracy == pytest.approx([1, 1, 1])
    assert (found.answers == table[0]).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_never_falls_and_rows_sum_to_one(seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 3, (5, 60)).astype(float)
    table[rng.random(table.shape) < 0.4] = np.nan
    found = dawid_skene(table)
    assert (np.diff(found.log_likelihoods) >= -1e-9).all()
    for part in (found.prior, found.confusion, found.posterior):
        assert np.allclose(part.sum(-1), 1)


@pytest.mark.parametrize("seed", range(5))
def test_known_reliabilities_are_found_and_the_answers_beat_the_majority(seed):
    rng = np.random.default_rng(seed)
    accuracy = [0.9, 0.85, 0.8, 0.55, 0.5, 0.5, 0.15]
    truth = rng.integers(0, 2, 600)
    table = votes(truth, accuracy, rng)
    table[rng.random(table.shape) < 0.2] = np.nan
    found = dawid_skene(table)
    assert found.accuracy == pytest.approx(accuracy, abs=0.08)
    majority = np.nanmean(table, axis=0) > 0.5
    assert (found.answers == truth).mean() > (majority == truth).mean() + 0.05


def test_a_majority_of_the_opposite_taste_is_believed():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 500)
    found = dawid_skene(votes(truth, [0.9] * 3 + [0.1] * 4, rng))
    assert (found.accuracy[:3] < 0.2).all()
    assert (found.accuracy[3:] > 0.8).all()


def test_pseudocounts_doubt_somebody_with_one_judgement():
    table = [[1, 0, 1, 0], [1, 0, 1, 0], [1, _, _, _]]
    assert dawid_skene(table).accuracy[2] == pytest.approx(0.75)  # nothing is known of 0s: a half
    assert dawid_skene(table, pseudocount=1).accuracy[2] < 0.65


def test_units_without_judgements_keep_the_prior_and_empty_tables_are_refused():
    found = dawid_skene([[1, 1, 0, _], [1, 1, 0, _]])
    assert found.posterior[3] == pytest.approx(found.prior, abs=1e-6)
    for bad in ([1.0, 0.0], [[_, _]]):
        with pytest.raises(ValueError, match="two dimensions"):
            dawid_skene(bad)


def test_records_give_names_and_one_answer_a_pair():
    pairs = [(f" a{n}", f" b{n}") for n in range(30)]
    records = []
    for n, (a, b) in enumerate(pairs):
        for who in ("ada", "bo", "gus"):
            flipped = (n + len(who)) % 2 == 0
            wants_a = (who != "gus") != (who == "bo" and n < 3)
            shown = (b, a) if flipped else (a, b)
            records.append(record("b" if wants_a == flipped else "a", who, *shown))
    records.append(record("tie", "ada", " x", " y"))
    reliability, answers = estimate_reliability(records)
    assert list(reliability) == ["ada", "bo", "gus"]
    assert reliability["ada"] > reliability["bo"] > 0.8 > 0.1 > reliability["gus"]
    better = [r.response_a if r.choice == "a" else r.response_b for r in answers]
    assert better == [a for a, _b in pairs]
    with pytest.raises(ValueError, match="but ties"):
        estimate_reliability(records[-1:])


def test_renaming_the_texts_changes_nothing():
    # Whether a text comes first in the alphabet must not matter: Dawid and Skene's prior would lean on it.
    rng = np.random.default_rng(1)
    shown = [(f" {n} {rng.integers(9)}", f" {n} {rng.integers(9)}x") for n in range(60)]
    choices = {who: rng.random(60) < 0.8 for who in ("ada", "bo", "cy")}

    def found(rename):
        return estimate_reliability(
            [record("a" if p[n] else "b", who, *rename(*shown[n])) for who, p in choices.items() for n in range(60)]
        )

    before, after = found(lambda a, b: (a, b)), found(lambda a, b: (" z" + a, " a" + b))
    assert list(before[0].values()) == pytest.approx(list(after[0].values()))
    assert [r.choice for r in before[1]] == [r.choice for r in after[1]]


# -- Bradley and Terry


def test_two_items_and_one_annotator_by_hand():
    # 3 wins of 4 with reliability held near 1 and no position effect: the derivative of the log-likelihood,
    # 3 (1 - p) - p, plus that of the virtual games, c (1 - 2 σ(s)) for each item at s and -s, is 0.
    found = bradley_terry([0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0], [0] * 4, 0.5, (1e6, 1.0), 0.01)
    gap = found.scores[0] - found.scores[1]
    assert found.scores.sum() == pytest.approx(0, abs=1e-6)
    p, half = 1 / (1 + math.exp(-gap)), 1 / (1 + math.exp(-gap / 2))
    assert 3 * (1 - p) - p + 0.5 * (1 - 2 * half) == pytest.approx(0, abs=1e-3)
    assert found.log_likelihood == pytest.approx(3 * math.log(p) + math.log(1 - p), abs=1e-3)


def test_without_quality_the_position_effect_is_the_log_odds_of_the_first():
    # Items that never repeat and a wide prior: of 100 judgements 80 go to the first; log(80/20) = 1.386.
    won = [1] * 80 + [0] * 20
    found = bradley_terry([0] * 100, [1] * 100, won, [0] * 100, 1e6, (1e9, 1.0), 1e3)
    assert found.position[0] == pytest.approx(math.log(4), abs=1e-3)


def simulated(seed, reliability, position, items=60, judgements=400):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, items)
    people = np.repeat(np.arange(len(reliability)), judgements)
    i = rng.integers(items, size=len(people))
    j = (i + rng.integers(1, items, size=len(people))) % items
    follows = 1 / (1 + np.exp(scores[j] - scores[i]))
    q = np.array(reliability)[people] * follows + (1 - np.array(reliability)[people]) * (1 - follows)
    odds = np.log(q / (1 - q)) + np.array(position)[people]
    return scores, i, j, rng.random(len(people)) < 1 / (1 + np.exp(-odds)), people


@pytest.mark.parametrize("seed", range(5))
def test_known_scores_reliabilities_and_sides_are_found(seed):
    reliability, position = [0.98, 0.9, 0.75, 0.5, 0.1], [0.0, 1.0, 0.0, 0.8, 0.0]
    scores, *data = simulated(seed, reliability, position)
    found = bradley_terry(*data)
    assert np.corrcoef(scores, found.scores)[0, 1] > 0.93
    assert found.reliability == pytest.approx(reliability, abs=0.12)
    assert found.position == pytest.approx(position, abs=0.45)


@pytest.mark.parametrize("seed", range(3))
def test_exchanging_the_sides_turns_the_position_effect_round_and_nothing_else(seed):
    _scores, i, j, won, who = simulated(seed, [0.95, 0.6], [0.5, -0.5], items=10, judgements=80)
    found, turned = bradley_terry(i, j, won, who), bradley_terry(j, i, 1 - won.astype(float), who)
    assert turned.scores == pytest.approx(found.scores, abs=1e-4)
    assert turned.reliability == pytest.approx(found.reliability, abs=1e-4)
    assert turned.position == pytest.approx(-found.position, abs=1e-4)


@pytest.mark.parametrize(("change", "message"), [({"first": []}, "as many"), ({"won": [2.0]}, "from 0")])
def test_what_is_no_data_is_refused(change, message):
    data = {"first": [0], "second": [1], "won": [1.0], "who": [0]} | change
    with pytest.raises(ValueError, match=message):
        bradley_terry(*data.values())


def test_records_become_items():
    records = [record("a", "ada"), record("b", "ada", " two", " one"), record("tie", "bo")]
    reliability, found, texts = annotator_effects(records)
    assert list(reliability) == ["ada", "bo"]
    assert texts == ["p one", "p two"]
    assert found.scores[0] > found.scores[1]


# -- one person


def test_position_bias_leaves_ties_out():
    found = position_bias([record("a")] * 8 + [record("b")] * 2 + [record("tie")] * 5)
    assert (found.share, found.number) == (0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.490, 0.943), abs=1e-3)  # Wilson's, by hand
    assert math.isnan(position_bias([record("tie")]).share)


def test_times_by_hand():
    # 1 + 9 + 10 words: at 600 words a minute 2 seconds. Unmeasured ones don't count.
    long = {"a": " w" * 9, "b": " v" * 10}
    records = [record("a", seconds=s, **long) for s in (0.0, 1.9, 2.0, 7.0)]
    found = reading_times(records)
    assert (found.median, found.too_fast, found.number) == (2.0, 1 / 3, 3)
    assert reading_times(records, 300.0).too_fast == pytest.approx(2 / 3)  # 4 seconds then
    assert reading_times(records[:1]).number == 0
