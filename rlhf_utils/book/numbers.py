"""Numbers as a page sets them: a minus sign in front, where Python writes a hyphen, and no line's end inside.

The sign is for what the text takes from a lesson's run and for the cells of tables, code in them left as it is.
``2 ± 1`` stays in one line everywhere, and a percentage is written in one way, ``5%``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from collections.abc import Callable

    from sphinx.application import Sphinx

MINUS = "\N{MINUS SIGN}"
_EQUALS = re.compile(r"(?<=\b[α-ω]) = (?=[\d−])")
_AS_WRITTEN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)
# A hyphen in front of a digit and behind nothing that would make it part of a word, a range or a date.
_SIGN = re.compile(r"(?<![\w.,)\]-])-(?=\.?\d)")
_PERCENT = re.compile(r"(?<=\d)[ \N{NO-BREAK SPACE}]%(?!\w)")


def true_minus(text: str) -> str:
    """A text whose negative numbers begin with a minus sign; ``1e-05``, dates and ranges stay as they are."""
    return _SIGN.sub(MINUS, text)


def kept_together(text: str) -> str:
    """A text in which ``2 ± 1`` and ``β = 1`` don't break, and a percent sign follows its number at once."""
    text = _PERCENT.sub("%", text).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    return _EQUALS.sub("\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", text)


def _set_signs(app: Sphinx, document: nodes.document, page: str) -> None:
    for pasted in document.findall(nodes.inline):
        if "pasted-text" in pasted["classes"]:
            _replace(pasted, true_minus)
    for cell in document.findall(nodes.entry):
        _replace(cell, true_minus)


def _keep_together(app: Sphinx, document: nodes.document, page: str) -> None:
    _replace(document, kept_together)


def _replace(node: nodes.Element, mend: Callable[[str], str]) -> None:
    """Mend the running text below a node; code and formulas stay as they are."""
    for text in list(node.findall(nodes.Text)):
        if not isinstance(text.parent, _AS_WRITTEN) and (mended := mend(old := text.astext())) != old:
            text.parent.replace(text, nodes.Text(mended))


def register(app: Sphinx) -> None:
    """Register the signs with Sphinx."""
    app.connect("doctree-resolved", _set_signs)
    app.connect("doctree-resolved", _keep_together)
