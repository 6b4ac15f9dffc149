"""What tests of assignments call. This file's text is put into each notebook, so it imports nothing of ours."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any


def plain(value: Any) -> Any:  # noqa: ANN401  what a student returns may be anything
    """Tensors, arrays and tuples as nested lists of numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def same(actual: Any, expected: Any, what: str = "the result", tolerance: float = 1e-4) -> None:  # noqa: ANN401
    """Fail unless two results agree in shape and in every number.

    Args:
        actual: number, text, list, tuple or tensor.
        expected: the same.
        what: for the message.
        tolerance: largest difference; relative to the expected number where that is above 1.
    """
    ours, theirs = plain(expected), plain(actual)
    if isinstance(ours, list):
        count = len(theirs) if isinstance(theirs, list) else "no list of"
        if count != len(ours):
            raise AssertionError(f"{what}: expected {len(ours)} numbers, got {count}")
        for place, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            same(one, other, f"{what}[{place}]", tolerance)
        return
    numbers = isinstance(ours, int | float) and isinstance(theirs, int | float)
    close = numbers and (ours == theirs or abs(theirs - ours) <= tolerance * max(1.0, abs(ours)))
    if not (close or (not numbers and type(ours) is type(theirs) and ours == theirs)):
        raise AssertionError(f"{what}: expected {ours!r}, got {theirs!r}")


def refuses(error: type[Exception], function: Callable[..., Any], *arguments: Any) -> None:  # noqa: ANN401
    """Fail unless a call raises exactly this error. A stub's ``NotImplementedError`` isn't one."""
    try:
        function(*arguments)
    except Exception as raised:
        if type(raised) is not error:
            raise
        return
    raise AssertionError(f"expected {error.__name__}, but nothing was raised")


class Draw:
    """Inputs from a seed, the same with every version of Python.

    Args:
        seed: any whole number.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def number(self, low: float = -2.0, high: float = 2.0) -> float:
        """One number with three decimals."""
        return round(self.random.uniform(low, high), 3)

    def integer(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return self.random.randint(low, high)

    def numbers(self, count: int, low: float = -2.0, high: float = 2.0) -> list[float]:
        """Several numbers."""
        return [self.number(low, high) for _ in range(count)]

    def table(self, rows: int, columns: int, low: float = -2.0, high: float = 2.0) -> list[list[float]]:
        """Rows of numbers."""
        return [self.numbers(columns, low, high) for _ in range(rows)]

    def shares(self, count: int) -> list[float]:
        """Positive numbers that sum to 1."""
        weights = [math.exp(self.number()) for _ in range(count)]
        return [weight / sum(weights) for weight in weights]

    def lengths(self, rows: int, width: int) -> list[list[int]]:
        """A mask: each row has between 1 and ``width`` ones in front, the first is full, and the second isn't."""
        counts = [width, self.integer(1, width - 1), *(self.integer(1, width) for _ in range(rows - 2))]
        return [[1] * count + [0] * (width - count) for count in counts[:rows]]
