import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_utils.budget import GPT2, Bounds, Machine, Shape, Work, bounds, chain_work, ppo_memory
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


@pytest.mark.parametrize("shape", [GPT2, Shape(width=12, layers=3, words=40, places=16)])
def test_parameters_are_those_of_the_model(shape):
    with torch.device("meta"):
        config = GPT2Config(
            vocab_size=shape.words, n_positions=shape.places, n_embd=shape.width, n_layer=shape.layers, n_head=4
        )
        model = GPT2LMHeadModel(config)
    assert shape.parameters == model.num_parameters()


def test_gpt2_has_124_million():
    assert GPT2.parameters == 124_439_808


def test_six_operations_a_trained_token_and_two_a_read_one():
    # A linear layer of 2 × 3 weights: 6 products and 6 sums a token forward, twice that backward.
    assert Work(trained=1).operations(6) == 36
    assert Work(read=1).operations(6) == 12
    assert Work(trained=10, read=5).operations(100) == 100 * (60 + 10)


def test_bytes_are_counted_by_pass_and_not_by_token():
    assert Work(read=7, reading_passes=2).bytes_moved(10) == 2 * 4 * 10
    assert Work(trained=7, training_passes=3).bytes_moved(10) == 3 * 40 * 10


def test_the_chains_work_by_hand():
    work = chain_work(SETTINGS, texts=50, text_tokens=10, prompt_tokens=4, response_tokens=6)
    assert work["SFT"] == Work(trained=1000, training_passes=10)
    assert work["reward model"] == Work(trained=600, training_passes=6)
    # 3 updates of 8 episodes with 10 tokens: 240 tokens; 2 minibatches an update.
    assert work["sampling"] == Work(read=240, reading_passes=18)
    assert work["scoring"] == Work(read=720, reading_passes=3 * (2 + 2 + 1))
    assert work["update"] == Work(trained=480, training_passes=12)


def test_the_largest_bound_counts():
    machine = Machine("toy", peak=100.0, bandwidth=50.0, memory=1e9)
    found = bounds(Work(read=10, reading_passes=5), 10, machine, 0.5, reading_dispatch=0.3)
    assert (found.products, found.traffic, found.dispatch) == pytest.approx((4.0, 4.0, 1.5))
    assert found.seconds == 4.0
    assert Bounds(1.0, 2.0, 3.0).limit == "dispatch"
    assert bounds(Work(read=10), 10, machine, 1.0).products == 2.0


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_beyond_the_peak_is_an_error(share):
    with pytest.raises(ValueError, match="share of the peak"):
        bounds(Work(read=1), 1, Machine("toy", 1.0, 1.0, 1.0), share)


def test_memory_is_the_bill_of_four_roles():
    shape = Shape(width=4, layers=1, words=10, places=5)
    bill = ppo_memory(shape, SETTINGS, 4, 6, state_bytes=7, logit_bytes=11)
    assert bill["trained models"] + bill["reference, reward model"] == 24 * shape.parameters
    assert bill["states"] == 4 * 10 * 7
    assert bill["logits"] == 4 * 6 * 11
    apart = ppo_memory(shape, SETTINGS, 4, 6, 7, 11, separate_values=True)
    assert apart["trained models"] + apart["reference, reward model"] == 40 * shape.parameters
    assert apart["states"] == 2 * bill["states"]
