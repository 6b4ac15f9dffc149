"""Read the marked source of an assignment; ``course/README.md`` explains the marks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import jupytext
import yaml

from rlhf_utils.errors import UserError

ASSIGNMENTS = Path(__file__).parent.parent / "assignments"
SECONDS = 30  #: that a cell may take, unless the source says otherwise
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
_MARKS = ("answer", "test", "hidden", "wrong")
_FENCE = re.compile(r"^:::\{(\w+)\} *(\S*)\n(.*?)^:::[ \t]*$", re.DOTALL | re.MULTILINE)
_SENTENCE = re.compile(r"^:(name|mistake|todo): *(.*)$", re.MULTILINE)
_SOLUTION = re.compile(rf"^([ \t]*){BEGIN}\n(.*?)^[ \t]*{END}\n?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Text:
    """Prose that everybody sees."""

    text: str


@dataclass(frozen=True)
class Hint:
    """Prose that is folded away."""

    text: str


@dataclass(frozen=True)
class Given:
    """Code that everybody gets."""

    code: str


@dataclass(frozen=True)
class Wrong:
    """An answer that somebody might hand in.

    Attributes:
        name: a short name for it.
        mistake: what went wrong, for the staff's list of common mistakes.
        code: the whole answer cell.
    """

    name: str
    mistake: str
    code: str


@dataclass
class Task:
    """Something to be programmed.

    Attributes:
        name: the task's, and of its cells.
        points: all or none of them are given.
        minutes: expected time.
        todo: what the stub's ``NotImplementedError`` says.
        code: the answer cell with its solution.
        test: the examples that students see.
        hidden: the tests that they don't see.
        wrong: at least two.
    """

    name: str
    points: float
    minutes: int
    todo: str
    code: str
    test: str = ""
    hidden: str = ""
    wrong: list[Wrong] = field(default_factory=list)

    @property
    def stub(self) -> str:
        """The answer cell as students get it."""
        return _SOLUTION.sub(lambda m: f"{m[1]}raise NotImplementedError({self.todo!r})\n", self.code + "\n").rstrip()

    @property
    def solution(self) -> str:
        """The answer cell without marks."""
        return _SOLUTION.sub(lambda m: m[2], self.code + "\n").rstrip()

    @property
    def defines(self) -> list[str]:
        """Names of functions and classes that the answer cell defines."""
        return re.findall(r"^(?:def|class) +(\w+)", self.code, re.MULTILINE)


@dataclass
class Written:
    """A question that is answered in words and marked by a person.

    Attributes:
        name: the question's.
        points: the most that can be given.
        minutes: expected time.
        question: Markdown.
        rubric: Markdown, for staff.
    """

    name: str
    points: float
    minutes: int
    question: str
    rubric: str = ""


@dataclass
class Assignment:
    """One assignment in one variant, in the order of its source."""

    name: str
    title: str
    chapters: list[int]
    limit: int
    choices: dict[str, Any]
    parts: list[Text | Hint | Given | Task | Written]

    @property
    def tasks(self) -> list[Task]:
        """What is programmed."""
        return [part for part in self.parts if isinstance(part, Task)]

    @property
    def questions(self) -> list[Written]:
        """What is written."""
        return [part for part in self.parts if isinstance(part, Written)]

    @property
    def graded(self) -> list[Task | Written]:
        """All that has points, in order."""
        return [part for part in self.parts if isinstance(part, Task | Written)]

    @property
    def points(self) -> float:
        """Sum of all points."""
        return sum(part.points for part in self.graded)

    @property
    def minutes(self) -> int:
        """Sum of the expected times."""
        return sum(part.minutes for part in self.graded)


def names() -> list[str]:
    """Names of all assignments."""
    return [path.stem for path in sorted(ASSIGNMENTS.glob("[0-9][0-9]_*.md"))]


def find(prefix: str) -> str:
    """The assignment whose name begins like this.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [name for name in names() if name.startswith(prefix)]
    if len(found) != 1:
        raise UserError(f"{prefix!r} names {len(found)} assignments.", f"There are {', '.join(names())}.")
    return found[0]


@cache
def _raw(name: str) -> tuple[dict[str, Any], str]:
    """Front matter and body."""
    path = ASSIGNMENTS / f"{name}.md"
    match = re.match(r"---\n(.*?)\n---\n(.*)", path.read_text(encoding="utf8"), re.DOTALL)
    if match is None:
        raise UserError(f"{path.name} has no front matter.", "Begin it with a block between two lines of three dashes.")
    return yaml.safe_load(match[1]), match[2]


def variants(name: str) -> dict[str, list[Any]]:
    """The options of an assignment, by kind."""
    return _raw(name)[0].get("variants", {})


def option_name(option: Any) -> str:  # noqa: ANN401  a number, a text, or a table with a name
    """What a list of variants calls an option."""
    return str(option["name"] if isinstance(option, dict) else option)


def first_variant(name: str) -> dict[str, Any]:
    """The first option of each kind."""
    return {kind: options[0] for kind, options in variants(name).items()}


def next_variant(name: str, choices: dict[str, Any]) -> dict[str, Any]:
    """A variant that differs in every kind: the next option of each, in a circle."""
    return {kind: o[(o.index(choices[kind]) + 1) % len(o)] for kind, o in variants(name).items()}


def read(name: str, choices: dict[str, Any]) -> Assignment:
    """An assignment in a variant.

    Args:
        name: of the source, without its ending.
        choices: one option of each kind.

    Raises:
        UserError: a mark is missing, unknown or given twice.
    """
    header, body = _raw(name)
    try:
        body = (
            jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
            .from_string(body)
            .render(**choices)
        )
    except jinja2.TemplateError as error:
        raise UserError(f"{name}.md: {error}.", "Look at what stands in double braces.") from error
    assignment = Assignment(name, header["title"], header["chapters"], header.get("limit", SECONDS), choices, [])
    found: dict[str, Task | Written] = {}
    # As in Markdown, a colon in a sentence needs no quotation marks around the sentence.
    body = _SENTENCE.sub(lambda m: f":{m[1]}: {json.dumps(m[2], ensure_ascii=False)}", body)
    for cell in jupytext.reads(body, fmt="md:myst").cells:
        if cell.cell_type == "code":
            _code(assignment, found, cell.source, dict(cell.metadata))
        else:
            _prose(assignment, found, cell.source)
    _complete(assignment)
    return assignment


def _mistake(assignment: Assignment, problem: str) -> UserError:
    return UserError(f"{assignment.name}.md: {problem}.", "course/README.md explains the marks.")


def _task(assignment: Assignment, found: dict[str, Task | Written], name: str) -> Task:
    task = found.get(name)
    if not isinstance(task, Task):
        raise _mistake(assignment, f"a cell belongs to the task {name!r}, but no answer of that name stands before it")
    return task


def _code(assignment: Assignment, found: dict[str, Task | Written], code: str, marks: dict[str, Any]) -> None:
    kinds = [mark for mark in _MARKS if mark in marks]
    if len(kinds) > 1:
        raise _mistake(assignment, f"a cell is marked as {' and as '.join(kinds)}")
    if not kinds:
        assignment.parts.append(Given(code))
        return
    kind, name = kinds[0], marks[kinds[0]]
    try:
        if kind == "answer":
            if name in found:
                raise _mistake(assignment, f"there are two tasks named {name!r}")
            task = Task(name, marks["points"], marks["minutes"], marks["todo"], code)
            if task.stub == task.solution:
                raise _mistake(assignment, f"the answer of {name!r} has no lines between {BEGIN} and {END}")
            found[name] = task
            assignment.parts.append(task)
        elif kind == "wrong":
            task = _task(assignment, found, name)
            task.wrong.append(Wrong(marks["name"], marks["mistake"], code))
        else:
            setattr(_task(assignment, found, name), kind, code)
    except KeyError as missing:
        raise _mistake(assignment, f"the cell {kind} of {name!r} has no option {missing}") from missing


def _prose(assignment: Assignment, found: dict[str, Task | Written], text: str) -> None:
    end = 0
    for match in [*_FENCE.finditer(text), None]:
        before = text[end : match.start() if match else None].strip()
        if before:
            assignment.parts.append(Text(before))
        if match is None:
            return
        end = match.end()
        kind, name, inner = match.groups()
        options = dict(re.findall(r"^:(\w+): *(.+)$", inner, re.MULTILINE))
        inner = re.sub(r"^:\w+: .*\n", "", inner, flags=re.MULTILINE).strip()
        if kind == "hint":
            assignment.parts.append(Hint(inner))
        elif kind == "written" and {"points", "minutes"} <= set(options) and name not in found:
            question = Written(name, float(options["points"]), int(options["minutes"]), inner)
            found[name] = question
            assignment.parts.append(question)
        elif kind == "rubric" and isinstance(found.get(name), Written):
            found[name].rubric = inner  # type: ignore[union-attr]
        else:
            raise _mistake(assignment, f"the block {kind!r} {name!r} is unknown, incomplete or in the wrong place")


def _complete(assignment: Assignment) -> None:
    for task in assignment.tasks:
        for part in ("test", "hidden"):
            if not getattr(task, part):
                raise _mistake(assignment, f"the task {task.name!r} has no cell marked `:{part}: {task.name}`")
        if len({wrong.name for wrong in task.wrong}) < 2:
            raise _mistake(assignment, f"the task {task.name!r} has fewer than two wrong answers")
        if not task.defines:
            raise _mistake(assignment, f"the answer of {task.name!r} defines no function")
    for question in assignment.questions:
        if not question.rubric:
            raise _mistake(assignment, f"the question {question.name!r} has no rubric")
