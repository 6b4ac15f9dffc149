"""The notebooks that are made from an assignment: the student's, the staff's and the one that is graded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course.kit.source import Assignment, Given, Hint, Task, Text, Written

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
MARK = "rlhf_course"  #: in a notebook's metadata: whose it is, and which assignment
EMPTY = "*Write your answer here.*"
ORDER = """Write each answer in place of the line that raises `NotImplementedError`. You may add cells, for helpers and
for trying things out. The cell below a task shows examples of what is tested; when you have handed in, more tests are
run, with other numbers. A task gives all of its points or none. Before you hand in, restart the kernel and run
everything from the top."""


@cache
def _checks() -> str:
    """Source of the functions that tests call."""
    return (Path(__file__).parent / "checks.py").read_text(encoding="utf8")


@cache
def _guard() -> str:
    return (Path(__file__).parent / "guard.py").read_text(encoding="utf8")


def _nbgrader(name: str, **what: Any) -> dict[str, Any]:  # noqa: ANN401  flags and points
    common = {"schema_version": 3, "grade_id": name, "grade": False, "solution": False, "locked": False, "task": False}
    return {"nbgrader": common | what}


def _head(kind: str, part: Task | Written) -> str:
    points = f"{part.points:g} point" + ("" if part.points == 1 else "s")
    return f"**{kind} `{part.name}`** ({points}, about {part.minutes} minutes)"


def _overview(assignment: Assignment, student: str) -> str:
    rows = "\n".join(
        f"| `{part.name}` | {part.points:g} | {part.minutes} | {'code' if isinstance(part, Task) else 'words'} |"
        for part in assignment.graded
    )
    chapters = ", ".join(map(str, assignment.chapters))
    return (
        f"# {assignment.title}\n\n"
        f"*This copy is for **{student}**. Others have other numbers and other definitions.*\n\n"
        f"Chapters {chapters}; {assignment.points:g} points; about {assignment.minutes} minutes.\n\n"
        f"| task | points | minutes | answer in |\n|---|---|---|---|\n{rows}\n\n{ORDER}"
    )


def _shared(part: Text | Hint | Given, number: int) -> NotebookNode:
    if isinstance(part, Given):
        return new_code_cell(part.code, metadata=_nbgrader(f"given-{number}", locked=True))
    text = f"<details><summary>Hint</summary>\n\n{part.text}\n\n</details>" if isinstance(part, Hint) else part.text
    return new_markdown_cell(text)


def _build(
    assignment: Assignment,
    student: str,
    answer: Callable[[Task], str],
    test: Callable[[Task], str],
    words: Callable[[Written], str],
) -> NotebookNode:
    """One notebook; answers, tests and written answers as the functions say."""
    cells = [
        new_markdown_cell(_overview(assignment, student)),
        new_code_cell(
            _checks(), metadata=_nbgrader("given-checks", locked=True) | {"jupyter": {"source_hidden": True}}
        ),
    ]
    for number, part in enumerate(assignment.parts):
        if isinstance(part, Task):
            cells += [
                new_markdown_cell(_head("Task", part)),
                new_code_cell(answer(part), metadata=_nbgrader(part.name, solution=True)),
                new_code_cell(
                    test(part), metadata=_nbgrader(f"test-{part.name}", grade=True, locked=True, points=part.points)
                ),
            ]
        elif isinstance(part, Written):
            cells += [
                new_markdown_cell(f"{_head('Question', part)}\n\n{part.question}"),
                new_markdown_cell(
                    words(part), metadata=_nbgrader(part.name, grade=True, solution=True, points=part.points)
                ),
            ]
        else:
            cells.append(_shared(part, number))
    for number, cell in enumerate(cells):
        cell["id"] = f"{assignment.name[:2]}-{number:03}"  # the same in each build
    notebook = new_notebook(cells=cells, metadata={"kernelspec": dict(KERNEL)})
    notebook.metadata[MARK] = {"assignment": assignment.name, "student": student}
    nbformat.validate(notebook)
    return notebook


def student_notebook(assignment: Assignment, student: str) -> NotebookNode:
    """What is handed out: stubs, examples, and nothing of the answers."""
    return _build(assignment, student, lambda task: task.stub, lambda task: task.test, lambda question: EMPTY)


def staff_notebook(assignment: Assignment, student: str, seeds: Mapping[str, int]) -> NotebookNode:
    """The same with solutions, hidden tests and rubrics; it runs as it stands.

    Args:
        assignment: in the student's variant.
        student: their id.
        seeds: of the hidden tests, by task.
    """
    return _build(
        assignment,
        student,
        lambda task: task.solution,
        lambda task: cell_of_tests(assignment, task, seeds[task.name]),
        lambda question: f"*Rubric, for staff*\n\n{question.rubric}",
    )


def cell_of_tests(assignment: Assignment, task: Task, seed: int, proof: str | None = None) -> str:
    """A test cell with its hidden part. It takes nothing from the student's notebook but the answer.

    Args:
        assignment: gives the staff's answers, under the name ``answer``.
        task: the one to be tested.
        seed: of the hidden tests' inputs.
        proof: displayed at the end; who doesn't find it knows that the cell didn't come so far.
    """
    given = "\n".join(part.code for part in assignment.parts if isinstance(part, Given))
    solutions = "\n\n\n".join([given, *(one.solution for one in assignment.tasks)])
    lines = [
        "# What the tests use, whatever the notebook defined under these names.",
        f"_checks, _answer = {{'__name__': 'checks'}}, {{'__name__': 'answer'}}\nexec({_checks()!r}, _checks)",
        f"exec({solutions!r}, _answer)",
        "same, refuses = _checks['same'], _checks['refuses']",
        "answer = __import__('types').SimpleNamespace(**_answer)",
        f"exec({given!r})",
        f"draw = _checks['Draw']({seed})",
        f"# The examples.\n{task.test}",
        f"# The hidden tests.\n{task.hidden}",
    ]
    if proof is not None:
        shown = {"text/plain": proof}  # not printed, since what is printed is cut off
        lines.append(f"__import__('IPython').display.display({shown!r}, raw=True)")
    return "\n".join(lines)


def graded_notebook(
    assignment: Assignment,
    seeds: Mapping[str, int],
    answers: Mapping[str, str],
    before: Mapping[str, list[str]],
    proof: str,
    only: str | None = None,
) -> NotebookNode:
    """What the grader runs: a fresh notebook with a student's cells in it.

    Args:
        assignment: in the student's variant.
        seeds: of the hidden tests, by task.
        answers: the student's answer cells by task; a stub stands where one is missing.
        before: the student's other cells by the task that they stand before.
        proof: displayed by each test that came to its end.
        only: grade this task alone, and give the others no cell.
    """
    cells = []
    for number, part in enumerate(assignment.parts):
        if isinstance(part, Given):
            cells.append(_shared(part, number))
        elif isinstance(part, Task) and only in (None, part.name):
            cells += [new_code_cell(code) for code in before.get(part.name, [])]
            cells.append(new_code_cell(answers.get(part.name, part.stub), metadata=_nbgrader(part.name, solution=True)))
            cells.append(
                new_code_cell(
                    cell_of_tests(assignment, part, seeds[part.name], proof),
                    metadata=_nbgrader(f"test-{part.name}", grade=True, locked=True, points=part.points),
                )
            )
    first = [new_code_cell(f"{_guard()}\n\nguard(get_ipython())"), new_code_cell(_checks())]
    for cell in (
        *first,
        *(cell for cell in cells if str(cell.metadata.get("nbgrader", {}).get("grade_id")).startswith("given-")),
    ):
        cell.metadata["given"] = True  # allowed to take long
    notebook = new_notebook(cells=[*first, *cells], metadata={"kernelspec": dict(KERNEL)})
    nbformat.validate(notebook)
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook with the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf8", newline="\n")
