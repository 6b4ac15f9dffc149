"""What the site carries beside its pages: each page as plain text, a list for programs that read, a box to cite from.

Where the repository is known, other extensions add a map of the site and previews for links to it.
"""

from __future__ import annotations

import html
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.io import StringOutput

from rlhf_utils.book.record import built_at, commit
from rlhf_utils.book.repository import find_repository

if TYPE_CHECKING:
    from sphinx.application import Sphinx

#: extensions that need the site's address
WITH_ADDRESS = ("sphinx_sitemap", "sphinxext.opengraph")
LIST = "llms.txt"


# ---- plain text


def plain_text(app: Sphinx, doctree: nodes.document) -> str:
    """A page as plain text: Sphinx's text writer, with formulas as TeX and figures as their descriptions."""
    from sphinx.builders.text import TextBuilder
    from sphinx.writers.text import TextWriter

    builder = TextBuilder(app, app.env)
    builder.init()
    writer = TextWriter(builder)
    writer.write(doctree.deepcopy(), StringOutput(encoding="unicode"))
    return re.sub(r"\n{3,}", "\n\n", writer.output).strip() + "\n"


def _write_text(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    if doctree is None or app.builder.format != "html":
        return
    path = Path(app.outdir) / f"{pagename}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(plain_text(app, app.env.get_doctree(pagename)), encoding="utf8")
    context["plain_text"] = Path(pagename).name + ".txt"


# ---- the list of pages


def page_list(app: Sphinx) -> str:
    """The pages in the order of the table of contents, in the form of llmstxt.org: title, what it is, links."""
    address = app.config.html_baseurl or ""
    lines = [f"# {app.config.html_title}", "", "> Every page as plain text, in the book's order. All text is CC BY 4.0.", ""]
    seen: list[str] = []

    def walk(page: str) -> None:
        if page in seen:
            return
        seen.append(page)
        for below in app.env.toctree_includes.get(page, []):
            walk(below)

    walk(app.config.root_doc)
    for page in seen:
        title = app.env.titles[page].astext() if page in app.env.titles else page
        lines.append(f"- [{title}]({address}{page}.txt)")
    return "\n".join(lines) + "\n"


def _write_list(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        (Path(app.outdir) / LIST).write_text(page_list(app), encoding="utf8")


# ---- citing


def bibtex(title: str, page: str, author: str, address: str, year: int, number: str) -> str:
    """An entry for a chapter, in BibTeX."""
    key = "rlhf" + re.sub(r"\W+", "", page.rpartition("/")[2])
    fields = {
        "title": title,
        "author": f"{{{author}}}",
        "booktitle": "Reinforcement Learning from Human Feedback: an executable textbook",
        "edition": f"Version {number}",
        "year": str(year),
    }
    if address:
        fields["url"] = f"{address}{page}.html"
    inside = ",\n".join(f"  {name:<9} = {{{value}}}" for name, value in fields.items())
    return f"@incollection{{{key},\n{inside}\n}}"


def _is_chapter(page: str) -> bool:
    return re.fullmatch(r"(book|lessons)/\d\d_\w+", page) is not None


def _add_citation(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    if doctree is None or not _is_chapter(pagename):
        return
    title = app.env.titles[pagename].astext()
    address = app.config.html_baseurl or ""
    entry = bibtex(title, pagename, app.config.author, address, built_at().year, version("rlhf_utils"))
    kind = "chapter" if pagename.startswith("book/") else "lesson"
    context["body"] += (
        f'<details class="rlhf-cite"><summary>Cite this {kind}</summary><pre tabindex="0">{html.escape(entry)}</pre></details>\n'
    )


def edition(root: Path) -> str:
    """Version, commit and day of this build, for the foot of each page."""
    found = commit(root)
    at = f", commit {found[0][:7]}{' with changes' if found[1] else ''}" if found else ""
    return f"Version {version('rlhf_utils')}{at}, built on {built_at():%d %B %Y}."


def register(app: Sphinx) -> None:
    """Register text versions, list and citations with Sphinx; and, with an address, the extensions that need one."""
    if find_repository(Path(app.srcdir)) is not None:
        for name in WITH_ADDRESS:
            app.setup_extension(name)
    app.connect("html-page-context", _write_text)
    app.connect("html-page-context", _add_citation)
    app.connect("build-finished", _write_list)
