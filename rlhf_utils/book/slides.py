"""Slides: a Markdown file a deck in ``course/slides``; its formulas, drawings, figures and numbers are the book's.

A deck begins with a title, the minutes that it takes and a sentence on what it is for, and each ``##`` begins a slide::

    ---
    title: PPO
    minutes: 90
    about: The fourth week of the short course.
    ---
    ## How often may one batch be used?

    ```{equation} eq-ppo-clip
    ```

    At 1.3 with an advantage of 1 the smaller of the two is 1.2. The policy ended at {number}`08_ppo::ppo_ppo_kl:.1f`.

    :::{notes}
    Ask first what the objective is at −1.
    :::

``{equation} LABEL`` takes a labelled formula of a chapter, ``{diagram} NAME`` a drawing with its text for those who
can't see it, ``{figure} LESSON: how its text begins`` a figure that a lesson of the built site shows, and ``{number}``
a value of the lesson's committed run with seed 0. A deck is one HTML file that needs nothing else, and a PDF.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from markdown_it import MarkdownIt
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

from rlhf_utils.book.numbers import kept_together, true_minus
from rlhf_utils.errors import UserError

if TYPE_CHECKING:
    from markdown_it.token import Token

SOURCES = Path("course") / "slides"
_EQUATION = re.compile(r"^\$\$\n((?:(?!\$\$)[^\n]*\n)+?)\$\$ \(([\w-]+)\)$", re.MULTILINE)
_DRAWING = re.compile(r"^:{3,}\{diagram\} diagrams/([\w-]+)\.svg\n:alt: (.+)$", re.MULTILINE)
_INCLUDED = re.compile(r"^\{(equation|diagram|figure|notes)\}\s*(.*)$")


@dataclass(frozen=True)
class Slide:
    """One slide.

    Args:
        title: Markdown.
        body: Markdown without the notes.
        notes: Markdown for whoever speaks.
    """

    title: str
    body: str
    notes: str


@dataclass(frozen=True)
class Deck:
    """A deck of slides.

    Args:
        name: of its file, without the ending.
        title: on the first slide.
        minutes: that it takes.
        about: what it is for, in a sentence.
        slides: those after the first, which shows title and edition.
    """

    name: str
    title: str
    minutes: int
    about: str
    slides: tuple[Slide, ...]


def read(path: Path) -> Deck:
    """A deck from its file.

    Raises:
        UserError: its head or a slide lacks something.
    """
    parts = re.split(r"^---\n", path.read_text(encoding="utf8"), maxsplit=2, flags=re.MULTILINE)
    head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}
    if not isinstance(head, dict) or set(head) != {"title", "minutes", "about"}:
        raise UserError(
            f"{path.name} has no whole head.", "Begin it with title, minutes and about between lines of ---."
        )
    _, *pieces = re.split(r"^## ", parts[2], flags=re.MULTILINE)
    slides = []
    for piece in pieces:
        title, _, body = piece.partition("\n")
        body, *notes = re.split(r"^:::\{notes\}\n(.*?)^:::$", body, flags=re.MULTILINE | re.DOTALL)
        if len(notes) != 2 or notes[1].strip():
            raise UserError(f"{path.name}: {title!r} doesn't end in notes.", "End each slide with one :::{notes}.")
        slides.append(Slide(title.strip(), body.strip(), notes[0].strip()))
    return Deck(path.stem, head["title"], head["minutes"], head["about"], tuple(slides))


def decks(root: Path) -> list[Deck]:
    """All decks of a book, by name."""
    return [read(path) for path in sorted((root / SOURCES).glob("*.md"))]


@cache
def equations(root: Path) -> Mapping[str, str]:
    """TeX of the chapters' labelled formulas, by label."""
    pages = (path.read_text(encoding="utf8") for path in sorted((root / "book").glob("[0-9]*.md")))
    return {label: tex for text in pages for tex, label in _EQUATION.findall(text)}


@cache
def drawings(root: Path) -> Mapping[str, str]:
    """What each drawing shows, by its name, in the words of the page that it stands on."""
    pages = (path.read_text(encoding="utf8") for path in sorted((root / "book").glob("*.md")))
    return {name: alt for text in pages for name, alt in _DRAWING.findall(text)}


@cache
def numbers(lesson: str) -> Mapping[str, Any]:
    """What a lesson's committed run with seed 0 computed."""
    from rlhf_utils.experiments import read as read_results
    from rlhf_utils.experiments import seeds_name

    try:
        _, rows = read_results(seeds_name(lesson))
    except FileNotFoundError:
        raise UserError(f"No lesson {lesson!r} has committed runs.", "Name it as its file in lessons/.") from None
    return next(row for row in rows if row["seed"] == 0)


def number(reference: str) -> str:
    """A number as text, from ``lesson::name:format``.

    Raises:
        UserError: the lesson's run has no such number.
    """
    found = re.fullmatch(r"(\w+)::(\w+):(\S+)", reference)
    if found is None or found[2] not in numbers(found[1]):
        raise UserError(f"{reference!r} names no number of a run.", "Write lesson::name:format.")
    return kept_together(true_minus(format(numbers(found[1])[found[2]], found[3])))


def parser() -> MarkdownIt:
    """A reader of the Markdown that slides are written in."""
    markdown = MarkdownIt("commonmark").enable("table")
    return markdown.use(dollarmath_plugin, double_inline=False).use(colon_fence_plugin).use(myst_role_plugin)


def walk(tokens: Iterable[Token]) -> Iterator[Token]:
    """Tokens with those inside them."""
    for token in tokens:
        yield token
        yield from walk(token.children or ())


def include(token: Token) -> tuple[str, str]:
    """Kind and argument of a directive, two empty texts for any other block."""
    found = _INCLUDED.match(token.info.strip()) if token.type in ("fence", "colon_fence") else None
    return (found[1], found[2]) if found else ("", "")


def texts(deck: Deck) -> Iterator[str]:
    """All Markdown of a deck."""
    for slide in deck.slides:
        yield from (slide.title, slide.body, slide.notes)


def wanted(decks: Iterable[Deck]) -> dict[str, list[str]]:
    """What decks include: labels of equations, names of diagrams, figures and numbers."""
    found: dict[str, list[str]] = {"equation": [], "diagram": [], "figure": [], "number": []}
    for deck in decks:
        for text in texts(deck):
            for token in walk(parser().parse(text)):
                kind, name = include(token)
                if kind:
                    found[kind].append(name)
                elif token.type == "myst_role":
                    found[token.meta["name"]].append(token.content)
    return found
