"""Toy problems that are learnt past a threshold, on several seeds."""

import dataclasses
import math

import pytest
import torch

from rlhf_utils.evaluation import sequence_kl
from rlhf_utils.generation import sample_texts
from rlhf_utils.ppo import PPOConfig, train_ppo

CONFIG = PPOConfig(
    updates=25, batch_size=64, minibatch_size=32, learning_rate=1e-2, kl_coef=0.02, score_samples=128, vf_coef=0.1
)
PROMPTS = ["b c", "d", "e f g"]


def share_of_a(samples):
    """How much of the response is the word a (token 3)."""
    response = samples.input_ids[:, -samples.response_length :]
    return ((response == 3) * samples.response_mask).sum(-1) / samples.response_mask.sum(-1)


def measure(model, words):
    samples = sample_texts(model, words, PROMPTS * 100, 6, generator=torch.Generator().manual_seed(99))
    return share_of_a(samples).mean().item(), samples


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ppo_learns_to_write_a_word(make_lm, words, seed):
    start = make_lm(seed, scale=0.1)
    policy, _ = train_ppo(start, words, PROMPTS, share_of_a, 6, dataclasses.replace(CONFIG, seed=seed), threads=1)
    assert measure(start, words)[0] < 0.15
    assert measure(policy.lm, words)[0] > 0.6  # a response ends in EOS, so 5 of 6 words at best


def test_a_dear_divergence_keeps_the_policy_near(make_lm, words):
    start = make_lm(0, scale=0.1)
    found = []
    for kl_coef in (0.02, 3.0):
        policy, _ = train_ppo(
            start, words, PROMPTS, share_of_a, 6, dataclasses.replace(CONFIG, kl_coef=kl_coef), threads=1
        )
        share, samples = measure(policy.lm, words)
        found.append((share, sequence_kl(policy.lm, start, samples).mean().item()))
    assert found[0][0] > found[1][0] + 0.3
    assert found[0][1] > 3 * found[1][1]


def test_ppo_nears_the_known_optimum(make_lm, words):
    """One token, so that the optimum can be written down: π* ∝ π_ref · exp(r/β) with J* = β log E_ref[exp(r/β)]."""
    start, beta = make_lm(0, scale=0.1), 0.5
    values = torch.linspace(-1, 1, 16)[torch.randperm(16, generator=torch.Generator().manual_seed(0))]

    def reward(samples):
        return values[samples.input_ids[:, -1]]

    config = dataclasses.replace(
        CONFIG, updates=40, batch_size=256, minibatch_size=128, learning_rate=5e-3, missing_eos_penalty=0.0
    )
    with torch.no_grad():
        reference = start(input_ids=torch.tensor([[4, 5]])).logits[0, -1].log_softmax(-1)
    spread = (reference.exp() * (values - (reference.exp() * values).sum()) ** 2).sum().sqrt().item()
    # PPO divides the reward by its deviation under the reference: β in the reward's own unit is kl_coef · spread
    config = dataclasses.replace(config, kl_coef=beta / spread, score_samples=4096)
    policy, _ = train_ppo(start, words, ["b c"], reward, 1, config, threads=1)
    with torch.no_grad():
        ours = policy.lm(input_ids=torch.tensor([[4, 5]])).logits[0, -1].log_softmax(-1)
    p = ours.exp()
    objective = ((p * values).sum() - beta * (p * (ours - reference)).sum()).item()
    at_start = (reference.exp() * values).sum().item()
    best = beta * math.log((reference.exp() * (values / beta).exp()).sum().item())
    assert at_start < objective < best + 1e-6
    assert (objective - at_start) / (best - at_start) > 0.9
