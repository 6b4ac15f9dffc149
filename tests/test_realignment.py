"""Mixtures of two policies' logits, against hand-worked numbers, the two ends, and a world that can be enumerated."""

import math

import pytest
import torch

from rlhf_utils.enumeration import all_responses
from rlhf_utils.generation import sample_texts
from rlhf_utils.realignment import mix_logits, sample_mixture


def test_a_mixture_worked_by_hand():
    # The reference gives 1/2 and 1/2, the policy 4/5 and 1/5: odds 1 and 4. Half way the odds are the root, 2.
    ref, policy = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.8, 0.2]).log()
    assert mix_logits(ref, policy, 0.5).softmax(-1).tolist() == pytest.approx([2 / 3, 1 / 3])
    # Twice the way the odds are the square, 16.
    assert mix_logits(ref, policy, 2.0).softmax(-1).tolist() == pytest.approx([16 / 17, 1 / 17])


def test_logits_that_differ_by_a_constant_mix_alike():
    ref, policy = torch.randn(3, 7), torch.randn(3, 7)
    mixed = mix_logits(ref + 5, policy - 2, 0.3).softmax(-1)
    torch.testing.assert_close(mixed, mix_logits(ref, policy, 0.3).softmax(-1))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_are_the_two_policies(make_lm, words, share):
    models = make_lm(0), make_lm(1)
    prompts = ["a b c", "d", "e f", "g h i j"] * 4
    mixed = sample_mixture(*models, words, prompts, 8, share, torch.Generator().manual_seed(5))
    alone = sample_texts(models[int(share)], words, prompts, 8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(mixed.samples.input_ids, alone.input_ids)
    assert torch.equal(mixed.samples.response_mask, alone.response_mask)
    if share == 0:
        assert mixed.kl.abs().max() < 1e-5


def test_frequencies_and_divergence_are_those_of_the_enumerated_mixture(make_lm, words):
    """Responses of at most two tokens: each one's probability, and the exact KL from the reference."""
    share, number, eos, pad = 0.6, 4000, words.eos_token_id, words.pad_token_id
    models = [make_lm(seed, scale=0.15) for seed in (0, 1)]
    prompt = words(["a b"], return_tensors="pt")
    world = all_responses(prompt.input_ids, len(words), 2, eos, pad)
    steps = [next_logits(model, world) for model in models]  # each (B, 2, V)
    logprobs = mix_logits(*steps, share).log_softmax(-1)
    tokens, real = world.input_ids[:, -2:], world.response_mask.bool()
    chosen = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).masked_fill(~real, 0.0).sum(-1)
    ref = steps[0].log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1).masked_fill(~real, 0.0).sum(-1)
    assert chosen.exp().sum().item() == pytest.approx(1, abs=1e-5)
    exact = (chosen.exp() * (chosen - ref)).sum().item()

    drawn = sample_mixture(*models, words, ["a b"] * number, 2, share, torch.Generator().manual_seed(0))
    error = drawn.kl.std().item() / math.sqrt(number)
    assert drawn.kl.mean().item() == pytest.approx(exact, abs=4 * error)
    rows = {tuple(row): p for row, p in zip(tokens.tolist(), chosen.exp().tolist(), strict=True)}
    likeliest = sorted(rows, key=rows.get)[-10:]
    found = [tuple(row) for row in drawn.samples.input_ids[:, -2:].tolist()]
    for row in likeliest:
        expected = rows[row]
        spread = math.sqrt(expected * (1 - expected) / number)
        assert found.count(row) / number == pytest.approx(expected, abs=4.5 * spread)


def next_logits(model, samples):
    """Logits of each response token, (B, R, V), by one plain pass without padding."""
    with torch.no_grad():
        out = model(input_ids=samples.input_ids).logits
    return out[:, -samples.response_length - 1 : -1]
