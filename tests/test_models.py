import math

import pytest
import torch

import rlhf_utils.models
from rlhf_utils.models import PolicyWithValueHead, RewardModel, response_hidden, response_logprobs
from rlhf_utils.tensors import left_pad, right_pad

ROWS = [[3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14]]
R = 2


def plain_logprobs(lm, row, temperature=1.0):
    """Log-probabilities of a row's last R tokens from the model's own forward pass, without padding."""
    logp = (lm(input_ids=torch.tensor([row])).logits[0] / temperature).log_softmax(-1)
    return torch.stack([logp[t - 1, row[t]] for t in range(len(row) - R, len(row))])


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_left_padded_rows_score_as_rows_without_padding(lm, temperature):
    ids, mask = left_pad(ROWS, 0)
    batched = response_logprobs(lm, ids, mask, R, temperature)
    alone = torch.stack([plain_logprobs(lm, row, temperature) for row in ROWS])
    torch.testing.assert_close(batched, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_position_ids_left_padding_would_change_the_scores(lm, monkeypatch):
    monkeypatch.setattr(rlhf_utils.models, "can_unpad", lambda trunk: False)
    ids, mask = left_pad(ROWS, 0)
    right = response_logprobs(lm, ids, mask, R)
    monkeypatch.setattr(rlhf_utils.models, "position_ids", lambda m: torch.arange(m.shape[1]).expand_as(m))
    wrong = response_logprobs(lm, ids, mask, R)
    torch.testing.assert_close(wrong[0], right[0], atol=1e-5, rtol=0)  # the longest row has no padding
    assert (wrong[1:] - right[1:]).abs().max() > 0.1


@torch.no_grad()
def test_what_stands_under_the_mask_is_not_read(lm):
    ids, mask = left_pad(ROWS, 0)
    other = ids.masked_fill(mask == 0, 7)
    assert torch.equal(response_logprobs(lm, ids, mask, R), response_logprobs(lm, other, mask, R))
    policy = PolicyWithValueHead(lm)
    for ours, theirs in zip(policy(ids, mask, R, entropies=True), policy(other, mask, R, entropies=True), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_the_window_starts_one_before_the_response(lm):
    ids, mask = left_pad([ROWS[0]], 0)
    every = lm.transformer(input_ids=ids).last_hidden_state
    torch.testing.assert_close(response_hidden(lm.transformer, ids, mask, R), every[:, [2, 3]])


def test_policy_agrees_with_the_plain_model_and_starts_with_values_of_zero(lm):
    ids, mask = left_pad(ROWS, 0)
    logprobs, values, entropies = PolicyWithValueHead(lm)(ids, mask, R, entropies=True)
    assert torch.equal(logprobs, response_logprobs(lm, ids, mask, R))
    assert (values == 0).all()
    logits = lm(input_ids=torch.tensor([ROWS[0]])).logits[0, -R - 1 : -1]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropies[0], expected, atol=1e-5, rtol=0)
    assert logprobs.requires_grad
    assert values.requires_grad
    assert not entropies.requires_grad


def test_entropies_are_computed_on_demand(lm):
    assert PolicyWithValueHead(lm)(*left_pad(ROWS, 0), R).entropies is None


def test_a_separate_value_trunk_gives_the_values_and_takes_their_gradient(lm, make_lm):
    ids, mask = left_pad(ROWS, 0)
    policy = PolicyWithValueHead(lm, value_trunk=make_lm(1).transformer)
    torch.nn.init.normal_(policy.value_head.weight)
    logprobs, values, _ = policy(ids, mask, R)
    assert torch.equal(logprobs, response_logprobs(lm, ids, mask, R))
    alone = policy.value_trunk(input_ids=torch.tensor([ROWS[0]])).last_hidden_state[0, -R - 1 : -1]
    torch.testing.assert_close(values[0], policy.value_head(alone).squeeze(-1), atol=1e-5, rtol=0)
    values.sum().backward()
    assert lm.transformer.wte.weight.grad is None
    assert policy.value_trunk.wte.weight.grad.abs().sum() > 0


def test_a_policy_trains_the_model_in_place_and_a_reward_model_copies_it(lm):
    assert PolicyWithValueHead(lm).lm is lm
    ours = RewardModel(lm).trunk.wte.weight
    theirs = lm.transformer.wte.weight
    assert torch.equal(ours, theirs)
    assert ours is not theirs


def test_the_reward_head_starts_as_ziegler_et_al(make_lm):
    torch.manual_seed(0)
    weights = torch.cat([RewardModel(make_lm(seed)).head.weight for seed in range(100)]).flatten()
    # d = 16, so 1/√17; the standard error of a deviation from 1600 numbers is 1/√3200 of it
    assert weights.std().item() == pytest.approx(1 / math.sqrt(17), rel=0.08)
    assert (RewardModel(make_lm()).head.bias == 0).all()


@torch.no_grad()
def test_reward_of_a_row_is_the_same_with_padding_left_right_or_none(lm):
    model = RewardModel(lm).eval()
    alone = torch.cat([model(*right_pad([row], 0)) for row in ROWS])
    torch.testing.assert_close(model(*left_pad(ROWS, 0)), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(model(*right_pad(ROWS, 0)), alone, atol=1e-5, rtol=0)
    assert alone.std() > 1e-3


@torch.no_grad()
def test_reward_does_not_read_padding(lm):
    model = RewardModel(lm).eval()
    ids, mask = right_pad(ROWS, 0)
    assert torch.equal(model(ids.masked_fill(mask == 0, 5), mask), model(ids, mask))


@torch.no_grad()
def test_reward_reads_the_last_real_token(lm):
    model = RewardModel(lm).eval()
    ids, mask = right_pad([[3, 4, 5], [3, 4, 6], [3, 4]], 0)
    scores = model(ids, mask)
    assert scores[0] != scores[1]
    states = model.trunk(input_ids=torch.tensor([[3, 4]])).last_hidden_state
    torch.testing.assert_close(scores[2], model.head(states[0, 1])[0], atol=1e-5, rtol=0)
