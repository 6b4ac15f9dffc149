"""How the cells of a table break into lines.

A long name of code may go on in the next line behind an underscore, a dot or a slash. Elsewhere a name breaks where
the line ends; in a cell that would squeeze its column down to a few letters. A cell that holds a sentence is marked, so
that the style sheet gives it room.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html import HTML5Translator

SENTENCE = 28  #: signs from which on a cell's text counts as a sentence
_PLACES = re.compile(r"(?<=\w[_./])(?=[^\W\d])")


class BreakPlace(nodes.Inline, nodes.Element):
    """Stands between two parts of a name; without text, so that the name stays what it is."""


def _add_places(app: Sphinx, document: nodes.document, page: str) -> None:
    for cell in document.findall(nodes.entry):
        for text in [text for code in cell.findall(nodes.literal) for text in code.findall(nodes.Text)]:
            first, *others = _PLACES.split(text.astext())
            parts = [part for other in others for part in (BreakPlace(), nodes.Text(other))]
            text.parent.replace(text, [nodes.Text(first), *parts])
        if len(cell.astext()) >= SENTENCE:
            cell["classes"].append("rlhf-sentence")


def _visit(translator: HTML5Translator, node: BreakPlace) -> None:
    translator.body.append("<wbr/>")
    raise nodes.SkipNode


def register(app: Sphinx) -> None:
    """Register the places with Sphinx."""
    app.add_node(BreakPlace, html=(_visit, None))
    app.connect("doctree-resolved", _add_places, priority=900)  # after the reference has read the names
