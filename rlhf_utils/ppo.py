r"""Proximal policy optimisation of a language model, with a penalty for leaving the reference.

What is maximised is :math:`\mathbb{E}_{y\sim\pi}[r(x, y)] - \beta\,\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref})`. The
module reads top to bottom: settings, rewards, advantages, losses, one update, training. Sources: Schulman et al. 2017
(PPO), Schulman et al. 2016 (GAE), Ziegler et al. 2019 and Ouyang et al. 2022 (language models).
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.generation import sample_texts
from rlhf_utils.models import PolicyWithValueHead, RewardModel
from rlhf_utils.processes import (
    gather_rows,
    gathered,
    load_whole,
    shard,
    split_rows,
    sum_and_clip_gradients,
    sum_over_processes,
    world,
)
from rlhf_utils.progress import progress
from rlhf_utils.reward import Reward
from rlhf_utils.rollout import Rollout, penalise_missing_eos, score_rollout
from rlhf_utils.runtime import seed_everything, use_threads
from rlhf_utils.tensors import explained_variance, kl_k1, masked_mean, whiten
from rlhf_utils.training import TrainingError, check_finite, make_optimizer


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO."""

    updates: int = 64  #: batches of fresh experience
    batch_size: int = 256  #: episodes an update
    minibatch_size: int = 64  #: episodes an optimizer step
    epochs: int = 2  #: passes over a batch
    learning_rate: float = 6e-4  #: AdamW's, at its highest; falls along a cosine
    final_rate: float = 0.0  #: share of the learning rate that is left at the end; 1 keeps it as it is
    kl_coef: float = 0.15  #: β: reward, in deviations of the SFT policy's scores, that a nat of KL costs
    kl_target: float | None = None  #: nats a response; None keeps ``kl_coef`` fixed
    kl_coef_start: float | None = None  #: where ``kl_coef`` begins; it reaches its value after half of the updates
    clip_range: float = 0.2  #: of the ratio
    value_clip_range: float = 0.2  #: of the value, in deviations of the score
    vf_coef: float = 0.05  #: weight of the value loss
    gamma: float = 1.0  #: discount
    gae_lambda: float = 0.95  #: 0: one-step errors, 1: whole returns
    whiten_advantages: bool = True  #: to mean 0 and variance 1 over a batch's tokens
    max_grad_norm: float = 1.0  #: a longer gradient is cut to this length
    #: OpenAI's value. With 1e-8, Adam would blow up gradients that are nothing but rounding, such as those of the key
    #: biases (a constant added to all keys changes no attention), and no two machines would get the same weights.
    adam_eps: float = 1e-5
    missing_eos_penalty: float = 1.0  #: subtracted from the score of a response that ran into the length cap
    temperature: float = 1.0  #: in sampling and in scoring
    score_samples: int = 512  #: samples of the SFT policy that fix the score's mean and deviation
    #: Where the values come from: a head on the policy's own states; or, at 1.6 times the cost of an update, a model of
    #: its own that starts as the SFT model ("separate") or as the reward model ("reward", as in InstructGPT).
    value_model: Literal["shared", "separate", "reward"] = "shared"
    seed: int = 0  #: of all that is drawn at random

    def __post_init__(self) -> None:
        if self.minibatch_size > self.batch_size:
            raise ValueError(f"minibatch_size {self.minibatch_size} exceeds batch_size {self.batch_size}")
        if self.kl_target is not None and self.kl_coef_start is not None:
            raise ValueError("kl_target steers kl_coef, so kl_coef_start would be lost; give one of them")


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor, kl_coef: float
) -> Tensor:
    r"""Each token's reward: a KL penalty everywhere, and the score on the last response token.

    .. math:: r_t = -\beta\,(\log\pi(y_t) - \log\pi_\mathrm{ref}(y_t)) + \mathbb{1}[t = \text{last}]\; r(x, y)

    Args:
        scores: (B,).
        logprobs: of the policy that sampled, (B, R).
        ref_logprobs: of the reference, (B, R).
        response_mask: (B, R), 1 = a token that the policy chose; each row starts with at least one 1.
        kl_coef: β.

    Returns:
        (B, R); 0 where the mask is 0.
    """
    mask = response_mask.bool()
    rewards = (-kl_coef * kl_k1(logprobs, ref_logprobs)).masked_fill(~mask, 0.0)
    last = mask.sum(-1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores.unsqueeze(-1).to(rewards.dtype))


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
    r"""Generalised advantage estimation, backwards from each response's end.

    .. math:: \delta_t = r_t + \gamma V_{t+1} - V_t, \qquad A_t = \delta_t + \gamma\lambda A_{t+1},
              \qquad G_t = A_t + V_t

    After the last response token both :math:`V` and :math:`A` are 0. Schulman et al. (2016), arXiv 1506.02438.

    Args:
        rewards: (B, R).
        values: before each token, (B, R).
        response_mask: (B, R), 1 = a token that the policy chose.
        gamma: discount γ.
        gae_lambda: λ.

    Returns:
        ``advantages`` (not whitened) and ``returns``, both (B, R), 0 where the mask is 0.
    """
    mask = response_mask.bool()
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(rewards)
    next_advantage = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        # Padding stands behind the response: there delta and what follows are 0, so the sum starts at the last token.
        next_advantage = delta + gamma * gae_lambda * next_advantage
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    r"""The clipped surrogate objective, as a loss.

    .. math:: L = -\frac{1}{\sum m} \sum_t m_t \min(\rho_t A_t,\ \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon) A_t),
              \qquad \rho_t = \pi(y_t) / \pi_\mathrm{old}(y_t)

    Schulman et al. (2017), arXiv 1707.06347.

    Args:
        logprobs: of the current policy, (B, R), with gradient.
        old_logprobs: of the policy that sampled, (B, R).
        advantages: (B, R).
        response_mask: (B, R).
        clip_range: ε.

    Returns:
        The loss, and the share of tokens at which the clipped branch was the smaller one.
    """
    # exp(0) instead of exp(garbage) under the mask: an infinity times 0 would be NaN.
    ratio = (logprobs - old_logprobs).masked_fill(~response_mask.bool(), 0.0).exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    loss = -masked_mean(torch.minimum(plain, clipped), response_mask)
    return loss, masked_mean((clipped < plain).float(), response_mask)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor, clip_range: float) -> Tensor:
    r"""Half the squared error of the values, the larger of the plain and the clipped one.

    .. math:: L = \frac{1}{2\sum m} \sum_t m_t \max\left((V_t - G_t)^2,
              \ (\mathrm{clip}(V_t, V^\mathrm{old}_t \pm \epsilon) - G_t)^2\right)

    Args:
        values: of the current value head, (B, R), with gradient.
        old_values: of the value head that saw the samples first, (B, R).
        returns: (B, R).
        response_mask: (B, R).
        clip_range: ε, in the unit of the values.
    """
    hidden = ~response_mask.bool()
    values, old_values, returns = (x.masked_fill(hidden, 0.0) for x in (values, old_values, returns))
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), response_mask)


@dataclass
class FixedKL:
    """A KL coefficient that stays as it is."""

    kl_coef: float  #: β

    def update(self, kl: float, episodes: int) -> None:
        """Nothing to do.

        Args:
            kl: of the latest batch, nats a response; not looked at.
            episodes: responses in that batch; likewise.
        """


@dataclass
class AdaptiveKL:
    r"""A KL coefficient that steers the KL towards a target.

    .. math:: \beta \leftarrow \beta\,(1 + \mathrm{clip}(\mathrm{KL}/\mathrm{target} - 1, \pm 0.2)
              \cdot \text{episodes} / \text{horizon})

    Ziegler et al. (2019), arXiv 1909.08593, section 2.2.
    """

    kl_coef: float  #: β; moves
    target: float  #: nats a response
    horizon: int = 10_000  #: episodes; the larger, the slower β moves

    def update(self, kl: float, episodes: int) -> None:
        """Take the KL (nats a response) of the latest batch, and the number of its episodes.

        Args:
            kl: of the latest batch, nats a response.
            episodes: responses in that batch.
        """
        error = max(-0.2, min(0.2, kl / self.target - 1))
        self.kl_coef *= 1 + error * episodes / self.horizon


@dataclass
class AnnealedKL:
    r"""A KL coefficient that goes from one value to another, by the same factor each update.

    .. math:: \beta_u = \beta_\text{start}\,(\beta_\text{end} / \beta_\text{start})^{\min(1,\,u/n)}

    Args:
        kl_coef: :math:`\beta_\text{start}`; then the current one.
        end: :math:`\beta_\text{end}`.
        updates: n, how many it takes.
    """

    kl_coef: float
    end: float
    updates: int

    def __post_init__(self) -> None:
        self._factor = (self.end / self.kl_coef) ** (1 / self.updates)
        self._left = self.updates

    def update(self, kl: float, episodes: int) -> None:
        """One update is over.

        Args:
            kl: of the latest batch, nats a response; not looked at.
            episodes: responses in that batch; likewise.
        """
        if self._left:
            self._left -= 1
            self.kl_coef = self.kl_coef * self._factor if self._left else self.end


def make_controller(config: PPOConfig) -> FixedKL | AdaptiveKL | AnnealedKL:
    """What decides on the KL coefficient, as the settings say.

    Args:
        config: ``kl_target`` asks for an adaptive one, ``kl_coef_start`` for one that goes from there to ``kl_coef``,
            and neither for a fixed one.
    """
    if config.kl_target is not None:
        return AdaptiveKL(config.kl_coef, config.kl_target)
    if config.kl_coef_start is not None:
        return AnnealedKL(config.kl_coef_start, config.kl_coef, max(1, config.updates // 2))
    return FixedKL(config.kl_coef)


def advantages_and_returns(rollout: Rollout, kl_coef: float, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """Advantages, whitened if the settings say so, and plain returns of a batch, both (B, R).

    Returns are taken before whitening: they are what the value head must predict, in the reward's own unit.

    Args:
        rollout: the scored batch.
        kl_coef: β of this update, reward that a nat of KL costs.
        config: gives γ, λ and whether to whiten.

    Returns:
        ``advantages`` and ``returns``, 0 where the response mask is 0.
    """
    mask = rollout.response_mask
    rewards = token_rewards(rollout.scores, rollout.old_logprobs, rollout.ref_logprobs, mask, kl_coef)
    advantages, returns = gae(rewards, rollout.values, mask, config.gamma, config.gae_lambda)
    return (whiten(advantages, mask) if config.whiten_advantages else advantages), returns


def minibatches(rows: int, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices, reshuffled at each epoch; a last incomplete minibatch is left out.

    Args:
        rows: in the batch.
        size: rows of a minibatch, at most ``rows``.
        epochs: passes over the batch.
        generator: shuffles.
    """
    for _ in range(epochs):
        order = torch.randperm(rows, generator=generator)
        yield from order[: rows - rows % size].split(size)


def update_policy(
    policy: PolicyWithValueHead,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
    config: PPOConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """One PPO update in place: several epochs of minibatches over one batch of experience.

    Args:
        policy: language model and value head, on the device of the rollout; changed in place.
        optimizer: of the policy's weights.
        rollout: the scored batch of B responses of at most R tokens.
        advantages: (B, R), 0 where the response mask is 0.
        returns: (B, R), in the unit of the scores.
        config: gives passes, minibatches, clip ranges and the weight of the value loss.
        generator: shuffles the rows.

    Returns:
        Metrics, means over the optimizer steps unless the name says ``first``.

    Raises:
        TrainingError: a loss or gradient is not finite; the weights are those before that step.
    """
    samples, length = rollout.samples, rollout.samples.response_length
    policy.eval()  # no dropout: the ratio compares two policies, not two draws of a mask
    logs: list[Tensor] = []
    changes: list[Tensor] = []
    for whole in minibatches(len(rollout.scores), config.minibatch_size, config.epochs, generator):
        rows = split_rows(whole).to(samples.input_ids.device)
        mask, old_logprobs = rollout.response_mask[rows], rollout.old_logprobs[rows]
        logprobs, values, _ = policy(samples.input_ids[rows], samples.attention_mask[rows], length, config.temperature)
        pg_loss, clipped = policy_loss(logprobs, old_logprobs, advantages[rows], mask, config.clip_range)
        vf_loss = value_loss(values, rollout.values[rows], returns[rows], mask, config.value_clip_range)
        # With several processes each one's mean counts by its share of the minibatch's tokens; with one, that is 1.
        share = mask.sum() / rollout.response_mask[whole].sum()
        loss = share * (pg_loss + config.vf_coef * vf_loss)
        check_finite(loss, "PPO", len(logs))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = sum_and_clip_gradients(policy, config.max_grad_norm)
        check_finite(norm, "PPO", len(logs))
        optimizer.step()
        with torch.no_grad():
            logs.append(torch.stack([share * pg_loss, share * vf_loss, share * clipped, norm / world().size]))
            changes.append((logprobs - old_logprobs).masked_fill(~mask.bool(), 0.0).abs().max())
    pg, vf, clip_fraction, grad_norm = sum_over_processes(torch.stack(logs).mean(0)).tolist()
    return {
        "policy_loss": pg,
        "value_loss": vf,
        "clip_fraction": clip_fraction,
        "grad_norm": grad_norm,
        "first_log_ratio": changes[0].item(),
    }


def rollout_metrics(rollout: Rollout, returns: Tensor) -> dict[str, float]:
    r"""What a batch tells before it is learnt from.

    ``surprise_gap`` is the mean :math:`-\log\pi` of the samples minus the mean entropy: 0 up to noise if the policy
    that samples is the policy that scores, and a sure sign of a bug (temperature, top-k, shift by one) if not.

    Args:
        rollout: the scored batch.
        returns: (B, R), for the explained variance of the values.

    Returns:
        Means over responses (``score``; ``kl``, nats a response; ``length``, tokens; ``ended``, a share) or over
        response tokens (``entropy`` and ``surprise_gap``, nats a token), and ``explained_variance``.
    """
    mask = rollout.response_mask
    kl = kl_k1(rollout.old_logprobs, rollout.ref_logprobs).masked_fill(~mask.bool(), 0.0).sum(-1)
    metrics = {
        "score": rollout.scores.mean(),
        "kl": kl.mean(),
        "entropy": masked_mean(rollout.entropies, mask),
        "surprise_gap": masked_mean(-rollout.old_logprobs - rollout.entropies, mask),
        "length": mask.sum(-1).float().mean(),
        "ended": rollout.samples.ended.float().mean(),
        "explained_variance": explained_variance(rollout.values, returns, mask),
    }
    return {name: float(value) for name, value in metrics.items()}


@dataclass(frozen=True)
class ScoreScale:
    r"""Mean and deviation of the raw reward under the SFT policy.

    .. math:: r = (r_\text{raw} - \mathrm{mean}) / \mathrm{std}

    is what PPO works with.
    """

    mean: float  #: of the raw scores
    std: float  #: their deviation


@dataclass
class PPOResult:
    """What happened in training.

    Attributes:
        scale: how the reward was normalised.
        history: one row of metrics an update.
    """

    scale: ScoreScale
    history: list[dict[str, float]] = field(default_factory=list)


def draw_prompts(prompts: Sequence[str], number: int, generator: torch.Generator) -> list[str]:
    """Prompts drawn with replacement.

    Args:
        prompts: to draw from.
        number: how many to draw.
        generator: draws them.
    """
    return [prompts[i] for i in torch.randint(len(prompts), (number,), generator=generator).tolist()]


def measure_scale(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reward: Reward,
    max_new_tokens: int,
    config: PPOConfig,
    generator: torch.Generator,
) -> ScoreScale:
    """The reward's mean and deviation on samples of a policy (Ziegler et al. 2019).

    Args:
        model: the policy, in general the SFT model.
        tokenizer: with distinct PAD and EOS.
        prompts: openings, drawn with replacement.
        reward: scores finished samples.
        max_new_tokens: cap on a response's length.
        config: gives the number of samples, the samples at a time and the temperature.
        generator: draws prompts and tokens.

    Returns:
        The scale; its deviation is at least 1e-6, so that a constant reward divides by no 0.
    """
    scores = []
    for start in range(0, config.score_samples, config.batch_size):
        chosen = draw_prompts(prompts, min(config.batch_size, config.score_samples - start), generator)
        scores.append(reward(sample_texts(model, tokenizer, chosen, max_new_tokens, config.temperature, generator)))
    every = torch.cat(scores)
    return ScoreScale(every.mean().item(), max(every.std(correction=0).item(), 1e-6))


def start_policy(
    sft_model: PreTrainedModel,
    value_model: Literal["shared", "separate", "reward"],
    reward_model: RewardModel | None,
    scale: ScoreScale,
) -> PolicyWithValueHead:
    """A policy that writes as the SFT model does, with its value model as it begins.

    A reward model knows already what PPO's value model must learn, which texts get which score, if it is asked before
    the text is finished. Its head is rescaled, so that its values are in the unit of the normalised scores.

    Args:
        sft_model: copied, and not changed.
        value_model: see :class:`PPOConfig`.
        reward_model: needed for ``"reward"`` alone; copied, and not changed.
        scale: mean and deviation of the raw scores under the SFT model.

    Raises:
        ValueError: the value model shall start as the reward model, and there is none.
    """
    lm = copy.deepcopy(sft_model)
    if value_model == "shared":
        return PolicyWithValueHead(lm)
    if value_model == "separate":
        return PolicyWithValueHead(lm, copy.deepcopy(sft_model.base_model))
    if reward_model is None:
        raise ValueError("value_model='reward' needs a reward model; choose 'shared' or 'separate'")
    policy = PolicyWithValueHead(lm, copy.deepcopy(reward_model.trunk))
    with torch.no_grad():
        policy.value_head.weight.copy_(reward_model.head.weight / scale.std)
        policy.value_head.bias.copy_((reward_model.head.bias - scale.mean) / scale.std)
    return policy


def train_ppo(
    sft_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reward: Reward,
    max_new_tokens: int,
    config: PPOConfig,
    threads: int | None = None,
    reward_model: RewardModel | None = None,
    sharded: bool = False,
    on_update: Callable[[int, PolicyWithValueHead, dict[str, float]], None] | None = None,
) -> tuple[PolicyWithValueHead, PPOResult]:
    """Train a policy that starts as the SFT model.

    Args:
        sft_model: start and reference; it is not changed.
        tokenizer: with distinct PAD and EOS.
        prompts: openings to learn from.
        reward: scores finished samples; normalised here on samples of the SFT model.
        max_new_tokens: cap on a response's length.
        config: the settings.
        threads: see :func:`rlhf_utils.runtime.use_threads`.
        reward_model: where the value model starts if ``config.value_model`` is ``"reward"``.
        sharded: spread the policy's weights over the processes, for models that are too large for one device.
        on_update: called after each update with its number, the policy and the metrics.

    Returns:
        The policy and what happened.

    Raises:
        TrainingError: a loss is not finite; ``error.state`` is the last good policy.
    """
    use_threads(threads)
    generator = seed_everything(config.seed)
    scale = measure_scale(sft_model, tokenizer, prompts, reward, max_new_tokens, config, generator)
    start = start_policy(sft_model, config.value_model, reward_model, scale).to(sft_model.device)
    policy = copy.deepcopy(start) if sharded else start
    if sharded:
        shard(policy)
    controller = make_controller(config)
    steps = config.updates * config.epochs * (config.batch_size // config.minibatch_size)
    optimizer, schedule = make_optimizer(
        policy, config.learning_rate, steps, eps=config.adam_eps, final_rate=config.final_rate
    )
    result = PPOResult(scale)
    mine = world().share(config.batch_size)
    bar = progress(range(config.updates), "PPO")
    for update in bar:
        clock = [time.perf_counter()]
        chosen = draw_prompts(prompts, config.batch_size, generator)
        with gathered(policy):
            samples = sample_texts(policy.lm, tokenizer, chosen, max_new_tokens, config.temperature, generator, mine)
        clock.append(time.perf_counter())
        scores = (reward(samples) - scale.mean) / scale.std
        scores = penalise_missing_eos(scores, samples.ended, config.missing_eos_penalty)
        rollout = score_rollout(policy, sft_model, samples, scores, config.minibatch_size, config.temperature)
        rollout = gather_rows(rollout)  # from here on every process knows the whole batch
        advantages, returns = advantages_and_returns(rollout, controller.kl_coef, config)
        metrics = rollout_metrics(rollout, returns)
        clock.append(time.perf_counter())
        try:
            metrics |= update_policy(policy, optimizer, rollout, advantages, returns, config, generator)
        except TrainingError as error:
            error.state, error.history = None if sharded else policy, result.history
            raise
        for _ in range(config.epochs * (config.batch_size // config.minibatch_size)):
            schedule.step()
        metrics["kl_coef"] = controller.kl_coef
        clock.append(time.perf_counter())
        spent = [b - a for a, b in itertools.pairwise(clock)]
        metrics |= dict(zip(("sampling_seconds", "scoring_seconds", "update_seconds"), spent, strict=True))
        controller.update(metrics["kl"], config.batch_size)
        result.history.append(metrics)
        bar.set_postfix(score=f"{metrics['score']:.2f}", kl=f"{metrics['kl']:.2f}", refresh=False)
        if on_update:
            on_update(update, policy, metrics)
    if sharded:
        load_whole(start, policy)
    return start.eval(), result
