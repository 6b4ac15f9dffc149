r"""Direct preference optimisation and its relatives: a policy learnt from preferences, without a reward model.

The policy that PPO looks for is known in form: :math:`\pi^*(y | x) \propto \pi_\mathrm{ref}(y | x)\,e^{r(x, y)/\beta}`.
Read the other way round, each policy is the best one for some reward, :math:`r = \beta \log(\pi/\pi_\mathrm{ref})` plus
what depends on the prompt alone and falls out of a comparison. So the reward model's loss can train the policy itself.
Rafailov et al. (2023), arXiv 2305.18290. The relatives differ in the loss alone: :mod:`rlhf_utils.preference_losses`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.errors import UserError
from rlhf_utils.models import response_logprobs
from rlhf_utils.preference_losses import dpo_loss, ipo_loss, kto_loss, orpo_loss, simpo_loss
from rlhf_utils.progress import progress
from rlhf_utils.runtime import evaluating, seed_everything, use_threads
from rlhf_utils.sft import encode_texts
from rlhf_utils.tensors import left_pad, right_pad
from rlhf_utils.training import check_finite, make_optimizer

PairRows = tuple[list[int], list[int], list[int]]  #: token ids of a prompt, the chosen and the rejected response


@dataclass(frozen=True)
class DPOConfig:
    """Settings of direct preference optimisation and its relatives."""

    loss: Literal["dpo", "ipo", "kto", "simpo", "orpo"] = "dpo"  #: one of :mod:`rlhf_utils.preference_losses`
    epochs: int = 2  #: passes over the pairs
    batch_size: int = 32  #: pairs a step
    learning_rate: float = 3e-4  #: AdamW's, at its highest
    #: β: reward that a nat of KL costs. Here a reward is a logit of preference. On the task ``tiny`` the reward model's
    #: deviate by 3.3 on samples of the SFT model, so that PPO's 0.15 deviations are this.
    kl_coef: float = 0.5
    simpo_scale: float = 2.0  #: SimPO's β: logits of preference that a nat a token is worth
    simpo_margin: float = 1.0  #: SimPO's γ
    orpo_weight: float = 0.5  #: ORPO's λ: of the odds, beside the likelihood of the chosen response
    warmup: float = 0.05  #: share of the steps over which the rate rises
    weight_decay: float = 0.01  #: on weights with two or more dimensions
    max_tokens: int = 48  #: of prompt and response; longer responses are cut
    seed: int = 0  #: of all that is drawn at random


@dataclass(frozen=True)
class DPOResult:
    """What happened in training; where the policy starts as the reference, the first loss is log 2.

    Attributes:
        losses: of every step, nats a pair.
        accuracies: share of each batch's pairs whose implicit reward ranks them as the record says, before the step.
        margins: by how much the chosen response's implicit reward wins, mean of each batch, before the step.
        chosen: mean log-probability of the chosen responses less the reference's, nats, before the step. It may fall
            while the margin grows: both responses become rarer, and what nobody judged becomes more frequent.
        rejected: the same for the rejected ones.
    """

    losses: list[float]
    accuracies: list[float]
    margins: list[float]
    chosen: list[float]
    rejected: list[float]


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Mapping[str, str]], max_tokens: int
) -> list[PairRows]:
    """Token ids of pairs; a response has EOS behind it unless it was cut to what its prompt leaves of ``max_tokens``.

    Args:
        tokenizer: with distinct PAD and EOS.
        pairs: rows with ``prompt``, ``chosen`` and ``rejected``.
        max_tokens: of prompt and response together.

    Returns:
        For each pair the ids of prompt, chosen and rejected response.

    Raises:
        UserError: a prompt is empty, so that nothing predicts the first token, or leaves no room for a response.
    """
    prompts = tokenizer([p["prompt"] for p in pairs], truncation=False)["input_ids"]
    chosen = encode_texts(tokenizer, [p["chosen"] for p in pairs], max_tokens)
    rejected = encode_texts(tokenizer, [p["rejected"] for p in pairs], max_tokens)
    for pair, prompt in zip(pairs, prompts, strict=True):
        if not prompt:
            raise UserError("A prompt is empty; DPO compares two responses to one prompt.", "Give at least one word.")
        if len(prompt) >= max_tokens:
            problem = f"The prompt {pair['prompt'][:40]!r}… has {len(prompt)} tokens: no room is left for a response."
            raise UserError(problem, f"Shorten it to fewer than {max_tokens} tokens, or raise max_tokens.")
    rooms = [max_tokens - len(prompt) for prompt in prompts]
    return [(p, c[:n], r[:n]) for p, c, r, n in zip(prompts, chosen, rejected, rooms, strict=True)]


def pair_logprobs(model: PreTrainedModel, rows: Sequence[PairRows], pad_id: int) -> Tensor:
    r"""Log-probability of each whole response, :math:`\sum_t \log\pi(y_t \mid x, y_{<t})`; the prompt isn't scored.

    Args:
        model: a causal language model.
        rows: B pairs; no row of them is empty.
        pad_id: stands before shorter prompts and behind shorter responses, and changes nothing.

    Returns:
        (2, B), with gradient: first the chosen responses, then the rejected.
    """
    prompts, chosen, rejected = zip(*rows, strict=True)
    # Both responses of a pair go through one forward pass: chosen rows first, rejected rows behind them.
    left, right = left_pad(prompts * 2, pad_id), right_pad(chosen + rejected, pad_id)
    ids, mask = (torch.cat(parts, -1).to(model.device) for parts in zip(left, right, strict=True))
    return response_logprobs(model, ids, mask, right[0].shape[1]).sum(-1).view(2, -1)


def _ref_logprobs(ref_model: PreTrainedModel, rows: Sequence[PairRows], pad_id: int, batch_size: int) -> Tensor:
    """:func:`pair_logprobs` of all rows without gradient, once for all epochs, since the reference doesn't change."""
    with evaluating(ref_model):
        starts = range(0, len(rows), batch_size)
        return torch.cat([pair_logprobs(ref_model, rows[i : i + batch_size], pad_id) for i in starts], -1)


def preference_loss(
    logprobs: Tensor, ref_logprobs: Tensor, lengths: Tensor, config: DPOConfig, kl: Tensor | None = None
) -> Tensor:
    """The loss that the settings name, of a batch of pairs.

    Args:
        logprobs: of whole responses under the policy, (2, B), chosen first; the gradient goes through it.
        ref_logprobs: under the reference, (2, B); SimPO and ORPO don't look at it.
        lengths: tokens of the responses, (2, B).
        config: the settings.
        kl: divergence of the policy from the reference, which only KTO needs.
    """
    if config.loss == "simpo":
        return simpo_loss(*(logprobs / lengths), config.simpo_scale, config.simpo_margin)
    if config.loss == "orpo":
        return orpo_loss(*(logprobs / lengths), config.orpo_weight)
    good, bad = logprobs - ref_logprobs
    if config.loss == "kto":
        return kto_loss(good, bad, config.kl_coef, kl)
    return (ipo_loss if config.loss == "ipo" else dpo_loss)(good, bad, config.kl_coef)


def train_dpo(
    policy: PreTrainedModel,
    ref_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Mapping[str, str]],
    config: DPOConfig,
    threads: int | None = None,
) -> DPOResult:
    """Fit a policy in place to pairs of responses.

    Args:
        policy: a causal language model, usually a copy of the reference.
        ref_model: read once, before the first step, and left as it is.
        tokenizer: with distinct PAD and EOS.
        pairs: rows with ``prompt``, ``chosen`` and ``rejected``, as :func:`~rlhf_utils.preferences.to_trl` gives them.
        config: the settings.
        threads: see :func:`rlhf_utils.runtime.use_threads`.

    Raises:
        TrainingError: the loss or the gradient is not finite; the weights are those before that step.
        UserError: there is no pair, or a prompt is empty or too long.
    """
    if not pairs:
        raise UserError("There is no pair to learn from; ties don't count.", "Prefer a or b in at least one pair.")
    use_threads(threads)
    seed_everything(config.seed)
    rng = random.Random(config.seed)
    rows, pad_id = encode_pairs(tokenizer, pairs, config.max_tokens), tokenizer.pad_token_id
    # KTO measures the divergence on responses that belong to another prompt: the next pair's.
    strangers = [
        (p, *(response[: config.max_tokens - len(p)] for response in rows[(i + 1) % len(rows)][1:]))
        for i, (p, _, _) in enumerate(rows)
    ]
    ref_logprobs = _ref_logprobs(ref_model, rows, pad_id, config.batch_size).to(policy.device)
    if config.loss == "kto":
        ref_strangers = _ref_logprobs(ref_model, strangers, pad_id, config.batch_size).to(policy.device)
    lengths = torch.tensor([[len(c) for _, c, _ in rows], [len(r) for _, _, r in rows]], device=policy.device)
    per_epoch = math.ceil(len(pairs) / config.batch_size)
    total = config.epochs * per_epoch
    optimizer, schedule = make_optimizer(policy, config.learning_rate, total, config.warmup, config.weight_decay)
    result = DPOResult([], [], [], [], [])
    policy.eval()  # no dropout: the ratio compares two policies, not two draws of a mask
    bar = progress(range(total), "DPO")
    for step in bar:
        if step % per_epoch == 0:
            order = rng.sample(range(len(pairs)), len(pairs))
        start = step % per_epoch * config.batch_size
        index = order[start : start + config.batch_size]
        kl = None
        if config.loss == "kto":
            with torch.no_grad():
                ours = pair_logprobs(policy, [strangers[i] for i in index], pad_id)
            kl = (ours - ref_strangers[:, index]).mean().clamp(min=0)
        logprobs = pair_logprobs(policy, [rows[i] for i in index], pad_id)
        loss = preference_loss(logprobs, ref_logprobs[:, index], lengths[:, index], config, kl)
        check_finite(loss, "DPO", step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        check_finite(norm, "DPO", step)
        optimizer.step()
        schedule.step()
        result.losses.append(loss.item())
        good, bad = (logprobs - ref_logprobs[:, index]).detach()
        result.chosen.append(good.mean().item())
        result.rejected.append(bad.mean().item())
        result.accuracies.append((good > bad).float().mean().item())
        result.margins.append(config.kl_coef * (good - bad).mean().item())
        bar.set_postfix(loss=f"{result.losses[-1]:.3f}", margin=f"{result.margins[-1]:.2f}", refresh=False)
    return result
