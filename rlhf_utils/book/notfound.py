"""The page for addresses that there aren't: a server shows ``404.html`` under any address, at any depth.

Its links are those of a page in the site's top folder. A ``base`` makes them count from there, wherever it is shown.
Where the site's address is known, so is its path; elsewhere the page reckons it from the folders that the site has.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

NAME = "404"
TITLE = "Page not found"
_SCRIPT = """
<script>
(() => {{
  const path = location.pathname, known = {known}, folders = {folders};
  if (path.endsWith("/{name}.html")) return;
  const places = folders.map((folder) => path.indexOf(`/${{folder}}/`)).filter((place) => place >= 0);
  const end = places.length ? Math.min(...places) : path.lastIndexOf("/");
  const base = document.createElement("base");
  base.href = `${{known && path.startsWith(known) ? known : path.slice(0, end + 1)}}{name}.html`;
  document.head.append(base);
}})();
</script>
"""


def base(known: str, folders: list[str]) -> str:
    """What stands in the page's head, before anything that is fetched.

    Args:
        known: the path of the site's address, empty if that isn't known.
        folders: the site's folders.
    """
    text = _SCRIPT.format(known=json.dumps(known), folders=json.dumps(folders), name=NAME)
    # The page itself and not its folder, so that a link to a place in the page stays one.
    return text + (f'<noscript><base href="{html.escape(known)}{NAME}.html"/></noscript>' if known else "")


def _page(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    if app.builder.name != "html":
        return
    uri = app.builder.get_relative_uri(NAME, app.config.root_doc)
    body = (
        f"<section><h1>{TITLE}</h1><p>The book has no page at this address. It may have moved: "
        f'<a href="{uri}">begin at the first page</a>, <a href="search.html">search the book</a>, '
        "or look through the table of contents (on a phone behind ☰).</p></section>"
    )
    yield NAME, {"title": TITLE, "body": body}, "page.html"


def _add_base(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    if pagename == NAME:
        folders = sorted({page.partition("/")[0] for page in app.env.found_docs if "/" in page})
        known = urlsplit(app.config.html_baseurl or "").path
        context["metatags"] = base(known, folders) + context.get("metatags", "")


def register(app: Sphinx) -> None:
    """Register the page with Sphinx."""
    app.connect("html-collect-pages", _page)
    # Last, so that nothing with an address comes before it.
    app.connect("html-page-context", _add_base, priority=900)
