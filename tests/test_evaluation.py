import dataclasses
import math

import pytest
import torch

from rlhf_utils.evaluation import evaluate, evaluation_prompts, sequence_kl, wilson_interval
from rlhf_utils.generation import sample_texts
from rlhf_utils.models import response_logprobs
from rlhf_utils.reward import text_reward


class WordJudge:
    """Positive where a text holds more than two words a."""

    name = "word judge"

    def scores(self, texts):
        return [text.split().count("a") - 2.0 for text in texts]


@pytest.fixture
def task(tiny, words):
    prompts = ["a b", "c", "d e f", "a"]
    return dataclasses.replace(tiny, tokenizer=words, judge=WordJudge(), eval_prompts=prompts, max_new_tokens=6)


# Newcombe (1998), Statistics in Medicine 17, 857–872, table I, method 3
@pytest.mark.parametrize(
    ("successes", "number", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_published(successes, number, low, high):
    assert wilson_interval(successes / number, number) == pytest.approx((low, high), abs=6e-5)


def test_wilson_interval_by_hand():
    # p = 1/2, n = 4, z = 2: z²/n = 1; centre (1/2 + 1/2)/(1 + 1), half 2/(1 + 1) · √(1/16 + 1/16)
    assert wilson_interval(0.5, 4, z=2) == pytest.approx((0.5 - math.sqrt(1 / 8), 0.5 + math.sqrt(1 / 8)))


def test_each_prompt_comes_once_before_any_comes_twice():
    prompts = [str(i) for i in range(10)]
    drawn = evaluation_prompts(prompts, 25)
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == prompts
    assert len(set(drawn[20:])) == 5
    assert drawn == evaluation_prompts(prompts, 25)
    assert drawn != evaluation_prompts(prompts, 25, seed=1)


def test_divergence_from_itself_is_zero_and_from_another_positive(lm, make_lm, words):
    samples = sample_texts(lm, words, ["a b", "c"] * 200, 6, generator=torch.Generator().manual_seed(0))
    assert (sequence_kl(lm, lm, samples) == 0).all()
    kl = sequence_kl(lm, make_lm(1), samples)
    assert kl.shape == (400,)
    assert kl.mean() > 3 * kl.std() / 20


@torch.no_grad()
def test_divergence_sums_over_the_responses_tokens(lm, make_lm, samples):
    other = make_lm(1)
    args = (samples.input_ids, samples.attention_mask, samples.response_length)
    ours, theirs = response_logprobs(lm, *args), response_logprobs(other, *args)
    row = int(samples.response_mask.sum(-1).argmin())
    n = int(samples.response_mask[row].sum())
    expected = sum((ours[row, t] - theirs[row, t]).item() for t in range(n))
    assert n < samples.response_length
    assert sequence_kl(lm, other, samples)[row].item() == pytest.approx(expected, abs=1e-5)


def test_numbers_are_those_of_the_samples(lm, task, words):
    seen = []

    def judge_and_keep(texts):
        seen.extend(texts)
        return [len(t.split()) for t in texts]

    found = evaluate(lm, lm, task, text_reward(judge_and_keep, words), 3.0, 2.0, number=40, batch_size=16)
    assert len(seen) == found.samples == 40
    scores = WordJudge().scores(seen)
    assert found.judge_score == pytest.approx(sum(scores) / 40)
    assert found.positive_rate == sum(s > 0 for s in scores) / 40
    assert found.mean_reward == pytest.approx(sum((len(t.split()) - 3) / 2 for t in seen) / 40)
    assert found.kl == 0
    assert found.positive_interval == wilson_interval(found.positive_rate, 40)
    assert len(found.texts) == 10
    for (prompt, response, score), text in zip(found.texts, seen[:10], strict=True):
        assert prompt + response == text
        assert score == text.split().count("a") - 2.0
    assert set(found.numbers()) == {f.name for f in dataclasses.fields(found)} - {"texts"}


def test_length_eos_and_distinct_count_responses(lm, task, words):
    kept = []
    found = evaluate(lm, lm, task, lambda s: kept.append(s) or torch.zeros(len(s.ended)), number=64, batch_size=64)
    (samples,) = kept
    assert found.length == pytest.approx(samples.response_mask.sum().item() / 64)
    assert found.eos == pytest.approx(samples.ended.float().mean().item())
    assert found.distinct == len(set(samples.responses(words))) / 64


def test_perplexity_of_a_uniform_reference_is_its_vocabulary(lm, make_lm, task):
    uniform = make_lm()
    with torch.no_grad():
        uniform.lm_head = torch.nn.Linear(16, 16, bias=False)
        uniform.lm_head.weight.zero_()
    assert evaluate(lm, uniform, task, number=32).perplexity == pytest.approx(16, rel=1e-4)


def test_without_a_reward_its_mean_is_nan(lm, task):
    assert math.isnan(evaluate(lm, lm, task, number=8).mean_reward)


def test_the_same_seed_measures_the_same(lm, make_lm, task):
    first, again, other = (evaluate(lm, make_lm(1), task, number=32, seed=s) for s in (0, 0, 1))
    assert first.texts == again.texts
    assert first.kl == again.kl
    assert first.texts != other.texts
