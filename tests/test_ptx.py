"""PPO with the pretraining gradient beside it."""

import dataclasses
import random

import pytest
import torch

from rlhf_utils.ppo import PPOConfig, train_ppo
from rlhf_utils.ptx import PretrainingGradients, train_ppo_ptx
from rlhf_utils.sft import batch_loss, encode_texts

SMALL = PPOConfig(updates=2, batch_size=16, minibatch_size=8, epochs=2, learning_rate=1e-2, score_samples=32)
PROMPTS = ["b", "c d", "e"]
TEXTS = ["f g h", "g h i j", "h i", "k l m"] * 4


def share_of_a(samples):
    """Toy reward: how much of the response is the word a (token 3)."""
    response = samples.input_ids[:, -samples.response_length :]
    return ((response == 3) * samples.response_mask).sum(-1) / samples.response_mask.sum(-1)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def trained(model, words, coefficient, config=SMALL):
    return train_ppo_ptx(model, words, PROMPTS, share_of_a, 6, config, TEXTS, coefficient, 8, threads=1)


def test_clearing_leaves_the_gradient_of_the_pretraining_texts(make_lm, words):
    model = make_lm()
    rows = encode_texts(words, TEXTS, 24)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    added = PretrainingGradients(optimizer, model, rows, words.pad_token_id, 0.3, 8, seed=5)
    drawn = random.Random(5).sample(rows, 8)
    other = encode_texts(words, ["a b c"], 24)
    optimizer.zero_grad()
    (batch_loss(model, other, words.pad_token_id) + 0.3 * batch_loss(model, drawn, words.pad_token_id)).backward()
    together = gradient(model)
    added.zero_grad()
    batch_loss(model, other, words.pad_token_id).backward()
    torch.testing.assert_close(gradient(model), together)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    added.step()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(after, before - 0.1 * together)
    assert len(added.losses) == 1


def test_without_the_term_it_is_ppo_to_the_last_bit(make_lm, words):
    model = make_lm()
    ours, told = trained(model, words, 0.0)
    theirs, history = train_ppo(model, words, PROMPTS, share_of_a, 6, SMALL, threads=1)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    for ours_row, row in zip(told.history, history.history, strict=True):
        assert ours_row == {name: row[name] for name in ours_row}
        assert "pretraining_loss" not in ours_row


def test_the_term_keeps_texts_that_ppo_forgets(make_lm, words):
    model = make_lm()
    rows = encode_texts(words, TEXTS, 24)
    config = dataclasses.replace(SMALL, updates=6)
    plain, _ = trained(model, words, 0.0, config)
    kept, told = trained(model, words, 1.0, config)
    loss = {
        name: batch_loss(lm, rows, words.pad_token_id).item() for name, lm in (("plain", plain.lm), ("ptx", kept.lm))
    }
    assert loss["ptx"] < loss["plain"] - 0.3
    assert told.history[-1]["pretraining_loss"] < told.history[0]["pretraining_loss"]


def test_a_negative_coefficient_is_refused(make_lm, words):
    with pytest.raises(ValueError, match="unlearn"):
        trained(make_lm(), words, -0.1)
