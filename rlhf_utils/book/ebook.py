"""The whole book as an EPUB 3: pages without scripts, mathematics as MathML, figures as SVG, what the format asks for.

A second run over the same site and commit writes the same bytes.
"""

from __future__ import annotations

import html
import re
import uuid
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from rlhf_utils.book.archive import write_zip
from rlhf_utils.book.citing import Work, edition, edition_date, work
from rlhf_utils.book.editions import ASSETS, Page, chromium, flatten
from rlhf_utils.book.site import ASSETS as SITE_ASSETS

FILE = Path("_build") / "book.epub"
FONT = Path("static") / "fonts" / "book-math.woff2"
_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'
_CONTAINER = (
    _HEAD + '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="EPUB/package.opf" media-type="application/oebps-package+xml"/></rootfiles></container>\n'
)
_LINK = re.compile(r'href="#([^"]+)"')
_TYPES = {
    ".xhtml": "application/xhtml+xml",
    ".svg": "image/svg+xml",
    ".css": "text/css",
    ".woff2": "font/woff2",
}


def _wrap(title: str, body: str, attributes: str = "") -> str:
    return (
        f'{_HEAD}<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" '
        f'lang="en" xml:lang="en"><head><meta charset="utf-8"/><title>{html.escape(title)}</title>'
        f'<link rel="stylesheet" href="epub.css"/></head>'
        f"<body{attributes}>{body}</body></html>\n"
    )


def split_links(xhtml: str) -> str:
    """Links to parts of one document, as links between the pages' files."""

    def target(match: re.Match[str]) -> str:
        page, _, place = match[1].partition("--")
        return f'href="{page}.xhtml#{match[1]}"' if place else f'href="{page}.xhtml"'

    return _LINK.sub(target, xhtml)


def navigation(pages: Iterable[Page]) -> str:
    """The table of contents: parts, pages and their sections."""

    def entry(target: str, title: str, below: str = "") -> str:
        return f'<li><a href="#{target}">{html.escape(title)}</a>{f"<ol>{below}</ol>" if below else ""}</li>'

    out = []
    for part, inside in groupby(pages, lambda page: page.place.part):
        entries = "".join(
            entry(page.place.key, page.title, "".join(entry(s["id"], s["title"]) for s in page.sections))
            for page in inside
        )
        out.append(f"<li><span>{html.escape(part)}</span><ol>{entries}</ol></li>" if part else entries)
    body = f'<nav epub:type="toc" id="toc"><h1>Contents</h1><ol>{"".join(out)}</ol></nav>'
    return split_links(_wrap("Contents", body))


def _title_page(told: Work, line: str) -> str:
    texts = [", ".join(told.authors), line, told.rights]
    body = f"<h1>{html.escape(told.title)}</h1>" + "".join(f"<p>{html.escape(text)}</p>" for text in texts)
    return _wrap(told.title, f'<section epub:type="titlepage">{body}</section>')


def _properties(name: str, text: str) -> str:
    """What the manifest has to say of a page's content."""
    found = ["nav"] if name == "nav.xhtml" else []
    found += [word for word, mark in (("mathml", "<math"), ("svg", "<svg")) if mark in text]
    return f' properties="{" ".join(found)}"' if found else ""


def package(files: dict[str, str | bytes], told: Work, modified: str) -> str:
    """The package document: what the book is called, its files and their order.

    Args:
        files: all files beside it by name; the pages in their order.
        told: title, authors and licence.
        modified: the time of this edition.
    """
    identifier = uuid.uuid5(uuid.NAMESPACE_URL, f"{told.title} {told.version}").urn
    items, spine = [], []
    for number, (name, content) in enumerate(files.items()):
        properties = _properties(name, content) if name.endswith(".xhtml") and isinstance(content, str) else ""
        items.append(f'<item id="f{number}" href="{name}" media-type="{_TYPES[Path(name).suffix]}"{properties}/>')
        if name.endswith(".xhtml"):
            spine.append(f'<itemref idref="f{number}"/>')
    authors = "".join(f"<dc:creator>{html.escape(name)}</dc:creator>" for name in told.authors)
    access = "".join(
        f'<meta property="schema:{name}">{value}</meta>'
        for name, value in (
            ("accessMode", "textual"),
            ("accessMode", "visual"),
            ("accessModeSufficient", "textual"),
            ("accessibilityFeature", "MathML"),
            ("accessibilityFeature", "alternativeText"),
            ("accessibilityFeature", "tableOfContents"),
            ("accessibilityHazard", "none"),
        )
    )
    return (
        f'{_HEAD}<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:identifier id="id">{identifier}</dc:identifier><dc:title>{html.escape(told.title)}</dc:title>'
        f"<dc:language>en</dc:language>{authors}<dc:rights>{html.escape(told.rights)}</dc:rights>"
        f'<meta property="dcterms:modified">{modified}</meta>{access}</metadata>'
        f"<manifest>{''.join(items)}</manifest><spine>{''.join(spine)}</spine></package>\n"
    )


def assemble(
    pages: list[Page], told: Work, line: str, others: dict[str, str | bytes], modified: str
) -> dict[str, str | bytes]:
    """All files of the EPUB by their paths, in the order in which they are packed.

    Args:
        pages: in their order.
        told: title, authors and licence.
        line: which edition this is.
        others: style sheets and fonts.
        modified: the time of this edition.
    """
    files: dict[str, str | bytes] = {"title.xhtml": _title_page(told, line), "nav.xhtml": navigation(pages)}
    files |= {f"{page.place.key}.xhtml": split_links(_wrap(page.title, page.xhtml)) for page in pages}
    files |= others
    for page in pages:
        files |= {f"figures/{name}": svg for name, svg in page.figures.items()}
    inside = {"package.opf": package(files, told, modified), **files}
    # The format wants its type first, as it is.
    return {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": _CONTAINER,
        **{f"EPUB/{name}": content for name, content in inside.items()},
    }


def write(root: Path) -> Path:
    """Write the built book to ``_build/book.epub``.

    Raises:
        UserError: there is no browser, or no whole site.
    """
    with chromium() as browser:
        pages = flatten(browser, root)
    others: dict[str, str | bytes] = {
        "epub.css": (root / ASSETS / "epub.css").read_text(encoding="utf8"),
        FONT.name: (root / SITE_ASSETS / FONT).read_bytes(),
    }
    date = edition_date(root)
    files = assemble(pages, work(root), edition(root), others, f"{date:%Y-%m-%dT%H:%M:%SZ}")
    target = root / FILE
    write_zip(target, files.items(), date)
    print(f"{target}: {len(pages)} pages, {target.stat().st_size / 1e6:.1f} MB")
    return target
