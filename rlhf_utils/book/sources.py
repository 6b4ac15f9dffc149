"""What a build reads: the stamp that tells whether anything has changed since the last one.

Only the standard library is imported, as a build with nothing to do has to end within two seconds.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf_utils.book.repository import find_repository

PACKAGE = Path(__file__).resolve().parent.parent
# Folders and files of the book's root that the build reads; those that aren't there count as empty.
INPUTS = (
    "book",
    "lessons",
    "experiments/results",
    "benchmarks/results",
    "course/capstone.md",
    "course/model_report.md",
    "_config.yml",
    "_toc.yml",
    "requirements.txt",
    "pyproject.toml",
    "CHANGELOG.md",
    "CITATION.cff",
)
_SKIPPED = {"__pycache__", ".ipynb_checkpoints"}


def files_below(path: Path) -> Iterator[Path]:
    """The files of a folder at any depth, sorted, without caches and hidden ones; a file is itself."""
    if path.is_file():
        yield path
    elif path.is_dir():
        for below in sorted(path.iterdir()):
            if below.name not in _SKIPPED and not below.name.startswith("."):
                yield from files_below(below)


def own_records(root: Path) -> list[Path]:
    """A reader's own judgements, which the lesson on preferences reads where there are any."""
    places = [root, root / "lessons"]
    named = os.environ.get("RLHF_UTILS_PREFERENCES")
    names = ("my_preferences.jsonl", "my_judgements.db")  # as in rlhf_utils.own_labels, which imports too much
    paths = [*([Path(named)] if named else []), *(place / name for name in names for place in places)]
    return [path for path in paths if path.is_file()]


def digest(lines: Iterable[str]) -> str:
    """Hash of some lines, as 16 hex digits."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def stamp(root: Path) -> str:
    """Hash of all that a build of the book in ``root`` depends on."""
    repository = find_repository(root)
    lines = [
        f"python {sys.version}",
        f"prefix {sys.prefix}",
        f"repository {repository.name if repository else None}",
    ]
    lines.append(f"branch {os.environ.get('GITHUB_REF_NAME')}")
    lines += [f"own records {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in own_records(root)]
    folders = [(root, root / name) for name in INPUTS] + [(PACKAGE, PACKAGE)]
    for base, folder in folders:
        for path in files_below(folder):
            lines.append(f"{path.relative_to(base).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return digest(lines)
