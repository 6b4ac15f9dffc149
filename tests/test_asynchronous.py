"""Samples some updates old: no delay is PPO itself, and a delay is what it says."""

import math

import pytest
import torch

from rlhf_utils import asynchronous
from rlhf_utils.asynchronous import staleness, token_ratios, train_delayed
from rlhf_utils.ppo import PPOConfig, train_ppo

SMALL = PPOConfig(updates=3, batch_size=16, minibatch_size=8, score_samples=16, learning_rate=1e-2)
PROMPTS = ["a", "b c", "d e f"]


def share_of_a(samples):
    """A reward: the share of the response's tokens that are "a"."""
    written = samples.input_ids[:, -samples.response_length :]
    return ((written == 3) * samples.response_mask).sum(-1) / samples.response_mask.sum(-1)


def weights(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def test_ratios_and_what_they_tell():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    apart = torch.tensor([[0.0, math.log(2), 9.0], [math.log(0.5), 0.0, math.log(1.5)]])
    ratios = token_ratios(apart, torch.zeros(2, 3), mask)
    assert ratios.flatten().tolist() == pytest.approx([1, 2, 1, 0.5, 1, 1.5])
    found = staleness(ratios, mask, 0.2)
    assert found["outside"] == pytest.approx(3 / 5)
    assert found["ratio_change"] == pytest.approx((2 * math.log(2) + math.log(1.5)) / 5)
    assert found["effective"] == pytest.approx(6**2 / (5 * (1 + 4 + 0.25 + 1 + 2.25)))


def test_equal_ratios_count_in_full():
    assert staleness(torch.ones(2, 3), torch.ones(2, 3), 0.2) == {
        "outside": 0.0,
        "ratio_change": 0.0,
        "effective": 1.0,
    }


@pytest.mark.parametrize("clip", ["writer", "learner", "both"])
def test_without_a_delay_it_is_ppo(make_lm, words, clip):
    args = (make_lm(), words, PROMPTS, share_of_a, 8, SMALL)
    ours, result = train_delayed(*args, delay=0, clip=clip)
    theirs, plain = train_ppo(*args)
    assert torch.equal(weights(ours), weights(theirs))
    for row, other in zip(result.history, plain.history, strict=True):
        assert row["outside"] == row["ratio_change"] == 0
        assert all(row[name] == other[name] for name in ("score", "kl", "policy_loss", "clip_fraction"))


def test_the_writer_lags_by_the_delay(make_lm, words, monkeypatch):
    wrote, learnt = [], []
    sample, update = asynchronous.sample_texts, asynchronous.update_policy

    def noted(model, *args, **kwargs):
        wrote.append(weights(model))
        return sample(model, *args, **kwargs)

    def after(policy, *args):
        found = update(policy, *args)
        learnt.append(weights(policy.lm))
        return found

    monkeypatch.setattr(asynchronous, "sample_texts", noted)
    monkeypatch.setattr(asynchronous, "update_policy", after)
    start = make_lm()
    _, result = train_delayed(start, words, PROMPTS, share_of_a, 8, SMALL, delay=2)
    versions = [weights(start), *learnt]
    for writer, version in zip(wrote, [0, 0, 0], strict=True):
        assert torch.equal(writer, versions[version])
    assert result.history[0]["ratio_change"] == 0
    assert min(row["ratio_change"] for row in result.history[1:]) > 0
    assert result.history[0]["first_log_ratio"] < 1e-4 < result.history[1]["first_log_ratio"]
    wrote.clear(), learnt.clear()
    train_delayed(start, words, PROMPTS, share_of_a, 8, SMALL, delay=1)
    versions = [weights(start), *learnt]
    for writer, version in zip(wrote, [0, 0, 1], strict=True):
        assert torch.equal(writer, versions[version])


def test_the_clip_about_the_learner_starts_at_one(make_lm, words):
    for clip in ("learner", "both"):
        _, result = train_delayed(make_lm(), words, PROMPTS, share_of_a, 8, SMALL, delay=2, clip=clip)
        assert all(row["first_log_ratio"] < 1e-4 for row in result.history)
        assert result.history[2]["ratio_change"] > 0


def test_the_weights_are_capped(make_lm, words):
    _, result = train_delayed(make_lm(), words, PROMPTS, share_of_a, 8, SMALL, delay=2, clip="both")
    assert result.history[0]["weight"] == 1
    assert result.history[2]["weight"] != 1
    assert all(row["weight"] <= asynchronous.HEAVIEST for row in result.history)


def test_a_negative_delay_is_refused(make_lm, words):
    with pytest.raises(ValueError, match="future"):
        train_delayed(make_lm(), words, PROMPTS, share_of_a, 8, SMALL, delay=-1)
