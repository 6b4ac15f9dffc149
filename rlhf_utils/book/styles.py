"""Style sheets made small: files joined in their order, and rules left out whose classes occur nowhere.

The theme brings all of Bootstrap and all names of Font Awesome, of which a page uses a twentieth.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import tinycss2

_URL = re.compile(r"""url\(\s*(["']?)(?!data:|#|[a-z]+:)([^"')]+)\1\s*\)""")
_WORD = re.compile(r"-?[A-Za-z_][\w-]*")
# At-rules that hold rules.
_NESTED = ("media", "supports", "layer", "container")


def words(text: str) -> set[str]:
    """All that could be a class in a script or in a class attribute."""
    return set(_WORD.findall(text))


def joined(paths: Iterable[Path], folder: Path) -> str:
    """The style sheets one after the other, imports resolved, with addresses as seen from ``folder``."""
    return "\n".join(_read(path, folder) for path in paths)


def _read(path: Path, folder: Path) -> str:
    text = path.read_text(encoding="utf8").replace('@charset "UTF-8";', "")

    def imported(match: re.Match[str]) -> str:
        return _read((path.parent / match[1]).resolve(), folder)

    def moved(match: re.Match[str]) -> str:
        name, _, rest = match[2].partition("?")
        target = Path(os.path.relpath(path.parent / name, folder)).as_posix()
        return f'url("{target}{"?" + rest if rest else ""}")'

    # Imports last: what they bring has its addresses moved already.
    return re.sub(r'@import\s+"([^"]+)"\s*;', imported, _URL.sub(moved, text))


def pruned(css: str, used: set[str], face: Callable[[str], str]) -> str:
    """The style sheet without rules for classes that aren't used.

    Args:
        css: the style sheet.
        used: names of classes that occur in pages and scripts; one that ends in ``-`` stands for all that begin so,
            as scripts put names together.
        face: what a ``@font-face`` rule becomes, given its text.
    """
    begun = tuple(name for name in used if name.endswith("-") and len(name) > 4)
    rules = tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True)
    return "".join(_keep(rules, lambda name: name in used or name.startswith(begun), face))


def _keep(rules: list[Any], used: Callable[[str], bool], face: Callable[[str], str]) -> Iterable[str]:
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = [s for s in _selectors(rule.prelude) if all(map(used, _classes(s)))]
            if selectors:
                yield f"{','.join(tinycss2.serialize(s).strip() for s in selectors)}{{{_body(rule.content)}}}\n"
        elif rule.type == "at-rule" and rule.lower_at_keyword == "font-face":
            yield face(rule.serialize())
        elif rule.type == "at-rule" and rule.content is not None and rule.lower_at_keyword in _NESTED:
            inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            if kept := "".join(_keep(inner, used, face)):
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude).rstrip()}{{\n{kept}}}\n"
        elif rule.type == "at-rule":
            yield rule.serialize() + "\n"
        elif rule.type == "error":
            raise ValueError(f"a style sheet can't be read: {rule.message} (line {rule.source_line})")


def _selectors(prelude: list[Any]) -> Iterable[list[Any]]:
    part: list[Any] = []
    for token in prelude:
        if token.type == "literal" and token.value == ",":
            yield part
            part = []
        elif token.type != "comment":
            part.append(token)
    yield part


def _classes(selector: list[Any]) -> set[str]:
    """The classes that an element needs for the selector; those in brackets, as in ``:not(.a)``, aren't needed."""
    return {b.value for a, b in pairwise(selector) if a.type == "literal" and a.value == "." and b.type == "ident"}


def _body(content: list[Any]) -> str:
    text = tinycss2.serialize([token for token in content if token.type != "comment"])
    return re.sub(r"\s*\n\s*", " ", text).strip()
