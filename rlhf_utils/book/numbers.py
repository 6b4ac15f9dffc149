"""Numbers as a page sets them: a minus sign in front, where Python writes a hyphen.

What the text takes from a lesson's run, and the cells of tables that hold a number and nothing else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MINUS = "\N{MINUS SIGN}"
# A hyphen in front of a digit and behind nothing that would make it part of a word, a range or a date.
_SIGN = re.compile(r"(?<![\w.,)\]-])-(?=\.?\d)")
_NUMBER = re.compile(r"-\.?\d[\d.,]*(?:e[+-]\d+)?\s?%?")


def true_minus(text: str) -> str:
    """A text whose negative numbers begin with a minus sign; ``1e-05``, dates and ranges stay as they are."""
    return _SIGN.sub(MINUS, text)


def _set_signs(app: Sphinx, document: nodes.document, page: str) -> None:
    for pasted in document.findall(nodes.inline):
        if "pasted-text" in pasted["classes"]:
            _replace(pasted)
    for cell in document.findall(nodes.entry):
        if _NUMBER.fullmatch(cell.astext()):
            _replace(cell)


def _replace(node: nodes.Element) -> None:
    for text in [text for text in node.findall(nodes.Text) if not isinstance(text.parent, nodes.literal)]:
        text.parent.replace(text, nodes.Text(true_minus(text.astext())))


def register(app: Sphinx) -> None:
    """Register the signs with Sphinx."""
    app.connect("doctree-resolved", _set_signs)
