"""``python -m rlhf_utils.book build|check|notebooks|links [--root FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rlhf_utils.book import build

HELP = "build the site; check the one that is built; write the lessons as notebooks; ask the addresses that it names"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_utils.book", description="Build or check the book, or write its notebooks."
    )
    parser.add_argument("command", choices=("build", "check", "notebooks", "links"), help=HELP)
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder with _config.yml (default: this one)")
    chosen = parser.parse_args(arguments)
    root = chosen.root.resolve()
    if not (root / "_config.yml").exists():
        parser.error(f"{root} has no _config.yml. Give the book's folder with --root.")
    if chosen.command == "notebooks":
        from rlhf_utils.book import notebooks  # late: a build with nothing to do is to be over at once

        notebooks.write(root)
        return 0
    if chosen.command == "links":
        from rlhf_utils.book import linkcheck

        return linkcheck.check(root)
    return build.build(root) if chosen.command == "build" else build.check(root)


if __name__ == "__main__":
    sys.exit(main())
