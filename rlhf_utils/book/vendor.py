"""The smallest ``plotly.js`` that draws a page's figures.

plotly's Python package brings the whole of it, 1.5 MB compressed; npm has parts for fewer kinds of figures. They are
fetched once, in the version of the Python package's own, into ``_build/vendor``. Where there is no npm, or no registry
can be reached, the whole serves.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
# The npm to use; empty for none.
NPM = "RLHF_UTILS_NPM"
_PATIENCE = 90  # seconds for one package


@dataclass(frozen=True)
class Part:
    """A part of ``plotly.js`` on npm.

    Args:
        package: its name on npm.
        file: the script in the package.
        traces: the kinds of traces that it draws.
    """

    package: str
    file: str
    traces: frozenset[str]


_BASIC = {"scatter", "bar", "pie"}
_CARTESIAN = {"box", "contour", "heatmap", "histogram", "histogram2d", "histogram2dcontour", "image", "violin"}
# From the smallest: 390 and 490 KB compressed.
PARTS = (
    Part("plotly.js-basic-dist-min", "plotly-basic.min.js", frozenset(_BASIC)),
    Part("plotly.js-cartesian-dist-min", "plotly-cartesian.min.js", frozenset(_BASIC | _CARTESIAN)),
)


def whole() -> Path:
    """The ``plotly.js`` that the installed plotly package brings."""
    import plotly

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def version() -> str:
    """The version of ``plotly.js`` that the installed plotly package brings."""
    from plotly.offline import get_plotlyjs_version

    return get_plotlyjs_version()


def npm() -> str | None:
    """The command npm, if there is one: what ``RLHF_UTILS_NPM`` says, or the one on the path."""
    return os.environ[NPM] or None if NPM in os.environ else shutil.which("npm")


def smallest(traces: Iterable[str], folder: Path) -> Path:
    """The smallest file that draws these kinds of traces, fetched into ``folder`` if need be."""
    wanted = set(traces)
    for part in PARTS:
        if wanted <= part.traces:
            return fetched(part.package, version(), part.file, folder) or whole()
    return whole()


def fetched(package: str, version: str, file: str, folder: Path) -> Path | None:
    """A file of a package on npm, which is kept in the folder; ``None`` if there is no way to it."""
    target = folder / f"{package}-{version}" / file
    command = npm()
    if not target.exists() and command is not None:
        try:
            text = _packed(command, f"{package}@{version}", file)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, KeyError) as error:
            LOGGER.info(f"{package} can't be had from npm: {error}")
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)
    return target if target.exists() else None


def _packed(command: str, package: str, file: str) -> bytes:
    """A file of a package on npm, without anything of the package being run.

    Raises:
        subprocess.SubprocessError: npm can't get the package.
        tarfile.TarError: what came is no archive.
        KeyError: the file isn't in it.
    """
    with tempfile.TemporaryDirectory() as place:
        fetch = [command, "pack", package, "--silent", "--pack-destination", place]
        patience = ["--fetch-retries=1", "--fetch-timeout=30000"]
        subprocess.run([*fetch, *patience], cwd=place, check=True, capture_output=True, timeout=_PATIENCE)
        (archive,) = Path(place).glob("*.tgz")
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as packed:
            member = packed.extractfile(f"package/{file}")
            assert member is not None
            return member.read()
