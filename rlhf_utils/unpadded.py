"""A forward pass over the real tokens only: what makes training on rows of unequal length quick.

In a batch of short responses a third of all positions are padding, and each costs as much as a token. Here the real
tokens of all rows stand behind one another in a single row. Linear layers, norms and activations treat positions one by
one and don't notice. Only attention must know which tokens belong together: it alone gets the rows back, right-padded,
so that the causal mask hides the padding by itself. The result is the padded pass's up to rounding. One PPO update of
the tiny model took 0.7 of the padded pass's time (``benchmarks/bench.py``).

Hugging Face models look their attention up by name, so this works for every model that takes part in that scheme and
looks at all earlier tokens; for others :func:`can_unpad` says no.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

NAME = "unpadded"


@dataclass(frozen=True)
class Rows:
    """Which of N tokens belong together.

    Attributes:
        grid: (B, L), for each row its tokens' numbers in order; 0 behind a row's end. L is the longest row's length.
        cells: (N,), each token's place in the flattened grid.
    """

    grid: Tensor
    cells: Tensor

    @property
    def positions(self) -> Tensor:
        """(N,), each token's position in its row, from 0."""
        return self.cells % self.grid.shape[1]


def find_rows(attention_mask: Tensor) -> Rows:
    """The rows' tokens in reading order. ``attention_mask``: (B, T), 1 = a real token, padded on either side."""
    lengths = attention_mask.sum(-1)
    steps = torch.arange(int(lengths.max()), device=attention_mask.device)
    real = steps < lengths.unsqueeze(-1)
    starts = lengths.cumsum(0) - lengths
    grid = torch.where(real, starts.unsqueeze(-1) + steps, 0)
    return Rows(grid, real.flatten().nonzero().squeeze(-1))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    rows: Rows,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention within each row. ``query``: (1, heads, N, d); returns (1, N, heads, d)."""
    batch, length = rows.grid.shape

    def apart(x: Tensor) -> Tensor:  # (1, heads, N, d) → (B, heads, L, d)
        heads, tokens, width = x.shape[1:]
        flat = x[0].transpose(0, 1).reshape(tokens, heads * width)
        return flat.index_select(0, rows.grid.flatten()).view(batch, length, heads, width).transpose(1, 2)

    out = F.scaled_dot_product_attention(
        apart(query),
        apart(key),
        apart(value),
        is_causal=True,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    together = out.transpose(1, 2).flatten(0, 1).index_select(0, rows.cells)
    return together.unsqueeze(0), None


AttentionInterface.register(NAME, _attention)


def can_unpad(trunk: nn.Module) -> bool:
    """Whether the trunk's attention can be swapped by name and looks at all earlier tokens."""
    if not isinstance(trunk, PreTrainedModel) or not trunk._supports_attention_backend:
        return False
    kinds = getattr(trunk.config, "layer_types", None) or ["full_attention"]
    return getattr(trunk.config, "sliding_window", None) is None and set(kinds) == {"full_attention"}


def unpadded_states(trunk: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states, 0 at the padding. (B, T) → (B, T, d).

    Args:
        trunk: for which :func:`can_unpad` says yes.
        input_ids: (B, T).
        attention_mask: (B, T), 1 = a real token; no 0 between two 1s.
    """
    rows, real = find_rows(attention_mask), attention_mask.flatten().nonzero().squeeze(-1)
    ids = input_ids.flatten()[real].unsqueeze(0)
    usual = trunk.config._attn_implementation
    trunk.config._attn_implementation = NAME
    try:
        states = trunk(input_ids=ids, position_ids=rows.positions.unsqueeze(0), use_cache=False, rows=rows)[0][0]
    finally:
        trunk.config._attn_implementation = usual
    padded = states.new_zeros(attention_mask.numel(), states.shape[-1]).index_copy(0, real, states)
    return padded.view(*attention_mask.shape, -1)
