import dataclasses

import pytest
import torch

import rlhf_utils.generation
from rlhf_utils.errors import UserError
from rlhf_utils.generation import encode_prompts, sample, sample_texts, sample_tokens
from rlhf_utils.models import response_logprobs
from rlhf_utils.tensors import left_pad

EOS, PAD = 1, 0


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_match_the_distribution(temperature):
    n = 20_000
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0]) / temperature
    counts = sample_tokens(logits.expand(n, 5), torch.rand(n, generator=generator())).bincount(minlength=5)
    expected = n * logits.softmax(-1)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 18.5  # 0.999 of the chi-squared distribution with 4 degrees of freedom


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    inf = float("inf")
    drawn = sample_tokens(torch.tensor([[-inf, 0.0, -inf, 0.0, -inf]]), torch.tensor([uniform])).item()
    assert drawn == (1 if uniform == 0 else 3)


def test_a_share_of_the_prompts_is_answered_as_among_all(lm, words):
    prompts = ["a b c", "d", "e f", "g h i j"]
    every = sample_texts(lm, words, prompts, 6, generator=generator(1)).texts(words)
    part = sample_texts(lm, words, prompts, 6, generator=generator(1), rows=slice(2, 4))
    assert part.texts(words) == every[2:]


def test_the_same_seed_draws_the_same_and_another_does_not(lm, words):
    draws = [sample_texts(lm, words, ["a b", "c"] * 8, 8, generator=generator(s)).input_ids for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_follows_an_eos(samples):
    responses = samples.input_ids[:, -samples.response_length :]
    for tokens, mask, ended in zip(responses.tolist(), samples.response_mask.tolist(), samples.ended, strict=True):
        length = sum(mask)
        assert mask == [1] * length + [0] * (len(mask) - length)
        assert EOS not in tokens[: length - 1]
        assert (tokens[length - 1] == EOS) == bool(ended)
        assert all(t == PAD for t in tokens[length:])
        assert ended or length == len(mask)


def test_the_mask_holds_prompt_and_response(samples, words):
    prompt = samples.input_ids.shape[1] - samples.response_length
    assert samples.attention_mask[:4, :prompt].sum(-1).tolist() == [3, 1, 2, 4]
    assert torch.equal(samples.attention_mask[:, prompt:], samples.response_mask)


def test_prompt_and_response_make_up_the_text(samples, words):
    prompts = ["a b c", "d", "e f", "g h i j"] * 8
    for prompt, response, text in zip(prompts, samples.responses(words), samples.texts(words), strict=True):
        assert prompt + response == text
        assert "<eos>" not in text
        assert response == "" or response[0] == " "


def test_sampling_stops_when_all_have_ended(make_lm, words):
    model = make_lm()
    certain = torch.nn.Linear(16, 16)
    with torch.no_grad():
        certain.weight.zero_()
        certain.bias.copy_(torch.where(torch.arange(16) == EOS, 100.0, 0.0))
    model.lm_head = certain
    drawn = sample_texts(model, words, ["a", "b c"], 8, generator=generator())
    assert drawn.response_mask.tolist() == [[1], [1]]
    assert drawn.ended.all()


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_cached_sampling_equals_sampling_from_the_whole_text(lm, words, temperature):
    prompts = ["a b c", "d", "e f", "g h i j"]
    drawn = sample_texts(lm, words, prompts, 6, temperature, generator(5))
    uniform = torch.rand(4, 6, generator=generator(5))
    rows, alive = words(prompts)["input_ids"], [True] * 4
    for step in range(drawn.response_length):
        # no cache and no padding: each text goes through the model by itself
        logits = torch.stack([lm(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]) / temperature
        for i, token in enumerate(sample_tokens(logits, uniform[:, step]).tolist()):
            if alive[i]:
                rows[i].append(token)
                alive[i] = token != EOS
    got = [ids[mask.bool()].tolist() for ids, mask in zip(drawn.input_ids, drawn.attention_mask, strict=True)]
    assert got == rows


@torch.no_grad()
def test_without_position_ids_padding_would_change_what_is_drawn(lm, words, monkeypatch):
    prompts = ["a b c", "d", "e f", "g h i j"] * 4
    right = sample_texts(lm, words, prompts, 6, generator=generator(5))
    monkeypatch.setattr(rlhf_utils.generation, "position_ids", lambda m: torch.arange(m.shape[1]).expand_as(m))
    wrong = sample_texts(lm, words, prompts, 6, generator=generator(5))
    assert right.texts(words) != wrong.texts(words)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_are_as_surprising_as_the_entropy_says(lm, temperature):
    # One token from a fixed prompt: the mean of −log π over 4000 draws is the entropy, if both use the temperature.
    ids, mask = left_pad([[3, 4, 5]] * 4000, PAD)
    uniform = torch.rand(len(ids), 1, generator=generator())
    drawn = sample(lm, ids, mask, 1, EOS, PAD, temperature, uniform)
    surprise = -response_logprobs(lm, drawn.input_ids, drawn.attention_mask, 1, temperature)
    logits = lm(input_ids=ids[:1]).logits[0, -1] / temperature
    assert surprise.mean().item() == pytest.approx(
        torch.distributions.Categorical(logits=logits).entropy().item(), abs=4 * surprise.std().item() / 4000**0.5
    )


def test_dropout_is_off_while_sampling_and_the_mode_returns(make_lm, words):
    model = make_lm(dropout=0.5).train()
    first, second = (sample_texts(model, words, ["a", "b"], 6, generator=generator()).input_ids for _ in range(2))
    assert torch.equal(first, second)
    assert model.training


def test_prompts_are_padded_on_the_left(words):
    ids, mask = encode_prompts(words, ["a", "b c"], 24, 8)
    assert ids.tolist() == [[0, 3], [4, 5]]
    assert mask.tolist() == [[0, 1], [1, 1]]


def test_a_prompt_must_fit_into_the_context(words):
    encode_prompts(words, ["a b c d"], 12, 8)
    with pytest.raises(UserError, match="Shorten it to 4 tokens"):
        encode_prompts(words, ["a", "a b c d e"], 12, 8)


def test_an_empty_prompt_is_an_error(words):
    with pytest.raises(UserError, match="empty"):
        encode_prompts(words, ["a", ""], 12, 8)


def test_samples_are_frozen(samples):
    with pytest.raises(dataclasses.FrozenInstanceError):
        samples.ended = None
