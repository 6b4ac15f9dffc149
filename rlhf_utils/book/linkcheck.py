"""``make links``: asks every address that the book's pages name, without running a lesson."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

FOLDER = Path("_build") / "links"
#: answers that say nothing about whether a reader finds the page: publishers turn programs away
_REFUSALS = ("403", "405", "418", "429")


def settings(root: Path) -> dict[str, object]:
    """The book's own settings, with the lessons unexecuted and what Sphinx's check of links is told."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    config["execute"] = {"execute_notebooks": "off"}
    config["sphinx"]["config"] |= {"linkcheck_timeout": 20, "linkcheck_retries": 2, "linkcheck_anchors": False}
    return config


def broken(report: Path) -> list[str]:
    """The lines of a report that name an address at which nothing is, as ``page:line: address: why``."""
    found = []
    for line in report.read_text(encoding="utf8").splitlines():
        row = json.loads(line)
        refused = row["info"].startswith(_REFUSALS)
        if row["status"] in ("broken", "timeout") and not refused:
            found.append(f"{row['filename']}:{row['lineno']}: {row['uri']}: {row['info']}")
    return found


def check(root: Path) -> int:
    """Check the links of the book in ``root``; the exit status is 0 if every page answers or asks for a person."""
    folder = root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = folder / "_config.yml"
    config.write_text(yaml.safe_dump(settings(root)), encoding="utf8")
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", str(root), "--builder", "linkcheck", "--config", str(config)]
    # Its own status counts refusals too, and warns of the numbers that no lesson has provided.
    subprocess.run(
        [*command, "--path-output", str(folder)], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    report = folder / "_build" / "html" / "output.json"
    if not report.exists():
        print("The book's links could not be checked: Jupyter Book wrote no report.")
        return 1
    problems = broken(report)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} broken link(s).")
    return 1 if problems else 0
