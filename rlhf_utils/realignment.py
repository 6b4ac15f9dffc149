r"""Decoding-time realignment: between two policies without training a third.

The optimum of the KL-regularised objective is :math:`\pi_\beta \propto \pi_\text{ref}\,e^{r/\beta}`. From a policy
that was trained with one :math:`\beta` follows, for whole responses, the one for :math:`\beta/\lambda`:

.. math:: \pi_\lambda(y \mid x) \propto \pi_\text{ref}(y \mid x)^{1-\lambda} \; \pi(y \mid x)^{\lambda}

Its sum runs over all responses. Liu et al. (2024, arXiv 2402.02992) take the same product token by token, which is a
mixture of the two models' logits. That is an approximation: a token's share then doesn't know what can follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.generation import Samples, encode_prompts, sample_tokens
from rlhf_utils.runtime import autocast, evaluating
from rlhf_utils.tensors import position_ids


def mix_logits(ref_logits: Tensor, logits: Tensor, share: float) -> Tensor:
    r"""Logits of :math:`\pi_\text{ref}^{1-\lambda}\,\pi^{\lambda}`: :math:`(1-\lambda)\,z_\text{ref} + \lambda\,z`.

    Args:
        ref_logits: of the reference, (…, V).
        logits: of the trained policy, (…, V).
        share: λ; 0 is the reference, 1 the policy, and beyond 1 lies what a lower β would have asked for.
    """
    return (1 - share) * ref_logits + share * logits


class MixedSamples(NamedTuple):
    """What a mixture wrote.

    Attributes:
        samples: prompts and responses.
        kl: of the mixture from the reference, summed over the response's tokens with each token's divergence taken
            over the whole vocabulary, nats, (B,).
    """

    samples: Samples
    kl: Tensor


def sample_mixture(
    ref_model: PreTrainedModel,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    share: float,
    generator: torch.Generator | None = None,
) -> MixedSamples:
    """Sample a response to each prompt from the mixture of two policies' logits.

    With the same generator and ``share`` 0 or 1 the responses are those of
    :func:`~rlhf_utils.generation.sample_texts` with one of the models.

    Args:
        ref_model: the reference.
        policy: the trained policy; the same vocabulary.
        tokenizer: with distinct PAD and EOS.
        prompts: the openings.
        max_new_tokens: cap on a response's length.
        share: λ of :func:`mix_logits`.
        generator: on the CPU.
    """
    ids, mask = encode_prompts(tokenizer, prompts, policy.config.max_position_embeddings, max_new_tokens)
    uniform = torch.rand(len(prompts), max_new_tokens, generator=generator).to(policy.device)
    ids, mask = ids.to(policy.device), mask.to(policy.device)
    alive = torch.ones(len(ids), dtype=torch.bool, device=policy.device)
    models = (ref_model, policy)
    caches = [DynamicCache(config=model.config) for model in models]
    step_ids, step_positions = ids, position_ids(mask)
    response_mask, divergences = [], []
    with evaluating(*models), autocast(policy.device):
        for step in range(max_new_tokens):
            both = [_next_logits(m, step_ids, mask, step_positions, c) for m, c in zip(models, caches, strict=True)]
            mixed = mix_logits(*both, share)
            logprobs, ref_logprobs = mixed.log_softmax(-1), both[0].log_softmax(-1)
            divergence = (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)
            divergences.append(divergence.masked_fill(~alive, 0.0))
            token = sample_tokens(mixed, uniform[:, step]).masked_fill(~alive, tokenizer.pad_token_id)
            response_mask.append(alive)
            step_ids, step_positions = token.unsqueeze(-1), step_positions[:, -1:] + 1
            ids = torch.cat([ids, step_ids], -1)
            mask = torch.cat([mask, alive.long().unsqueeze(-1)], -1)
            alive = alive & (token != tokenizer.eos_token_id)
            if not alive.any():
                break
    samples = Samples(ids, mask, torch.stack(response_mask, -1).long(), ~alive)
    return MixedSamples(samples, torch.stack(divergences, -1).sum(-1))


def _next_logits(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
) -> Tensor:  # fmt: skip
    """Logits of the next token, float32, (B, V); the cache grows by what was read."""
    hidden = model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state[:, -1]
    return model.get_output_embeddings()(hidden.float()).float()
