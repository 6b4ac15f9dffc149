"""Where names of code break into lines, and which cells of tables need room.

A long name may go on in the next line behind an underscore, a dot or a slash; an option such as ``--num_processes``
doesn't break. A cell that holds a sentence is marked, so that the style sheet keeps it wide enough to read, and a cell
that begins with a number stays in one line: ``18.9 MB``, ``−0.1 ± 0.2``, a date with its time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html import HTML5Translator

SENTENCE = 28  #: signs from which on a cell's text counts as a sentence
_OPTION = re.compile(r"((?<![\w-])-{1,2}[a-z][\w-]{0,30})")
_FIGURES = re.compile(r"[(+−-]?\.?\d")
_PLACES = re.compile(r"(?<=\w[_./])(?=[^\W\d])")


class BreakPlace(nodes.Inline, nodes.Element):
    """Stands between two parts of a name; without text, so that the name stays what it is."""


def _length(cell: nodes.entry) -> int:
    """How many signs of text a cell has, formulas left out."""
    return sum(len(text) for text in cell.findall(nodes.Text) if not isinstance(text.parent, nodes.math))


def _add_places(app: Sphinx, document: nodes.document, page: str) -> None:
    for text in [text for code in document.findall(nodes.literal) for text in code.findall(nodes.Text)]:
        parts: list[nodes.Node] = []
        for piece in _OPTION.split(text.astext()):
            if _OPTION.fullmatch(piece):
                parts.append(nodes.inline("", piece, classes=["text-nowrap"]))
                continue
            first, *others = _PLACES.split(piece)
            parts += [nodes.Text(first), *(part for other in others for part in (BreakPlace(), nodes.Text(other)))]
        text.parent.replace(text, [part for part in parts if part.astext() or isinstance(part, BreakPlace)])
    for cell in document.findall(nodes.entry):
        if _length(cell) >= SENTENCE:
            cell["classes"].append("rlhf-sentence")
        elif _FIGURES.match(cell.astext()):
            cell["classes"].append("text-nowrap")


def _visit(translator: HTML5Translator, node: BreakPlace) -> None:
    translator.body.append("<wbr/>")
    raise nodes.SkipNode


def register(app: Sphinx) -> None:
    """Register the places with Sphinx."""
    app.add_node(BreakPlace, html=(_visit, None))
    app.connect("doctree-resolved", _add_places, priority=900)  # after the reference has read the names
