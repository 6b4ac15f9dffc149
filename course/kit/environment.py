"""The grader's environment, and a kernel of the book's environment that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from rlhf_utils.errors import UserError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-course"
REQUIREMENTS = ROOT / "course" / "requirements.txt"
_KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")  # of the variables; the rest may be secret


def python() -> Path:
    """The interpreter of the grader's environment."""
    return FOLDER / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure() -> Path:
    """Make the environment unless it stands and is up to date; return its interpreter.

    Raises:
        UserError: the registry can't be reached.
    """
    ready = FOLDER / ".ready"
    wanted = REQUIREMENTS.read_text(encoding="utf8")
    if ready.is_file() and ready.read_text(encoding="utf8") == wanted:
        return python()
    venv.create(FOLDER, with_pip=True)
    command = [str(python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise UserError(f"The grader can't be installed: {last}", "Try again with a network.")
    ready.write_text(wanted, encoding="utf8")
    return python()


def kernel_folder(folder: Path) -> Path:
    """Describe a kernel that runs in this process's environment; return what ``JUPYTER_PATH`` has to hold."""
    place = folder / "jupyter" / "kernels" / "python3"
    place.mkdir(parents=True, exist_ok=True)
    kernel = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    (place / "kernel.json").write_text(json.dumps(kernel), encoding="utf8")
    return folder / "jupyter"


def variables(folder: Path) -> dict[str, str]:
    """Environment variables for the grader and the students' code: nothing of the staff's but where programs are.

    Args:
        folder: scratch space, which also serves as home.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    kept["PATH"] = os.pathsep.join([str(python().parent), kept.get("PATH", os.defpath)])  # nbgrader calls alembic
    own = {
        "HOME": home,
        "USERPROFILE": home,
        "IPYTHONDIR": home / "ipython",
        "JUPYTER_PATH": kernel_folder(folder),
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
    }
    fixed = {
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    return kept | {name: str(path) for name, path in own.items()} | fixed
