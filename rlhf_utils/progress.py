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


def progress(items: Iterable[T], description: str, total: int | None = None) -> tqdm[T]:
    """Wrap an iterable in a progress bar; ``set_postfix`` on the result shows numbers beside it."""
    shown = not in_book_build() and (in_notebook() or sys.stderr.isatty())
    return tqdm(items, desc=description, total=total, disable=not shown, leave=False, mininterval=0.2)
