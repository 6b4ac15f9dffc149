"""``python -m rlhf_utils.book build|check|notebooks [--root FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rlhf_utils.book import build


HELP = "build the site, check the one that is built, or write the lessons as notebooks to _build/notebooks"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_utils.book", description="Build or check the book, or write its notebooks."
    )
    parser.add_argument("command", choices=("build", "check", "notebooks"), help=HELP)
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder with _config.yml (default: this one)")
    chosen = parser.parse_args(arguments)
    root = chosen.root.resolve()
    if not (root / "_config.yml").exists():
        parser.error(f"{root} has no _config.yml. Give the book's folder with --root.")
    if chosen.command == "notebooks":
        from rlhf_utils.book import notebooks  # late: the build that has nothing to do is to be over at once

        notebooks.write(root)
        return 0
    return build.build(root) if chosen.command == "build" else build.check(root)


if __name__ == "__main__":
    sys.exit(main())
