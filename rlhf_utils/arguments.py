"""What the command line's parsers share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are one line that names the remedy; exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and leave."""
        self.exit(2, f"error: {message}. See {self.prog} --help.\n")


def number(kind: type, low: float, high: float = math.inf) -> Callable[[str], float]:
    """A converter for argparse: an int or float within [low, high]."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is out of range; give a number from {low} to {high}")
        return value

    return convert
