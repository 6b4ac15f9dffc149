"""Who takes part, and marks in the columns of a learning platform."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_utils.errors import UserError

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # serves as a folder's name on every system
_EMAIL = re.compile(r"[^@\s,;]+@[^@\s,;]+")


@dataclass(frozen=True)
class Student:
    """One row of the roster."""

    id: str
    email: str


def read_roster(path: Path) -> tuple[list[Student], list[str]]:
    """Students, and what is wrong with the other rows, one line each.

    Args:
        path: CSV with the columns ``id`` and ``email``; others are left alone.

    Raises:
        UserError: there is no such file, a column is missing, or no row is good.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.", "A roster is a CSV with the columns id and email.")
    students: dict[str, Student] = {}
    emails: dict[str, int] = {}
    problems = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, skipinitialspace=True)
            missing = {"id", "email"} - set(rows.fieldnames or ())
            if missing:
                raise UserError(
                    f"{path} has no column {' and no column '.join(sorted(missing))}.",
                    "Its first line has to name id and email.",
                )
            for row in rows:
                student = Student((row["id"] or "").strip(), (row["email"] or "").strip().lower())
                problem = _problem(student, row, {key.lower() for key in students}, emails)
                if problem:
                    problems.append(f"line {rows.line_num}: {problem}")
                else:
                    students[student.id] = student
                    emails[student.email] = rows.line_num
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read: {error}.", "Save it as CSV in UTF-8.") from error
    if not students:
        raise UserError(
            f"{path} has no usable row. {' '.join(problems[:3])}", "Each row needs an id and an email address."
        )
    return list(students.values()), problems


def _problem(
    student: Student, row: Mapping[str | None, object], known: set[str], emails: Mapping[str, int]
) -> str | None:
    if None in row:
        return "more cells than the first line has columns"
    if not _ID.fullmatch(student.id):
        return f"the id {student.id!r} has to be 1 to 64 letters, digits, dots, dashes or underscores"
    if student.id.lower() in known:
        return f"the id {student.id!r} was there before"
    if not _EMAIL.fullmatch(student.email):
        return f"{student.email!r} isn't an email address"
    if student.email in emails:
        return f"the address {student.email!r} was there before, in line {emails[student.email]}"
    return None


Marks = Mapping[
    str, Mapping[str, float]
]  #: points by task, by assignment; an assignment that wasn't handed in is missing


def moodle(students: Iterable[Student], marks: Mapping[str, Marks], tasks: Mapping[str, list[str]]) -> list[list[str]]:
    """Rows for Moodle's grade import: who, a total for each assignment, and each task's points.

    Args:
        students: in the order of rows.
        marks: by student.
        tasks: names by assignment.
    """
    columns = [(name, task) for name, own in tasks.items() for task in (None, *own)]
    rows = [["ID number", "Email address", *(f"{name}/{task}" if task else name for name, task in columns)]]
    for student in students:
        found = marks.get(student.id, {})
        cells = [
            "" if name not in found else f"{sum(found[name].values()) if task is None else found[name].get(task, 0):g}"
            for name, task in columns
        ]
        rows.append([student.id, student.email, *cells])
    return rows


def canvas(students: Iterable[Student], marks: Mapping[str, Marks], possible: Mapping[str, float]) -> list[list[str]]:
    """Rows for Canvas's gradebook import: totals alone, since Canvas would make an assignment of each further column.

    Args:
        students: in the order of rows.
        marks: by student.
        possible: full marks by assignment.
    """
    rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *possible]]
    rows.append(["Points Possible", "", "", "", "", *(f"{points:g}" for points in possible.values())])
    for student in students:
        found = marks.get(student.id, {})
        totals = [f"{sum(found[name].values()):g}" if name in found else "" for name in possible]
        rows.append([student.id, "", student.id, student.email, "", *totals])
    return rows


def safe(cell: str) -> str:
    """A cell that a spreadsheet shows and doesn't compute: some take text that begins with = for a formula."""
    number = cell[:1] == "-" and cell[1:2].isdigit()
    return f"'{cell}" if cell.startswith(("=", "+", "@", "-", "\t", "\r")) and not number else cell


def write_csv(rows: Iterable[Iterable[str]], path: Path) -> None:
    """Write rows with the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([safe(cell) for cell in row] for row in rows)
