"""Device, precision, threads and seeds: the only place that touches them.

Import this before torch does its first parallel work: the waiting policy of OpenMP's threads is read once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

# A waiting OpenMP thread spins by default. On a shared machine the spinning steals the core that the other thread
# needs, and a step can take ten times as long. Passive waiting costs a few per cent on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The fast tokenizers warn, at every fork of a data loader, unless this is set.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers

transformers.utils.logging.disable_progress_bar()


def pick_device(name: str | None = None) -> torch.device:
    """The device by name, or else a GPU if there is one, or else the CPU."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def use_threads(threads: int | None = None) -> int:
    """Set torch's number of threads and return it: the given number, else the cores that this process may use, at most 8.

    Two threads took 0.75 of one thread's time on two idle cores and, thanks to passive waiting, 1.14 of it when another
    process kept one core busy (with spinning threads: 1.9).
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = threads or min(allowed, 8)
    torch.set_num_threads(threads)
    return threads


def seed_everything(seed: int) -> torch.Generator:
    """Seed torch and numpy, and return a generator of the CPU for explicit use.

    Sampling and shuffling take the generator, so that they give the same draws on any device.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside the block; each module's mode is put back after it."""
    modes = [m.training for m in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """bf16 autocast on a GPU that has it, plain float32 elsewhere (bf16 on a CPU took 2.3 times as long)."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()
