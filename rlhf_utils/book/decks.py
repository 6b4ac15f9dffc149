"""Decks of slides as HTML that needs nothing else, and as PDF, which Chromium prints."""

from __future__ import annotations

import base64
import html
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_utils.book import diagrams, fonts, mathematics, slides
from rlhf_utils.book.build import site_of
from rlhf_utils.book.citing import Work, edition, work
from rlhf_utils.book.editions import PATIENCE, chromium
from rlhf_utils.book.slides import Deck, include, texts, walk
from rlhf_utils.errors import UserError

if TYPE_CHECKING:
    from markdown_it.token import Token
    from playwright.sync_api import Browser

FOLDER = Path("_build") / "slides"
ASSETS = Path("book") / "_assets" / "slides"
MODES = ("light", "dark")
SIZE = (1280, 720)  #: of a page of the PDF, in CSS pixels
_FIGURE_WIDTH = 720
_TO_SVG = """async (box, width) => {
  const url = await Plotly.toImage(box, {format: 'svg', width, height: box.clientHeight});
  return decodeURIComponent(url.slice(url.indexOf(',') + 1));
}"""
# The mark that ends a sentence of the chapter; a slide's formula stands by itself.
_END = re.compile(r"\s*[.,]\s*(?=(?:\\end\{aligned\})?\s*$)")
# What slides share with the site's style sheet: colours of the two modes, drawings and formulas.
_SHARED = re.compile(r"^(?:html\[data-theme=|\.rlhf-drawing|math |mtable)[^{]*\{[^}]*\}", re.MULTILINE)


class Picture(NamedTuple):
    """A lesson's figure: its text for those who can't see it, and an SVG for each mode."""

    alt: str
    light: str
    dark: str


def _formula(root: Path, label: str) -> mathematics.Formula:
    from docutils import nodes

    if label not in slides.equations(root):
        raise UserError(f"No chapter has an equation {label!r}.", "Take a label such as eq-ppo-clip.")
    tex = _END.sub("", slides.equations(root)[label])
    return mathematics.formula(nodes.math_block(tex, tex))


class Writer:
    """Turns decks into HTML.

    Args:
        root: the book's folder.
        pictures: the lessons' figures, by what decks call them.
        told: title and licence of the book.
        line: which edition this is.
    """

    def __init__(self, root: Path, pictures: Mapping[str, Picture], told: Work, line: str) -> None:
        self.root, self.pictures, self.told, self.line = root, pictures, told, line
        self.formulas: dict[mathematics.Formula, str | None] = {}
        self.parser = slides.parser()
        rules = {"fence": self._block, "colon_fence": self._block, "myst_role": self._role}
        # Set by hand: `add_render_rule` takes functions of the renderer, and these are the writer's.
        rules |= {
            "math_inline": self._inline,
            "math_block": self._inline,
            "th_open": self._head,
            "th_close": self._head,
        }
        self.parser.renderer.rules |= rules

    def _block(self, tokens: Sequence[Token], place: int, *rest: object) -> str:
        kind, name = include(tokens[place])
        if kind == "equation":
            return f'<div class="formula">{self._mathml(_formula(self.root, name))}</div>\n'
        if kind == "diagram":
            return self._drawing(name)
        if kind == "figure":
            picture = self.pictures[name]
            images = "".join(
                f'<img class="only-{mode}" alt="{html.escape(picture.alt)}" src="data:image/svg+xml;base64,'
                f'{base64.b64encode(getattr(picture, mode).encode()).decode()}">'
                for mode in MODES
            )
            return f'<div class="picture">{images}</div>\n'
        return f"<pre><code>{html.escape(tokens[place].content)}</code></pre>\n"

    def _drawing(self, name: str) -> str:
        path = self.root / "book" / "diagrams" / f"{name}.svg"
        if name not in slides.drawings(self.root):
            raise UserError(f"No page shows a diagram {name!r}.", "Take the name of a file in book/diagrams.")
        svg = diagrams.prepare(path.read_text(encoding="utf8"), f"s{name}", slides.drawings(self.root)[name])
        return f'<div class="drawing">{svg}</div>\n'

    def _role(self, tokens: Sequence[Token], place: int, *rest: object) -> str:
        return html.escape(slides.number(tokens[place].content))

    def _inline(self, tokens: Sequence[Token], place: int, *rest: object) -> str:
        return self._mathml((tokens[place].content.strip(), tokens[place].type == "math_block"))

    def _head(self, tokens: Sequence[Token], place: int, *rest: object) -> str:
        """A heading of a table; an empty one is no heading."""
        inside = tokens[place + 1 if tokens[place].nesting == 1 else place - 1]
        name = "th" if inside.content else "td"
        return f"<{name}>" if tokens[place].nesting == 1 else f"</{name}>\n"

    def _mathml(self, one: mathematics.Formula) -> str:
        mathml = self.formulas.get(one)
        if mathml is None:
            raise UserError(f"pandoc can't read this formula: {one[0]}", "Mend its TeX.")
        return mathml

    def _prepare(self, deck: Deck) -> None:
        """Convert all formulas of a deck in one go."""
        found = []
        for token in (token for text in texts(deck) for token in walk(self.parser.parse(text))):
            kind, name = include(token)
            if kind == "equation":
                found.append(_formula(self.root, name))
            elif token.type in ("math_inline", "math_block"):
                found.append((token.content.strip(), token.type == "math_block"))
        self.formulas |= mathematics.convert(one for one in found if one not in self.formulas)

    def deck(self, deck: Deck) -> str:
        """A deck as one HTML document."""
        self._prepare(deck)
        source = html.escape(". ".join([self.told.title, self.line, self.told.rights]))
        first = (
            '<section class="slide title" id="slide-1" aria-label="Slide 1" tabindex="-1">'
            f"<h1>{html.escape(deck.title)}</h1><p>{html.escape(deck.about)}</p>"
            f'<p class="small">{source}</p></section>'
        )
        rest = (
            f'<section class="slide" id="slide-{place}" aria-label="Slide {place}" tabindex="-1">'
            f"<h2>{self.parser.renderInline(slide.title)}</h2>"
            f'<div class="body">{self.parser.render(slide.body)}</div>'
            f'<details class="notes"><summary>Notes</summary>{self.parser.render(slide.notes)}</details></section>'
            for place, slide in enumerate(deck.slides, 2)
        )
        text = (self.root / ASSETS / "deck.html").read_text(encoding="utf8")
        body = "\n".join([first, *rest])
        filled = {
            "title": html.escape(deck.title),
            "slides": body,
            "style": self._style(body),
            "script": self._asset("js"),
        }
        return re.sub(r"<!-- (title|slides|style|script) -->", lambda found: filled[found[1]], text)

    def _asset(self, ending: str) -> str:
        return (self.root / ASSETS / f"slides.{ending}").read_text(encoding="utf8")

    def _style(self, body: str) -> str:
        static = self.root / "book" / "_assets" / "static"
        shared = _SHARED.findall((static / "book.css").read_text(encoding="utf8"))
        font = fonts.part(static / "fonts" / "book-math.woff2", fonts.math_signs([body]))
        source = f'url("data:font/woff2;base64,{base64.b64encode(font).decode()}") format("woff2")'
        face = f'@font-face {{ font-family: "Book Math"; src: {source}; }}'
        return "\n".join([face, *shared, self._asset("css")])


def _drawn(browser: Browser, path: Path, texts: Iterable[str], mode: str) -> list[tuple[str, str]]:
    """Some figures of a page as SVG, each with its text, which begins as told."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme=mode, reduced_motion="reduce")
    context.set_offline(True)
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    found = []
    for text in texts:
        boxes = page.locator(f'.rlhf-plot[aria-label^="{text}"]')
        if boxes.count() != 1:
            told = f"{boxes.count()} figures of {path.stem} have a text that begins {text!r}."
            raise UserError(told, "Give the words with which one figure's text begins.")
        boxes.scroll_into_view_if_needed()
        box = boxes.element_handle()
        page.wait_for_function("box => box.dataset.state === 'drawn'", arg=box, timeout=PATIENCE)
        svg = box.evaluate(_TO_SVG, _FIGURE_WIDTH)
        found.append((svg, box.get_attribute("aria-label") or ""))
    context.close()
    return found


def draw(browser: Browser, root: Path, names: Iterable[str]) -> dict[str, Picture]:
    """The lessons' figures that decks name, drawn in both modes from the built site.

    Raises:
        UserError: the site isn't built, or a name fits no figure or several.
    """
    texts: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        lesson, _, begins = name.partition(": ")
        texts.setdefault(lesson, []).append(begins)
    found = {}
    for lesson, wanted in texts.items():
        path = site_of(root) / "lessons" / f"{lesson}.html"
        if not path.exists():
            raise UserError(f"The built site has no lesson {lesson!r}.", "Run `make book` first.")
        light, dark = (_drawn(browser, path, wanted, mode) for mode in MODES)
        for begins, (svg, alt), (night, _) in zip(wanted, light, dark, strict=True):
            found[f"{lesson}: {begins}"] = Picture(alt, svg, night)
    return found


def write(root: Path) -> Path:
    """Write each deck to ``_build/slides`` as HTML and PDF.

    Raises:
        UserError: a deck names something that isn't there, or there is no browser or no built site.
    """
    found, target = slides.decks(root), root / FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with chromium() as browser:
        writer = Writer(root, draw(browser, root, slides.wanted(found)["figure"]), work(root), edition(root))
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        for deck in found:
            path = target / f"{deck.name}.html"
            path.write_text(writer.deck(deck), encoding="utf8")
            page.goto(path.resolve().as_uri())
            printed = path.with_suffix(".pdf")
            page.pdf(path=printed, prefer_css_page_size=True, print_background=True, tagged=True, outline=True)
            size = path.stat().st_size / 1e6
            print(f"{path}: {len(deck.slides) + 1} slides, {deck.minutes} minutes, {size:.1f} MB")
    return target
