"""Is the grading honest?

Every assignment is handed in untouched, with the staff's answers, with those of another variant, and with each mistake.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course.kit import checks, source
from course.kit.grading import Mark, Work, grade
from course.kit.notebooks import cell_of_tests, student_notebook
from course.kit.repair import take
from course.kit.source import Assignment
from course.kit.term import Term

RESULTS = Path(__file__).parent.parent / "results"
KEPT = Path("_course") / "matrix"  #: marks of assignments that were graded before
MATTERS = ("checks", "guard", "notebooks", "repair", "grading", "environment", "nbgrader_jobs")  #: for a mark
TERM = Term("the public matrix's term")  #: the matrix is public, so this isn't a secret
UNTOUCHED, STAFF, OTHER = "untouched", "staff", "the answers of another variant"


@dataclass(frozen=True)
class Row:
    """A version of an assignment, and what it has to get.

    Attributes:
        assignment: in the student's variant.
        version: what was handed in.
        mistake_in: the task that is answered wrongly; None for the first three versions.
        answers: answer cells by task.
        expected: points by task.
    """

    assignment: Assignment
    version: str
    mistake_in: str | None
    answers: dict[str, str]
    expected: dict[str, float]


def rows_of(name: str, choices: dict[str, Any] | None = None) -> list[Row]:
    """All versions of an assignment.

    Args:
        name: of the source.
        choices: the variant; what the public term gives to a student named like the assignment unless given.
    """
    choices = TERM.choose(name, name, source.variants(name)) if choices is None else choices
    assignment = source.read(name, choices)
    full = {task.name: task.points for task in assignment.tasks}
    solutions = {task.name: task.solution for task in assignment.tasks}
    rows = [
        Row(assignment, UNTOUCHED, None, {task.name: task.stub for task in assignment.tasks}, dict.fromkeys(full, 0)),
        Row(assignment, STAFF, None, solutions, full),
    ]
    other = source.next_variant(name, choices)
    if other != choices:
        copied = {task.name: task.solution for task in source.read(name, other).tasks}
        # Constants stand in the cells that everybody is given, so the copied answer may be right by itself.
        points = {task: full[task] if copied[task] == solutions[task] else 0 for task in full}
        rows.append(Row(assignment, OTHER, None, copied, points))
    for task in assignment.tasks:
        for wrong in task.wrong:
            answers, points = solutions | {task.name: wrong.code}, full | {task.name: 0}
            rows.append(Row(assignment, wrong.name, task.name, answers, points))
    return rows


def work_of(row: Row) -> Work:
    """A version, handed in as a notebook and taken out of it again."""
    notebook = student_notebook(row.assignment, row.assignment.name)
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name in row.answers:
            cell.source = row.answers[name]
    handed_in = take(notebook, row.assignment)
    seeds = {task.name: TERM.seed(row.assignment.name, task.name) for task in row.assignment.tasks}
    return Work(row.version, row.assignment, seeds, handed_in.answers, handed_in.before)


def run_here(row: Row) -> dict[str, Mark]:
    """Marks without nbgrader, in this process: for whoever writes a task, and never for what students wrote."""
    work = work_of(row)
    marks = {}
    for task in row.assignment.tasks:
        space: dict[str, Any] = {"__name__": "notebook", **vars(checks)}
        try:
            for part in row.assignment.parts:
                if isinstance(part, source.Given):
                    exec(part.code, space)
            for code in work.answers.values():
                exec(code, space)
            exec(cell_of_tests(row.assignment, task, work.seeds[task.name]), space)
            marks[task.name] = Mark(task.points, task.points)
        except Exception as error:
            marks[task.name] = Mark(0.0, task.points, f"{type(error).__name__}: {error}")
    return marks


def problems(row: Row, marks: dict[str, Mark]) -> list[str]:
    """Where the marks aren't what they have to be, one line each."""
    return [
        f"{row.assignment.name}, {row.mistake_in or ''} {row.version}: "
        f"{task} got {marks[task].points:g} and not {due:g}. {marks[task].message}"
        for task, due in row.expected.items()
        if marks[task].points != due
    ]


def all_rows(names: Sequence[str]) -> list[Row]:
    """Versions of several assignments."""
    return [row for name in names for row in rows_of(name)]


def _digest(rows: Sequence[Row]) -> str:
    """Of all that an assignment's marks depend on, the grader's own code included."""
    code = [(Path(__file__).parent / f"{name}.py").read_text(encoding="utf8") for name in MATTERS]
    versions = [(row.version, row.mistake_in, row.answers, repr(row.assignment)) for row in rows]
    return hashlib.sha256(json.dumps([code, versions]).encode()).hexdigest()


def measure(
    names: Sequence[str], workers: int, done: Callable[[], None] = lambda: None, kept: Path = KEPT
) -> list[tuple[Row, dict[str, Mark]]]:
    """Grade all versions with the real grader, assignment by assignment. What was graded before isn't graded again.

    Args:
        names: of assignments.
        workers: processes at a time.
        done: called after each version.
        kept: a folder with the marks of assignments that nothing has changed since.
    """
    results: list[tuple[Row, dict[str, Mark]]] = []
    for name in names:
        rows, path = rows_of(name), kept / f"{name}.json"
        before = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
        if before.get("digest") == _digest(rows):
            found = [{task: Mark(**mark) for task, mark in marks.items()} for marks in before["marks"]]
        else:
            found = grade([work_of(row) for row in rows], workers, done)
            record = {"digest": _digest(rows), "marks": [{t: asdict(m) for t, m in marks.items()} for marks in found]}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record), encoding="utf8")
        results += zip(rows, found, strict=True)
    return results


def write_results(results: Sequence[tuple[Row, dict[str, Mark]]], folder: Path = RESULTS) -> None:
    """Write ``matrix.tsv``, a line for each version and task, and ``matrix.md``, a line for each version."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["assignment\tversion\tmistake_in\ttask\tpoints\tof\tcaught_by"]
    table = [
        "# What each version gets",
        "",
        "Made by `python -m course.kit matrix` with nbgrader.",
        "A wrong answer has to lose its own task's points and no others.",
    ]
    name = ""
    for row, marks in results:
        if row.assignment.name != name:
            name = row.assignment.name
            heads = [f"`{task.name}`" for task in row.assignment.tasks]
            table += ["", f"## {name}", "", f"| version | mistake in | {' | '.join(heads)} | total |"]
            table.append("|---|---|" + "---|" * (len(heads) + 1))
        for task, mark in marks.items():
            message = " ".join(mark.message.split())[:160]
            lines.append(
                f"{name}\t{row.version}\t{row.mistake_in or ''}\t{task}\t{mark.points:g}\t{mark.of:g}\t{message}"
            )
        total, of = sum(mark.points for mark in marks.values()), sum(mark.of for mark in marks.values())
        cells = [f"{mark.points:g}" for mark in marks.values()]
        mistake = f"`{row.mistake_in}`" if row.mistake_in else ""
        table.append(f"| {row.version} | {mistake} | {' | '.join(cells)} | {total:g} of {of:g} |")
    (folder / "matrix.tsv").write_text("\n".join(lines) + "\n", encoding="utf8", newline="\n")
    (folder / "matrix.md").write_text("\n".join(table) + "\n", encoding="utf8", newline="\n")
