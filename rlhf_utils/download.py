"""Comparisons from the web: one file, of bounded size, within a bounded time."""

from __future__ import annotations

import re
import tempfile
import time
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rlhf_utils.errors import UserError
from rlhf_utils.preference_formats import read_comparisons
from rlhf_utils.preferences import Preference

BYTES = 256 * 2**20  #: larger files aren't taken
SILENCE_SECONDS = 30.0  #: how long a server may say nothing
SECONDS = 600.0  #: how long a file may take
PIECE = 2**16


def is_url(source: object) -> bool:
    """Whether something given as a file is an address of the web."""
    return bool(re.match(r"https?:/", str(source), re.IGNORECASE))


class _OnlyWeb(HTTPRedirectHandler):
    """Follows redirections to http and https alone."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise URLError("it leads away from the web")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, path: Path, limit: int = BYTES, silence: float = SILENCE_SECONDS, seconds: float = SECONDS) -> None:
    """Write what an address gives into a file.

    Args:
        url: http or https, without a name and password.
        path: of the file.
        limit: in bytes.
        silence: seconds that the server may say nothing.
        seconds: that the whole may take.

    Raises:
        UserError: the address is none, doesn't answer, refuses, or gives too much or too slowly.
    """
    remedy = "Check the address, or download the file yourself and give its path."
    try:
        parts = urlsplit(url)
        host, has_name = parts.hostname, parts.username or parts.password
        _ = parts.port  # raises if it is no number
    except ValueError:
        host, has_name = None, None
    if not host or parts.scheme.lower() not in ("http", "https"):
        raise UserError(f"{url} is not an address of the web.", "Give http:// or https://, or a file.")
    if has_name:
        raise UserError("The address holds a name or password, which the report would keep.", "Download the file.")
    started, size = time.monotonic(), 0
    try:
        with build_opener(_OnlyWeb).open(Request(url), timeout=silence) as answer, path.open("wb") as file:
            while piece := answer.read1(PIECE):
                size += len(piece)
                if size > limit:
                    raise UserError(f"{url} gives more than {limit} bytes.", "Give a smaller file.")
                if time.monotonic() - started > seconds:
                    raise UserError(f"{url} takes longer than {seconds:g} seconds.", remedy)
                file.write(piece)
            if answer.length:  # what was announced and never came
                raise UserError(f"{url} broke off after {size} bytes.", "Try again.")
    except HTTPError as error:
        raise UserError(f"{url} answers {error.code} ({error.reason}).", remedy) from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(f"{url} can't be fetched ({reason}).", remedy) from None


def read_given(source: str | Path) -> list[Preference]:
    """Comparisons from a file, a folder, the hub or an address of the web.

    Args:
        source: see :func:`rlhf_utils.preference_formats.read_comparisons`; or a URL of such a file.

    Raises:
        UserError: nothing is there, or a row can't be read (its line is named).
    """
    if not is_url(source):
        return read_comparisons(source)
    url = str(source)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"preferences.jsonl{'.gz' if urlsplit(url).path.endswith('.gz') else ''}"
        fetch(url, path)
        try:
            return read_comparisons(path)
        except UserError as error:
            raise UserError(error.problem.replace(str(path), url), error.remedy) from None
