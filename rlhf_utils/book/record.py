"""How a copy of the book came about: ``{build-record}``, what it was built from and with; ``{lesson-runs}``, what ran.

Both stand on the page about the book's state and are filled in when all pages have been read.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from rlhf_utils.book.execution import run_dates
from rlhf_utils.book.repository import find_repository

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sphinx.application import Sphinx

# What the numbers and the pages depend on; `requirements.lock.txt` has the rest.
PACKAGES = (
    *("rlhf_utils", "torch", "transformers", "tokenizers", "datasets", "accelerate", "trl", "peft", "numpy"),
    *("scikit-learn", "plotly", "jupyter-book", "sphinx", "myst-nb", "pypandoc_binary"),
)
Cell = nodes.Node | str


class BuildRecord(nodes.General, nodes.Element):
    """Stands where the versions will."""


class LessonRuns(nodes.General, nodes.Element):
    """Stands where the table of lessons will."""


class BuildRecordDirective(SphinxDirective):
    """``{build-record}``: see the module."""

    def run(self) -> list[nodes.Node]:
        """A place to be filled."""
        return [BuildRecord()]


class LessonRunsDirective(SphinxDirective):
    """``{lesson-runs}``: see the module."""

    def run(self) -> list[nodes.Node]:
        """A place to be filled."""
        return [LessonRuns()]


def package_version(name: str) -> str:
    """The version of an installed package, or that there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def built_at() -> datetime:
    """Now, or the time that ``$SOURCE_DATE_EPOCH`` sets for builds that have to come out the same; UTC."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return datetime.fromtimestamp(int(epoch), timezone.utc)
    return datetime.now(timezone.utc)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def commit(root: Path) -> tuple[str, bool] | None:
    """The commit that a folder is at, and whether its tracked files differ from it; ``None`` where git knows none.

    Args:
        root: the top folder of a working tree; one further down is a copy inside somebody else's.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    name = _git(root, "rev-parse", "HEAD")
    if not name or not top or Path(top).resolve() != root.resolve():
        return None
    return name, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))


def commit_date(root: Path) -> datetime | None:
    """When the commit that a folder is at was made, in UTC; ``None`` where git knows none."""
    seconds = _git(root, "show", "-s", "--format=%ct", "HEAD") if commit(root) else None
    return datetime.fromtimestamp(int(seconds), timezone.utc) if seconds else None


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], right: int | None = None) -> nodes.table:
    """A table of texts and nodes; the column ``right`` (from 0) stands at the right, as numbers do."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += nodes.thead("", _row(head, right))
    group += nodes.tbody("", *(_row(row, right) for row in rows))
    return nodes.table("", group, classes=["colwidths-auto"])


def _row(cells: Sequence[Cell], right: int | None) -> nodes.row:
    row = nodes.row()
    for number, cell in enumerate(cells):
        inside = nodes.Text(cell) if isinstance(cell, str) else cell
        row += nodes.entry("", nodes.paragraph("", "", inside), classes=["text-right"] if number == right else [])
    return row


def _commit_cell(root: Path) -> Cell:
    found = commit(root)
    if found is None:
        return "not known"
    name, changed = found
    cell: nodes.Node = nodes.literal(text=name[:12])
    if repository := find_repository(root):
        cell = nodes.reference("", "", cell, refuri=f"{repository.url}/commit/{name}")
    more = ", and changes to it that were not committed" if changed else ""
    return nodes.inline("", "", cell, nodes.Text(more))


def _record(app: Sphinx) -> nodes.table:
    rows: list[list[Cell]] = [
        ["Date of this copy", f"{built_at():%Y-%m-%d %H:%M} UTC"],
        ["Commit", _commit_cell(Path(app.srcdir))],
        ["System", f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores"],
        ["Python", platform.python_version()],
    ]
    rows += [[nodes.literal(text=name), package_version(name)] for name in PACKAGES]
    return table(["What", "Version"], rows)


def _when(date: datetime | None) -> Cell:
    """Day and minute; a narrow column may part them, and not the day."""
    if date is None:
        return "not known"
    day = nodes.inline("", f"{date:%Y-%m-%d}", classes=["text-nowrap"])
    return nodes.inline("", "", day, nodes.Text(f" {date:%H:%M}"))


def _runs(app: Sphinx, page: str) -> nodes.Node:
    from myst_nb.sphinx_ import NbMetadataCollector

    rows: list[list[Cell]] = []
    total = 0.0
    for lesson in app.env.collect_relations():
        run = NbMetadataCollector.get_exec_data(app.env, lesson)
        if not run:
            continue
        seconds = run["runtime"] or 0.0
        total += seconds
        uri = app.builder.get_relative_uri(page, lesson)
        link = nodes.reference("", app.env.titles[lesson].astext(), internal=True, refuri=uri)
        date = run_dates(app.env).get(lesson)
        fresh = lesson in getattr(app, "rlhf_ran", ())
        status = ("passed" if run["succeeded"] else "failed") + ("" if fresh else ", kept")
        rows.append([link, _when(date), f"{seconds:.1f}", status])
    if not rows:
        return nodes.paragraph("", "No lesson ran.")
    rows.append(["All of them", "", f"{total:.1f}", ""])
    return table(["Lesson", "Ran (UTC)", "Seconds", "Status"], rows, right=2)


def _fill(app: Sphinx, document: nodes.document, page: str) -> None:
    for place in list(document.findall(BuildRecord)):
        place.replace_self(_record(app))
    for place in list(document.findall(LessonRuns)):
        place.replace_self(_runs(app, page))


def register(app: Sphinx) -> None:
    """Register the directives and what fills them in with Sphinx."""
    app.add_directive("build-record", BuildRecordDirective)
    app.add_directive("lesson-runs", LessonRunsDirective)
    app.connect("doctree-resolved", _fill)
