"""A term in another language: the roles ``fr``, ``it`` and ``ru``, for the glossary.

A screen reader speaks each in its own language, since the page says which it is. ``=`` before a word marks English
that the language uses as it stands, and ``_`` in it is a space::

    {fr}`affinage, =fine-tuning` {it}`messa a punto, =fine-tuning` {ru}`дообучение`
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxRole

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LANGUAGES = {"fr": "French", "it": "Italian", "ru": "Russian"}
_ENGLISH = re.compile(r"=([^\s,()]+)")


def language_nodes(code: str, text: str) -> nodes.inline:
    """The abbreviation of a language and a term in it; docutils makes ``lang`` of a class ``language-…``."""
    term = nodes.inline("", "", classes=[f"language-{code}"])
    for place, part in enumerate(_ENGLISH.split(text)):
        if place % 2:
            term += nodes.emphasis("", part.replace("_", " "), classes=["language-en"])
        elif part:
            term += nodes.Text(part)
    name = nodes.abbreviation("", code, explanation=LANGUAGES[code])
    return nodes.inline("", "", name, nodes.Text("\N{NO-BREAK SPACE}"), term, classes=["rlhf-language"])


class LanguageRole(SphinxRole):
    """``{fr}`` and its like: see the module."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The term's nodes."""
        return [language_nodes(self.name, self.text)], []


def register(app: Sphinx) -> None:
    """Register the roles with Sphinx."""
    for code in LANGUAGES:
        app.add_role(code, LanguageRole())
