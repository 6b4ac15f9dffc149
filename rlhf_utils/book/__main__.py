"""``python -m rlhf_utils.book build|check [--root FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rlhf_utils.book import build


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rlhf_utils.book", description="Build or check the book.")
    parser.add_argument("command", choices=("build", "check"), help="build the site, or check the one that is built")
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder with _config.yml (default: this one)")
    chosen = parser.parse_args(arguments)
    root = chosen.root.resolve()
    if not (root / "_config.yml").exists():
        parser.error(f"{root} has no _config.yml. Give the book's folder with --root.")
    return build.build(root) if chosen.command == "build" else build.check(root)


if __name__ == "__main__":
    sys.exit(main())
