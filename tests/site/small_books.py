"""Building the fixture book, whole or cut down to one lesson for breaking."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = Path(__file__).parent / "fixture_book"
LESSON = "lessons/01_figures.md"
CELL = "\n```{code-cell} ipython3\n%s\n```\n"


def run_build(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a book as a user would."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RLHF_", "GITHUB_"))}
    command = [sys.executable, "-m", "rlhf_utils.book", "build", "--root", str(root)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env={**clean, "RLHF_UTILS_NPM": "", **environment},  # no test asks a registry
        stdin=subprocess.DEVNULL,
    )


def copy_book(target: Path) -> Path:
    """The fixture book with the real book's settings and assets."""
    shutil.copytree(FIXTURE, target)
    shutil.copytree(ROOT / "book" / "_assets", target / "book" / "_assets")
    for name in ("_config.yml", "CITATION.cff"):  # the real settings are what is tested
        shutil.copy(ROOT / name, target)
    return target


def add(root: Path, text: str) -> None:
    with (root / LESSON).open("a", encoding="utf8") as file:
        file.write(text)
