"""The first cell of a notebook that is graded: what a cell prints is cut off. This file's text is put into it."""

from __future__ import annotations

import sys
from typing import Any

MOST = 100_000  #: characters of a cell


class Short:
    """A stream that throws away what goes beyond a cell's share.

    Args:
        stream: where the rest goes.
    """

    def __init__(self, stream: Any) -> None:  # noqa: ANN401  IPython's stream or any other
        self.stream, self.left = stream, MOST

    def refill(self, *_: object) -> None:
        """Called before each cell."""
        self.left = MOST

    def write(self, text: str) -> int:
        """Pass on what there is room for."""
        if self.left > 0:
            self.stream.write(text[: self.left])
        self.left -= len(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.stream, name)


def guard(shell: Any) -> None:  # noqa: ANN401  IPython's shell
    """Cut off what is printed. Warnings go there too: nbgrader takes anything on stderr for a failed test."""
    sys.stdout = sys.stderr = Short(sys.stdout)
    shell.events.register("pre_run_cell", sys.stdout.refill)
