"""Take a student's answers out of whatever was handed in.

Cells are renamed, copied, deleted and moved; tests are edited; a file is cut off. What counts is which functions a
notebook defines. Everything else of it that is code stays before the answer that it stood before, since an answer may
need it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

from course.kit.notebooks import EMPTY, MARK
from course.kit.source import Assignment

LARGEST = 20_000_000  #: bytes of a notebook that is opened


class UnreadableError(Exception):
    """What was handed in isn't a notebook; the text says why."""


@dataclass
class HandedIn:
    """What a notebook holds of the student's own.

    Attributes:
        answers: answer cells by task.
        before: other code cells by the task that they stand before.
        words: written answers by question; those that were left as they were don't appear.
        notes: what had to be mended, for the report.
        student: whose copy it was, as its metadata say; None if they don't.
        assignment: which one it was, likewise.
    """

    answers: dict[str, str] = field(default_factory=dict)
    before: dict[str, list[str]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    student: str | None = None
    assignment: str | None = None


def open_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook of any age as version 4.

    Raises:
        UnreadableError: it is too large, or no notebook.
    """
    if path.stat().st_size > LARGEST:
        raise UnreadableError(f"{path.name} has {path.stat().st_size / 1e6:.0f} MB; outputs have to be cleared first")
    try:
        notebook = nbformat.read(path, as_version=4)
        return nbformat.from_dict(notebook) if isinstance(notebook.cells, list) else notebook
    except Exception as error:  # nbformat raises whatever the JSON's contents lead it to
        raise UnreadableError(f"{path.name} isn't a notebook: {type(error).__name__}") from error


def _text(cell: nbformat.NotebookNode) -> str:
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def _identity(cell: nbformat.NotebookNode) -> str:
    marks = cell.get("metadata", {}).get("nbgrader", {})
    return str(marks.get("grade_id", "")) if isinstance(marks, dict) else ""


def take(notebook: nbformat.NotebookNode, assignment: Assignment) -> HandedIn:
    """The student's own cells.

    Args:
        notebook: what was handed in.
        assignment: in the student's variant.
    """
    mark = notebook.metadata.get(MARK, {})
    found = HandedIn(student=mark.get("student"), assignment=mark.get("assignment"))
    functions = {name: task.name for task in assignment.tasks for name in task.defines}
    ours = {task.test.strip() for task in assignment.tasks} | {"given-checks"}
    given = re.compile(r"given-\w+|test-.+")
    waiting: list[str] = []
    tests = 0
    for cell in notebook.cells:
        code, identity = _text(cell), _identity(cell)
        if cell.get("cell_type") == "markdown":
            _words(found, assignment, identity, code)
            continue
        if cell.get("cell_type") != "code" or not code.strip():
            continue
        defined = re.findall(r"^(?:def|class) +(\w+)", code, re.MULTILINE)
        task = next((functions[name] for name in defined if name in functions), None)
        if task is not None:
            if task in found.answers:
                found.notes.append(f"{task}: answered twice, the last one counts")
                waiting.insert(0, found.answers[task])
            elif identity != task:
                found.notes.append(f"{task}: its cell was renamed")
            found.answers[task] = code
            found.before.setdefault(task, []).extend(waiting)
            waiting = []
        elif given.fullmatch(identity) or code.strip() in ours:
            tests += identity.startswith("test-")
        else:
            waiting.append(code)
    missing = [task.name for task in assignment.tasks if task.name not in found.answers]
    found.notes += [f"{name}: no answer found" for name in missing]
    if tests < len(assignment.tasks):
        found.notes.append(f"{len(assignment.tasks) - tests} test cells were missing and are put back")
    return found


def _words(found: HandedIn, assignment: Assignment, identity: str, text: str) -> None:
    """Note a written answer. A cell that has lost its name can't be told from other prose."""
    if any(question.name == identity for question in assignment.questions) and text.strip() not in ("", EMPTY):
        found.words[identity] = text.strip()


def definitions(code: str) -> str | None:
    """A cell without what runs: imports, functions, classes and constants. None if it isn't Python."""
    try:
        body = ast.parse(code).body
    except SyntaxError:
        return None
    kept = [
        node
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Assign) and not any(isinstance(n, ast.Call) for n in ast.walk(node)))
    ]
    return "\n".join(ast.unparse(node) for node in kept)
