"""What programs that don't read the page look for: a description, a card for links to it, a map of the site.

The card (Open Graph) and the map hold whole addresses, so they are written only where the site's is known.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from docutils import nodes

from rlhf_utils.book.repository import find_repository

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

MAP = "sitemap.xml"
#: letters of a description; search engines cut at about as many
LENGTH = 160


def describe(doctree: nodes.document) -> str:
    """A page's first sentence or two: whole words of its first paragraph without a formula, at most ``LENGTH`` letters.

    Empty if there is none.
    """
    for paragraph in doctree.findall(nodes.paragraph):
        formula = next(iter(paragraph.findall(lambda n: isinstance(n, nodes.math | nodes.math_block))), None)
        text = " ".join(paragraph.astext().split())
        if isinstance(paragraph.parent, nodes.section) and formula is None and len(text) > LENGTH // 4:
            return text if len(text) <= LENGTH else text[: LENGTH - 1].rpartition(" ")[0].rstrip(",;:") + "…"
    return ""


def card(title: str, description: str, site: str, address: str) -> str:
    """Open Graph's properties of a page, as elements of its head."""
    told = {"title": title, "type": "article", "url": address, "site_name": site, "description": description}
    return "".join(
        f'\n<meta property="og:{name}" content="{html.escape(text)}"/>' for name, text in told.items() if text
    )


def site_map(addresses: Iterable[str]) -> str:
    """A map of the site in the form of sitemaps.org."""
    lines = [f"<url><loc>{escape(address)}</loc></url>" for address in addresses]
    head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    return "\n".join([head, *lines, "</urlset>"]) + "\n"


def _configure(app: Sphinx, config: Config) -> None:
    repository = find_repository(Path(app.srcdir))
    if repository is not None and not config.html_baseurl:
        config.html_baseurl = repository.site


def _add_description(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    book = app.config.html_title
    if doctree is None:  # a page that Sphinx makes, such as the search
        title, text = "", f"{context.get('title') or pagename.title()} of “{book}”."
    else:
        title = " ".join(app.env.titles[pagename].astext().split())
        text = describe(doctree) or f"{title}. From “{book}”."
    tags = f'\n<meta name="description" content="{html.escape(text)}"/>'
    if title and (address := app.config.html_baseurl):
        tags += card(title, text, book, f"{address}{pagename}.html")
    context["metatags"] = context.get("metatags", "") + tags


def _write_map(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html" and (address := app.config.html_baseurl):
        text = site_map(f"{address}{page}.html" for page in sorted(app.env.found_docs))
        (Path(app.outdir) / MAP).write_text(text, encoding="utf8")


def register(app: Sphinx) -> None:
    """Register the address, the descriptions and the map with Sphinx."""
    app.connect("config-inited", _configure)
    app.connect("html-page-context", _add_description)
    app.connect("build-finished", _write_map)
