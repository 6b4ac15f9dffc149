"""Operations of a transformer's training step, by formula, and what the machine can do at best.

Counted is what the mathematics asks for: matrix products of real tokens. Norms, activations, softmax and the optimizer
are not counted, nor is padding, nor the layers' recomputation. So the share of the machine's rate that is reported says
how much of the time went into the products that had to be made.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch


def forward_operations(width: int, layers: int, vocabulary: int, lengths: Sequence[int], predicted: int) -> float:
    """Floating-point operations of one forward pass of GPT-2: two for each weight and real token.

    A layer has 12 · width² weights (4 · width² in attention, 8 · width² in the feed-forward part). A token at position
    t attends to t + 1 tokens, at 4 · width operations each (scores and weighted sum). The output layer runs where a
    token is predicted.

    Args:
        width: of the hidden states.
        layers: number of blocks.
        vocabulary: rows of the output layer.
        lengths: real tokens of each sequence.
        predicted: number of tokens whose log-probability is asked for.
    """
    weights = 2 * 12 * width**2 * sum(lengths)
    attention = 4 * width * sum(n * (n + 1) // 2 for n in lengths)
    return layers * (weights + attention) + 2 * width * vocabulary * predicted


def update_operations(
    width: int, layers: int, vocabulary: int, lengths: Sequence[int], predicted: int, epochs: int
) -> float:
    """Operations of a PPO update: a backward pass costs two forward passes. Arguments as for the forward pass."""
    return 3 * epochs * forward_operations(width, layers, vocabulary, lengths, predicted)


def product_rate(size: int = 1024, repetitions: int = 7, device: str = "cpu") -> float:
    """Operations a second of a square matrix product, the median of several; float32, bf16 on a GPU."""
    kind = torch.float32 if device == "cpu" else torch.bfloat16
    size = size if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        (a @ b).sum().item()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:])
