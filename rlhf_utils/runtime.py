"""Device, precision, threads and seeds: the only place that touches them.

How OpenMP's threads wait is set in ``rlhf_utils/__init__.py``, since torch reads it when it is loaded.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from functools import cache
from urllib.parse import urlsplit

import numpy as np
import torch
import transformers

from rlhf_utils import THREADS_SPIN
from rlhf_utils.errors import UserError

transformers.utils.logging.disable_progress_bar()


def pick_device(name: str | None = None) -> torch.device:
    """The device by name, or else a GPU if there is one, or else the CPU.

    Raises:
        UserError: torch doesn't know the name, or can't use that device here.
    """
    if name:
        try:
            return torch.zeros(1, device=name).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0][:160]
            raise UserError(f"The device {name!r} can't be used ({reason}).", "Leave it out, or give cpu.") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def use_threads(threads: int | None = None) -> int:
    """Set torch's number of threads and return it.

    It is the given number, or else ``$OMP_NUM_THREADS``, or else that of the cores that this process may use, at most
    8, shared with the processes that ``torchrun`` started beside it; but 1 if torch was imported before this package,
    since its threads then spin while they wait.

    Two threads took 0.75 of one thread's time on two idle cores and, thanks to passive waiting, 1.14 of it when another
    process kept one core busy. Spinning threads took 1.9 of it, and 40 times it when five processes shared the two.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        threads = threads or int(asked)
    threads = threads or (1 if THREADS_SPIN else max(1, min(allowed, 8) // beside))
    torch.set_num_threads(threads)
    return threads


def seed_everything(seed: int) -> torch.Generator:
    """Seed torch and numpy, and return a generator of the CPU for explicit use.

    Sampling and shuffling take the generator, so that they give the same draws on any device.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    return torch.Generator().manual_seed(seed)


@cache
def hub_reachable() -> bool:
    """Whether the Hugging Face hub answers; asked once. The hub's own client would retry for a minute."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


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
    """bf16 autocast on a GPU that has it, plain float32 elsewhere (bf16 on a CPU took 2.3 times as long).

    A GPU without bf16 units, such as a T4, imitates them and is slower for it; it computes in float32 as well.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()
