"""Progress bars: on in a terminal and in a notebook, off in a book build and when output goes to a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def in_notebook() -> bool:
    """Whether this runs in an IPython kernel (Jupyter, Colab, VS Code)."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return bool(shell) and hasattr(shell, "kernel")


def in_book_build() -> bool:
    """Whether this runs while the book is being built (``RLHF_UTILS_BOOK=1``)."""
    return os.environ.get("RLHF_UTILS_BOOK") == "1"


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that ``torchrun`` started."""
    return os.environ.get("RANK", "0") == "0"


def bars_shown() -> bool:
    """Whether progress bars belong here."""
    return not in_book_build() and is_first_process() and (in_notebook() or sys.stderr.isatty())


def progress(items: Iterable[T], description: str, total: int | None = None) -> tqdm[T]:
    """Wrap an iterable in a progress bar; ``set_postfix`` on the result shows numbers beside it."""
    return tqdm(items, desc=description, total=total, disable=not bars_shown(), leave=False, mininterval=0.2)


def note(text: str) -> None:
    """One line about a stage, on standard error; silent in notebooks and in a book build."""
    if not in_book_build() and not in_notebook() and is_first_process():
        print(text, file=sys.stderr, flush=True)
