"""Experiments too long for a page: a grid of settings, each with a few seeds, kept as a small text file.

A script in ``experiments/`` names its rows and how one row is computed. The file carries hashes of the settings and of
the code that made it, so that nobody quotes numbers of code that is gone. Where only the code has changed, rows drawn
at random are computed again: if they come out the same to nine digits, the change didn't touch the computation, and
the rest is kept.
"""

from __future__ import annotations

import inspect
import json
import math
import multiprocessing
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_utils.artifacts import code_hash, make_key, source_hash
from rlhf_utils.errors import UserError
from rlhf_utils.progress import progress

Row = dict[str, Any]  #: settings, or settings and results, as JSON
CONFIRMED_BY = 2  #: rows that are computed again when only code has changed


@dataclass(frozen=True)
class Experiment:
    """What an experiment's script defines.

    Attributes:
        name: of the file with its results.
        rows: settings of each row, as JSON.
        compute: gives a row's results from its settings, on one thread; a function of the script's top level.
        modules: the package's modules that it uses, by full name; what they import counts as well.
    """

    name: str
    rows: Sequence[Row]
    compute: Callable[[Row], Row]
    modules: Sequence[str]

    @property
    def settings(self) -> str:
        """Hash of the rows and of the script."""
        return make_key(rows=list(self.rows), script=source_hash(Path(inspect.getfile(self.compute))))

    @property
    def code(self) -> str:
        """Hash of the package's code that is used."""
        return code_hash(*self.modules)


def folder() -> Path:
    """``experiments/results`` of the repository that this package belongs to, or of the current folder or one above.

    Raises:
        UserError: there is none, since the package was installed without the repository.
    """
    for place in (Path(__file__).parents[1], Path.cwd(), *Path.cwd().parents):
        if (found := place / "experiments" / "results").is_dir():
            return found
    raise UserError("The results of the experiments are not here.", "Work in a clone of the book's repository.")


def read(name: str) -> tuple[Row, list[Row]]:
    """Header and rows of an experiment's results. Each row holds its settings and its results."""
    header, *rows = (json.loads(line) for line in (folder() / f"{name}.jsonl").read_text().splitlines())
    return header, rows


def seeds_name(lesson: str) -> str:
    """Name of the results of a lesson's run with several seeds."""
    return f"seeds_{lesson}"


def compute_row(experiment: Experiment, settings: Row) -> Row:
    """One row: its settings, its results, and the seconds that it took."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # a lesson's chain asks for no number, and more threads round differently
    start = time.monotonic()
    return settings | experiment.compute(settings) | {"seconds": round(time.monotonic() - start, 1)}


def _quiet() -> None:
    os.environ["RLHF_UTILS_BOOK"] = "1"  # several workers' bars would write over each other


def _compute(experiment: Experiment, rows: Sequence[Row], workers: int | None) -> Iterator[tuple[Row, Row]]:
    """Settings and results of each row, as they come."""
    # Spawned and not forked: a forked process can hang on the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), context, _quiet) as pool:
        jobs = {pool.submit(compute_row, experiment, row): row for row in rows}
        for job in progress(as_completed(jobs), experiment.name, len(rows)):
            yield jobs[job], job.result()


def _same(ours: Any, theirs: Any) -> bool:  # noqa: ANN401
    """Whether two rows agree in all but the time that they took.

    Sums over a set come in an order of each process's own, so a float may differ in its last digits.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = {name for name in ours if not name.endswith("seconds")}
        return all(name in theirs and _same(ours[name], theirs[name]) for name in names)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-10) or (math.isnan(ours) and math.isnan(theirs))
    return ours == theirs


def run(experiment: Experiment, workers: int | None = None) -> Path:
    """Compute all rows, one thread each, as many at a time as there are cores; returns the file.

    Finished rows wait in a file beside the results, so that a stopped run goes on where it was. Results of the code and
    settings as they are, are not computed again; those of other code are confirmed by :data:`CONFIRMED_BY` rows.
    """
    target = folder() / f"{experiment.name}.jsonl"
    header = {"experiment": experiment.name, "settings": experiment.settings, "code": experiment.code}
    header |= {"python": platform.python_version(), "torch": torch.__version__, "threads": 1}
    if target.exists():
        kept, rows = read(experiment.name)
        if kept["settings"] == header["settings"]:
            if kept["code"] == header["code"]:
                return target
            drawn = random.SystemRandom().sample(list(experiment.rows), min(CONFIRMED_BY, len(experiment.rows)))
            before = {json.dumps(settings): row for settings, row in zip(experiment.rows, rows, strict=True)}
            if all(_same(row, before[json.dumps(settings)]) for settings, row in _compute(experiment, drawn, workers)):
                _write(target, header, rows)
                return target
    partial = target.with_suffix(".partial")
    lines = partial.read_text().splitlines() if partial.exists() else []
    if not lines or json.loads(lines[0]) != header:
        lines = [json.dumps(header)]
        partial.write_text(lines[0] + "\n")
    done = {json.dumps({k: row.get(k) for k in experiment.rows[0]}): row for row in map(json.loads, lines[1:])}
    left = [row for row in experiment.rows if json.dumps(row) not in done]
    with partial.open("a") as file:
        for settings, row in _compute(experiment, left, workers):
            done[json.dumps(settings)] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
    _write(target, header, [done[json.dumps(row)] for row in experiment.rows])
    partial.unlink()
    return target


def _write(target: Path, header: Row, rows: Sequence[Row]) -> None:
    target.write_text("\n".join(json.dumps(line) for line in (header, *rows)) + "\n")
