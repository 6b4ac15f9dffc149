import math

import pytest
import torch
from torch import nn, tensor

from rlhf_utils.training import TrainingError, check_finite, make_optimizer


def rates(total, warmup, steps):
    optimizer, schedule = make_optimizer(nn.Linear(2, 2), 0.1, total, warmup)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_linearly_and_falls_along_a_cosine():
    # 10 steps, of which 2 rise: 1/2, 1; then (1 + cos(π k/8))/2
    expected = [0.05, 0.1, *(0.1 * 0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8))]
    assert rates(10, 0.2, 10) == pytest.approx(expected)


def test_the_rate_ends_at_zero():
    found = rates(8, 0.0, 9)
    assert found[0] == 0.1
    assert found[4] == pytest.approx(0.05)
    assert found[8] == pytest.approx(0)


def test_the_rate_can_end_higher():
    for share in (0.25, 1.0):
        optimizer, schedule = make_optimizer(nn.Linear(2, 2), 0.1, 8, final_rate=share)
        for _ in range(8):
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * share)


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    optimizer, _ = make_optimizer(model, 0.1, 10, weight_decay=0.5)
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 0.5
    assert [p.ndim for p in decayed["params"]] == [2]
    assert plain["weight_decay"] == 0
    assert len(plain["params"]) == 3


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    optimizer, _ = make_optimizer(model, 0.1, 10)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [model.bias]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_an_error_with_stage_step_and_remedy(value):
    with pytest.raises(TrainingError, match=r"PPO.*step 7.*[Ll]ower the learning rate") as caught:
        check_finite(tensor(value), "PPO", 7)
    assert caught.value.state is None


def test_numbers_pass():
    check_finite(tensor(1e30), "PPO", 0)
    check_finite(torch.zeros(3), "PPO", 0)
