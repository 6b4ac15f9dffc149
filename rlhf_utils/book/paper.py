"""The whole book as a PDF: all pages in one document, which Chromium prints with links, bookmarks and page numbers.

It is printed twice: the first time to learn on which sheet each section begins, the second with these numbers in the
table of contents. ``pypdf`` reads the numbers and writes the bookmarks. The file has no tags for screen readers: with
them it has five times the size and takes minutes to finish. The site and the EPUB are for those who need them.
"""

from __future__ import annotations

import html
import shutil
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

from rlhf_utils.book.build import site_of
from rlhf_utils.book.citing import Work, edition, edition_date, work
from rlhf_utils.book.editions import ASSETS, Page, chromium, flatten

FILE = Path("_build") / "book.pdf"
WIDTH = 658  #: of the printed text in CSS pixels: A4 less the margins
# What is wider than the paper becomes smaller: a formula, a table.
_FIT = """width => {
  for (const box of document.querySelectorAll('.math-scroll > math, .bd-article table, .math-inline > math')) {
    const room = (box.closest('td, .math-scroll, p, li') ?? box.parentElement).getBoundingClientRect().width || width;
    const wide = Math.max(box.getBoundingClientRect().width, box.scrollWidth ?? 0);
    if (wide > room + 1) box.style.zoom = Math.max(0.4, room / wide);
  }
}"""
_NUMBER = (
    "numbers => { for (const [id, n] of Object.entries(numbers)) document.getElementById(`to-${id}`).textContent = n; }"
)


def _entry(target: str, title: str, below: str = "") -> str:
    return f'<li><a href="#{target}"><span>{html.escape(title)}</span><span id="to-{target}">000</span></a>{below}</li>'


def contents(pages: Iterable[Page]) -> str:
    """The table of contents, with places for the numbers of pages."""
    out = ['<section class="bd-article paper-contents"><h1>Contents</h1>']
    for part, inside in groupby(pages, lambda page: page.place.part):
        if part:
            out.append(f'<p class="paper-caption">{html.escape(part)}</p>')
        out.append("<ol>")
        for page in inside:
            below = "".join(_entry(section["id"], section["title"]) for section in page.sections)
            out.append(_entry(page.place.key, page.title, f"<ol>{below}</ol>" if below else ""))
        out.append("</ol>")
    return "".join([*out, "</section>"])


def _bodies(pages: Iterable[Page]) -> Iterator[str]:
    for number, (part, inside) in enumerate(groupby(pages, lambda page: page.place.part)):
        if part:
            yield f'<section class="bd-article paper-part" id="part-{number}"><p>{html.escape(part)}</p></section>'
        yield from (page.xhtml for page in inside)


def document(pages: list[Page], told: Work, line: str, styles: Iterable[str]) -> str:
    """All pages as one document of XHTML.

    Args:
        pages: in their order.
        told: title, authors and licence for the title page.
        line: which edition this is.
        styles: addresses of style sheets.
    """
    links = "".join(f'<link rel="stylesheet" href="{html.escape(address)}"/>' for address in styles)
    who = html.escape(", ".join(told.authors))
    title = (
        f'<section class="bd-article paper-title"><h1>{html.escape(told.title)}</h1><p>{who}</p>'
        f"<p>{html.escape(line)}</p><p>{html.escape(told.rights)}</p></section>"
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" lang="en" data-theme="light">'
        f"<head><title>{html.escape(told.title)}</title>{links}</head>"
        '<body><div class="bd-main"><div class="bd-content"><div class="bd-article-container">'
        f"{title}{contents(pages)}{''.join(_bodies(pages))}</div></div></div></body></html>"
    )


def _numbers(path: Path) -> dict[str, int]:
    """The sheet, counted from 1, on which each target of a link stands."""
    reader = PdfReader(path)
    found = {}
    for name, target in reader.named_destinations.items():
        number = reader.get_destination_page_number(target)
        if number is not None:
            found[name.lstrip("/")] = number + 1
    return found


def _finish(printed: Path, target: Path, pages: list[Page], numbers: dict[str, int], told: Work, root: Path) -> None:
    """Write bookmarks and what the file says about itself."""
    writer = PdfWriter(clone_from=printed)
    for part, inside in groupby(pages, lambda page: page.place.part):
        held = list(inside)
        parent = writer.add_outline_item(part, numbers[held[0].place.key] - 2) if part else None
        for page in held:
            chapter = writer.add_outline_item(page.title, numbers[page.place.key] - 1, parent, is_open=False)
            for section in page.sections:
                writer.add_outline_item(section["title"], numbers[section["id"]] - 1, chapter)
    date = edition_date(root).strftime("D:%Y%m%d%H%M%S+00'00'")
    writer.add_metadata(
        {"/Title": told.title, "/Author": ", ".join(told.authors), "/CreationDate": date, "/ModDate": date}
    )
    writer.page_mode = "/UseOutlines"
    writer.root_object[NameObject("/Lang")] = TextStringObject("en")
    writer.write(target)


def write(root: Path) -> Path:
    """Print the built book to ``_build/book.pdf``.

    Raises:
        UserError: there is no browser, or no whole site.
    """
    told, line, target = work(root), edition(root), root / FILE
    folder = root / "_build" / "paper"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "figures").mkdir(parents=True)
    site = site_of(root).resolve()
    sheets = [path for name in ("styles/*.css", "book.css") for path in sorted((site / "_static").glob(name))]
    styles = [path.as_uri() for path in [*sheets, (root / ASSETS / "paper.css").resolve()]]
    with chromium() as browser:
        pages = flatten(browser, root)
        for page in pages:
            for name, svg in page.figures.items():
                (folder / "figures" / name).write_text(svg, encoding="utf8")
        source, printed = folder / "book.xhtml", folder / "printed.pdf"
        source.write_text(document(pages, told, line, styles), encoding="utf8")
        context = browser.new_context(viewport={"width": WIDTH, "height": 1000}, color_scheme="light")
        context.set_offline(True)
        context.set_default_timeout(0)
        sheet = context.new_page()
        sheet.goto(source.resolve().as_uri())
        sheet.emulate_media(media="print")
        sheet.evaluate("document.fonts.ready.then(() => true)")
        sheet.evaluate(_FIT, WIDTH)
        sheet.pdf(path=printed, prefer_css_page_size=True, print_background=True)
        numbers = _numbers(printed)
        entries = {page.place.key for page in pages} | {s["id"] for page in pages for s in page.sections}
        sheet.evaluate(_NUMBER, {name: numbers[name] for name in entries})
        sheet.pdf(path=printed, prefer_css_page_size=True, print_background=True)
        context.close()
    _finish(printed, target, pages, numbers, told, root)
    shutil.rmtree(folder)
    print(f"{target}: {len(PdfReader(target).pages)} pages, {target.stat().st_size / 1e6:.1f} MB")
    return target
