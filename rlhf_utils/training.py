"""What all training loops share: optimizer, schedule and the check that a loss is a number."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TrainingError(RuntimeError):
    """Training met a loss that is not finite.

    Attributes:
        state: the module as it was before the step that failed, where the training loop gives it.
        history: the metrics so far, likewise.
    """

    state: nn.Module | None = None
    history: list[dict[str, float]] | None = None


def check_finite(loss: Tensor, stage: str, step: int) -> None:
    """Stop before a NaN reaches the weights.

    Args:
        loss: or the norm of a gradient, any shape.
        stage: what is trained, for the message.
        step: number of the step, for the message.

    Raises:
        TrainingError: the loss is NaN or infinite.
    """
    if not torch.isfinite(loss).all():
        raise TrainingError(
            f"{stage}: the loss or its gradient is {loss.item()} at step {step}, so training stopped before it "
            "reached the weights. Lower the learning rate, or look for a reward or a text that is not finite."
        )


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    total_steps: int,
    warmup: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    final_rate: float = 0.0,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with weight decay on matrices only, and a rate that rises linearly and falls along a cosine.

    Args:
        model: its parameters that require a gradient are trained.
        learning_rate: the highest rate.
        total_steps: optimizer steps until the rate is at its end.
        warmup: share of the steps over which the rate rises from 0.
        weight_decay: on weights with two or more dimensions.
        eps: added to the root of the second moment; what lies far below it hardly moves a weight.
        final_rate: share of the highest rate that is left at the end.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    # β₂ = 0.95, as for GPT-3: short runs can't wait the thousand steps over which 0.999 averages.
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), eps=eps, fused=True)
    rising = max(1, round(warmup * total_steps)) if warmup else 0

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        fallen = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total_steps - rising)))
        return final_rate + (1 - final_rate) * fallen

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
