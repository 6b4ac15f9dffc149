"""A PostgreSQL server of our own in a temporary folder, reached by a socket in that folder alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBIAN = "/usr/lib/postgresql"  #: where Debian's package has the server's programs, in a folder for each version
USER = "postgres"  #: whom Debian's package makes; root may not run the server


def why_not() -> str | None:
    """Why no server can be started here; None if it can."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "PostgreSQL isn't installed (Debian's package: postgresql)"
    if os.name == "nt" or (os.geteuid() == 0 and shutil.which("runuser") is None):
        return "PostgreSQL can't be started as this user"
    return None


def _program(name: str) -> str | None:
    folders = sorted(Path(DEBIAN).glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(name) or next((str(f / name) for f in folders if (f / name).exists()), None)


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server with an empty database, and stop it in the end.

    Yields:
        A URL for SQLAlchemy.
    """
    folder = Path(tempfile.mkdtemp(prefix="annotate-"))
    data, sudo = folder / "data", []
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
        sudo = ["runuser", "-u", USER, "--"]

    def call(name: str, *arguments: str) -> None:
        subprocess.run([*sudo, _program(name), *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        call("initdb", "-D", str(data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}'"
        call("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://{USER}@/{USER}?host={folder}"
        finally:
            call("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
