"""Each page as plain text beside it, and ``llms.txt``, which lists them for programs that read.

Formulas are TeX between dollars, figures what their text alternatives say, quizzes have their answers. Sphinx's own
writer for text does the rest.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.io import StringOutput

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.builders.text import TextBuilder

LIST = "llms.txt"
#: letters in a line
WIDTH = 100
#: letters in a column of a table
LEAST = 24


@cache
def _builder_class() -> type[TextBuilder]:
    # Late, since a build with nothing to do needs no Sphinx.
    from sphinx.builders.text import TextBuilder
    from sphinx.util.math import get_node_equation_number
    from sphinx.writers import text

    class Translator(text.TextTranslator):
        """Adds what Sphinx's writer leaves out: dollars around TeX, addresses of links, where outputs begin."""

        def visit_math(self, node: nodes.math) -> None:
            self.add_text(f"${node.astext()}${node.get('behind', '')}")
            raise nodes.SkipNode

        def visit_math_block(self, node: nodes.math_block) -> None:
            self.new_state(0)
            number = f" ({get_node_equation_number(self, node)})" if node.get("number") else ""
            self.add_text(f"$$\n{node.astext().strip()}\n$${number}")
            self.end_state(wrap=False)
            raise nodes.SkipNode

        def visit_number_reference(self, node: nodes.Element) -> None:
            self.add_text(node.astext())
            raise nodes.SkipNode

        def visit_caption(self, node: nodes.caption) -> None:
            self.new_state(0)

        def depart_caption(self, node: nodes.caption) -> None:
            self.end_state()

        def depart_reference(self, node: nodes.reference) -> None:
            address = node.get("refuri", "")
            if address.startswith("http") and address != node.astext():
                self.add_text(f" <{address}>")
            super().depart_reference(node)

        def unknown_visit(self, node: nodes.Node) -> None:
            """Nodes of extensions that have no writer for text, such as exercises: what is inside is written."""

        unknown_departure = unknown_visit

        def visit_colspec(self, node: nodes.colspec) -> None:
            # The writer never comes to an end in a column of one letter, which HTML reads as "no width told".
            node["colwidth"] = max(node["colwidth"], LEAST)
            super().visit_colspec(node)

        def visit_container(self, node: nodes.container) -> None:
            if "cell_output" in node["classes"]:
                self.new_state(0)
                self.add_text("Output:")
                self.end_state()

        def depart_container(self, node: nodes.container) -> None:
            pass

    class Builder(TextBuilder):
        default_translator_class = Translator

    return Builder


def plain_text(builder: TextBuilder, doctree: nodes.document) -> str:
    """A page as plain text."""
    from sphinx.writers import text

    before, text.MAXWIDTH = text.MAXWIDTH, WIDTH
    try:
        writer = text.TextWriter(builder)
        writer.write(doctree, StringOutput(encoding="unicode"))
    finally:
        text.MAXWIDTH = before
    return re.sub(r"\n{3,}", "\n\n", writer.output).strip() + "\n"


def _builder(app: Sphinx) -> TextBuilder:
    if not hasattr(app, "rlhf_text_builder"):
        app.rlhf_text_builder = _builder_class()(app, app.env)  # type: ignore[attr-defined]
        app.rlhf_text_builder.init()  # type: ignore[attr-defined]
    # The page's numbers of equations, which the pages' own builder has.
    app.rlhf_text_builder.fignumbers = app.builder.fignumbers  # type: ignore[attr-defined]
    return app.rlhf_text_builder  # type: ignore[attr-defined]


def _write_text(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    if doctree is None or app.builder.name != "html":
        return
    path = Path(app.outdir) / f"{pagename}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(plain_text(_builder(app), doctree), encoding="utf8")
    link = f'\n<link rel="alternate" type="text/plain" title="Plain text" href="{path.name}"/>'
    context["metatags"] = context.get("metatags", "") + link


def page_list(app: Sphinx) -> str:
    """The pages' texts in the form of llmstxt.org, with whole addresses where the site's is known."""
    address = app.config.html_baseurl or ""
    lines = [f"# {app.config.html_title}", "", "> Each page as plain text, in the book's order. Text: CC BY 4.0.", ""]
    for page in app.env.collect_relations():
        title = " ".join(app.env.titles[page].astext().split())
        lines.append(f"- [{title}]({address}{page}.txt)")
    return "\n".join(lines) + "\n"


def _write_list(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        (Path(app.outdir) / LIST).write_text(page_list(app), encoding="utf8")


def register(app: Sphinx) -> None:
    """Register texts and list with Sphinx."""
    app.connect("html-page-context", _write_text)
    app.connect("build-finished", _write_list)
