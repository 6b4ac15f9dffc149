"""Explorable figures: what ``experiments/explorables.py`` has kept, for the reader to move through.

``{explorable} prices``, ``{explorable} update`` and ``{explorable} training`` mark the places where ``explore.js``
draws. Each place carries its own data as JSON, so the figures need nothing but the page.
"""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from rlhf_utils.book.figures import script_json

if TYPE_CHECKING:
    from sphinx.application import Sphinx

    from rlhf_utils.experiments import Row

RESULTS = "explorables"  #: the experiment
#: Parts, and what a screen reader calls them.
PARTS = {
    "prices": "Policies at several prices",
    "update": "One update of PPO, token by token",
    "training": "A training run, look by look",
}
DIGITS = 3  #: behind the point, of what belongs to a text; a page shows two


class ExplorableNode(nodes.General, nodes.Element):
    """Stands where the figure will: attribute ``part``."""


class ExplorableDirective(SphinxDirective):
    """``{explorable} PART``: a figure to move through; the parts are those of :data:`PARTS`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A place to be filled by the script."""
        from rlhf_utils.experiments import folder

        part = self.arguments[0]
        if part not in PARTS:
            raise self.error(f"explorable: {part!r} is none of {', '.join(PARTS)}")
        self.env.note_dependency(str(folder() / f"{RESULTS}.jsonl"))
        node = ExplorableNode(part=part)
        # What other formats and the search index get.
        node += nodes.paragraph(text="This figure is alive in the book's web edition only.")
        return [node]


# ---- what the page knows


def _rounded(values: list[float]) -> list[float]:
    return [round(value, DIGITS) for value in values]


def prices(rows: list[Row]) -> dict[str, Any]:
    """Each policy's texts for the same openings, with reward, gold score and KL of each text."""
    found = [row for row in rows if row["kind"] == "price"]
    openings = found[0]["prompts"]
    if any(row["prompts"] != openings for row in found):
        raise ValueError("the policies have written for different openings")
    policies = [
        {"beta": row["kl_coef"], "responses": row["responses"]}
        | {name: _rounded(row[name]) for name in ("reward", "gold", "kl")}
        for row in found
    ]
    return {"openings": openings, "policies": policies}


def update(rows: list[Row]) -> dict[str, Any]:
    """One update with every quantity of every token, as the experiment has kept it."""
    (row,) = (row for row in rows if row["kind"] == "update")
    return {name: row[name] for name in ("update", "config", "whitening", "responses")}


def training(rows: list[Row]) -> dict[str, Any]:
    """The looks at a policy in training, with the first openings, whose texts are shown."""
    (row,) = (row for row in rows if row["kind"] == "training")
    return {"openings": prices(rows)["openings"][: len(row["looks"][0]["responses"])], "looks": row["looks"]}


def facts(part: str) -> dict[str, Any]:
    """All that a part's figure shows."""
    from rlhf_utils import experiments

    return {"prices": prices, "update": update, "training": training}[part](experiments.read(RESULTS)[1])


# ---- the page


def _visit_html(translator: Any, node: ExplorableNode) -> None:  # noqa: ANN401
    part = node["part"]
    data = script_json(json.dumps(facts(part), ensure_ascii=False, separators=(",", ":")))
    translator.body.append(
        f'<section class="rlhf-alive rlhf-explorable" data-part="{part}" aria-label="{html.escape(PARTS[part])}">'
        '<noscript><p class="rlhf-noscript">This figure needs JavaScript: it is drawn in your browser.</p></noscript>'
        f'<script type="application/json">{data}</script></section>\n'
    )
    raise nodes.SkipNode


def _pass(translator: nodes.NodeVisitor, node: nodes.Element) -> None:
    """Other formats write the paragraph inside."""


def _add_script(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    if doctree is not None and next(doctree.findall(ExplorableNode), None) is not None:
        for script in ("alive.js", "explore.js"):
            app.add_js_file(script, loading_method="defer")


def register(app: Sphinx) -> None:
    """Register the directive and its script with Sphinx."""
    others = dict.fromkeys(("latex", "text", "man", "texinfo"), (_pass, _pass))
    app.add_node(ExplorableNode, html=(_visit_html, None), **others)
    app.add_directive("explorable", ExplorableDirective)
    app.connect("html-page-context", _add_script)
