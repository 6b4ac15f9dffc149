"""One batch of experience: what the policy wrote, and what everyone thinks of each token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_utils.generation import Samples
from rlhf_utils.models import PolicyWithValueHead, response_logprobs
from rlhf_utils.runtime import evaluating


@dataclass(frozen=True)
class Rollout:
    """Samples with all that an update needs of them.

    Attributes:
        samples: prompts and responses.
        scores: the reward of each whole response, (B,); the penalty for a missing EOS is already in it.
        old_logprobs: log-probabilities under the policy that sampled, (B, R).
        ref_logprobs: under the frozen SFT model, (B, R).
        values: the value head's estimate before each token, (B, R).
        entropies: of the policy's distribution at each token, nats, (B, R).
    """

    samples: Samples
    scores: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    entropies: Tensor

    @property
    def response_mask(self) -> Tensor:
        """(B, R), 1 = a token that the policy chose."""
        return self.samples.response_mask


def score_rollout(
    policy: PolicyWithValueHead,
    ref_model: PreTrainedModel,
    samples: Samples,
    scores: Tensor,
    chunk: int,
    temperature: float = 1.0,
) -> Rollout:
    r"""Score samples under the policy and the reference.

    Old log-probabilities come from the update's own function, not from the sampling loop, so that the first ratio of an
    update is 1 up to rounding (a floating-point sum depends on how a matrix product is cut): :math:`1 \pm 10^{-5}`.

    Args:
        policy: the policy that wrote the samples.
        ref_model: the SFT model, frozen; another object than the policy's.
        samples: B of them.
        scores: (B,), with the missing-EOS penalty.
        chunk: rows at a time; the update's minibatch size.
        temperature: that of sampling.

    Raises:
        ValueError: the reference is the policy itself, so the KL penalty would always be 0.
    """
    if policy.lm is ref_model:
        raise ValueError("the reference must be a frozen copy, not the policy itself: their KL would always be 0")
    ids, mask, length = samples.input_ids, samples.attention_mask, samples.response_length
    parts = []
    with evaluating(policy, ref_model):
        for rows in torch.arange(len(ids), device=ids.device).split(chunk):
            ours = policy(ids[rows], mask[rows], length, temperature, entropies=True)
            theirs = response_logprobs(ref_model, ids[rows], mask[rows], length, temperature)
            parts.append((*ours, theirs))
    logprobs, values, entropies, ref_logprobs = (torch.cat(column) for column in zip(*parts, strict=True))
    return Rollout(samples, scores, logprobs, ref_logprobs, values, entropies)


def penalise_missing_eos(scores: Tensor, ended: Tensor, penalty: float) -> Tensor:
    """Subtract ``penalty`` from the score of each response without EOS.

    This is TRL's convention; OpenAI's of 2019 replaces the score.

    Args:
        scores: (B,), normalised.
        ended: (B,), ``bool``.
        penalty: in units of the scores' standard deviation under the SFT policy.
    """
    return scores - penalty * (~ended).float()
