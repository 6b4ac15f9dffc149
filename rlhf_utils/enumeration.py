r"""Worlds so small that every response can be written down: a few tokens, a few steps.

There a policy's objective, its KL and its gradient are sums, not estimates, and the best policy is known exactly. What
samples and trainers say can be held against them. With V tokens and at most R steps there are about :math:`V^R`
responses, so this is for toy models: 4 tokens and 5 steps give 364.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_utils.generation import Samples
from rlhf_utils.models import response_logprobs


def all_responses(prompt_ids: Tensor, vocabulary: int, max_new_tokens: int, eos_id: int, pad_id: int) -> Samples:
    r"""Every response to one prompt, each once, in the form of samples.

    A response ends at its first EOS or at the length cap. PAD may be chosen like any token: a model gives it some
    probability, and the sum over all responses must be 1.

    Args:
        prompt_ids: (P,).
        vocabulary: number of tokens V.
        max_new_tokens: length of a response, R.
        eos_id: ends a response.
        pad_id: stands after it.

    Returns:
        :math:`N = (V-1)^R + \sum_{t<R} (V-1)^t` samples.
    """
    others = [token for token in range(vocabulary) if token != eos_id]
    rows = [(*start, eos_id) for length in range(max_new_tokens) for start in itertools.product(others, repeat=length)]
    rows += list(itertools.product(others, repeat=max_new_tokens))
    lengths = torch.tensor([len(row) for row in rows])
    responses = torch.tensor([[*row, *[pad_id] * (max_new_tokens - len(row))] for row in rows])
    response_mask = (torch.arange(max_new_tokens) < lengths.unsqueeze(-1)).long()
    prompts = prompt_ids.cpu().expand(len(rows), -1)
    return Samples(
        input_ids=torch.cat([prompts, responses], -1),
        attention_mask=torch.cat([torch.ones_like(prompts), response_mask], -1),
        response_mask=response_mask,
        ended=(responses == eos_id).any(-1),
    )


def response_log_probability(model: PreTrainedModel, samples: Samples) -> Tensor:
    r"""Log-probability of each whole response, :math:`\sum_t \log\pi(y_t \mid x, y_{<t})`. (N,), with gradient.

    Args:
        model: a causal language model.
        samples: N responses, drawn or written down.
    """
    args = (samples.input_ids, samples.attention_mask, samples.response_length)
    return response_logprobs(model, *args).masked_fill(~samples.response_mask.bool(), 0.0).sum(-1)


def exact_objective(
    log_probability: Tensor, ref_log_probability: Tensor, scores: Tensor, kl_coef: float
) -> tuple[Tensor, Tensor]:
    r"""The objective and the divergence, summed over all responses.

    .. math:: J(\pi) = \sum_y \pi(y)\,r(y) - \beta\,\mathrm{KL}(\pi\,\|\,\pi_\mathrm{ref}), \qquad
              \mathrm{KL} = \sum_y \pi(y) \log\frac{\pi(y)}{\pi_\mathrm{ref}(y)}

    Args:
        log_probability: of every response under the policy, (N,); the gradient goes through it.
        ref_log_probability: under the reference, (N,).
        scores: r, (N,).
        kl_coef: β.

    Returns:
        ``J`` and ``KL``, both scalars.
    """
    probability = log_probability.exp()
    kl = (probability * (log_probability - ref_log_probability)).sum()
    return (probability * scores).sum() - kl_coef * kl, kl


def exact_optimum(ref_log_probability: Tensor, scores: Tensor, kl_coef: float) -> tuple[Tensor, Tensor]:
    r"""The best policy's log-probabilities (N,) and its objective.

    .. math:: \pi^*(y) = \pi_\mathrm{ref}(y)\,e^{r(y)/\beta} / Z, \qquad J^* = \beta \log Z

    Args:
        ref_log_probability: of every response under the reference, (N,).
        scores: r, (N,).
        kl_coef: β, above 0.
    """
    unnormalised = ref_log_probability + scores / kl_coef
    log_z = unnormalised.logsumexp(-1)
    return unnormalised - log_z, kl_coef * log_z
