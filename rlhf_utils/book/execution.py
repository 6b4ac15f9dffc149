"""How the lessons run: where their outputs are kept, and when kept outputs are no longer those of this code.

``jupyter-cache`` recognises a notebook by its cells alone, so a changed package would go unnoticed. Its folder's
name therefore holds a hash of all that the lessons' results depend on.

``myst-nb`` would run one lesson after the other. Here those without kept outputs run beforehand, several at a time, and
``myst-nb`` finds their outputs in the cache.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from docutils import nodes
from nbformat import NotebookNode

from rlhf_utils.book.sources import PACKAGE, digest, files_below, own_records

if TYPE_CHECKING:
    from jupyter_cache.base import JupyterCacheAbstract
    from jupyter_cache.executors.utils import ExecutionResult
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.environment import BuildEnvironment

CACHE = ".jupyter_cache"
# What the lessons don't use: the book's machinery, the command line and the annotation tool.
_APART = ("annotation", "arguments.py", "book", "cli", "cli.py", "__main__.py")
TIMES = "lessons.json"
JOBS = "RLHF_UTILS_JOBS"


def execution_hash(root: Path, package: Path = PACKAGE) -> str:
    """Hash of what the results of a lesson depend on besides its own cells.

    A module enters as its syntax tree without docstrings, other files of the package (data) as their bytes.
    """
    # Late, since it brings torch along.
    from rlhf_utils.artifacts import source_hash

    paths = [p for p in files_below(package) if p.relative_to(package).parts[0] not in _APART]
    lines = [f"{p.relative_to(package).as_posix()} {source_hash(p)}" for p in paths if p.suffix != ".pyc"]
    # Lessons may show what an experiment or a benchmark left behind; the scripts don't matter, the results do.
    folders = (root / "experiments" / "results", root / "benchmarks" / "results")
    data = [p for folder in folders for p in files_below(folder) if p.suffix != ".partial"]
    for path in [root / "requirements.txt", *data]:
        if path.exists():
            lines.append(f"{path.relative_to(root).as_posix()} {source_hash(path)}")
    lines += [f"own records {source_hash(path)}" for path in own_records(root)]
    lines.append(".".join(map(str, sys.version_info[:3])))
    return digest(lines)


def _choose_cache(app: Sphinx, config: Config) -> None:
    root = Path(app.srcdir)
    config.nb_execution_cache_path = str(root / "_build" / CACHE / execution_hash(root))
    app.rlhf_ran = set()  # type: ignore[attr-defined]


def jobs() -> int:
    """How many lessons run at a time: what ``RLHF_UTILS_JOBS`` says, or one for each core, at most 4.

    Raises:
        ExtensionError: the variable isn't a number above 0.
    """
    from sphinx.errors import ExtensionError

    asked = os.environ.get(JOBS, "")
    if asked and not (asked.isdecimal() and int(asked) > 0):
        raise ExtensionError(f"{JOBS} is {asked!r}. Give the number of lessons that run at a time, such as 1.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked or min(cores, 4))


def share_cores(jobs: int) -> None:
    """Tell a process that so many share the machine's cores, and the kernels that it starts after it."""
    os.environ["LOCAL_WORLD_SIZE"] = str(jobs)  # what `runtime.use_threads` divides by
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))


def _execute(notebook: NotebookNode, folder: str, timeout: int) -> ExecutionResult:
    from jupyter_cache.executors.utils import single_nb_execution

    return single_nb_execution(notebook, cwd=folder, timeout=timeout, allow_errors=False)


def _waiting(env: BuildEnvironment, pages: list[str], cache: JupyterCacheAbstract) -> dict[str, NotebookNode]:
    """The lessons among these pages whose outputs aren't kept."""
    from myst_nb.core.read import create_nb_reader

    found = {}
    for page in pages:
        source = env.doc2path(page)
        text = Path(source).read_text(encoding="utf8")
        reader = create_nb_reader(source, env.myst_config, env.mystnb_config, text)  # type: ignore[attr-defined]
        if reader is None:
            continue
        notebook = reader.read(text)
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            found[page] = notebook
    return found


def _run_lessons(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    """Run the lessons whose outputs aren't kept, and keep their outputs.

    Raises:
        ExtensionError: lessons failed; the error of each has been printed.
    """
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn
    from sphinx.errors import ExtensionError
    from sphinx.util import logging

    config = env.mystnb_config  # type: ignore[attr-defined]
    if config.execution_mode != "cache":
        return
    cache, log, failed = get_cache(config.execution_cache_path), logging.getLogger(__name__), []
    waiting = _waiting(env, pages, cache)
    app.rlhf_ran = set(waiting)  # type: ignore[attr-defined]
    if not waiting:
        return
    workers = min(jobs(), len(waiting))
    # Spawned: a forked process would share this one's event loop and locks.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), share_cores, (workers,)) as pool:
        running = {
            pool.submit(_execute, notebook, str(Path(env.doc2path(page)).parent), config.execution_timeout): page
            for page, notebook in waiting.items()
        }
        for job in as_completed(running):
            page, result = running[job], job.result()
            if result.err is not None:
                log.warning("%s failed. %s", page, result.err)
                failed.append(page)
                continue
            log.info("%s ran in %.0f s", page, result.time)
            bundle = CacheBundleIn(result.nb, env.doc2path(page), data={"execution_seconds": result.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    if failed:
        raise ExtensionError(f"{len(failed)} of the lessons failed: {', '.join(sorted(failed))}")


def run_dates(env: BuildEnvironment) -> dict[str, datetime]:
    """When each lesson's outputs came about, in UTC, by the pages' names."""
    if not hasattr(env, "rlhf_dates"):
        env.rlhf_dates = {}  # type: ignore[attr-defined]
    return env.rlhf_dates  # type: ignore[attr-defined]


def _write_executed(app: Sphinx, doctree: nodes.document) -> None:
    """Write the lesson with its outputs beside the site.

    myst-nb writes it as well, but without any output when they come from the cache. The check for figures
    that have vanished relies on this file, and so does the download button.
    """
    from jupyter_cache import get_cache
    from myst_nb.core.read import create_nb_reader
    from myst_nb.sphinx_ import NbMetadataCollector

    env, page = app.env, app.env.docname
    if NbMetadataCollector.get_exec_data(env, page) is None:
        return
    source = Path(env.doc2path(page))
    text = source.read_text(encoding="utf8")
    reader = create_nb_reader(str(source), env.myst_config, env.mystnb_config, text)
    cache = get_cache(env.mystnb_config.execution_cache_path)
    key, notebook = cache.merge_match_into_notebook(reader.read(text))
    run_dates(env)[page] = cache.get_cache_record(key).created
    target = Path(env.mystnb_config.output_folder) / f"{page}.ipynb"
    target.write_text(nbformat.writes(notebook), encoding="utf8")


def _write_times(app: Sphinx, exception: Exception | None) -> None:
    """Note how long each lesson took and whether it ran in this build, for the build command to print."""
    if exception is not None:
        return
    from myst_nb.sphinx_ import NbMetadataCollector

    rows = {}
    for page, data in sorted(NbMetadataCollector.get_doc_data(app.env).items()):
        if run := data.get("exec_data"):
            fresh = page in app.rlhf_ran  # type: ignore[attr-defined]
            rows[page] = {"seconds": run["runtime"], "fresh": fresh}
    path = Path(app.outdir).parent / TIMES
    path.write_text(json.dumps(rows, indent=1), encoding="utf8")


def register(app: Sphinx) -> None:
    """Register the choice of the cache and the record of times with Sphinx."""
    app.connect("config-inited", _choose_cache)
    app.connect("env-before-read-docs", _run_lessons)
    app.connect("doctree-read", _write_executed)
    app.connect("build-finished", _write_times)
