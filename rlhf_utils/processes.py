"""Several processes that train one policy together, each on a share of every batch.

``torchrun --nproc_per_node 2 -m rlhf_utils pipeline …`` starts them; Accelerate joins them, over gloo on a CPU and
NCCL on GPUs. Everything below does nothing where there is one process, so the training loop reads the same either way.

The plan is the simplest that gives one process's result. Each process samples and scores its share of the prompts. Then
the whole batch is gathered everywhere, so that means, whitening and KL control see all tokens without further thought.
In each minibatch a process takes its share of the rows, its loss weighted by its share of the tokens, and the gradients
are summed.

A policy too large for one device is *sharded* (FSDP2, the same plan as DeepSpeed's ZeRO-3): of every weight, its
gradient and Adam's two moments, each process keeps its part; a block's weights come together while it computes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather, pad_across_processes, reduce
from torch import Tensor, nn

from rlhf_utils.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all of them.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's part of a batch: neighbouring rows, as many as the others'.

        Raises:
            UserError: the rows can't be shared out evenly.
        """
        if rows % self.size:
            raise UserError(
                f"{rows} episodes can't be shared by {self.size} processes.", "Choose a multiple for --batch-size."
            )
        each = rows // self.size
        return slice(self.rank * each, (self.rank + 1) * each)


@cache
def world() -> World:
    """Who is there: one process unless ``torchrun`` started more. The first call joins them."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World(0, 1)
    state = PartialState(cpu=not torch.cuda.is_available())
    atexit.register(state.destroy_process_group)
    return World(state.process_index, state.num_processes)


def check_size(expected: int | None) -> None:
    """Refuse to run on fewer or more processes than were asked for.

    ``accelerate launch --cpu --num_processes 2`` starts one process and says nothing.

    Raises:
        UserError: the number differs.
    """
    if expected is not None and world().size != expected:
        raise UserError(
            f"{expected} processes were asked for and {world().size} started.",
            f"Start them with: torchrun --nproc_per_node {expected} -m rlhf_utils …",
        )


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world().size > 1:
        PartialState().wait_for_everyone()


def agree(value: T) -> T:
    """The main process's value, everywhere."""
    return broadcast_object_list([value])[0] if world().size > 1 else value


def gather_rows(record: T, padding: int = 0) -> T:
    """A dataclass of tensors with the rows of all processes, in their order; shorter rows are padded on the right.

    Args:
        record: a dataclass whose fields are tensors (B / size, …) or such dataclasses.
        padding: what fills them up.
    """
    if world().size == 1:
        return record
    if not is_dataclass(record):
        raise TypeError(f"{type(record).__name__} is not a dataclass")

    def whole(value: object) -> object:
        if isinstance(value, Tensor):
            wide = pad_across_processes(value, dim=1, pad_index=padding) if value.ndim > 1 else value
            return gather(wide.contiguous())
        return gather_rows(value, padding)

    return replace(record, **{f.name: whole(getattr(record, f.name)) for f in fields(record)})


def _units(module: nn.Module) -> list[FSDPModule]:
    if world().size == 1:
        return []
    from torch.distributed.fsdp import FSDPModule  # takes a second to load, and one process doesn't need it

    return [m for m in module.modules() if isinstance(m, FSDPModule)]


def shard(policy: nn.Module) -> None:
    """Spread a policy's weights over the processes, in place; each block of a language model in it is a unit.

    The optimizer is made afterwards, from the parts.

    Args:
        policy: its ``forward`` takes token ids, their mask and the number of response tokens.

    Raises:
        UserError: there is but one process.
    """
    if world().size == 1:
        raise UserError("One process has nobody to share the weights with.", "Start several, or leave out --shard.")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(policy.parameters()).device
    mesh = init_device_mesh(device.type, (world().size,))
    blocks = {name for m in policy.modules() for name in getattr(m, "_no_split_modules", None) or ()}
    for module in policy.modules():
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    for unit in _units(policy):
        # Gradients are summed, not averaged: each loss is weighted by its share of the tokens already.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    # The first pass must go through the whole policy, so that it, and not a block, is taken for the root.
    with torch.no_grad():
        policy(torch.ones(1, 2, dtype=torch.long, device=device), torch.ones(1, 2, device=device).long(), 1)
    for unit in _units(policy):
        unit.reshard()


@contextlib.contextmanager
def gathered(policy: nn.Module) -> Iterator[None]:
    """All weights in every process inside the block: no token of a sample then waits for another process."""
    units = _units(policy)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def load_whole(plain: nn.Module, policy: nn.Module) -> None:
    """Copy a sharded policy's weights into a plain one of the same shape, in every process."""
    with torch.no_grad():
        for ours, theirs in zip(plain.parameters(), policy.parameters(), strict=True):
            ours.copy_(theirs.full_tensor())


def sum_and_clip_gradients(module: nn.Module, max_norm: float) -> Tensor:
    """Add up every parameter's gradient over the processes and clip their norm, in place; returns the norm before."""
    sharded = bool(_units(module))
    if world().size > 1 and not sharded:
        parameters = [p for p in module.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        together = reduce(torch.cat([p.grad.flatten() for p in parameters]), reduction="sum")
        for parameter, part in zip(parameters, together.split([p.numel() for p in parameters]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))
    norm = nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    return norm.full_tensor() if sharded else norm


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum of each value over the processes."""
    return reduce(values, reduction="sum") if world().size > 1 else values


def split_rows(rows: Tensor) -> Tensor:
    """This process's part of a minibatch's rows; the parts may differ by one row."""
    return rows[world().rank :: world().size]
