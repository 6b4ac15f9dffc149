import math

import pytest
import torch
from torch import tensor

from rlhf_utils.tensors import (
    entropy,
    explained_variance,
    kl_k1,
    kl_k2,
    kl_k3,
    left_pad,
    masked_mean,
    masked_var,
    position_ids,
    right_pad,
    token_logprobs,
    whiten,
)

GARBAGE = [math.nan, math.inf, -math.inf, 1e30]
P = tensor([0.5, 0.3, 0.2], dtype=torch.float64)  # a policy over three tokens
Q = tensor([0.25, 0.25, 0.5], dtype=torch.float64)  # its reference
KL = 0.5 * math.log(0.5 / 0.25) + 0.3 * math.log(0.3 / 0.25) + 0.2 * math.log(0.2 / 0.5)


def test_padding_goes_left_or_right():
    ids, mask = left_pad([[5, 6], [7]], 0)
    assert ids.tolist() == [[5, 6], [0, 7]]
    assert mask.tolist() == [[1, 1], [0, 1]]
    ids, mask = right_pad([[5, 6], [7]], 0)
    assert ids.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[1, 1], [1, 0]]


def test_positions_count_real_tokens_only():
    mask = tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_masked_mean_and_variance_by_hand():
    values, mask = tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]]), tensor([[1, 1, 0], [1, 0, 0]])
    assert masked_mean(values, mask).item() == (1 + 2 + 6) / 3
    assert masked_mean(values, mask, dim=1).tolist() == [1.5, 6.0]
    # mean 3: (4 + 1 + 9) / 3
    assert masked_var(values, mask).item() == pytest.approx(14 / 3)


def test_a_mean_over_nothing_is_zero():
    assert masked_mean(tensor([[1.0, 2.0]]), tensor([[0, 0]])).item() == 0
    assert masked_mean(tensor([[1.0, 2.0], [3.0, 5.0]]), tensor([[0, 0], [1, 1]]), dim=1).tolist() == [0, 4]


def test_whitening_gives_mean_0_and_variance_1_and_0_under_the_mask():
    values, mask = torch.randn(5, 7) * 3 + 2, torch.rand(5, 7) > 0.4
    out = whiten(values, mask)
    assert out[mask].mean().item() == pytest.approx(0, abs=1e-6)
    assert out[mask].var(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert (out[~mask] == 0).all()


def test_whitening_by_hand():
    # 1, 2, 3: mean 2, variance 2/3
    out = whiten(tensor([[1.0, 2.0, 3.0, 50.0]]), tensor([[1, 1, 1, 0]]))
    assert out.tolist() == [pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5), 0])]


def test_whitening_ignores_shift_and_scale():
    values, mask = torch.randn(4, 5), torch.ones(4, 5)
    torch.testing.assert_close(whiten(3 * values + 7, mask), whiten(values, mask), atol=1e-5, rtol=0)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(
    "function",
    [
        masked_mean,
        masked_var,
        lambda v, m: whiten(v, m).square().cumsum(-1).sum(),
        lambda v, m: explained_variance(v, torch.arange(8.0).view(2, 4).masked_fill(m == 0, 5), m),
        lambda v, m: explained_variance(torch.arange(8.0).view(2, 4), v, m),
        lambda v, m: masked_mean(v, m, dim=0).square().sum(),
    ],
    ids=["mean", "variance", "whiten", "explained values", "explained returns", "mean over rows"],
)
def test_garbage_under_the_mask_changes_nothing(function, garbage):
    mask = tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    clean = tensor([[0.5, -1.0, 0.0, 0.0], [2.0, 0.3, 1.0, 0.0]])
    dirty = clean.masked_fill(mask == 0, garbage)
    results = []
    for values in (clean, dirty):
        values.requires_grad_(True)
        out = function(values, mask)
        (gradient,) = torch.autograd.grad(out, values)
        results.append((out.detach(), gradient))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert (results[1][1][mask == 0] == 0).all()


def test_token_logprobs_by_hand():
    # logits log 1, log 2, log 5: probabilities 1/8, 2/8, 5/8
    logits = tensor([[0.0, math.log(2), math.log(5)]])
    assert token_logprobs(logits, tensor([1])).tolist() == pytest.approx([math.log(2 / 8)])


def test_token_logprobs_ignore_a_shift_of_the_logits():
    logits, tokens = torch.randn(3, 4, 9), torch.randint(9, (3, 4))
    torch.testing.assert_close(token_logprobs(logits + 50, tokens), token_logprobs(logits, tokens), atol=1e-5, rtol=0)


def test_probabilities_of_all_tokens_sum_to_one():
    logits = torch.randn(1, 6).expand(6, 6)
    assert token_logprobs(logits, torch.arange(6)).exp().sum().item() == pytest.approx(1)


def test_entropy_of_uniform_is_log_v_and_of_certainty_0():
    assert entropy(torch.zeros(2, 7)).tolist() == pytest.approx([math.log(7)] * 2)
    assert entropy(tensor([[200.0, 0.0, 0.0]])).item() == 0


def test_entropy_by_hand():
    # two tokens at 1/4 and 3/4
    expected = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert entropy(tensor([0.0, math.log(3)])).item() == pytest.approx(expected)


def test_k1_and_k3_have_the_divergence_as_their_mean():
    log_p, log_q = P.log(), Q.log()
    assert (P * kl_k1(log_p, log_q)).sum().item() == pytest.approx(KL, abs=1e-12)
    assert (P * kl_k3(log_p, log_q)).sum().item() == pytest.approx(KL, abs=1e-12)


def test_k2_is_biased():
    expected = 0.5 * sum(p * math.log(q / p) ** 2 for p, q in zip(P.tolist(), Q.tolist(), strict=True))
    assert (P * kl_k2(P.log(), Q.log())).sum().item() == pytest.approx(expected)
    assert abs(expected - KL) > 0.005


def test_swapped_arguments_are_another_quantity():
    # −KL for k1, and χ²(π‖π_ref) − KL for k3
    chi_squared = sum((p - q) ** 2 / q for p, q in zip(P.tolist(), Q.tolist(), strict=True))
    assert (P * kl_k1(Q.log(), P.log())).sum().item() == pytest.approx(-KL)
    assert (P * kl_k3(Q.log(), P.log())).sum().item() == pytest.approx(chi_squared - KL)


def test_k2_and_k3_are_never_negative_and_k1_may_be():
    a, b = torch.randn(1000), torch.randn(1000)
    assert (kl_k2(a, b) >= 0).all()
    assert (kl_k3(a, b) >= 0).all()
    assert (kl_k1(a, b) < 0).any()


@pytest.mark.parametrize("estimator", [kl_k1, kl_k2, kl_k3])
def test_equal_policies_have_no_divergence(estimator):
    logprobs = torch.randn(10)
    assert (estimator(logprobs, logprobs.clone()) == 0).all()


def test_k3_keeps_its_digits_near_the_reference():
    # ρ − 1 − log ρ = d²/2 + … at log ρ = d; in float32 the plain formula gives 0 here
    d = 1e-5
    assert kl_k3(tensor(0.0), tensor(d)).item() == pytest.approx(d * d / 2, rel=0.1, abs=0)


def test_explained_variance_is_1_for_the_truth_0_for_a_constant_and_negative_for_worse():
    returns, mask = tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3)
    assert explained_variance(returns, returns, mask).item() == 1
    assert explained_variance(torch.full((1, 3), 9.0), returns, mask).item() == pytest.approx(0)
    # residuals 2, 4, 6 have 4 times the variance: 1 − 4
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3)
