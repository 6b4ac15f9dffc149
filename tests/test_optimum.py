import math

import pytest
import torch
from torch import tensor

from rlhf_utils.optimum import (
    Draws,
    Optimum,
    PromptGap,
    draw_reference,
    estimate_optimum,
    kl_from_optimum,
    measure_gaps,
    share_interval,
    share_of_optimum,
)
from rlhf_utils.ppo import PPOConfig, ScoreScale

pytestmark = pytest.mark.optimum


def test_two_samples_by_hand():
    found = estimate_optimum(tensor([1.0, 0.0]), kl_coef=1.0)
    assert found.value == pytest.approx(math.log((math.e + 1) / 2))
    # shares 0.7311 and 0.2689
    assert found.largest_weight == pytest.approx(0.731059, abs=1e-6)
    assert found.effective_samples == pytest.approx(1 / (0.731059**2 + 0.268941**2), abs=1e-4)
    # N · share = 1.4621 and 0.5379: variance 0.42709, over N = 2
    assert found.standard_error == pytest.approx(math.sqrt(0.427091 / 2), abs=1e-5)


def test_a_constant_reward_is_its_own_optimum():
    found = estimate_optimum(torch.full((300,), 0.7), kl_coef=0.1)
    assert found.value == pytest.approx(0.7)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    assert found.effective_samples == pytest.approx(300)
    assert found.estimable


def test_samples_of_the_best_policy_weigh_the_same():
    # ref (0.5, 0.5), scores (1, 0), β = 0.5: π* = (σ(2), 1 − σ(2)), so log(π*/ref) = r/β − log Z for both
    log_z = math.log((math.exp(2) + 1) / 2)
    scores = tensor([1.0, 0.0, 1.0, 1.0])
    found = estimate_optimum(scores, 0.5, scores / 0.5 - log_z)
    assert found.value == pytest.approx(0.5 * log_z)
    assert found.effective_samples == pytest.approx(4)


def test_a_few_lucky_samples_are_no_estimate():
    scores = torch.zeros(100_000)
    scores[:10] = 3.0
    found = estimate_optimum(scores, kl_coef=0.1)
    assert found.effective_samples == pytest.approx(10, abs=0.1)
    assert not found.estimable
    assert not Optimum(1.0, 0.1, 1000.0, 0.06).estimable


@pytest.mark.parametrize(("scores", "kl_coef"), [(tensor([1.0]), 0.1), (tensor([1.0, 2.0]), 0.0)])
def test_what_can_not_be_estimated_is_an_error(scores, kl_coef):
    with pytest.raises(ValueError, match="two samples and a positive kl_coef"):
        estimate_optimum(scores, kl_coef)


def gap(j_ref, j, best):
    value = Optimum(best, 0.01, 1000.0, 0.01)
    return PromptGap("a", j_ref, j, 1.0, value, value)


def test_the_share_by_hand():
    gaps = [gap(0.0, 0.8, 1.0), gap(-1.0, 0.9, 1.0)]
    assert share_of_optimum(gaps) == pytest.approx((0.8 + 1.9) / 3)
    assert kl_from_optimum(gaps, 0.1) == pytest.approx((0.2 + 0.1) / 2 / 0.1)
    shifted = [gap(g.j_ref + 5, g.j + 5, g.optimum.value + 5) for g in gaps]
    assert share_of_optimum(shifted) == pytest.approx(share_of_optimum(gaps))
    low, high = share_interval(gaps)
    assert low == pytest.approx(0.8)
    assert high == pytest.approx(0.95)


def test_the_reference_itself_has_reached_nothing(lm, words):
    def reward(samples):
        return (samples.input_ids == 5).sum(-1).float()

    config = PPOConfig(kl_coef=1.0)
    args = (reward, ScoreScale(0.0, 1.0), config, 5, torch.Generator().manual_seed(0))
    reference = draw_reference(lm, words, ["a b", "c"], *args, first=512, most=4096)
    gaps = measure_gaps(lm, lm, words, reference, *args, samples=512)
    assert [g.prompt for g in gaps] == ["a b", "c"]
    assert all(g.kl == 0 and g.optimum.estimable for g in gaps)
    assert abs(share_of_optimum(gaps)) < 0.3
    for g in gaps:
        assert g.check.value == pytest.approx(g.optimum.value, abs=4 * (g.check.standard_error + 0.05))
        assert g.optimum.value > g.j_ref


def test_samples_are_doubled_until_they_carry_the_estimate(lm, words):
    def reward(samples):
        return (samples.input_ids == 5).sum(-1).float()

    args = (reward, ScoreScale(0.0, 1.0), PPOConfig(kl_coef=1.0), 5)
    draws = {}
    for first, most in ((64, 64), (64, 8192)):
        generator = torch.Generator().manual_seed(0)
        (draws[most],) = draw_reference(lm, words, ["c"], *args, generator, first=first, most=most)
    few, many = (estimate_optimum(draws[most].scores(*args[1:3]), 1.0) for most in (64, 8192))
    assert len(draws[64].raw) == 64
    assert not few.estimable
    assert len(draws[8192].raw) in (512, 1024, 2048, 4096, 8192)
    assert many.estimable


def test_scores_carry_scale_and_penalty():
    draws = Draws("a", tensor([3.0, 1.0]), tensor([True, False]), torch.zeros(2))
    both = draws + draws
    config = PPOConfig(missing_eos_penalty=0.5)
    assert both.scores(ScoreScale(1.0, 2.0), config).tolist() == [1.0, -0.5, 1.0, -0.5]
