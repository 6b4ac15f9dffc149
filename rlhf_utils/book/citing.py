"""How to cite: a BibTeX entry at the foot of each chapter and lesson, and which edition this is at every page's foot.

Title, authors and version come from ``CITATION.cff``.
"""

from __future__ import annotations

import html
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rlhf_utils.book.record import built_at, commit, commit_date

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.config import Config

FILE = "CITATION.cff"
_CITED = re.compile(r"(?P<kind>book|lessons)/\d\d_\w+")
_SPECIAL = re.compile(r"([&%$#_])")


@dataclass(frozen=True)
class Work:
    """What the book is called, by whom, and in which version.

    Args:
        title: the book's.
        authors: each as ``"Family, Given"``, or as the name of a group.
        groups: those of the authors that aren't persons.
        version: such as ``"0.1.0"``.
        rights: the licence of the text, in words.
    """

    title: str
    authors: tuple[str, ...]
    groups: frozenset[str]
    version: str
    rights: str = "Text under CC BY 4.0, code under the Apache License 2.0."


def work(root: Path) -> Work:
    """The book as ``CITATION.cff`` describes it."""
    told = yaml.safe_load((root / FILE).read_text(encoding="utf8"))
    authors, groups = [], set()
    for author in told["authors"]:
        if "family-names" in author:
            names = (author["family-names"], author.get("given-names"))
            authors.append(", ".join(filter(None, names)))
        else:
            authors.append(author["name"])
            groups.add(author["name"])
    return Work(told["title"], tuple(authors), frozenset(groups), str(told["version"]))


def edition_date(root: Path) -> datetime:
    """The date of an edition: that of its commit, so that a second build of it says the same; in UTC.

    ``$SOURCE_DATE_EPOCH`` goes before it, and where git knows no commit it is now.
    """
    found = None if "SOURCE_DATE_EPOCH" in os.environ else commit_date(root)
    return found or built_at()


def edition(root: Path) -> str:
    """Version, commit and date of an edition, in a line."""
    date, found = edition_date(root), commit(root)
    at = f", commit {found[0][:7]}{' with changes' if found[1] else ''}" if found else ""
    return f"Version {work(root).version}{at}, {date.day} {date:%B %Y}"


def _plain(text: str) -> str:
    """Text as BibTeX reads it."""
    return _SPECIAL.sub(r"\\\1", text)


def bibtex(told: Work, page: str, title: str, date: datetime, address: str) -> str:
    """An entry for a page.

    Args:
        told: the book.
        page: the page's name, such as ``"book/08_ppo"``.
        title: the page's title.
        date: when this edition came out.
        address: of the site, with a slash at its end; empty if it isn't known.
    """
    authors = " and ".join(f"{{{_plain(name)}}}" if name in told.groups else _plain(name) for name in told.authors)
    fields = {
        "title": f"{{{_plain(title)}}}",
        "author": authors,
        "booktitle": f"{{{_plain(told.title)}}}",
        "year": str(date.year),
        "note": f"Version {told.version}",
    }
    if address:
        fields["url"] = f"{address}{page}.html"
    inside = ",\n".join(f"  {name:<9} = {{{value}}}" for name, value in fields.items())
    return f"@incollection{{rlhf_{page.replace('/', '_')},\n{inside}\n}}"


def _add_entry(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    match = _CITED.fullmatch(pagename)
    if doctree is None or match is None or not app.rlhf_work:  # type: ignore[attr-defined]
        return
    title = " ".join(app.env.titles[pagename].astext().split())
    entry = bibtex(app.rlhf_work, pagename, title, edition_date(Path(app.srcdir)), app.config.html_baseurl)  # type: ignore[attr-defined]
    kind = "chapter" if match["kind"] == "book" else "lesson"
    # `highlight` brings the button that copies.
    context["body"] += (
        f'<details class="rlhf-cite"><summary>Cite this {kind}</summary>\n'
        f'<div class="highlight"><pre tabindex="0">{html.escape(entry)}</pre></div></details>\n'
    )


def _configure(app: Sphinx, config: Config) -> None:
    root = Path(app.srcdir)
    app.rlhf_work = work(root) if (root / FILE).exists() else None  # type: ignore[attr-defined]
    if app.rlhf_work:  # type: ignore[attr-defined]
        told = f"{edition(root)}. {app.rlhf_work.rights}"  # type: ignore[attr-defined]
        config.html_theme_options["extra_footer"] = f'<p class="rlhf-edition">{html.escape(told)}</p>'


def register(app: Sphinx) -> None:
    """Register the entries and the line at the foot with Sphinx."""
    # After the theme's options have been put together.
    app.connect("config-inited", _configure, priority=900)
    app.connect("html-page-context", _add_entry)
