"""Grade prepared folders with nbgrader. Runs inside ``.venv-course``, and imports nothing of the book's.

Each folder holds ``source/a/a.ipynb`` and ``submitted/s/a/a.ipynb``; afterwards it holds ``result.json``. The first
argument is the seconds that one cell may take, the others are folders.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import nbformat
import nbgrader.api
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config

PATIENCE = 300  # seconds; the caller has a limit for the whole notebook


def configuration(folder: Path, seconds: int) -> Config:
    """nbgrader's settings for one folder."""
    config = Config()
    config.CourseDirectory.root = str(folder)
    config.CourseDirectory.db_url = f"sqlite:///{folder / 'gradebook.db'}"
    # Imports are ours, and may take long on a busy machine; everything else is the student's.
    config.Execute.timeout_func = lambda cell: PATIENCE if cell.metadata.get("given") else seconds
    config.Execute.startup_timeout = PATIENCE
    config.Execute.iopub_timeout = 30  # a kernel that can't be interrupted never says that it is idle
    config.Exchange.enabled = False
    return config


def outputs(folder: Path) -> dict[str, dict[str, object]]:
    """What each test cell displayed, and its error, if any."""
    notebook = nbformat.read(folder / "autograded" / "s" / "a" / "a.ipynb", as_version=4)
    told = {}
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if not marks.get("grade"):
            continue
        errors = [f"{out.ename}: {out.evalue}" for out in cell.outputs if out.output_type == "error"]
        shown = [out.data.get("text/plain", "") for out in cell.outputs if out.output_type == "display_data"]
        told[marks["grade_id"]] = {"error": errors[0] if errors else None, "shown": shown}
    return told


def grade(folder: Path, seconds: int) -> dict[str, object]:
    """Marks of one folder, or ``{"failed": why}``."""
    api = NbGraderAPI(config=configuration(folder, seconds))
    made = api.generate_assignment("a", force=True, create=True)
    if not made["success"]:
        return {"failed": (made["log"] + made["error"])[-6000:]}
    for name in ("source", "release"):  # the student's code finds nothing but its own notebook
        shutil.rmtree(folder / name, ignore_errors=True)
    done = api.autograde("a", "s", force=True, create=True)
    if not done["success"]:
        return {"failed": (done["log"] + done["error"])[-6000:]}
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        grades = book.find_submission_notebook("a", "a", "s").grades
        marks = {grade.name: [grade.auto_score, grade.max_score] for grade in grades}
    return {"marks": marks, "outputs": outputs(folder)}


def main() -> None:
    """Grade the folders in turn; each result is there as soon as it is known."""
    nbgrader.api.get_alembic_version = cache(nbgrader.api.get_alembic_version)  # it starts a program for each folder
    seconds, *folders = sys.argv[1:]
    for folder in map(Path, folders):
        try:
            result = grade(folder, int(seconds))
        except Exception as error:
            result = {"failed": f"{type(error).__name__}: {error}"[-6000:]}
        unfinished = folder / "result.unfinished"
        unfinished.write_text(json.dumps(result), encoding="utf8")
        unfinished.replace(folder / "result.json")


if __name__ == "__main__":
    main()
