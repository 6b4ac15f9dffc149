"""Builds the book: everything that went wrong is loud, and a build with nothing to do is over at once.

The new site grows in ``_build/attempt`` and replaces ``_build/html`` only after it has passed all checks, so
that what lies there is whole and has been checked, and holds no traceback of a failed lesson.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rlhf_utils.book import checks
from rlhf_utils.book.sources import stamp

STAMP = ".stamp"
# How many folders of lessons' outputs are kept: this code's, and some before, for going back and forth.
KEPT_CACHES = 3
# Lines that tell a reader nothing: the extensions' settings, and a remark of each kernel.
_NOISE = (
    "myst v",
    "myst-nb v",
    "sphinx-multitoc-numbering v",
    "[IPKernelApp] WARNING | Kernel is running over TCP",
)


def _say(text: str) -> None:
    print(text, flush=True)


def site_of(root: Path) -> Path:
    """The folder of a book's built site."""
    return root / "_build" / "html"


def executed_of(root: Path) -> Path:
    """The folder of the executed notebooks that a book's built site was made from."""
    return root / "_build" / "jupyter_execute"


def is_current(root: Path, wanted: str) -> bool:
    """Whether the built site carries this stamp."""
    path = site_of(root) / STAMP
    return path.exists() and path.read_text(encoding="utf8").strip() == wanted


def _plain(line: str) -> str:
    """A line without the codes that colour it: Sphinx colours even what goes to a file."""
    return re.sub(r"\x1b\[[\d;]*m", "", line)


def _run_sphinx(root: Path, attempt: Path) -> int:
    """Run Jupyter Book and pass on what it prints; its exit status."""
    # `--keep-going` collects all warnings; `--all` and the fresh folder show them on a second try as well.
    run = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", run, "build", str(root), "--path-output", str(attempt)]
    command += ["--all", "-W", "--keep-going", "-n"]
    environment = {**os.environ, "RLHF_UTILS_BOOK": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    finished = explained = False
    for line in map(_plain, process.stdout):
        # What follows is Jupyter Book's box with the path of the attempt, which is about to be moved, or, after an
        # error that has been told, the way that it took through Jupyter Book.
        explained = explained or line.startswith("Extension error:")
        finished = finished or line.startswith("The HTML pages are in") or (explained and line.startswith("Traceback"))
        if line.strip() and not finished and not line.startswith(_NOISE):
            _say("  " + line.rstrip())
    return process.wait()


def _publish(attempt: Path, root: Path, wanted: str) -> None:
    """Let the attempt take the place of the site before it."""
    (attempt / "html" / STAMP).write_text(wanted + "\n", encoding="utf8")
    for name in ("html", "jupyter_execute", "lessons.json"):
        target = root / "_build" / name
        if target.is_dir():
            shutil.rmtree(target)
        if (attempt / name).exists():
            (attempt / name).replace(target)
    shutil.rmtree(root / "_build" / "attempt")


def _prune_caches(root: Path) -> None:
    folders = [p for p in (root / "_build" / ".jupyter_cache").glob("*") if p.is_dir()]
    for old in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)[KEPT_CACHES:]:
        shutil.rmtree(old)


def _print_times(root: Path) -> None:
    path = root / "_build" / "lessons.json"
    lessons = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    if lessons:
        _say("\nSeconds per lesson:")
    for page, row in lessons.items():
        _say(f"  {row['seconds'] or 0:8.1f}  {page}{'' if row['fresh'] else '  (kept from an earlier build)'}")


def build(root: Path) -> int:
    """Build the book in a folder unless nothing has changed since the last build.

    Returns:
        The exit status: 0 if the site is whole, 1 if something went wrong.
    """
    started = time.perf_counter()
    wanted = stamp(root)
    address = (site_of(root) / "index.html").resolve().as_uri()
    if is_current(root, wanted):
        _say(f"Nothing has changed since the last build. Open {address}")
        return 0
    attempt = root / "_build" / "attempt"
    shutil.rmtree(attempt, ignore_errors=True)
    attempt.mkdir(parents=True)
    _say("Running the lessons and writing the pages; lessons that haven't changed aren't run again.")
    status = _run_sphinx(root, attempt)
    attempt /= "_build"
    problems = checks.check(attempt / "html", attempt / "jupyter_execute") if status == 0 else []
    if status or problems:
        _report(problems)
        return 1
    _publish(attempt, root, wanted)
    _prune_caches(root)
    _print_times(root)
    _say(f"\nThe book is built ({time.perf_counter() - started:.0f} s). Open {address}")
    return 0


def _report(problems: list[str]) -> None:
    _say("")
    for problem in problems:
        _say(f"ERROR: {problem}")
    _say("The build failed: see the warnings and errors above. In _build/html is the site before, if any.")


def check(root: Path) -> int:
    """Check the built site again; the exit status is 0 if nothing is wrong."""
    if not (site_of(root) / "index.html").exists():
        _say("There is no built site. Run `make book` first.")
        return 1
    problems = checks.check(site_of(root), executed_of(root))
    for problem in problems:
        _say(f"ERROR: {problem}")
    _say(f"{len(problems)} problem(s) in the built site.")
    return 1 if problems else 0
