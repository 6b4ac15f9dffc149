"""Run answers against tests, and note the marks.

Each notebook is graded in a folder of its own that holds nothing else, by a process that gets none of the staff's
environment variables. A process of nbgrader takes several folders one after another, since it is slow to start; if it
dies or takes too long, it is killed with all that it started, and the rest is given to a new one. A notebook that
couldn't be graded as a whole is graded again task by task, with the student's definitions only; so are tasks that were
stopped, since a loop that can't be interrupted holds up all that come after it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from course.kit import environment
from course.kit.notebooks import graded_notebook, write
from course.kit.repair import definitions
from course.kit.source import Assignment

START = 300  #: seconds for the grader and a kernel to start, and for imports, on a busy machine
_STUCK = ("CellTimeoutError", "KeyboardInterrupt")  # the culprit may be an earlier cell that doesn't stop
JOBS = Path(__file__).parent / "nbgrader_jobs.py"


@dataclass
class Work:
    """One notebook to be graded.

    Attributes:
        key: whatever the caller knows it by.
        assignment: in the student's variant.
        seeds: of the hidden tests, by task.
        answers: answer cells by task.
        before: other cells, by the task that they stand before.
    """

    key: Any
    assignment: Assignment
    seeds: dict[str, int]
    answers: dict[str, str]
    before: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Mark:
    """What a task got, and why not more."""

    points: float
    of: float
    message: str = ""


@dataclass
class _Job:
    """A folder that nbgrader gets: a notebook, or one task of it."""

    work: Work
    only: str | None
    proof: str
    folder: Path

    def prepare(self) -> None:
        """Write the notebook, once as the staff's source and once as handed in."""
        work = self.work
        before = work.before
        if self.only is not None:
            cells = {name: [definitions(code) for code in codes] for name, codes in work.before.items()}
            before = {self.only: [code for codes in cells.values() for code in codes if code]}
        notebook = graded_notebook(work.assignment, work.seeds, work.answers, before, self.proof, self.only)
        write(notebook, self.folder / "submitted" / "s" / "a" / "a.ipynb")
        stubs = graded_notebook(work.assignment, work.seeds, {}, {}, self.proof, self.only)
        write(stubs, self.folder / "source" / "a" / "a.ipynb")

    @property
    def seconds(self) -> int:
        """How long it may take at most: each cell may use up its limit."""
        cells = 3 * len(self.work.assignment.tasks) + sum(map(len, self.work.before.values()))
        return START + self.work.assignment.limit * (cells if self.only is None else 3)

    def marks(self) -> dict[str, Mark] | None:
        """Marks by task; None if the notebook couldn't be graded."""
        path = self.folder / "result.json"
        result = json.loads(path.read_text(encoding="utf8")) if path.exists() else {"failed": "no result"}
        if "failed" in result:
            return None
        found = {}
        for task in self.work.assignment.tasks:
            if self.only not in (None, task.name):
                continue
            points, of = result["marks"][f"test-{task.name}"]
            told = result["outputs"][f"test-{task.name}"]
            if told["error"]:
                found[task.name] = Mark(0.0, of, str(told["error"]))
            elif self.proof not in told["shown"]:
                found[task.name] = Mark(0.0, of, "the test didn't come to its end")
            else:
                found[task.name] = Mark(points, of)
        return found


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started; kernels have process groups of their own."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def _run(jobs: Sequence[_Job], scratch: Path, done: Callable[[], None]) -> None:
    """Grade jobs one after another, with a new process after each that broke the last one."""
    left = list(jobs)
    while left:
        limit = max(job.work.assignment.limit for job in left)
        command = [str(environment.python()), str(JOBS), str(limit), *(str(job.folder) for job in left)]
        process = subprocess.Popen(
            command,
            env=environment.variables(scratch),
            cwd=scratch,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while left:
                started = time.monotonic()
                while not (left[0].folder / "result.json").exists():
                    if process.poll() is not None or time.monotonic() - started > left[0].seconds:
                        break
                    time.sleep(0.05)
                finished = (left[0].folder / "result.json").exists()
                left.pop(0)
                done()
                if not finished:
                    break
        finally:
            _stop(process)


def _all(jobs: list[_Job], scratch: Path, workers: int, done: Callable[[], None]) -> None:
    for job in jobs:
        job.prepare()
    shares = [jobs[number::workers] for number in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        running = [
            pool.submit(_run, share, scratch / f"worker-{number}", done) for number, share in enumerate(shares) if share
        ]
        for one in running:
            one.result()


def grade(works: Sequence[Work], workers: int = 1, done: Callable[[], None] = lambda: None) -> list[dict[str, Mark]]:
    """Marks by task, for each of several notebooks.

    Args:
        works: what to grade.
        workers: processes at a time.
        done: called after each notebook, and after each task of one that had to be graded in parts.

    Raises:
        UserError: the grader can't be installed.
    """
    environment.ensure()
    scratch = Path(tempfile.mkdtemp(prefix="grading-"))
    try:
        jobs = [
            _Job(work, None, secrets.token_hex(8), scratch / f"{number:04}" / "whole")
            for number, work in enumerate(works)
        ]
        _all(jobs, scratch, workers, done)
        found = [job.marks() for job in jobs]
        parts = [
            _Job(job.work, task.name, secrets.token_hex(8), job.folder.parent / task.name)
            for job, marks in zip(jobs, found, strict=True)
            for task in job.work.assignment.tasks
            if marks is None or marks[task.name].message.startswith(_STUCK)
        ]
        _all(parts, scratch, workers, done)
        graded = [marks or {} for marks in found]
        number = {id(work): place for place, work in enumerate(works)}
        for part in parts:
            graded[number[id(part.work)]].update(part.marks() or _broken(part))
        # In the order of tasks, whichever way they were graded.
        return [
            {task.name: marks[task.name] for task in work.assignment.tasks}
            for work, marks in zip(works, graded, strict=True)
        ]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _broken(part: _Job) -> dict[str, Mark]:
    """The mark of a task that can't be graded even by itself."""
    task = next(task for task in part.work.assignment.tasks if task.name == part.only)
    return {task.name: Mark(0.0, task.points, "the kernel died, or didn't stop in time")}
