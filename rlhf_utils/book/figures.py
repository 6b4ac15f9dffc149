"""Figures of the lessons: from a plotly output to a drawing, a caption, a text for the blind and a table."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from docutils import nodes
from sphinx.util import logging

from rlhf_utils.book import vendor

if TYPE_CHECKING:
    from myst_nb.core.render import MimeData, NbElementRenderer
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

MIMETYPE = "application/vnd.plotly.v1+json"
SCRIPT = "figures.js"
DEFAULT_HEIGHT = 380
DIGITS = 6  # significant ones; the tables under the figures show as many
LOGGER = logging.getLogger(__name__)


class Translator(Protocol):
    """What is used of a Sphinx writer: the list of text that it has written."""

    body: list[str]


class FigureNode(nodes.General, nodes.Element):
    """A figure: attributes ``figure`` (JSON), ``alt``, ``caption``, ``height`` and ``ids``."""


class FigureRenderer:
    """Turns plotly outputs of a notebook into figures of the page; ``myst-nb`` finds it by its entry point."""

    mime_priority_overrides: ClassVar[list[tuple[str, str, int | None]]] = [("*", MIMETYPE, 1)]

    @staticmethod
    def handle_mime(renderer: NbElementRenderer, data: MimeData, inline: bool) -> list[nodes.Element] | None:
        """A figure node for a plotly output; ``None`` leaves any other output to ``myst-nb``."""
        if data.mime_type != MIMETYPE or inline:
            return None
        figure = json.loads(data.content) if isinstance(data.content, str | bytes) else data.content
        layout = figure.get("layout", {})
        meta = layout.get("meta") if isinstance(layout.get("meta"), dict) else {}
        env = renderer.renderer.sphinx_env
        alts = alts_of(env)
        alt = str(meta.get("alt") or "").strip()
        if not alt:
            cell = "" if data.cell_index is None else f" (cell {data.cell_index + 1})"
            LOGGER.warning(
                f"a figure without alt text{cell}: use rlhf_utils.plotting.show(fig, alt=..., caption=...)",
                location=(env.docname, data.line),
                type="rlhf",
                subtype="figure",
            )
        alts.append(alt)
        node = FigureNode(
            figure=json.dumps({key: rounded(figure[key]) for key in ("data", "layout", "frames") if figure.get(key)}),
            alt=alt,
            caption=str(meta.get("caption") or ""),
            height=int(layout.get("height") or DEFAULT_HEIGHT),
            ids=[f"figure-{len(alts)}"],
        )
        # What other formats and the search index get, which have no drawing.
        node += nodes.paragraph(text=" ".join(filter(None, (alt, node["caption"]))))
        return [node]


def rounded(value: object) -> object:
    """The value with its numbers to the digits that a reader gets to see: the others are a third of a page's size."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(below) for key, below in value.items()}
    return [rounded(below) for below in value] if isinstance(value, list) else value


def _alts(env: BuildEnvironment) -> dict[str, list[str]]:
    """The alt texts of each page, in the order of its figures."""
    if not hasattr(env, "rlhf_alts"):
        env.rlhf_alts = {}  # type: ignore[attr-defined]
    return env.rlhf_alts  # type: ignore[attr-defined]


def alts_of(env: BuildEnvironment) -> list[str]:
    """The alt texts of the page that is being read, so far; figures and drawings add theirs."""
    return _alts(env).setdefault(env.docname, [])


def duplicates(alts: dict[str, list[str]]) -> list[tuple[str, str, str]]:
    """Figures that share their alt text with an earlier one: the text, the earlier page, the later page."""
    seen: dict[str, str] = {}
    found = []
    for page in sorted(alts):
        for alt in filter(None, alts[page]):
            if alt in seen:
                found.append((alt, seen[alt], page))
            seen.setdefault(alt, page)
    return found


def _warn_of_duplicates(app: Sphinx, env: BuildEnvironment) -> None:
    for alt, first, second in duplicates(_alts(env)):
        LOGGER.warning(
            f"two figures have the same alt text, {alt!r} (also in {first})",
            location=second,
            type="rlhf",
            subtype="figure",
        )


def _purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _alts(env).pop(docname, None)


def script_json(text: str) -> str:
    """JSON that may stand inside a script element, whatever its strings say."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def figure_html(node: FigureNode) -> str:
    """The figure as it stands in the page before the script draws it."""
    alt, caption = html.escape(node["alt"]), html.escape(node["caption"])
    name = node["ids"][0]
    return f"""
<figure class="rlhf-figure" id="{name}">
<div class="rlhf-plot" role="group" aria-label="{alt}" style="height: {node["height"]}px"></div>
<script type="application/json">{script_json(node["figure"])}</script>
<noscript><p class="rlhf-noscript">{alt}</p></noscript>
<figcaption>{caption}</figcaption>
<details class="rlhf-data"><summary>Data of this figure</summary><div class="rlhf-table"></div></details>
</figure>
"""


def _visit_html(translator: Translator, node: FigureNode) -> None:
    translator.body.append(figure_html(node))
    raise nodes.SkipNode


def _pass(translator: nodes.NodeVisitor, node: FigureNode) -> None:
    """Other formats write the paragraph inside."""


def _traces(doctree: nodes.document) -> set[str]:
    """The kinds of traces in a page's figures."""
    figures = [json.loads(node["figure"]) for node in doctree.findall(FigureNode)]
    return {trace.get("type", "scatter") for figure in figures for trace in figure["data"]}


def _add_script(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    if doctree is None or next(iter(doctree.findall(FigureNode)), None) is None:
        return
    script = vendor.smallest(_traces(doctree), Path(app.srcdir) / "_build" / "vendor")
    app.rlhf_plotly.add(script)  # type: ignore[attr-defined]
    app.add_js_file(SCRIPT, loading_method="defer", **{"data-plotly": script.name})


def _begin(app: Sphinx) -> None:
    app.rlhf_plotly = set()  # type: ignore[attr-defined]


def _copy_plotly(app: Sphinx, exception: Exception | None) -> None:
    """Put into the site those files of ``plotly.js`` that its pages ask for."""
    if exception is None and app.builder.format == "html":
        for script in app.rlhf_plotly:  # type: ignore[attr-defined]
            shutil.copy(script, Path(app.outdir) / "_static" / script.name)


def register(app: Sphinx) -> None:
    """Register the figure node, its checks and its script with Sphinx."""
    other = (_pass, _pass)
    app.add_node(FigureNode, html=(_visit_html, None), latex=other, text=other, man=other, texinfo=other)
    app.connect("env-purge-doc", _purge)
    app.connect("env-check-consistency", _warn_of_duplicates)
    app.connect("builder-inited", _begin)
    app.connect("html-page-context", _add_script)
    app.connect("build-finished", _copy_plotly)
