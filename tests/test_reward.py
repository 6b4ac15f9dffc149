import dataclasses
import itertools
import math
import random

import pytest
import torch
from torch import tensor

from rlhf_utils.errors import UserError
from rlhf_utils.models import RewardModel
from rlhf_utils.reward import (
    RewardConfig,
    best_threshold,
    model_reward,
    pair_accuracy,
    pairwise_loss,
    pointwise_loss,
    score_rows,
    score_texts,
    text_reward,
    train_reward_model,
)
from rlhf_utils.training import TrainingError

SMALL = RewardConfig(epochs=2, batch_size=8, learning_rate=1e-2)


def separable_pairs(number=64, seed=0):
    """The chosen text holds the word a, the rejected one the word b in its place."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(number):
        before, after = (rng.choices("cdefg", k=rng.randint(0, 3)) for _ in range(2))
        pairs.append(tuple(" ".join([*before, word, *after]) for word in "ab"))
    return pairs


# -- losses


def test_equal_scores_cost_log_2():
    assert pairwise_loss(tensor([3.0, -1.0]), tensor([3.0, -1.0])).item() == pytest.approx(math.log(2))


def test_pairwise_loss_by_hand():
    # gaps log 3 and −log 3: σ is 3/4 and 1/4
    loss = pairwise_loss(tensor([math.log(3), 0.0]), tensor([0.0, math.log(3)]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_a_margin_is_taken_from_the_gap():
    loss = pairwise_loss(tensor([2.0 + math.log(3)]), tensor([0.0]), tensor([2.0]))
    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_an_offset_is_free_in_pairs_and_not_in_labels():
    chosen, rejected = torch.randn(8), torch.randn(8)
    torch.testing.assert_close(
        pairwise_loss(chosen + 5, rejected + 5), pairwise_loss(chosen, rejected), atol=1e-5, rtol=0
    )
    labels = torch.arange(8) % 2
    assert (pointwise_loss(chosen + 5, labels) - pointwise_loss(chosen, labels)).abs() > 0.1


def test_pointwise_loss_by_hand():
    # σ(log 3) = 3/4: right for the label 1, wrong for 0
    loss = pointwise_loss(tensor([math.log(3), math.log(3)]), tensor([1, 0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_losses_survive_extreme_scores(gap):
    score = tensor([gap], requires_grad=True)
    for loss, expected in (
        (pairwise_loss(score, tensor([0.0])), max(0.0, -gap)),
        (pointwise_loss(score, tensor([1])), max(0.0, -gap)),
    ):
        assert loss.item() == pytest.approx(expected)
        assert torch.isfinite(torch.autograd.grad(loss, score)[0]).all()


# -- threshold


def accuracy(scores, labels, threshold):
    return sum((s > threshold) == bool(y) for s, y in zip(scores, labels, strict=True)) / len(scores)


@pytest.mark.parametrize("labels", list(itertools.product((0, 1), repeat=4)))
@pytest.mark.parametrize("scores", [(0.1, 0.2, 0.3, 0.4), (1.0, 1.0, 2.0, 2.0), (3.0, 1.0, 1.0, 1.0), (5.0,) * 4])
def test_no_threshold_is_better_than_the_best(scores, labels):
    found = best_threshold(tensor(scores), tensor(labels))
    edges = [-10.0, *(s + d for s in scores for d in (-0.01, 0.01)), 10.0]
    assert accuracy(scores, labels, found) == max(accuracy(scores, labels, edge) for edge in edges)


# -- scoring


@pytest.fixture(scope="module")
def model(make_lm):
    torch.manual_seed(0)
    return RewardModel(make_lm()).eval()


def test_rows_keep_their_order(model):
    rows = [[3, 4, 5, 1], [6, 1], [7, 8, 1], [9, 1]]
    batched = score_rows(model, rows, 0, batch_size=3)
    alone = torch.cat([score_rows(model, [row], 0) for row in rows])
    torch.testing.assert_close(batched, alone, atol=1e-5, rtol=0)


def test_texts_are_read_with_their_eos(model, words):
    torch.testing.assert_close(score_texts(model, words, ["a b"]), score_rows(model, [[3, 4, 1]], 0))


def test_finished_samples_score_as_their_texts(model, samples, words):
    ended = samples.ended
    scores = model_reward(model)(samples)
    assert scores.shape == (32,)
    assert not scores.requires_grad
    texts = [text for text, done in zip(samples.texts(words), ended, strict=True) if done]
    torch.testing.assert_close(scores[ended], score_texts(model, words, texts), atol=1e-5, rtol=0)


def test_a_reward_reads_nothing_behind_the_eos(model, samples):
    garbage = samples.input_ids.masked_fill(samples.attention_mask == 0, 9)
    other = dataclasses.replace(samples, input_ids=garbage)
    assert torch.equal(model_reward(model)(samples), model_reward(model)(other))


def test_any_function_of_text_can_be_the_reward(samples, words):
    reward = text_reward(lambda texts: [len(t.split()) for t in texts], words)
    scores = reward(samples)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [len(t.split()) for t in samples.texts(words)]


def test_ties_count_half(model, words):
    assert pair_accuracy(model, words, [("a b", "a b")]) == 0.5
    pair = ("a b", "c d")
    assert {pair_accuracy(model, words, [pair]), pair_accuracy(model, words, [pair[::-1]])} == {0.0, 1.0}


# -- training


def test_a_separable_preference_is_learnt(make_lm, words):
    model = RewardModel(make_lm(scale=0.1))
    config = RewardConfig(epochs=8, batch_size=16, learning_rate=1e-2)
    result = train_reward_model(model, words, separable_pairs(128), config, threads=1)
    assert result.losses[0] > 0.5  # log 2 = 0.69 if it knew nothing
    assert result.losses[-1] < 0.1
    assert pair_accuracy(model, words, separable_pairs(200, seed=1)) > 0.98


def test_every_parameter_moves_but_the_bias_which_pairs_leave_free(make_lm, words, weights_of):
    lm = make_lm()
    original, model = weights_of(lm), RewardModel(lm)
    before = weights_of(model)
    train_reward_model(model, words, separable_pairs(), SMALL, threads=1)
    still = [n for n, p in model.named_parameters() if torch.allclose(p, before[n], atol=1e-6, rtol=0)]
    assert set(still) <= {"head.bias"}
    assert all(torch.equal(original[n], p) for n, p in lm.named_parameters())


def test_the_same_seed_gives_the_same_bits(make_lm, words, weights_of):
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model = RewardModel(make_lm(dropout=0.1))
        config = dataclasses.replace(SMALL, seed=seed)
        results.append((train_reward_model(model, words, separable_pairs(), config, threads=1), weights_of(model)))
    (ours, first), (same, again), (_, other) = results
    assert ours == same
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)


def test_accuracies_are_those_before_the_step(make_lm, words):
    model = RewardModel(make_lm())
    pairs = separable_pairs(8)
    untrained = pair_accuracy(model.eval(), words, pairs)
    result = train_reward_model(model, words, pairs, dataclasses.replace(SMALL, epochs=1), threads=1)
    assert result.accuracies == [pytest.approx(untrained)]


def test_without_pairs_there_is_nothing_to_learn(make_lm, words):
    with pytest.raises(UserError, match="no pair"):
        train_reward_model(RewardModel(make_lm()), words, [], SMALL, threads=1)


def test_a_nan_weight_stops_training(make_lm, words):
    model = RewardModel(make_lm())
    with torch.no_grad():
        model.head.weight[0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"reward model.*step 0"):
        train_reward_model(model, words, separable_pairs(), SMALL, threads=1)


def test_a_wild_learning_rate_ends_in_an_error_and_not_in_nan_weights(make_lm, words):
    model = RewardModel(make_lm())
    with pytest.raises(TrainingError):
        train_reward_model(model, words, separable_pairs(), dataclasses.replace(SMALL, learning_rate=1e30), threads=1)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(make_lm, words, weights_of):
    model = RewardModel(make_lm())
    before = weights_of(model)
    model.head.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError):
        train_reward_model(model, words, separable_pairs(), SMALL, threads=1)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
