import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from rlhf_utils.tensors import left_pad, position_ids, right_pad
from rlhf_utils.unpadded import can_unpad, find_rows, unpadded_states

SIZES = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 24,
}
ROWS = [[3, 4, 5, 6, 7], [8], [11, 12, 13, 14], [9, 10]]


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=24, n_embd=16, n_layer=2, n_head=2)).eval()


def llama():
    """Another architecture: rotary positions, and two query heads to each key head."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=2)).eval()


def padded_states(trunk, ids, mask):
    return trunk(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False)[0]


def test_rows_are_found_on_either_side_of_the_padding():
    for pad in (left_pad, right_pad):
        rows = find_rows(pad([[5, 6, 7], [8], [9, 9]], 0)[1])
        assert rows.grid.tolist() == [[0, 1, 2], [3, 0, 0], [4, 5, 0]]
        assert rows.cells.tolist() == [0, 1, 2, 3, 6, 7]
        assert rows.positions.tolist() == [0, 1, 2, 0, 0, 1]


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("pad", [left_pad, right_pad])
def test_states_and_gradients_are_those_of_the_padded_pass(make, pad):
    ours, theirs = make().base_model, make().base_model
    ids, mask = pad(ROWS, 0)
    weights = torch.randn(*mask.shape, 16) * mask.unsqueeze(-1)
    states, expected = unpadded_states(ours, ids, mask), padded_states(theirs, ids, mask)
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    assert (states[~mask.bool()] == 0).all()
    (states * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_a_row_does_not_see_its_neighbours():
    trunk = gpt2().base_model
    together = unpadded_states(trunk, *left_pad(ROWS, 0))
    alone = unpadded_states(trunk, *left_pad([ROWS[2]], 0))
    torch.testing.assert_close(together[2, -4:], alone[0], atol=1e-5, rtol=0)


def test_the_model_samples_as_before_afterwards():
    lm = gpt2()
    before = copy.deepcopy(lm.config._attn_implementation)
    unpadded_states(lm.base_model, *left_pad(ROWS, 0))
    assert lm.config._attn_implementation == lm.base_model.config._attn_implementation == before
    with pytest.raises(IndexError):
        unpadded_states(lm.base_model, *left_pad([[99]], 0))
    assert lm.config._attn_implementation == before


def test_windowed_attention_and_foreign_modules_are_not_unpadded():
    windowed = MistralForCausalLM(MistralConfig(**SIZES, num_hidden_layers=1, sliding_window=2))
    assert not can_unpad(windowed.base_model)
    assert not can_unpad(torch.nn.Linear(1, 1))
    assert can_unpad(gpt2().base_model)
