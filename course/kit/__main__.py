"""``python -m course.kit``: build, collect, grade, written, export, check, matrix."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from course.kit import matrix, source
from course.kit.course import EXAMPLE, Course
from course.kit.roster import read_roster
from course.kit.term import find_term
from rlhf_utils.errors import UserError
from rlhf_utils.progress import progress


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(prog="python -m course.kit", description="Assignments: make, grade, export.")
    commands = whole.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, of_a_term: bool = True) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("--assignment", action="append", metavar="NN", help="only this one; may be repeated")
        if of_a_term:
            one.add_argument("--term", metavar="SECRET", help="the term's secret (others on the machine may see it)")
            one.add_argument("--term-file", type=Path, metavar="FILE", help="a file that holds the secret")
            one.add_argument(
                "--roster", type=Path, metavar="CSV", help="columns id and email (default: one example student)"
            )
            one.add_argument(
                "--folder", type=Path, default=Path("_course"), help="the term's folder (default: _course)"
            )
        return one

    command("build", "write the students' notebooks and the staff's")
    command("collect", "take in what was handed in").add_argument("source", type=Path, help="a folder or a ZIP")
    for name, text in (
        ("grade", "grade what is new or whose tests have changed"),
        ("regrade", "grade everything again, and tell what changed"),
    ):
        one = command(name, text)
        one.add_argument("--workers", type=int, default=1, help="processes at a time (default: 1)")
        if name == "grade":
            one.add_argument("--again", action="store_true", help="the same as regrade")
    command("written", "write the sheets of written answers, to be marked by hand")
    export = command("export", "write the marks for a learning platform")
    export.add_argument("--to", choices=("moodle", "canvas"), default="moodle", help="whose columns (default: moodle)")
    export.add_argument("--out", type=Path, help="the file (default: marks-PLATFORM.csv in the term's folder)")
    command("check", "run staff's and wrong answers here, without the grader: for whoever writes a task", False)
    one = command("matrix", "grade every known version with the real grader", False)
    one.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes at a time (default: all cores)"
    )
    return whole


def say(line: str) -> None:
    """What a person should look at."""
    print(line, file=sys.stderr)


def check(names: list[str]) -> int:
    """Every option of every variant, without the grader; return the number of problems."""
    count = 0
    for name in names:
        choices = source.first_variant(name)
        for _ in range(max((len(options) for options in source.variants(name).values()), default=1)):
            for row in matrix.rows_of(name, choices):
                for problem in matrix.problems(row, matrix.run_here(row)):
                    say(problem)
                    count += 1
            choices = source.next_variant(name, choices)
        print(f"{name}: {len(source.read(name, choices).tasks)} tasks")
    return count


def show_matrix(names: list[str], workers: int) -> int:
    """Write the matrix if all assignments are in it; return the number of problems."""
    bar = progress(matrix.all_rows(names), "versions")
    steps = iter(bar)
    results = matrix.measure(names, workers, lambda: next(steps, None))
    if names == source.names():
        matrix.write_results(results)
    wrong = [problem for row, marks in results for problem in matrix.problems(row, marks)]
    for problem in wrong:
        say(problem)
    print(f"{len(results)} versions of {len(names)} assignments, {len(wrong)} unexpected marks")
    return len(wrong)


def of_term(arguments: argparse.Namespace, names: list[str]) -> None:
    """The commands that need the term's secret."""
    students, bad = read_roster(arguments.roster) if arguments.roster else ([EXAMPLE], [])
    for problem in bad:
        say(f"{arguments.roster}, {problem}; left out")
    if bad:
        say(f"{len(students)} students, {len(bad)} rows left out")
    course = Course(arguments.folder, find_term(arguments.term, arguments.term_file), students, names)
    os.environ.pop("RLHF_COURSE_TERM", None)  # nothing that is started from here needs it
    if arguments.command == "build":
        print(f"{course.build()} notebooks for {len(students)} students in {arguments.folder / 'students'}")
    elif arguments.command == "collect":
        print(f"{course.collect(arguments.source, say)} notebooks taken in")
    elif arguments.command in ("grade", "regrade"):
        again = arguments.command == "regrade" or arguments.again
        print(f"{course.grade(again, arguments.workers, print)} notebooks graded")
    elif arguments.command == "written":
        print(f"{course.written(say)} written answers to be marked, in {arguments.folder / 'written'}")
    else:
        path = arguments.out or arguments.folder / f"marks-{arguments.to}.csv"
        course.export(arguments.to, path, say)
        print(f"marks of {len(students)} students in {path}")


def main(words: list[str] | None = None) -> int:
    """Run a command; return the exit code."""
    arguments = parser().parse_args(words)
    try:
        names = [source.find(prefix) for prefix in arguments.assignment] if arguments.assignment else source.names()
        if arguments.command == "check":
            return 1 if check(names) else 0
        if arguments.command == "matrix":
            return 1 if show_matrix(names, arguments.workers) else 0
        of_term(arguments, names)
    except UserError as error:
        say(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
