"""One course in one term: a folder with what was handed out, what came back, and the marks.

::

    students/ID/NN_name.ipynb     to be handed out
    staff/NN_name/ID.ipynb        with solutions and hidden tests; staff/NN_name/guide.md: rubric and common mistakes
    submitted/ID/NN_name.ipynb    what came back, as it came
    marks/NN_name/ID.json         what the grader found
    written/NN_name.csv           answers in words; the column `points` is filled in by a person
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from course.kit import source
from course.kit.grading import Mark, Work, grade
from course.kit.notebooks import graded_notebook, staff_notebook, student_notebook, write
from course.kit.repair import LARGEST, HandedIn, UnreadableError, open_notebook, take
from course.kit.roster import Student, canvas, moodle, write_csv
from course.kit.source import Assignment
from course.kit.term import Term
from rlhf_utils.errors import UserError

EXAMPLE = Student("example", "example@example.org")  #: for whom things are made without a roster


@cache
def _read(name: str, choices: str) -> Assignment:
    return source.read(name, json.loads(choices))


def seeds(term: Term, assignment: Assignment) -> dict[str, int]:
    """Seeds of the hidden tests, by task."""
    return {task.name: term.seed(assignment.name, task.name) for task in assignment.tasks}


def staff_guide(assignment: Assignment) -> str:
    """Times, rubrics and common mistakes of an assignment as Markdown."""
    lines = [f"# {assignment.title}: for staff", ""]
    lines += [f"{assignment.points:g} points, about {assignment.minutes} minutes.", ""]
    for task in assignment.tasks:
        lines += [f"## Task `{task.name}` ({task.points:g} points, {task.minutes} minutes)", "", "Common mistakes:", ""]
        lines += [f"- *{wrong.name}*: {wrong.mistake}" for wrong in task.wrong]
        lines.append("")
    for question in assignment.questions:
        lines += [f"## Question `{question.name}` ({question.points:g} points, {question.minutes} minutes)", ""]
        lines += [question.question, "", "**Rubric**", "", question.rubric, ""]
    return "\n".join(lines)


@dataclass
class Course:
    """A term's course.

    Attributes:
        folder: where everything lies.
        term: the secret.
        students: the roster.
        names: assignments that commands look at.
    """

    folder: Path
    term: Term
    students: list[Student]
    names: list[str]

    def assignment(self, name: str, student: str) -> Assignment:
        """An assignment in a student's variant."""
        choices = self.term.choose(name, student, source.variants(name))
        return _read(name, json.dumps(choices, sort_keys=True))

    def build(self) -> int:
        """Write what is handed out and what staff keep; return the number of the students' notebooks."""
        chosen = [["assignment", "id", "kind", "option"]]
        for name in self.names:
            for student in self.students:
                assignment = self.assignment(name, student.id)
                write(student_notebook(assignment, student.id), self.folder / "students" / student.id / f"{name}.ipynb")
                notebook = staff_notebook(assignment, student.id, seeds(self.term, assignment))
                write(notebook, self.folder / "staff" / name / f"{student.id}.ipynb")
                for kind, option in assignment.choices.items():
                    chosen.append([name, student.id, kind, source.option_name(option)])
            guide = self.folder / "staff" / name / "guide.md"
            guide.write_text(staff_guide(self.assignment(name, self.students[0].id)), encoding="utf8", newline="\n")
        write_csv(chosen, self.folder / "staff" / "variants.csv")
        return len(self.names) * len(self.students)

    def collect(self, path: Path, say: Callable[[str], None]) -> int:
        """Take notebooks out of a folder or a ZIP; return how many were taken.

        Whose a notebook is, the path says (an id or an email address in a folder's or file's name), or else the
        notebook itself.

        Args:
            path: such as what a platform gives as "download all submissions".
            say: told what can't be placed, one line each.

        Raises:
            UserError: there is nothing at the path.
        """
        taken = 0
        for place, data in _notebooks(path, say):
            incoming = self.folder / "submitted" / ".incoming.ipynb"
            incoming.parent.mkdir(parents=True, exist_ok=True)
            incoming.write_bytes(data)
            try:
                mark = open_notebook(incoming).metadata.get("rlhf_course", {})
            except UnreadableError:
                mark = {}  # may still be placed by its path; grading will say what is wrong
            student = self._whose(place) or next((s for s in self.students if s.id == mark.get("student")), None)
            name = next((n for n in self.names if n in place.name), mark.get("assignment"))
            if student is None or name not in self.names:
                what = "nobody of the roster" if student is None else "no assignment"
                say(f"{place}: {what} is named by it; left out")
                incoming.unlink()
                continue
            if mark.get("student") not in (None, student.id):
                say(f"{place}: handed in by {student.id}, but it is the copy of {mark['student']}")
            target = self.folder / "submitted" / student.id / f"{name}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming.replace(target)
            taken += 1
        return taken

    def _whose(self, place: PurePosixPath) -> Student | None:
        words = {word.lower() for part in place.parts for word in re.split(r"[\s_,;()\[\]]+", part)} | {
            part.lower() for part in (*place.parts, place.stem)
        }
        found = [s for s in self.students if s.id.lower() in words or s.email in words]
        return found[0] if len(found) == 1 else None

    def _handed_in(self, name: str) -> Iterator[tuple[Student, Assignment, HandedIn]]:
        for student in self.students:
            path = self.folder / "submitted" / student.id / f"{name}.ipynb"
            if not path.is_file():
                continue
            assignment = self.assignment(name, student.id)
            try:
                handed_in = take(open_notebook(path), assignment)
            except UnreadableError as error:
                handed_in = HandedIn(notes=[str(error)])
            yield student, assignment, handed_in

    def grade(self, again: bool, workers: int, say: Callable[[str], None]) -> int:
        """Grade what is new: handed in since, or with a test or answer that changed since. Return how many notebooks.

        Args:
            again: grade the rest as well.
            workers: processes at a time.
            say: told each mark that is new or has changed, one line each.
        """
        works, kept = [], []
        for name in self.names:
            for student, assignment, handed_in in self._handed_in(name):
                work = Work(student.id, assignment, seeds(self.term, assignment), handed_in.answers, handed_in.before)
                path = self.folder / "marks" / name / f"{student.id}.json"
                before = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
                if again or before.get("digest") != _digest(work):
                    works.append(work)
                    kept.append((path, before, handed_in))
        for work, (path, before, handed_in), marks in zip(works, kept, grade(works, workers), strict=True):
            record = {
                "digest": _digest(work),
                "tasks": {name: asdict(mark) for name, mark in marks.items()},
                "words": handed_in.words,
                "notes": handed_in.notes,
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf8", newline="\n")
            say(_report(work, marks, before.get("tasks", {}), handed_in.notes))
        return len(works)

    def _records(self, name: str) -> dict[str, dict[str, Any]]:
        folder = self.folder / "marks" / name
        paths = {student.id: folder / f"{student.id}.json" for student in self.students}
        return {key: json.loads(path.read_text(encoding="utf8")) for key, path in paths.items() if path.is_file()}

    def written(self, say: Callable[[str], None]) -> int:
        """Write each assignment's sheet of written answers, and return how many have no points yet.

        Points and comments that are in a sheet already stay.

        Args:
            say: told a cell that holds no points, one line each.
        """
        left = 0
        for name in self.names:
            path = self.folder / "written" / f"{name}.csv"
            given = self._given(name, say)
            rows = [["id", "question", "of", "points", "comment", "answer"]]
            for student, record in self._records(name).items():
                for question in self.assignment(name, student).questions:
                    points, comment = given.get((student, question.name), ("", ""))
                    answer = record["words"].get(question.name, "")
                    if not answer and not points:
                        points, comment = "0", "not answered"
                    left += points == ""
                    rows.append([student, question.name, f"{question.points:g}", points, comment, answer])
            if len(rows) > 1:
                write_csv(rows, path)
        return left

    def _given(self, name: str, say: Callable[[str], None]) -> dict[tuple[str, str], tuple[str, str]]:
        """Points and comments that a person has filled in; a bad cell is told and counts as empty."""
        path = self.folder / "written" / f"{name}.csv"
        found: dict[tuple[str, str], tuple[str, str]] = {}
        if not path.is_file():
            return found
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            for row in rows:
                points = (row.get("points") or "").strip().replace(",", ".")
                try:
                    good = points == "" or 0 <= float(points) <= float(row["of"])
                except (ValueError, KeyError, TypeError):
                    good = False
                if not good:
                    why = f"{points!r} isn't a number from 0 to {row.get('of')}"
                    say(f"{path.name}, line {rows.line_num}: {why}; left out")
                    points = ""
                found[row.get("id", ""), row.get("question", "")] = (points, row.get("comment") or "")
        return found

    def marks(self, say: Callable[[str], None]) -> dict[str, dict[str, dict[str, float]]]:
        """Points by student, assignment and task or question; what isn't marked yet counts 0 and is told."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for name in self.names:
            given, left = self._given(name, say), 0
            for student, record in self._records(name).items():
                own = {task: float(mark["points"]) for task, mark in record["tasks"].items()}
                for question in self.assignment(name, student).questions:
                    points = given.get((student, question.name), ("", ""))[0]
                    left += points == ""
                    own[question.name] = float(points or 0)
                found.setdefault(student, {})[name] = own
            if left:
                say(f"{name}: {left} written answers have no points yet and count 0")
        return found

    def export(self, platform: str, path: Path, say: Callable[[str], None]) -> None:
        """Write all marks as CSV.

        Args:
            platform: ``moodle`` or ``canvas``.
            path: the file.
            say: told what is missing, one line each.
        """
        marks = self.marks(say)
        examples = {name: self.assignment(name, self.students[0].id) for name in self.names}
        if platform == "moodle":
            rows = moodle(self.students, marks, {n: [part.name for part in a.graded] for n, a in examples.items()})
        else:
            rows = canvas(self.students, marks, {name: a.points for name, a in examples.items()})
        write_csv(rows, path)


def _digest(work: Work) -> str:
    """Of all that a mark depends on."""
    notebook = graded_notebook(work.assignment, work.seeds, work.answers, work.before, "")
    sources = [cell.source for cell in notebook.cells]  # and not the cells' names, which are drawn
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _report(work: Work, marks: dict[str, Mark], before: dict[str, Any], notes: list[str]) -> str:
    total, of = sum(mark.points for mark in marks.values()), sum(mark.of for mark in marks.values())
    told = [f"{work.assignment.name} {work.key}: {total:g} of {of:g}"]
    for name, mark in marks.items():
        old = before.get(name)
        if old is not None and old["points"] != mark.points:
            told.append(f"{name} {old['points']:g} -> {mark.points:g}")
        elif mark.message and old is None:
            told.append(f"{name}: {mark.message.splitlines()[0][:100]}")
    return "; ".join(told + ([f"({', '.join(notes)})"] if notes else []))


def _notebooks(path: Path, say: Callable[[str], None]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Notebooks in a folder or ZIP with their places; nothing is unpacked."""
    if path.is_dir():
        for file in sorted(path.rglob("*.ipynb")):
            if ".ipynb_checkpoints" in file.parts:
                continue
            if file.stat().st_size > LARGEST:
                say(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB is too large; left out")
                continue
            yield PurePosixPath(file.relative_to(path).as_posix()), file.read_bytes()
    elif path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".ipynb") and entry.file_size > LARGEST:
                    say(f"{entry.filename}: {entry.file_size / 1e6:.0f} MB is too large; left out")
                elif entry.filename.endswith(".ipynb") and ".ipynb_checkpoints" not in entry.filename:
                    yield PurePosixPath(entry.filename), archive.read(entry)
    else:
        raise UserError(f"{path} is neither a folder nor a ZIP.", "Give what the platform offers as a download.")
