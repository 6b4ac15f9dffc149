"""Which pages the built site has, and what stands in them.

No conftest: a second folder with one of its own would be imported under the same name.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from bs4 import BeautifulSoup
from small_books import ROOT

# Another book's site can be given, such as the fixture book's while the machinery is being worked on.
SITE = Path(os.environ.get("RLHF_SITE") or ROOT / "_build" / "html")
# The page that only leads to the first one.
REDIRECT = "index.html"


def page_names() -> list[str]:
    """The built site's pages, for parametrizing; one name that says so when there is no site."""
    pages = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
    # Those that only lead on to another aren't pages.
    names = [
        path.relative_to(SITE).as_posix() for path in pages if 'http-equiv="refresh"' not in path.read_text("utf8")
    ]
    return names or ["no built site"]


def written_pages() -> list[str]:
    """Those that somebody wrote, without those that Sphinx makes, which lie in the top folder."""
    return [name for name in page_names() if "/" in name]


@functools.cache
def parsed(path: Path) -> BeautifulSoup:
    """A page of the site, parsed once."""
    return BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")
