"""What the site leaves undone when it is opened from a disk, where a page may not read another file.

Search then lists the pages it finds without quoting them. Everything else is the same: figures and models come as
scripts, which a page may load from the disk. The template sees to fonts, which may not be fetched early there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

_NO_QUOTES = 'if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;'


def _spare_quotes(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    if pagename == "search":
        app.add_js_file(None, body=_NO_QUOTES)


def register(app: Sphinx) -> None:
    """Register the search page's exception with Sphinx."""
    app.connect("html-page-context", _spare_quotes)
