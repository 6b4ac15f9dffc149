"""``python -m rlhf_utils.book build|check|links|notebooks|pdf|epub|zip|slides|anchors [--root FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rlhf_utils.book import build
from rlhf_utils.errors import UserError

#: what can be written from the built book
WRITTEN = ("notebooks", "pdf", "epub", "zip", "slides", "anchors")
HELP = (
    "build the site; check the one that is built; ask the addresses that it names; write the built book as notebooks, "
    "as one PDF, EPUB or zip into _build; write the course's slides; or note its anchors"
)


def _write(command: str, root: Path) -> int:
    """Write something from the built book; this loads much that a build with nothing to do shall not wait for."""
    from rlhf_utils.book import anchors, archive, decks, ebook, notebooks, paper

    try:
        writers = {
            "notebooks": notebooks,
            "pdf": paper,
            "epub": ebook,
            "zip": archive,
            "slides": decks,
            "anchors": anchors,
        }
        writers[command].write(root)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rlhf_utils.book", description="Build or check the book.")
    parser.add_argument("command", choices=("build", "check", "links", *WRITTEN), help=HELP)
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder with _config.yml (default: this one)")
    chosen = parser.parse_args(arguments)
    root = chosen.root.resolve()
    if not (root / "_config.yml").exists():
        parser.error(f"{root} has no _config.yml. Give the book's folder with --root.")
    if chosen.command in ("build", "check"):
        return build.build(root) if chosen.command == "build" else build.check(root)
    if chosen.command == "links":
        from rlhf_utils.book import linkcheck  # late, for the same reason

        return linkcheck.check(root)
    return _write(chosen.command, root)


if __name__ == "__main__":
    sys.exit(main())
