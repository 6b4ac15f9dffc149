"""The anchors that readers may have linked to: ``book/anchors.txt`` has a line for each page, and only grows.

Sphinx makes a section's anchor from its heading. A test fails when one that is written down is no longer in its page.
Sections without a heading, which exercises and solutions have inside, get none: theirs would be the same for all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

from rlhf_utils.book.build import site_of
from rlhf_utils.book.editions import places

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FILE = Path("book") / "anchors.txt"
# Names of code are the anchors there, and change with the code.
_LEFT_OUT = "book/api/"


def of_page(text: str) -> list[str]:
    """The anchors of the sections of a page of the site."""
    return re.findall(r'<section [^>]*\bid="([^"]+)"', text)


def read(text: str) -> dict[str, list[str]]:
    """What is written down: the anchors of each page."""
    lines = (line.partition(":") for line in text.splitlines() if line.strip())
    return {page: anchors.split() for page, _, anchors in lines}


def write(root: Path) -> Path:
    """Add the anchors of the built site to those that are written down.

    Raises:
        UserError: the site lacks a page.
    """
    path = root / FILE
    known = read(path.read_text(encoding="utf8")) if path.exists() else {}
    for place in places(root, site_of(root)):
        if not place.name.startswith(_LEFT_OUT):
            there = of_page((site_of(root) / f"{place.name}.html").read_text(encoding="utf8"))
            known[place.name] = list(dict.fromkeys([*known.get(place.name, []), *there]))
    path.write_text("".join(f"{page}: {' '.join(known[page])}\n" for page in sorted(known)), encoding="utf8")
    print(f"{path}: {sum(map(len, known.values()))} anchors of {len(known)} pages")
    return path


def _drop_shared(app: Sphinx, doctree: nodes.document, page: str) -> None:
    for section in doctree.findall(nodes.section):
        if not any(isinstance(child, nodes.title) for child in section):
            section["ids"].clear()


def register(app: Sphinx) -> None:
    """Register with Sphinx what keeps a page's anchors distinct."""
    app.connect("doctree-resolved", _drop_shared)
