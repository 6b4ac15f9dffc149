"""The cost model against numbers worked by hand."""

import pytest

from rlhf_utils import cost_model
from rlhf_utils.cost_model import Device, Network, Shares, Work

NET = Network(parameters=1e9, layers=10, width=1000)
DEVICE = Device(operations=1e14, bandwidth=1e12, memory=10e9, link=1e10, price=2.0)
WORK = Work(prompt=100, response=400, batch=64, epochs=2, steps=8)


def test_six_operations_a_trained_token_and_two_a_read_one():
    # A linear layer of 2 × 3 weights: 6 products and 6 sums a token forward, twice that backward.
    layer = Network(parameters=6, layers=1, width=2)
    assert cost_model.weight_operations(layer, read=1) == 12
    assert cost_model.weight_operations(layer, trained=1) == 36
    assert cost_model.weight_operations(layer, read=5, trained=10) == 420


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
@pytest.mark.parametrize("name", ["operations", "bandwidth", "link"])
def test_a_share_beyond_the_best_rate_is_an_error(name, share):
    with pytest.raises(ValueError, match=f"{name} is {share}; a share of the best rate"):
        Shares(**{name: share})


def test_operations_of_a_forward_pass():
    # 2 · 1e9 · 500 = 1e12; 500 · 501 / 2 = 125,250 pairs · 4 · 10 · 1000 = 5.01e9
    assert cost_model.forward_operations(NET, 500) == 1e12 + 5.01e9


def test_writing_with_a_cache_costs_as_much_as_reading():
    each = [2e9 + 4 * 10 * 1000 * (t + 1) for t in range(500)]
    assert sum(each) == cost_model.forward_operations(NET, 500)


def test_an_episode_is_one_three_and_six_passes():
    one = 1e12 + 5.01e9
    assert cost_model.episode_operations(NET, WORK) == {"sampling": one, "scoring": 3 * one, "update": 6 * one}
    critic = Work(100, 400, 64, epochs=1, scored_by=4, trained=2)
    assert cost_model.episode_operations(NET, critic)["update"] == 6 * one


def test_bytes():
    assert cost_model.weight_bytes(NET) == 2e9
    assert cost_model.cache_bytes(NET, 500) == 2 * 10 * 1000 * 2 * 500 == 2e7
    assert cost_model.cache_bytes(Network(1e9, 10, 1000, kv_width=125), 500) == 2.5e6
    assert cost_model.training_bytes(NET) == 16e9
    assert cost_model.training_bytes(NET, 8) == 16e9
    assert cost_model.training_bytes(NET, 8, sharded=True) == 2e9
    assert cost_model.training_bytes(NET, 8, sharded=True, trained=2) == 4e9


def test_a_token_takes_the_longer_of_two_times():
    arithmetic, memory = cost_model.token_seconds(NET, DEVICE, sequences=10, context=300)
    assert arithmetic == pytest.approx(10 * (2e9 + 4 * 10 * 1000 * 300) / 1e14)  # 0.2012 ms
    assert memory == pytest.approx((2e9 + 10 * 1.2e7) / 1e12)  # 2.12 ms
    halves = cost_model.token_seconds(NET, DEVICE, 10, 300, Shares(operations=0.5, bandwidth=0.5))
    assert halves == pytest.approx((2 * arithmetic, 2 * memory))


def test_from_so_many_texts_on_arithmetic_decides():
    at = cost_model.balanced_sequences(NET, DEVICE)
    assert at == 100
    arithmetic, memory = cost_model.token_seconds(NET, DEVICE, at, 0)
    assert arithmetic == pytest.approx(memory) == pytest.approx(2e-3)


def test_texts_that_fit_and_waves():
    # 8e9 bytes beside the weights, 2e7 for each text
    assert cost_model.sequences_that_fit(NET, DEVICE, 500) == 400
    one = cost_model.sampling_seconds(NET, DEVICE, WORK, 400)
    two = cost_model.sampling_seconds(NET, DEVICE, WORK, 800)
    prompt = 400 * (2e11 + 2 * 10 * 1000 * 100 * 101) / 1e14
    token = max(400 * 2.012e9 / 1e14, (2e9 + 400 * 1.2e7) / 1e12)
    assert one == pytest.approx(prompt + 400 * token)
    assert two == pytest.approx(2 * one)
    with pytest.raises(ValueError, match="don't fit"):
        cost_model.sequences_that_fit(Network(5e9, 10, 1000), DEVICE, 500)


def test_traffic_of_a_ring():
    # three processes, a tensor in three parts: two rounds of adding, two of handing on, a third each
    assert cost_model.all_reduce_bytes(9.0, 3) == 12.0
    assert cost_model.all_gather_bytes(9.0, 3) == 6.0
    assert cost_model.all_reduce_bytes(9.0, 1) == 0.0
    assert cost_model.step_bytes(NET, 4) == 3e9
    assert cost_model.step_bytes(NET, 4, sharded=True) == 1.5 * cost_model.step_bytes(NET, 4)


def test_devices_for_a_copy():
    assert cost_model.devices_for_a_copy(NET, DEVICE) == 1  # 2 GB in 5 GB
    assert cost_model.devices_for_a_copy(Network(3e9, 10, 1000), DEVICE) == 2
    assert cost_model.devices_for_a_copy(Network(12e9, 10, 1000), DEVICE) == 8


def test_an_update_on_one_device_and_on_four():
    one = cost_model.update_seconds(NET, DEVICE, WORK, 1)
    passes = 64 * (1e12 + 5.01e9) / 1e14
    assert one.scoring == pytest.approx(3 * passes)
    assert one.update == pytest.approx(6 * passes)
    assert one.communication == 0
    assert one.total == pytest.approx(one.sampling + 9 * passes)
    four = cost_model.update_seconds(NET, DEVICE, WORK, 4)
    assert four.update == pytest.approx(one.update / 4)
    assert four.communication == pytest.approx((8 * 4.5e9 + 1.5e9) / 1e10)
    assert one.sampling / 4 < four.sampling < one.sampling  # the weights are read as often by each
    with pytest.raises(ValueError, match="needs 8 devices"):
        cost_model.update_seconds(Network(12e9, 10, 1000), DEVICE, WORK, 4)


def test_split_devices():
    writing, rest = cost_model.split_seconds(NET, DEVICE, WORK, devices=4, writers=3)
    assert writing == pytest.approx(cost_model.sampling_seconds(NET, DEVICE, WORK, 64 / 3) + 2e9 / 1e10)
    alone = cost_model.update_seconds(NET, DEVICE, WORK, 1)
    assert rest == pytest.approx(alone.scoring + alone.update)
    with pytest.raises(ValueError, match="each side"):
        cost_model.split_seconds(NET, DEVICE, WORK, devices=4, writers=4)


def test_price_counts_every_device():
    assert cost_model.price(1800, 8, DEVICE) == 8.0
