"""Mends what the theme and the extensions write so that a screen reader gets less from it than an eye does.

Each mend is a piece of HTML as it is written, and what takes its place. axe-core finds what they mend again if a new
version of the theme writes it differently (``tests/site/test_browser.py``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_MENDS = tuple(
    (re.compile(pattern), mend)
    for pattern, mend in (
        # The visible name of a button or of a folded cell is its name; another one is nothing that can be said to it.
        (r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"', r"\1"),
        (r'<summary aria-label="Toggle hidden content">', "<summary>"),
        # The folded part of the contents has an arrow and no text.
        (
            r'(<a class="(?:current )?reference internal" href="[^"]*">([^<]*)</a><details[^>]*>)<summary>',
            r'\1<summary aria-label="Pages of “\2”">',
        ),
        # The book's name and the search button stand in no landmark.
        (
            r'<div id="pst-primary-sidebar" class="bd-sidebar-primary',
            r'<div id="pst-primary-sidebar" role="navigation" aria-label="Book" class="bd-sidebar-primary',
        ),
        # ARIA has replaced the role by one that it had before; the list around it is a list already.
        (r'role="doc-biblioentry"', 'role="listitem"'),
        # An empty corner of a table heads nothing.
        (r'<th class="head([^"]*)">(?:<p></p>)?</th>', r'<td class="head\1"></td>'),
    )
)
# Parameters of a function are written as definitions of nothing.
_PARAMETERS = re.compile(r'<dl>(\s*<dd><em class="sig-param">.*?)</dl>', re.DOTALL)

# axe-core, and readers without mathematics, hear nothing in a formula.
_NAMED = re.compile(r"<(th|summary)\b[^>]*>(?:(?!</\1>).)*<math\b(?:(?!</\1>).)*</\1>", re.DOTALL)
_SUMMARY = re.compile(r"<summary\b.*?</summary>", re.DOTALL)
_LINK = re.compile(r"</?a\b[^>]*>")
_MATH = re.compile(r"<math\b.*?</math>", re.DOTALL)
_ANNOTATION = re.compile(r"<annotation\b.*?</annotation>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def mended(page: str) -> str:
    """The page with all mends."""
    for pattern, mend in _MENDS:
        page = pattern.sub(mend, page)
    page = _PARAMETERS.sub(_as_list, page)
    # What opens on a click has no other click in it.
    page = _SUMMARY.sub(lambda summary: _LINK.sub("", summary[0]), page)
    return _NAMED.sub(_name_formula, page)


def _name_formula(match: re.Match[str]) -> str:
    """A heading or an answer that is a formula and nothing else, with the formula's signs as its name."""
    head = match[0]
    if re.search(r"\w", _TAG.sub("", _MATH.sub("", head))):
        return head
    return _MATH.sub(lambda formula: f'<math aria-label="{_signs(formula[0])}"{formula[0].removeprefix("<math")}', head)


def _signs(formula: str) -> str:
    return " ".join(_TAG.sub(" ", _ANNOTATION.sub("", formula)).replace("\u2061", "").split()).replace('"', "&quot;")


def _as_list(match: re.Match[str]) -> str:
    items = match[1].replace('<dd><em class="sig-param">', '<li><em class="sig-param">').replace("</dd>", "</li>")
    return f'<ul class="rlhf-parameters">{items}</ul>'


def _mend_pages(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        for path in Path(app.outdir).rglob("*.html"):
            if "_static" not in path.parts:
                path.write_text(mended(path.read_text(encoding="utf8")), encoding="utf8")


def register(app: Sphinx) -> None:
    """Let the written pages be mended."""
    app.connect("build-finished", _mend_pages, priority=940)
