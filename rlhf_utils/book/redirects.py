"""Addresses that lead on: the site's own to the first page, and those of moved pages to where they are now.

``book/redirects.txt`` has a line for each page that has moved, with its old name and its new one::

    book/08_ppo  book/09_ppo

The pages that lead on need no server, keep what stands behind ``#`` and ``?``, and work from a disk as well.
"""

from __future__ import annotations

import html
import json
import posixpath
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FILE = Path("book") / "redirects.txt"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<title>{title}</title>
<link rel="canonical" href="{target}"/>
<script>location.replace({script} + location.search + location.hash)</script>
<noscript><meta http-equiv="refresh" content="0; url={target}"/></noscript>
</head>
<body><p><a href="{target}">{title}</a></p></body>
</html>
"""


def leading_page(title: str, target: str) -> str:
    """A page that leads to another address at once, with a script or without."""
    script = json.dumps(target).replace("<", "\\u003c")
    return _PAGE.format(title=html.escape(title), target=html.escape(target), script=script)


def read(text: str, pages: Collection[str]) -> dict[str, str]:
    """Old and new names of moved pages.

    Args:
        text: a line for each; empty ones and those that begin with ``#`` don't count.
        pages: the names of the pages that there are.

    Raises:
        ValueError: a line hasn't two names, the old one is in use or stands twice, or no page has the new one.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        names = line.split()
        if len(names) != 2:
            raise ValueError(f"{line!r}: give an old name and a new one")
        old, new = names
        if old in pages or old in found:
            raise ValueError(f"{line!r}: {old} {'is still a page' if old in pages else 'has another line'}")
        if new not in pages:
            raise ValueError(f"{line!r}: there is no page {new}; name the one that readers shall see now")
        found[old] = new
    return found


def _write(app: Sphinx, exception: Exception | None) -> None:
    from sphinx.errors import ExtensionError

    if exception is not None or app.builder.name != "html":
        return
    out, root = Path(app.outdir), app.config.root_doc
    if root != "index":
        (out / "index.html").write_text(leading_page(app.config.html_title, f"{root}.html"), encoding="utf8")
    path = Path(app.srcdir) / FILE
    if not path.exists():
        return
    try:
        moved = read(path.read_text(encoding="utf8"), app.env.found_docs)
    except ValueError as error:
        raise ExtensionError(f"{FILE.as_posix()}, {error}") from error
    for old, new in moved.items():
        target = posixpath.relpath(f"{new}.html", posixpath.dirname(old) or ".")
        page = out / f"{old}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(leading_page(app.env.titles[new].astext(), target), encoding="utf8")


def register(app: Sphinx) -> None:
    """Register the pages that lead on with Sphinx."""
    # After the extension that writes a bare `index.html`.
    app.connect("build-finished", _write, priority=900)
