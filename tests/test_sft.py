import dataclasses
import math
import random

import pytest
import torch
from torch import tensor

from rlhf_utils.sft import (
    SFTConfig,
    batch_loss,
    cross_entropy,
    encode_texts,
    length_batches,
    train_sft,
    validation_loss,
)
from rlhf_utils.tensors import right_pad
from rlhf_utils.training import TrainingError

TEXTS = ["a b c d", "e f g", "h i j k l m", "a c e g"]
SMALL = SFTConfig(epochs=3, batch_size=2, learning_rate=1e-2)


def test_cross_entropy_by_hand():
    # two tokens; each position's logits give the next token 1/4, 1/2 or 3/4
    logits = tensor([[[0.0, math.log(3)], [0.0, 0.0], [9.0, 9.0]]])
    ids = tensor([[0, 0, 1]])
    # position 0 foretells token 0: 1/4; position 1 foretells token 1: 1/2; the last position foretells nothing
    assert cross_entropy(logits, ids, torch.ones(1, 3)).item() == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert cross_entropy(logits, ids, tensor([[1, 1, 0]])).item() == pytest.approx(math.log(4))


def test_cross_entropy_of_uniform_logits_is_log_v():
    assert cross_entropy(torch.zeros(2, 5, 7), torch.ones(2, 5).long(), torch.ones(2, 5)).item() == pytest.approx(
        math.log(7)
    )


def test_cross_entropy_is_a_mean_over_tokens_and_not_over_rows():
    logits, ids = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    mask = tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    long, short = (cross_entropy(logits[i : i + 1], ids[i : i + 1], mask[i : i + 1]) for i in (0, 1))
    torch.testing.assert_close(cross_entropy(logits, ids, mask), (3 * long + short) / 4)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_padding_changes_neither_loss_nor_gradient(garbage):
    mask, ids = tensor([[1, 1, 1, 0, 0]]), tensor([[1, 2, 3, 0, 0]])
    clean = torch.randn(1, 5, 6)
    dirty = clean.clone()
    dirty[:, 2:] = garbage  # position 2 foretells the first PAD
    results = []
    for logits in (clean.requires_grad_(True), dirty.requires_grad_(True)):
        loss = cross_entropy(logits, ids, mask)
        results.append((loss.detach(), *torch.autograd.grad(loss, logits)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_texts_end_in_eos_unless_cut(words):
    assert encode_texts(words, ["a b", "a b c d"], 4) == [[3, 4, 1], [3, 4, 5, 6]]


def test_each_row_comes_once_in_batches_of_like_length():
    rows = [[0] * random.Random(i).randint(1, 9) for i in range(23)]
    batches = list(length_batches(rows, 4, random.Random(0)))
    assert sorted(i for batch in batches for i in batch) == list(range(23))
    spread = [max(len(rows[i]) for i in b) - min(len(rows[i]) for i in b) for b in batches]
    assert max(spread) <= 3


def test_batch_loss_is_the_cross_entropy_of_the_models_logits(lm, words):
    rows = encode_texts(words, TEXTS, 20)
    ids, mask = right_pad(rows, 0)
    logits = lm(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(batch_loss(lm, rows, 0), cross_entropy(logits, ids, mask), atol=1e-5, rtol=0)


def test_validation_loss_does_not_depend_on_the_batches(lm, words):
    rows = encode_texts(words, TEXTS, 20)
    losses = [validation_loss(lm, rows, 0, size) for size in (1, 3, 4)]
    assert losses == pytest.approx([batch_loss(lm, rows, 0).item()] * 3, abs=1e-5)


def test_a_tiny_corpus_is_learnt_by_heart(make_lm, words):
    model = make_lm(scale=0.05)
    config = SFTConfig(epochs=150, batch_size=4, learning_rate=2e-2, weight_decay=0.0)
    result = train_sft(model, words, TEXTS[:3], TEXTS[:3], config, threads=1)
    # At best the first word is a guess among three, and the rest is sure: the first column isn't predicted, so 0.
    assert result.validation_losses[0] > 2.5  # log 16 = 2.77
    assert result.validation_losses[-1] < 0.05


def test_every_parameter_moves(make_lm, words, weights_of):
    model = make_lm()
    before = weights_of(model)
    train_sft(model, words, TEXTS, TEXTS, SMALL, threads=1)
    assert not [n for n, p in model.named_parameters() if torch.equal(p, before[n])]


def test_the_same_seed_gives_the_same_bits(make_lm, words, weights_of):
    results = []
    for seed in (0, 0, 1):
        model = make_lm(dropout=0.1)
        result = train_sft(model, words, TEXTS, TEXTS, dataclasses.replace(SMALL, seed=seed), threads=1)
        results.append((weights_of(model), result))
    (first, ours), (again, same), (other, _) = results
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert ours == same
    assert not all(torch.equal(first[n], other[n]) for n in first)


def test_validation_is_measured_before_and_after(make_lm, words):
    result = train_sft(make_lm(), words, TEXTS, TEXTS, SMALL, threads=1)
    assert result.steps == list(range(7))  # four texts in batches of two, three times
    assert len(result.losses) == 6
    assert len(result.validation_losses) == 7


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 10), (0.5, 5), (2.5, 25), (0.0, 0), (0.001, 1)])
def test_epochs_may_be_partial(make_lm, words, epochs, steps):
    config = SFTConfig(epochs=epochs, batch_size=2)
    assert len(train_sft(make_lm(), words, TEXTS * 5, TEXTS, config, threads=1).losses) == steps


def test_the_number_of_texts_can_be_limited(make_lm, words):
    config = SFTConfig(epochs=1, batch_size=1, max_texts=3)
    assert len(train_sft(make_lm(), words, TEXTS * 5, TEXTS, config, threads=1).losses) == 3


def test_a_nan_weight_stops_training(make_lm, words):
    model = make_lm()
    with torch.no_grad():
        model.transformer.wte.weight[3, 0] = math.nan
    with pytest.raises(TrainingError, match=r"SFT.*step 1"):
        train_sft(model, words, TEXTS, TEXTS, SMALL, threads=1)


def test_a_wild_learning_rate_ends_in_an_error_and_not_in_nan_weights(make_lm, words):
    model = make_lm()
    with pytest.raises(TrainingError, match="learning rate"):
        train_sft(model, words, TEXTS, TEXTS, dataclasses.replace(SMALL, learning_rate=1e30), threads=1)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(make_lm, words, weights_of):
    model = make_lm()
    before = weights_of(model)
    model.transformer.wpe.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError):
        train_sft(model, words, TEXTS, TEXTS, SMALL, threads=1)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
