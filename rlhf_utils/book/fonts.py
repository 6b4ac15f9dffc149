"""Fonts with the signs that the site uses and no others: for formulas and for icons."""

from __future__ import annotations

import base64
import html
import io
import logging
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from fontTools import subset

# It tells of every table of a font.
logging.getLogger("fontTools.subset").setLevel(logging.WARNING)
_MATH = re.compile(r"<math\b.*?</math>", re.DOTALL)
_ANNOTATION = re.compile(r"<annotation\b.*?</annotation>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
# A root has its sign in no text: the browser draws it for the element.
_ROOT = re.compile(r"<m(?:sqrt|root)\b")
_IDENTIFIER = re.compile(r"<mi[^>]*>([^<])</mi>")
# Letters that Unicode had before the row of italic ones, and those whose names differ there.
_ITALIC = {"h": "ℎ", "ϵ": "𝜖", "ϑ": "𝜗", "ϕ": "𝜙", "ϱ": "𝜚", "ϖ": "𝜛"}


def math_signs(pages: Iterable[str]) -> set[str]:
    """All signs of the formulas in these pages, with the italic forms that a browser puts for single letters."""
    signs = {chr(code) for code in range(0x20, 0x7F)}
    for page in pages:
        for formula in _MATH.findall(page):
            text = html.unescape(_ANNOTATION.sub("", formula))
            signs |= {"√"} if _ROOT.search(text) else set()
            signs |= set(_TAG.sub("", text)) | {_italic(letter) for letter in _IDENTIFIER.findall(text)}
    return signs


def _italic(letter: str) -> str:
    if letter in _ITALIC:
        return _ITALIC[letter]
    name = re.sub(r"^(?:LATIN|GREEK) (SMALL|CAPITAL) LETTER ", r"\1 ", unicodedata.name(letter, ""))
    try:
        return unicodedata.lookup(f"MATHEMATICAL ITALIC {name}")
    except KeyError:
        return letter  # a sign without an italic form


def part(font: Path, signs: Iterable[str]) -> bytes:
    """The part of a font that shows these signs, as WOFF2, with all sizes of brackets and the like."""
    # Without alternates for small letters in indices: no browser picks them by itself.
    options = subset.Options(flavor="woff2", hinting=False, layout_features=[])
    loaded = subset.load_font(str(font), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[ord(sign) for sign in signs])
    subsetter.subset(loaded)
    written = io.BytesIO()
    subset.save_font(loaded, written, options)
    return written.getvalue()


def icon_signs(css: str) -> set[str]:
    """The signs of icons that a style sheet names, as ``"\\f015"``."""
    named = {chr(int(code, 16)) for code in re.findall(r"\\([ef][0-9a-f]{3})\b", css)}
    return named | set(re.findall("[\ue000-\uf8ff]", css))


def inline(face: str, folder: Path, signs: set[str]) -> str:
    """A ``@font-face`` rule for a font of icons, with the part of the font in it; nothing if no sign is asked for."""
    found = re.search(r"""url\(["']?([^"')]+\.woff2)""", face)
    if found is None or not signs:
        return ""
    data = base64.b64encode(part(folder / found[1], signs)).decode("ascii")
    source = f'src:url("data:font/woff2;base64,{data}") format("woff2")'
    return re.sub(r"src:[^}]*", lambda _: source, face) + "\n"
