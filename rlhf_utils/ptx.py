r"""PPO-ptx: PPO whose every step also follows the gradient of the pretraining objective.

What is maximised is

.. math:: \mathbb{E}[r(x, y)] - \beta\,\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})
          + \gamma_\mathrm{ptx}\,\mathbb{E}_{x\sim D_\mathrm{pre}}[\log\pi(x)]

with texts x of the pretraining corpus. Ouyang et al. (2022), arXiv 2203.02155, equation 2. Here the last expectation is
a mean over tokens and not over texts, as PPO's own loss is, so a coefficient of the paper has another unit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.generation import sample_texts
from rlhf_utils.models import PolicyWithValueHead, RewardModel
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
from rlhf_utils.sft import batch_loss, encode_texts
from rlhf_utils.training import make_optimizer


class PretrainingGradients:
    r"""An optimizer whose gradients start at those of pretraining and not at zero.

    PPO's update clears the gradients, adds its own and takes a step. With this in the optimizer's place, clearing
    leaves :math:`\gamma_\mathrm{ptx} \nabla L_\mathrm{pre}` of fresh texts, and PPO's gradient is added to it.

    Args:
        optimizer: takes the steps.
        lm: the policy's language model.
        rows: token rows of the pretraining texts.
        pad_id: of the tokenizer.
        coefficient: :math:`\gamma_\mathrm{ptx}`; at 0 nothing is computed.
        batch_size: texts a step.
        seed: of their choice.

    Raises:
        ValueError: the coefficient is negative.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        lm: PreTrainedModel,
        rows: Sequence[Sequence[int]],
        pad_id: int,
        coefficient: float,
        batch_size: int,
        seed: int,
    ) -> None:
        if coefficient < 0:
            raise ValueError(f"a coefficient of {coefficient} would unlearn the pretraining texts")
        self.optimizer, self.lm, self.rows, self.pad_id = optimizer, lm, rows, pad_id
        self.coefficient, self.batch_size, self.rng = coefficient, batch_size, random.Random(seed)
        self.losses: list[float] = []

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, then fill them with those of pretraining."""
        self.optimizer.zero_grad(set_to_none)
        if self.coefficient:
            loss = batch_loss(self.lm, self.rng.sample(self.rows, self.batch_size), self.pad_id)
            (self.coefficient * loss).backward()
            self.losses.append(loss.item())

    def step(self) -> None:
        """The optimizer's step."""
        self.optimizer.step()


def train_ppo_ptx(
    sft_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reward: Reward,
    max_new_tokens: int,
    config: PPOConfig,
    pretraining_texts: Sequence[str],
    coefficient: float,
    texts_per_step: int = 64,
    threads: int | None = None,
    reward_model: RewardModel | None = None,
) -> tuple[PolicyWithValueHead, PPOResult]:
    r"""Train a policy with PPO-ptx on one process; with a coefficient of 0 it is :func:`rlhf_utils.ppo.train_ppo`.

    Args:
        sft_model: start and reference; it is not changed.
        tokenizer: with distinct PAD and EOS.
        prompts: openings to learn from.
        reward: scores finished samples; normalised here on samples of the SFT model.
        max_new_tokens: cap on a response's length.
        config: the settings of PPO.
        pretraining_texts: what the base model was trained on, or more of it.
        coefficient: :math:`\gamma_\mathrm{ptx}`, of the mean loss of a pretraining token.
        texts_per_step: pretraining texts an optimizer step.
        threads: see :func:`rlhf_utils.runtime.use_threads`.
        reward_model: where the value model starts if ``config.value_model`` is ``"reward"``.

    Returns:
        The policy and what happened; ``pretraining_loss`` in the history is the mean over an update's steps.

    Raises:
        TrainingError: a loss is not finite.
        ValueError: the coefficient is negative.
    """
    use_threads(threads)
    generator = seed_everything(config.seed)
    scale = measure_scale(sft_model, tokenizer, prompts, reward, max_new_tokens, config, generator)
    policy = start_policy(sft_model, config.value_model, reward_model, scale).to(sft_model.device)
    controller = make_controller(config)
    per_update = config.epochs * (config.batch_size // config.minibatch_size)
    steps = config.updates * per_update
    plain, schedule = make_optimizer(
        policy, config.learning_rate, steps, eps=config.adam_eps, final_rate=config.final_rate
    )
    rows = encode_texts(tokenizer, pretraining_texts, sft_model.config.n_positions)
    optimizer = PretrainingGradients(
        plain, policy.lm, rows, tokenizer.pad_token_id, coefficient, texts_per_step, config.seed
    )
    result = PPOResult(scale)
    for _ in progress(range(config.updates), "PPO-ptx"):
        chosen = draw_prompts(prompts, config.batch_size, generator)
        samples = sample_texts(policy.lm, tokenizer, chosen, max_new_tokens, config.temperature, generator)
        scores = penalise_missing_eos(
            (reward(samples) - scale.mean) / scale.std, samples.ended, config.missing_eos_penalty
        )
        rollout = score_rollout(policy, sft_model, samples, scores, config.minibatch_size, config.temperature)
        advantages, returns = advantages_and_returns(rollout, controller.kl_coef, config)
        metrics = rollout_metrics(rollout, returns)
        metrics |= update_policy(policy, optimizer, rollout, advantages, returns, config, generator)
        for _ in range(per_update):
            schedule.step()
        metrics["kl_coef"] = controller.kl_coef
        if recent := optimizer.losses[-per_update:]:
            metrics["pretraining_loss"] = sum(recent) / len(recent)
        controller.update(metrics["kl"], config.batch_size)
        result.history.append(metrics)
    return policy.eval(), result
