"""The pages of the built site without scripts, for the editions that have none: the PDF and the EPUB.

A headless Chromium opens each page from the disk, with no network, and draws its figures; ``flatten.js`` then turns
them into SVG images, moves the answers of quizzes to the page's end, opens what is folded, and makes links between
pages links between parts of one document.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlhf_utils.book.build import site_of
from rlhf_utils.errors import UserError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
ASSETS = Path("book") / "_assets" / "editions"
SCRIPT = ASSETS / "flatten.js"
#: milliseconds for drawing the figures of one page
PATIENCE = 120_000
_DRAWN = (
    "() => [...document.querySelectorAll('.rlhf-plot')].every(box => ['drawn', 'failed'].includes(box.dataset.state))"
)


@dataclass(frozen=True)
class Place:
    """A page's place in the table of contents.

    Args:
        name: such as ``"book/08_ppo"``.
        part: caption of the part that it belongs to, empty before the first.
    """

    name: str
    part: str

    @property
    def key(self) -> str:
        """The page's id in an edition; ids of its parts begin with it and two hyphens."""
        return self.name.replace("/", "-")


@dataclass(frozen=True)
class Page:
    """A page without scripts.

    Args:
        place: where it stands.
        title: its first heading.
        sections: id and title of each section.
        xhtml: the article, as an element of XHTML.
        figures: drawn figures as SVG, by the names of their files.
    """

    place: Place
    title: str
    sections: list[dict[str, str]]
    xhtml: str
    figures: dict[str, str] = field(repr=False)


def places(root: Path, site: Path | None = None) -> list[Place]:
    """The book's pages in the order of its table of contents.

    Args:
        root: the book's folder.
        site: if it is given, all pages have to be there.

    Raises:
        UserError: some aren't.
    """
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf8"))

    def walk(entries: list[dict[str, Any]], part: str) -> Iterator[Place]:
        for entry in entries:
            yield Place(entry["file"], part)
            yield from walk(entry.get("sections", []), part)

    found = [Place(toc["root"], ""), *walk(toc.get("chapters", []), "")]
    for part in toc.get("parts", []):
        found += walk(part["chapters"], part.get("caption", ""))
    missing = [place.name for place in found if site and not (site / f"{place.name}.html").exists()]
    if missing:
        raise UserError(f"The built site lacks {', '.join(missing)}.", "Run `make book` first.")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium.

    Raises:
        UserError: there is none, or playwright isn't installed.
    """
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise UserError(f"No browser was found: none of {', '.join(BROWSERS)}.", "Install Chromium.")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("Playwright isn't installed.", "Install it with: pip install playwright") from None
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def flatten(browser: Browser, root: Path, say: Callable[[str], None] = print) -> list[Page]:
    """All pages of the built book without scripts.

    Raises:
        UserError: a page isn't there, or one of its figures could not be drawn.
    """
    site, script = site_of(root), (root / SCRIPT).read_text(encoding="utf8")
    wanted = places(root, site)
    names = [place.name for place in wanted]
    context = browser.new_context(
        viewport={"width": 1100, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_offline(True)
    pages = []
    for place in wanted:
        page = context.new_page()
        page.goto((site / f"{place.name}.html").resolve().as_uri())
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_function(_DRAWN, timeout=PATIENCE)
        if failed := page.locator(".rlhf-plot[data-state=failed]").count():
            raise UserError(f"{place.name}: {failed} of the figures weren't drawn.", "Open the page in a browser.")
        address = site.resolve().as_uri() + "/"
        found = page.evaluate(script, {"page": place.name, "pages": names, "root": address})
        pages.append(Page(place=place, **found))
        page.close()
    context.close()
    say(f"{len(pages)} pages read, {sum(len(page.figures) for page in pages)} figures drawn")
    return pages
