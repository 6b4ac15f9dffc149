"""Pure functions on tensors: padding, masked statistics, log-probabilities and estimators of the KL divergence.

Shapes: ``B`` rows of a batch, ``T`` positions, ``R`` response positions, ``V`` vocabulary. A mask is 1 (or True) where
a position counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def left_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (B, T), with the padding in front: for sampling, so that all prompts end together.

    Args:
        rows: B rows of token ids, of any lengths.
        pad_id: the id that fills up shorter rows.

    Returns:
        Ids, ``int64``, and mask, 1 = a token of the row and 0 = padding.

    Raises:
        ValueError: there is no row.
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def right_pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (B, T), with the padding behind: what training on whole texts needs.

    Args:
        rows: B rows of token ids, of any lengths.
        pad_id: the id that fills up shorter rows.

    Returns:
        Ids, ``int64``, and mask, 1 = a token of the row and 0 = padding.

    Raises:
        ValueError: there is no row.
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [pad_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens only: cumulative sum of the mask, minus one, at least 0. (B, T) → (B, T).

    GPT-2 learns one vector for each absolute position. Without these ids a left-padded row is read as if its first
    word stood in the middle of the context.

    Args:
        attention_mask: (B, T), 1 = a real token, 0 = padding, which may stand in front or behind.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Put values back where they were taken from: the inverse of ``x[mask]``. (N,) → the mask's shape, 0 elsewhere.

    Args:
        values: (N,), one for each position that counts, in the order of rows.
        mask: any shape, with N ones.
    """
    return values.new_zeros(mask.shape).masked_scatter(mask.bool(), values)


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    r"""Mean over the positions that count, :math:`\sum_t m_t x_t / \sum_t m_t`.

    Args:
        values: any shape; what stands under a 0 of the mask may be anything, NaN included.
        mask: same shape; 1 = counts.
        dim: reduce this dimension, or all if None.

    Returns:
        The mean; 0 where nothing counts.
    """
    mask = mask.bool()
    kept = values.masked_fill(~mask, 0.0)
    total, count = (kept.sum(), mask.sum()) if dim is None else (kept.sum(dim), mask.sum(dim))
    return total / count.clamp(min=1)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    r"""Variance over the positions that count, with divisor :math:`n` (no Bessel correction); 0 if nothing counts.

    Args:
        values: any shape; what stands under a 0 of the mask may be anything, NaN included.
        mask: same shape; 1 = counts.
    """
    mean = masked_mean(values, mask)
    return masked_mean((values.masked_fill(~mask.bool(), 0.0) - mean) ** 2, mask)


def whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    r"""Shift and scale to mean 0 and variance 1 over the mask; 0 elsewhere.

    .. math:: (x - \mu) / \sqrt{\sigma^2 + \epsilon}

    Args:
        values: any shape, such as advantages (B, R); what stands under a 0 of the mask may be anything.
        mask: same shape; 1 = counts. The mean μ and the variance σ² are those of all positions that count, over the
            whole batch.
        eps: ε, so that values which are all equal become 0 and not NaN.
    """
    hidden = ~mask.bool()
    values = values.masked_fill(hidden, 0.0)
    mean, var = masked_mean(values, mask), masked_var(values, mask)
    return ((values - mean) * torch.rsqrt(var + eps)).masked_fill(hidden, 0.0)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    r"""Log-probability of each token under its own logits, :math:`z_y - \log\sum_v e^{z_v}`.

    Args:
        logits: (..., V), already aligned: ``tokens[..., t]`` was drawn from the distribution of ``logits[..., t, :]``.
        tokens: (...), ids.
    """
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def entropy(logits: Tensor) -> Tensor:
    r"""Entropy in nats of each distribution, :math:`-\sum_v p_v \log p_v`. (..., V) → (...).

    Args:
        logits: (..., V), not normalised.
    """
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    r"""Estimator of :math:`\mathrm{KL}(\pi\|\pi_\mathrm{ref})` from samples of :math:`\pi`.

    .. math:: k_1 = \log\pi - \log\pi_\mathrm{ref}

    Unbiased; single values may be negative. Schulman, "Approximating KL Divergence" (2020).

    Args:
        logprobs: of samples of π, under π, any shape.
        ref_logprobs: of the same samples, under the reference, same shape.
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    r""":math:`k_2 = \tfrac12(\log\pi_\mathrm{ref} - \log\pi)^2`: biased, never negative. Schulman (2020).

    Args:
        logprobs: of samples of π, under π, any shape.
        ref_logprobs: of the same samples, under the reference, same shape.
    """
    return 0.5 * (ref_logprobs - logprobs) ** 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    r""":math:`k_3 = \omega - 1 - \log\omega`, :math:`\omega = \pi_\mathrm{ref}/\pi`: unbiased, never negative.

    ``expm1`` keeps the digits that the subtraction of 1 would lose when the policies agree. Schulman (2020).

    Args:
        logprobs: of samples of π, under π, any shape.
        ref_logprobs: of the same samples, under the reference, same shape.
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    r"""Share of the returns' variance over the mask that the values explain.

    .. math:: 1 - \mathrm{Var}(G - V) / \mathrm{Var}(G)

    Args:
        values: V, what was predicted, any shape.
        returns: G, what came, same shape.
        mask: same shape; 1 = counts.

    Returns:
        A scalar: 1 for a perfect prediction, 0 for one no better than a constant, below 0 for a worse one.
    """
    return 1 - masked_var(returns - values, mask) / masked_var(returns, mask).clamp(min=1e-12)
