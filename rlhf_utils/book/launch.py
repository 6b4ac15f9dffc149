"""Links below a lesson's title that open its notebook in Colab, on Binder, or download it. The site carries the file.

Where the repository isn't known, the download is all there is. Chapters have nothing to run, and get no links.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from docutils import nodes
from sphinx.errors import ExtensionError

from rlhf_utils.book.notebooks import BRANCH, Writer, write_all
from rlhf_utils.book.repository import Repository, find_repository

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "notebooks"  #: of the site


def links(lesson: str, file: str, repository: Repository | None) -> dict[str, str]:
    """Where a lesson's notebook can be opened: text → address.

    Args:
        lesson: such as ``"08_ppo"``.
        file: the address of the site's copy, relative to the page.
        repository: where the book is published; None = not known.
    """
    found = {}
    if repository is not None:
        name, path = repository.name, quote(f"{lesson}.ipynb")
        found["Open in Colab"] = f"https://colab.research.google.com/github/{name}/blob/{BRANCH}/{path}"
        found["Open on Binder"] = f"https://mybinder.org/v2/gh/{name}/{BRANCH}?labpath={path}"
    return {**found, "Download the notebook": file}


def _add_links(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    if doctree is None or app.builder.name != "html" or "kernelspec" not in app.env.metadata[pagename]:
        return
    lesson = Path(pagename).name
    file = context["pathto"](f"{FOLDER}/{lesson}.ipynb", 1)
    items = "".join(
        f'<li><a href="{html.escape(address)}"{" download" if address == file else ""}>{text}</a></li>'
        for text, address in links(lesson, file, find_repository(Path(app.srcdir))).items()
    )
    box = f'<ul class="rlhf-launch" aria-label="Run this lesson">{items}</ul>'
    context["body"] = context["body"].replace("</h1>", f"</h1>\n{box}", 1)


def _write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.name != "html":
        return
    root = Path(app.srcdir)
    executed = Path(app.env.mystnb_config.output_folder)  # type: ignore[attr-defined]
    try:
        write_all(Writer(root, find_repository(root), executed), Path(app.outdir) / FOLDER)
    except ValueError as error:
        raise ExtensionError(f"The notebooks can't be made: {error}") from error


def register(app: Sphinx) -> None:
    """Register the links and the site's copies of the notebooks with Sphinx."""
    app.connect("html-page-context", _add_links)
    app.connect("build-finished", _write_notebooks)
