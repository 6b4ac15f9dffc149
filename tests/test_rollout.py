import copy

import pytest
import torch

from rlhf_utils.models import PolicyWithValueHead, response_logprobs
from rlhf_utils.rollout import penalise_missing_eos, score_rollout


@pytest.fixture
def policy(make_lm):
    policy = PolicyWithValueHead(make_lm())
    torch.nn.init.normal_(policy.value_head.weight)
    return policy


def test_chunks_change_nothing_but_the_last_digits(policy, make_lm, samples):
    whole = score_rollout(policy, make_lm(1), samples, torch.zeros(32), 32)
    parts = score_rollout(policy, make_lm(1), samples, torch.zeros(32), 5)
    for name in ("old_logprobs", "ref_logprobs", "values", "entropies"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=0)
        assert getattr(whole, name).shape == samples.response_mask.shape


def test_policy_and_reference_are_scored_each_by_itself(policy, make_lm, samples):
    reference = make_lm(1)
    rollout = score_rollout(policy, reference, samples, torch.arange(32.0), 8, temperature=0.7)
    args = (samples.input_ids, samples.attention_mask, samples.response_length, 0.7)
    with torch.no_grad():
        torch.testing.assert_close(rollout.ref_logprobs, response_logprobs(reference, *args))
        torch.testing.assert_close(rollout.old_logprobs, response_logprobs(policy.lm, *args))
    assert torch.equal(rollout.scores, torch.arange(32.0))
    assert not rollout.old_logprobs.requires_grad


def test_a_fresh_copy_of_the_reference_has_no_divergence(policy, make_lm, samples):
    rollout = score_rollout(policy, make_lm(), samples, torch.zeros(32), 8)
    assert torch.equal(rollout.old_logprobs, rollout.ref_logprobs)


def test_the_reference_must_not_be_the_policy(policy, samples):
    with pytest.raises(ValueError, match="frozen copy"):
        score_rollout(policy, policy.lm, samples, torch.zeros(32), 8)


def test_dropout_is_off(make_lm, samples):
    policy = PolicyWithValueHead(make_lm(dropout=0.5)).train()
    reference = copy.deepcopy(policy.lm)
    rollout = score_rollout(policy, reference, samples, torch.zeros(32), 8)
    assert torch.equal(rollout.old_logprobs, rollout.ref_logprobs)
    assert policy.training


def test_a_missing_eos_costs_its_penalty():
    scores = penalise_missing_eos(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), 0.75)
    assert scores.tolist() == [1.0, 0.25]
