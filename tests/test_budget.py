"""The chain's bill on one device against numbers worked by hand."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_utils.budget import GPT2, Bounds, Stage, bounds, chain_work, gpt2_network, ppo_memory
from rlhf_utils.cost_model import Device, Network, Shares
from rlhf_utils.pipeline import Settings
from rlhf_utils.ppo import PPOConfig
from rlhf_utils.preferences import PreferenceConfig
from rlhf_utils.reward import RewardConfig
from rlhf_utils.sft import SFTConfig

SETTINGS = Settings(
    SFTConfig(epochs=2, batch_size=10),
    PreferenceConfig(pairs=30),
    RewardConfig(epochs=1, batch_size=5),
    PPOConfig(updates=3, batch_size=8, minibatch_size=4, epochs=2),
)
TEN = Network(parameters=10, layers=1, width=2, number_bytes=4)
TOY = Device(operations=100.0, bandwidth=50.0, memory=1e9)


@pytest.mark.parametrize(("width", "layers", "words", "places"), [(768, 12, 50_257, 1024), (12, 3, 40, 16)])
def test_parameters_are_those_of_the_model(width, layers, words, places):
    with torch.device("meta"):
        config = GPT2Config(vocab_size=words, n_positions=places, n_embd=width, n_layer=layers, n_head=4)
        model = GPT2LMHeadModel(config)
    network = gpt2_network(width, layers, words, places)
    assert network == Network(model.num_parameters(), layers, width, number_bytes=4)


def test_gpt2_has_124_million():
    assert (GPT2.parameters, GPT2.layers, GPT2.width, GPT2.number_bytes) == (124_439_808, 12, 768, 4)


def test_six_operations_a_trained_token_and_two_a_read_one():
    assert Stage(trained=1).operations(TEN) == 60
    assert Stage(read=1).operations(TEN) == 20
    assert Stage(trained=10, read=5).operations(TEN) == 700


def test_bytes_are_counted_by_pass_and_not_by_token():
    assert Stage(read=7, passes=2).bytes_moved(TEN) == 80  # 10 weights of 4 bytes, twice
    # A step, a parameter: 8 bytes forward and backward, 4 of gradient, 16 that Adam reads, 12 that it writes.
    assert Stage(trained=7, steps=3).bytes_moved(TEN) == 3 * (8 + 4 + 16 + 12) * 10


def test_the_chains_work_by_hand():
    work = chain_work(SETTINGS, texts=50, text_tokens=10, prompt_tokens=4, response_tokens=6)
    assert work["SFT"] == Stage(trained=1000, steps=10)
    assert work["reward model"] == Stage(trained=600, steps=6)
    # 3 updates of 8 episodes with 10 tokens: 240 tokens; 2 minibatches an update.
    assert work["sampling"] == Stage(read=240, passes=18)
    assert work["scoring"] == Stage(read=720, passes=3 * (2 + 2 + 1))
    assert work["update"] == Stage(trained=480, steps=12)


def test_the_longest_bound_counts():
    # 200 operations at 50 a second, 200 bytes at 50 a second, 5 passes of 0.3 s
    found = bounds(Stage(read=10, passes=5), TEN, TOY, Shares(operations=0.5), pass_dispatch=0.3)
    assert (found.arithmetic, found.traffic, found.dispatch) == pytest.approx((4.0, 4.0, 1.5))
    assert found.seconds == 4.0
    # 120 operations at 100 a second; 2 steps of 400 bytes at 25 a second, and of 7 s
    found = bounds(Stage(trained=2, steps=2), TEN, TOY, Shares(bandwidth=0.5), step_dispatch=7.0)
    assert (found.arithmetic, found.traffic, found.dispatch) == pytest.approx((1.2, 32.0, 14.0))
    assert (found.seconds, found.limit) == (32.0, "traffic")
    assert Bounds(1.0, 2.0, 3.0).limit == "dispatch"
    assert Bounds(3.0, 2.0, 1.0).limit == "arithmetic"


def test_a_pass_of_gpt2_on_a_t4():
    t4 = Device(operations=8.1e12, bandwidth=320e9, memory=16e9)
    found = bounds(Stage(read=256, passes=1), GPT2, t4, Shares(operations=0.3))
    assert found.arithmetic == pytest.approx(0.0262, abs=1e-4)  # 6.37e10 over 2.43e12
    assert found.traffic == pytest.approx(0.001555, abs=1e-6)  # 497.8 MB over 320 GB/s


def test_memory_is_the_bill_of_four_roles():
    bill = ppo_memory(TEN, SETTINGS, 4, 6, state_bytes=7, logit_bytes=11)
    assert bill == {
        "trained models": 160,
        "reference, reward model": 80,
        "states": 4 * 10 * 7,
        "logits": 4 * 6 * 11,
    }
    apart = ppo_memory(TEN, SETTINGS, 4, 6, 7, 11, separate_values=True)
    assert apart["trained models"] == 320
    assert apart["states"] == 2 * 4 * 10 * 7
    assert apart["reference, reward model"] == 80
