"""Runs a lesson's notebook where a reader would: outside the repository, with the package installed from a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
#: what a wheel is made of
SOURCES = ("rlhf_utils", "experiments/results", "benchmarks/results", "pyproject.toml", "README.md", "LICENSE")
#: run by the interpreter that has the wheel; kernels are started by that same interpreter
_EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=1800, kernel_name="python3").execute(cwd=".")
nbformat.write(notebook, sys.argv[2])
"""


@dataclass(frozen=True)
class Run:
    """How a notebook ran.

    Attributes:
        seconds: from start to end, the kernel's start included.
        peak: most memory that the kernel and its children held at a time, MB.
        error: the end of what it printed if it failed, else empty.
    """

    seconds: float
    peak: float
    error: str


def build_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, so that no earlier build's files get into it."""
    copy = folder / "source"
    skipped = shutil.ignore_patterns("__pycache__", "*.partial")
    for name in SOURCES:
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, ignore=skipped) if source.is_dir() else shutil.copy(source, target)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(copy)]
    subprocess.run(command, check=True, timeout=300)
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """A fresh environment with the wheel, and with this environment's other packages; returns its interpreter.

    The other packages come by a file that adds their folder to the path. Such a file's neighbours, among them the one
    through which this environment finds the repository, aren't read there.
    """
    venv.create(folder, with_pip=False)
    places = {"base": str(folder), "platbase": str(folder)}
    python = Path(sysconfig.get_path("scripts", "venv", places)) / Path(sys.executable).name
    libraries = Path(sysconfig.get_path("purelib", "venv", places))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    # From elsewhere and without PYTHONPATH: pip would take the repository's own metadata for an installed package.
    away = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*command, "--ignore-installed", str(wheel)], cwd=folder, env=away, check=True, timeout=300)
    (libraries / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf8")
    return python


def environment(folder: Path, cache: Path) -> dict[str, str]:
    """What the run's processes see: nothing of the repository, of this run's settings or of the user's Jupyter."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RLHF_", "GITHUB_", "PYTHON", "JUPYTER"))}
    own = {"RLHF_UTILS_CACHE": cache, "JUPYTER_DATA_DIR": folder / ".jupyter", "IPYTHONDIR": folder / ".ipython"}
    own_text = {name: str(path) for name, path in own.items()}
    return {**clean, **own_text, "HF_HUB_OFFLINE": "1", "JUPYTER_PLATFORM_DIRS": "1"}


def output(command: list[str], folder: Path, cache: Path) -> str:
    """What a command prints that sees no more than a notebook would."""
    ran = subprocess.run(
        command, cwd=folder, env=environment(folder, cache), capture_output=True, text=True, check=True, timeout=120
    )
    return ran.stdout


def _memory(process: psutil.Process) -> float:
    """Memory of a process and its children, MB; what they share counts once where the system says so."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            found = each.memory_full_info()
        except psutil.Error:  # it has just ended
            continue
        total += getattr(found, "pss", found.rss)
    return total / 2**20


def execute(python: Path, notebook: Path, folder: Path, cache: Path) -> Run:
    """Run a notebook with an interpreter in an empty folder; artefacts go to a cache that several may share."""
    folder.mkdir(parents=True)
    command = [str(python), "-c", _EXECUTE, str(notebook), str(folder / "executed.ipynb")]
    start, peak = time.monotonic(), 0.0
    with (folder / ".log").open("w+", encoding="utf8") as log:
        process = psutil.Popen(
            command, cwd=folder, env=environment(folder, cache), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        while process.poll() is None:
            peak = max(peak, _memory(process))
            time.sleep(0.5)
        log.seek(0)
        error = log.read()[-3000:] if process.returncode else ""
    return Run(time.monotonic() - start, peak, error)
