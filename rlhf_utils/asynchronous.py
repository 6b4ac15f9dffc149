r"""PPO whose samples are some updates old, as where other processes write them: what a delay does, on one process.

At update u the writer has the weights of update u − k (of the start, while u < k). What it wrote is scored by the
writer's own weights; by then the learner is k updates further. Three ways to learn from such samples:

``"writer"``
    PPO as it is: the ratio is π / π_writer, and clipping holds the policy near the *writer*.
``"learner"``
    The samples are taken for the learner's own: log-probabilities and values are computed anew, the ratio starts at 1.
``"both"``
    The clip is about the learner, and each token's advantage is weighted by π_learner / π_writer, at most 2 (Hilton et
    al. 2022, arXiv 2110.00641; for language models Fu et al. 2025, arXiv 2505.24298).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.generation import sample_texts
from rlhf_utils.models import PolicyWithValueHead
from rlhf_utils.ppo import (
    PPOConfig,
    PPOResult,
    advantages_and_returns,
    draw_prompts,
    make_controller,
    measure_scale,
    rollout_metrics,
    start_policy,
    update_policy,
)
from rlhf_utils.progress import progress
from rlhf_utils.reward import Reward
from rlhf_utils.rollout import penalise_missing_eos, score_rollout
from rlhf_utils.runtime import seed_everything, use_threads
from rlhf_utils.tensors import masked_mean
from rlhf_utils.training import make_optimizer

Clip = Literal["writer", "learner", "both"]
HEAVIEST = 2.0  # cap of the weight in "both"


def token_ratios(logprobs: Tensor, writer_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """π_learner / π_writer of each token, 1 under the mask. All (B, R).

    Args:
        logprobs: of the learner.
        writer_logprobs: of the policy that sampled.
        response_mask: 1 = a token that the writer chose.
    """
    return (logprobs - writer_logprobs).masked_fill(~response_mask.bool(), 0.0).exp()


def staleness(ratios: Tensor, response_mask: Tensor, clip_range: float) -> dict[str, float]:
    r"""How far the learner is from the writer.

    Args:
        ratios: π_learner / π_writer, (B, R), before the update.
        response_mask: (B, R).
        clip_range: ε.

    Returns:
        ``outside``, the share of tokens whose ratio lies beyond 1 ± ε; ``ratio_change``, the mean of
        :math:`|\log \rho|`, nats; ``effective``, :math:`(\sum \rho)^2 / (n \sum \rho^2)`, the share of the n tokens
        that counts when they are weighted by ρ.
    """
    chosen = ratios[response_mask.bool()]
    return {
        "outside": ((chosen - 1).abs() > clip_range).float().mean().item(),
        "ratio_change": chosen.log().abs().mean().item(),
        "effective": (chosen.sum() ** 2 / (len(chosen) * (chosen**2).sum())).item(),
    }


def train_delayed(
    sft_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reward: Reward,
    max_new_tokens: int,
    config: PPOConfig,
    delay: int,
    clip: Clip = "writer",
    threads: int | None = None,
) -> tuple[PolicyWithValueHead, PPOResult]:
    """:func:`rlhf_utils.ppo.train_ppo` with samples that are ``delay`` updates old; the same to the last bit at 0.

    Args:
        sft_model: start and reference; it is not changed.
        tokenizer: with distinct PAD and EOS.
        prompts: openings to learn from.
        reward: scores finished samples.
        max_new_tokens: cap on a response's length.
        config: the settings.
        delay: k, how many updates the writer is behind.
        clip: which policy the ratio is taken to; see the module.
        threads: see :func:`rlhf_utils.runtime.use_threads`.

    Returns:
        The policy and what happened; a row of the history also has what :func:`staleness` gives.

    Raises:
        ValueError: the delay is negative.
    """
    if delay < 0:
        raise ValueError(f"a delay of {delay} updates would be a look into the future")
    use_threads(threads)
    generator = seed_everything(config.seed)
    scale = measure_scale(sft_model, tokenizer, prompts, reward, max_new_tokens, config, generator)
    policy = start_policy(sft_model, config.value_model, None, scale).to(sft_model.device)
    controller, steps = make_controller(config), config.epochs * (config.batch_size // config.minibatch_size)
    optimizer, schedule = make_optimizer(
        policy, config.learning_rate, steps * config.updates, eps=config.adam_eps, final_rate=config.final_rate
    )
    result = PPOResult(scale)
    kept = deque([copy.deepcopy(policy)], maxlen=delay + 1)  # the oldest of them writes
    for _ in progress(range(config.updates), f"PPO, delay {delay}"):
        writer = kept[0]
        chosen = draw_prompts(prompts, config.batch_size, generator)
        samples = sample_texts(writer.lm, tokenizer, chosen, max_new_tokens, config.temperature, generator)
        scores = (reward(samples) - scale.mean) / scale.std
        scores = penalise_missing_eos(scores, samples.ended, config.missing_eos_penalty)
        rest = (sft_model, samples, scores, config.minibatch_size, config.temperature)
        rollout = score_rollout(writer, *rest)
        now = score_rollout(policy, *rest) if delay else rollout
        mask = rollout.response_mask
        ratios = token_ratios(now.old_logprobs, rollout.old_logprobs, mask)
        if clip != "writer":
            rollout = now
        advantages, returns = advantages_and_returns(rollout, controller.kl_coef, config)
        metrics = rollout_metrics(rollout, returns) | staleness(ratios, mask, config.clip_range)
        if clip == "both":
            advantages = advantages * ratios.clamp(max=HEAVIEST)
            metrics["weight"] = float(masked_mean(ratios.clamp(max=HEAVIEST), mask))
        metrics |= update_policy(policy, optimizer, rollout, advantages, returns, config, generator)
        for _ in range(steps):
            schedule.step()
        controller.update(metrics["kl"], config.batch_size)
        result.history.append(metrics)
        with torch.no_grad():
            kept.append(copy.deepcopy(policy))
    return policy.eval(), result
