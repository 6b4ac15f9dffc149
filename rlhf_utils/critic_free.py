r"""Policy gradients without a critic: RLOO, GRPO and the repairs of GRPO, one training loop for all.

PPO's value model answers one question: how good was what could be expected here? Several responses to the same prompt
answer it as well. The responses to one prompt are a *group*; a response's advantage is by how much it beats its group.
What the published variants add are choices, and here each is a setting:

============= ================================================= ==========================================
variant       what it chooses                                   source
============= ================================================= ==========================================
``rloo``      leave-one-out baseline                            Ahmadian et al. (2024), arXiv 2402.14740;
                                                                Kool et al. (2019)
``grpo``      :math:`(r - \bar r)/s`, :math:`k_3` in the loss   Shao et al. (2024), arXiv 2402.03300
``dr-grpo``   :math:`r - \bar r`, constant divisor              Liu et al. (2025), arXiv 2503.20783
``dapo``      clip-higher, token mean                           Yu et al. (2025), arXiv 2503.14476
``gspo``      one ratio for a response                          Zheng et al. (2025), arXiv 2507.18071
============= ================================================= ==========================================

Where this differs from the papers: ``rloo`` clips each token's ratio as PPO does, which matters from the second
minibatch of a batch on; Ahmadian et al. take one step and need no ratio. ``dapo`` leaves uniform groups out and doesn't
sample on until the batch is full, divides by the tokens of the minibatch where the paper divides each group by its own,
and doesn't shape the reward of overlong responses. No paper says which divisor its standard deviation has.

The module reads top to bottom: settings, advantages, losses, one update, training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.generation import Samples, sample_texts
from rlhf_utils.models import response_logprobs
from rlhf_utils.ppo import ScoreScale, draw_prompts, measure_scale, minibatches
from rlhf_utils.processes import gather_rows, split_rows, sum_and_clip_gradients, sum_over_processes, world
from rlhf_utils.progress import progress
from rlhf_utils.reward import Reward
from rlhf_utils.rollout import penalise_missing_eos
from rlhf_utils.runtime import evaluating, seed_everything, use_threads
from rlhf_utils.tensors import kl_k1, kl_k3
from rlhf_utils.training import TrainingError, check_finite, make_optimizer


@dataclass(frozen=True)
class CriticFreeConfig:
    """Settings of RLOO, GRPO and their relatives; :func:`variant` gives the published combinations."""

    updates: int = 64  #: batches of fresh responses
    batch_size: int = 256  #: responses an update
    group_size: int = 4  #: responses to one prompt
    minibatch_size: int = 64  #: responses an optimizer step
    epochs: int = 1  #: passes over a batch
    learning_rate: float = 6e-4  #: AdamW's, at its highest; falls along a cosine
    final_rate: float = 0.0  #: share of the learning rate that is left at the end
    kl_coef: float = 0.15  #: β: reward that a nat of KL costs
    kl_term: Literal["reward", "loss"] = "reward"  #: summed k1 off each score, or k3 of each token in the loss
    #: What a response's score is held against: the mean of the others in its group, or of all; or it is standardised.
    advantage: Literal["leave-one-out", "mean", "standardised"] = "leave-one-out"
    #: what is clipped; a ratio of the whole response stands at each of its tokens, so that with ``divide_by="one"`` its
    #: loss would count once for each of them: take ``"response"`` with it
    ratio: Literal["token", "response", "geometric-mean"] = "token"
    divide_by: Literal["response", "tokens", "cap", "one"] = "one"  #: see :func:`token_weights`
    clip_low: float = 0.2  #: the ratio is cut below 1 − this …
    clip_high: float = 0.2  #: … and above 1 + this
    drop_uniform_groups: bool = False  #: leave groups out whose scores are all the same: they teach nothing
    max_grad_norm: float = 1.0  #: a longer gradient is cut to this length
    adam_eps: float = 1e-5  #: see :class:`rlhf_utils.ppo.PPOConfig`
    missing_eos_penalty: float = 1.0  #: subtracted from the score of a response that ran into the length cap
    temperature: float = 1.0  #: in sampling and in scoring
    score_samples: int = 512  #: samples that fix the score's mean and deviation; 0 takes scores as they are
    seed: int = 0  #: of all that is drawn at random

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError("a group needs at least two responses: nothing else says what could be expected")
        if self.batch_size % self.group_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of group_size {self.group_size}")
        if self.minibatch_size > self.batch_size:
            raise ValueError(f"minibatch_size {self.minibatch_size} exceeds batch_size {self.batch_size}")


_GRPO: dict[str, Any] = {"advantage": "standardised", "kl_term": "loss", "divide_by": "response", "epochs": 2}
#: Published combinations of settings, by name; what isn't named is as in :class:`CriticFreeConfig`.
VARIANTS: dict[str, dict[str, Any]] = {
    "rloo": {},
    "grpo": _GRPO,
    "dr-grpo": _GRPO | {"advantage": "mean", "divide_by": "cap"},
    # DAPO and Dr. GRPO as published have no KL term; `kl_coef` decides on that here.
    "dapo": _GRPO | {"divide_by": "tokens", "clip_high": 0.28, "drop_uniform_groups": True},
    "gspo": _GRPO | {"ratio": "geometric-mean", "clip_low": 3e-4, "clip_high": 4e-4},
}


def variant(name: str, **changes: Any) -> CriticFreeConfig:  # noqa: ANN401
    """The settings of a published variant.

    Args:
        name: a key of :data:`VARIANTS`.
        changes: settings that differ from it.
    """
    return replace(CriticFreeConfig(), **VARIANTS[name] | changes)


def group_advantages(
    scores: Tensor, group_size: int, how: Literal["leave-one-out", "mean", "standardised"], eps: float = 1e-4
) -> Tensor:
    r"""By how much each response beats its group of G.

    .. math:: A_i^\text{leave-one-out} = r_i - \frac{1}{G-1}\sum_{j \ne i} r_j = \frac{G}{G-1}(r_i - \bar r), \qquad
              A_i^\text{mean} = r_i - \bar r, \qquad A_i^\text{standardised} = \frac{r_i - \bar r}{s + \epsilon}

    with the group's mean :math:`\bar r` and deviation :math:`s` (divisor G − 1, as in TRL). Leaving the response itself
    out makes the baseline independent of it, hence the gradient unbiased; the plain mean shrinks it by :math:`(G-1)/G`,
    and dividing by :math:`s` weighs prompts by how sure their outcome is.

    Args:
        scores: (B,), the G responses to one prompt side by side.
        group_size: how many responses each prompt gets, G.
        how: the baseline.
        eps: ε, so that a group whose scores agree gets advantages of 0.

    Returns:
        (B,).
    """
    groups = scores.view(-1, group_size)
    centred = groups - groups.mean(-1, keepdim=True)
    if how == "leave-one-out":
        centred = centred * group_size / (group_size - 1)
    elif how == "standardised":
        centred = centred / (groups.std(-1, keepdim=True) + eps)
    return centred.flatten()


def token_weights(response_mask: Tensor, divide_by: Literal["response", "tokens", "cap", "one"], cap: int) -> Tensor:
    r"""How much each token counts in the loss, :math:`L = \sum_{i,t} w_{i,t}\,\ell_{i,t}`, for B responses.

    ============ ========================================= =====================================================
    divide by    :math:`w_{i,t}`                           what follows
    ============ ========================================= =====================================================
    ``response`` :math:`1 / (B\,|y_i|)`                    GRPO: a token of a long response counts less
    ``tokens``   :math:`1 / \sum_j |y_j|`                  DAPO: all tokens of the batch count the same
    ``cap``      :math:`1 / (B\,T_\text{max})`             Dr. GRPO: the same, whatever the lengths of the batch
    ``one``      :math:`1 / B`                             REINFORCE, RLOO: the gradient of the response's log π
    ============ ========================================= =====================================================

    Args:
        response_mask: (B, R), 1 = a token that the policy chose.
        divide_by: the divisor.
        cap: :math:`T_\text{max}`, the largest number of tokens that a response may have.

    Returns:
        (B, R), 0 where the mask is 0.
    """
    mask = response_mask.float()
    rows = len(mask)
    if divide_by == "response":
        return mask / mask.sum(-1, keepdim=True).clamp(min=1) / rows
    if divide_by == "tokens":
        return mask / mask.sum().clamp(min=1)
    return mask / (rows * cap if divide_by == "cap" else rows)


def log_ratios(
    logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor, ratio: Literal["token", "response", "geometric-mean"]
) -> Tensor:
    r"""Logarithm of the ratio between the policy and the one that sampled, as each token's loss uses it.

    .. math:: \log\rho_{i,t}^\text{token} = \log\frac{\pi(y_{i,t})}{\pi_\text{old}(y_{i,t})}, \qquad
              \log\rho_{i}^\text{response} = \sum_t \log\rho_{i,t}, \qquad
              \log\rho_i^\text{geometric-mean} = \frac{1}{|y_i|} \sum_t \log\rho_{i,t}

    Only the response's is the importance ratio of what was drawn, a response; the token's leaves out what the change of
    policy does to the words before. The geometric mean is GSPO's, of a size that doesn't grow with the length.

    Args:
        logprobs: of the current policy, (B, R), with gradient.
        old_logprobs: of the policy that sampled, (B, R).
        response_mask: (B, R).
        ratio: which.

    Returns:
        (B, R); 0 where the mask is 0.
    """
    mask = response_mask.bool()
    tokens = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
    if ratio == "token":
        return tokens
    whole = tokens.sum(-1, keepdim=True)
    if ratio == "geometric-mean":
        whole = whole / mask.sum(-1, keepdim=True).clamp(min=1)
    return whole.expand_as(tokens).masked_fill(~mask, 0.0)


def clipped_loss(log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    r"""Each token's clipped surrogate as a loss, with bounds that may differ.

    .. math:: \ell_{i,t} = -\min\left(\rho_{i,t} A_i,\
              \mathrm{clip}(\rho_{i,t}, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})\, A_i\right)

    Args:
        log_ratio: (B, R), with gradient.
        advantages: of the responses, (B,).
        clip_low: :math:`\epsilon_\text{low}`.
        clip_high: :math:`\epsilon_\text{high}`.

    Returns:
        The losses, and whether the clipped branch was the smaller one, both (B, R).
    """
    ratio, advantage = log_ratio.exp(), advantages.unsqueeze(-1)
    plain = ratio * advantage
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantage
    return -torch.minimum(plain, clipped), clipped < plain


@dataclass(frozen=True)
class Experience:
    """A batch of groups, scored.

    Attributes:
        samples: the responses, a prompt's G side by side.
        scores: of whole responses, (B,), the penalty for a missing EOS included.
        old_logprobs: under the policy that sampled, (B, R).
        ref_logprobs: under the frozen SFT model, (B, R).
    """

    samples: Samples
    scores: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor


def score_samples(
    policy: PreTrainedModel, ref_model: PreTrainedModel, samples: Samples, scores: Tensor, config: CriticFreeConfig
) -> Experience:
    """Log-probabilities of samples under the policy and the reference, by the update's own function.

    Args:
        policy: the language model that wrote the samples.
        ref_model: the SFT model, frozen; another object than the policy.
        samples: B of them, the responses to one prompt side by side.
        scores: (B,), with the missing-EOS penalty.
        config: gives the temperature and the rows at a time.

    Raises:
        ValueError: the reference is the policy itself, so the KL penalty would always be 0.
    """
    if policy is ref_model:
        raise ValueError("the reference must be a frozen copy, not the policy itself: their KL would always be 0")
    length, parts = samples.response_length, []
    with evaluating(policy, ref_model):
        for rows in torch.arange(len(scores), device=scores.device).split(config.minibatch_size):
            ids, mask = samples.input_ids[rows], samples.attention_mask[rows]
            parts.append([response_logprobs(m, ids, mask, length, config.temperature) for m in (policy, ref_model)])
    ours, theirs = (torch.cat(column) for column in zip(*parts, strict=True))
    return Experience(samples, scores, ours, theirs)


def advantages_of(experience: Experience, config: CriticFreeConfig) -> Tensor:
    r"""Advantages of a batch, (B,), by the settings.

    With the KL in the reward it is :math:`r_i - \beta \sum_t k_1` that is compared, whose gradient is that of the
    objective itself.

    Args:
        experience: the scored batch of B responses.
        config: gives β, where the KL term stands, the size of a group and the baseline.
    """
    scores = experience.scores
    if config.kl_term == "reward":
        k1 = kl_k1(experience.old_logprobs, experience.ref_logprobs)
        scores = scores - config.kl_coef * k1.masked_fill(~experience.samples.response_mask.bool(), 0.0).sum(-1)
    return group_advantages(scores, config.group_size, config.advantage)


def informative(scores: Tensor, group_size: int) -> Tensor:
    """Rows whose group has more than one score, (N,) indices: all others have no gradient from the reward.

    Args:
        scores: (B,), the responses to one prompt side by side.
        group_size: G, responses to a prompt.
    """
    groups = scores.view(-1, group_size)
    differs = (groups != groups[:, :1]).any(-1)
    return differs.repeat_interleave(group_size).nonzero().squeeze(-1)


def update_policy(
    policy: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    experience: Experience,
    advantages: Tensor,
    cap: int,
    config: CriticFreeConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Passes of minibatches over one batch of groups, in place.

    Args:
        policy: the language model.
        optimizer: of its weights.
        experience: the batch.
        advantages: (B,).
        cap: largest number of tokens of a response.
        config: the settings.
        generator: shuffles the rows.

    Returns:
        Metrics, means over the optimizer steps unless the name says ``first``; empty if every group is uniform and
        such groups are dropped.

    Raises:
        TrainingError: a loss or gradient is not finite; the weights are those before that step.
    """
    samples, length = experience.samples, experience.samples.response_length
    rows = torch.arange(len(advantages), device=advantages.device)
    if config.drop_uniform_groups:
        rows = informative(experience.scores, config.group_size)
    policy.eval()  # no dropout: the ratio compares two policies, not two draws of a mask
    logs: list[Tensor] = []
    changes: list[Tensor] = []
    size = min(config.minibatch_size, len(rows))
    for picked in minibatches(len(rows), size, config.epochs, generator) if size else ():
        whole = rows[picked.to(rows.device)]
        weights = split_rows(token_weights(samples.response_mask[whole], config.divide_by, cap))
        mine = split_rows(whole)
        mask, old_logprobs = samples.response_mask[mine], experience.old_logprobs[mine]
        ids, attention_mask = samples.input_ids[mine], samples.attention_mask[mine]
        logprobs = response_logprobs(policy, ids, attention_mask, length, config.temperature)
        ratio = log_ratios(logprobs, old_logprobs, mask, config.ratio)
        losses, clipped = clipped_loss(ratio, advantages[mine], config.clip_low, config.clip_high)
        loss = pg_loss = (weights * losses).sum()
        if config.kl_term == "loss":
            loss = pg_loss + config.kl_coef * (weights * kl_k3(logprobs, experience.ref_logprobs[mine])).sum()
        check_finite(loss, "policy gradient", len(logs))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = sum_and_clip_gradients(policy, config.max_grad_norm)
        check_finite(norm, "policy gradient", len(logs))
        optimizer.step()
        with torch.no_grad():
            share = (clipped * mask).sum() / samples.response_mask[whole].sum()
            logs.append(torch.stack([loss.detach(), share, norm / world().size]))
            changes.append((logprobs - old_logprobs).masked_fill(~mask.bool(), 0.0).abs().max())
    if not logs:
        return {}
    loss, clip_fraction, grad_norm = sum_over_processes(torch.stack(logs).mean(0)).tolist()
    return {
        "loss": loss,
        "clip_fraction": clip_fraction,
        "grad_norm": grad_norm,
        "first_log_ratio": changes[0].item(),
    }


def experience_metrics(experience: Experience, group_size: int) -> dict[str, float]:
    """What a batch tells before it is learnt from; ``uniform_groups`` is the share whose scores are all the same.

    Args:
        experience: the scored batch.
        group_size: G, responses to a prompt.

    Returns:
        Means over responses (``score``; ``kl``, nats a response; ``length``, tokens; ``ended``, a share),
        ``group_deviation``, the mean deviation of the scores within a group, and ``uniform_groups``.
    """
    samples = experience.samples
    mask = samples.response_mask.bool()
    kl = kl_k1(experience.old_logprobs, experience.ref_logprobs).masked_fill(~mask, 0.0).sum(-1)
    kept = len(informative(experience.scores, group_size)) / len(experience.scores)
    return {
        "score": experience.scores.mean().item(),
        "kl": kl.mean().item(),
        "length": mask.sum(-1).float().mean().item(),
        "ended": samples.ended.float().mean().item(),
        "group_deviation": experience.scores.view(-1, group_size).std(-1).mean().item(),
        "uniform_groups": 1 - kept,
    }


@dataclass
class CriticFreeResult:
    """What happened in training.

    Attributes:
        scale: how the reward was normalised; mean 0 and deviation 1 leave it as it is.
        history: one row of metrics an update.
    """

    scale: ScoreScale
    history: list[dict[str, float]] = field(default_factory=list)


def train_critic_free(
    sft_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reward: Reward,
    max_new_tokens: int,
    config: CriticFreeConfig,
    threads: int | None = None,
    on_update: Callable[[int, PreTrainedModel, dict[str, float]], None] | None = None,
) -> tuple[PreTrainedModel, CriticFreeResult]:
    """Train a policy that starts as the SFT model, by groups of responses to the same prompt.

    Args:
        sft_model: start and reference; it is not changed.
        tokenizer: with distinct PAD and EOS.
        prompts: openings to learn from.
        reward: scores finished samples.
        max_new_tokens: cap on a response's length.
        config: the settings.
        threads: see :func:`rlhf_utils.runtime.use_threads`.
        on_update: called after each update with its number, the policy and the metrics.

    Returns:
        The policy and what happened.

    Raises:
        TrainingError: a loss is not finite; ``error.state`` is the last good policy.
    """
    use_threads(threads)
    generator = seed_everything(config.seed)
    scale = ScoreScale(0.0, 1.0)
    if config.score_samples:
        scale = measure_scale(sft_model, tokenizer, prompts, reward, max_new_tokens, config, generator)
    policy = copy.deepcopy(sft_model)
    steps = config.updates * config.epochs * (config.batch_size // config.minibatch_size)
    optimizer, schedule = make_optimizer(
        policy, config.learning_rate, steps, eps=config.adam_eps, final_rate=config.final_rate
    )
    result = CriticFreeResult(scale)
    mine = world().share(config.batch_size)
    bar = progress(range(config.updates), "policy gradient")
    for update in bar:
        asked = draw_prompts(prompts, config.batch_size // config.group_size, generator)
        chosen = [prompt for prompt in asked for _ in range(config.group_size)]
        samples = sample_texts(policy, tokenizer, chosen, max_new_tokens, config.temperature, generator, mine)
        scores = (reward(samples) - scale.mean) / scale.std
        scores = penalise_missing_eos(scores, samples.ended, config.missing_eos_penalty)
        experience = gather_rows(score_samples(policy, sft_model, samples, scores, config))
        advantages = advantages_of(experience, config)
        metrics = experience_metrics(experience, config.group_size)
        try:
            metrics |= update_policy(policy, optimizer, experience, advantages, max_new_tokens, config, generator)
        except TrainingError as error:
            error.state, error.history = policy, result.history
            raise
        for _ in range(config.epochs * (config.batch_size // config.minibatch_size)):
            schedule.step()
        result.history.append(metrics)
        bar.set_postfix(score=f"{metrics['score']:.2f}", kl=f"{metrics['kl']:.2f}", refresh=False)
        if on_update:
            on_update(update, policy, metrics)
    return policy.eval(), result
