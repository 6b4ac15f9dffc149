"""The box at a page's head: what it takes to read it, how long its lesson ran for this copy, and what comes next.

A chapter says what it builds on::

    :::{at-a-glance}
    :prerequisites: logarithms; [reward models](06_reward_models.md)
    :lesson: ../lessons/08_ppo
    :::

Any other page may. A page that doesn't gets a box of its own: a lesson one that leads to the chapter that names it, and
the rest one that leads to the page on what the whole book takes. The next page is the table of contents'.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from rlhf_utils.book.diagrams import DiagramNode

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

# Slower than the 238 words a minute of easy non-fiction (Brysbaert 2019), since formulas want a pause.
WORDS_PER_MINUTE = 150
# Says what all pages take for granted.
START = "book/how_to_use"


class ReadingTime(nodes.inline):
    """Stands where the reading time will."""


class RunningTime(nodes.inline):
    """Stands where a lesson's running time will: attributes ``lesson``, a page, and ``alone`` without its name."""


class GlanceDirective(SphinxDirective):
    """``{at-a-glance}``: see the module."""

    option_spec: ClassVar[dict[str, Any]] = {
        "prerequisites": directives.unchanged_required,
        "lesson": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """A list of two or three fields."""
        if "prerequisites" not in self.options:
            raise self.error("say what a reader has to know: `:prerequisites:` (none is an answer as well)")
        fields = nodes.field_list(classes=["rlhf-glance"])
        fields += _field("Prerequisites", self._parsed(self.options["prerequisites"]))
        fields += _field("Reading time", [ReadingTime()])
        if lesson := self.options.get("lesson"):
            page = self.env.relfn2path(f"{lesson}.md")[0].removesuffix(".md")
            chapters(self.env)[page] = self.env.docname
            fields += _field("Lesson", [*self._parsed(f"[]({lesson}.md)"), RunningTime(lesson=page)])
        return [fields]

    def _parsed(self, text: str) -> list[nodes.Node]:
        held = nodes.container()
        self.state.nested_parse(StringList([text], self.env.docname), self.content_offset, held)
        return held.children[0].children


def _field(name: str, children: list[nodes.Node]) -> nodes.field:
    body = nodes.field_body("", nodes.paragraph("", "", *children))
    return nodes.field("", nodes.field_name("", name), body)


def chapters(env: BuildEnvironment) -> dict[str, str]:
    """The chapter of each lesson, by their pages' names."""
    if not hasattr(env, "rlhf_chapters"):
        env.rlhf_chapters = {}  # type: ignore[attr-defined]
    return env.rlhf_chapters  # type: ignore[attr-defined]


def _purge(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    for lesson in [lesson for lesson, chapter in chapters(env).items() if chapter == page]:
        del chapters(env)[lesson]


def words(document: nodes.Node) -> int:
    """Words that one reads in a page: its text and captions, without code, formulas and drawings."""
    skipped = (nodes.literal_block, nodes.math, nodes.math_block, nodes.comment, DiagramNode)
    total, stack = 0, [document]
    while stack:
        node = stack.pop()
        if isinstance(node, nodes.Text):
            total += len(node.astext().split())
        elif not isinstance(node, skipped):
            stack += node.children
    return total


def duration(seconds: float) -> str:
    """Seconds for people: ``44 s`` or, from 100 s on, ``3 min``."""
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"


def _link(app: Sphinx, page: str, target: str) -> nodes.reference:
    title = (child.deepcopy() for child in app.env.titles[target].children)
    uri = app.builder.get_relative_uri(page, target)
    return nodes.reference("", "", nodes.inline("", "", *title), internal=True, refuri=uri)


def _own_box(app: Sphinx, page: str) -> nodes.field_list:
    """The box of a page that has none."""
    box = nodes.field_list(classes=["rlhf-glance"])
    if chapter := chapters(app.env).get(page):
        box += _field("Chapter", [_link(app, page, chapter)])
        if _seconds(app, page):
            box += _field("Running time", [RunningTime(lesson=page, alone=True)])
    elif page != START and START in app.env.titles:
        box += _field("Prerequisites", [nodes.Text("none beyond those in "), _link(app, page, START)])
    else:
        box += _field("Prerequisites", [nodes.Text("none")])
    return box


def _place(document: nodes.document, box: nodes.field_list, lesson: bool) -> bool:
    """Put a box under a page's first paragraph, in a lesson under all that comes before its first code or section."""
    section = next(iter(document.findall(nodes.section)), None)
    if section is None:
        return False
    opening = (nodes.title, nodes.target, nodes.comment, nodes.paragraph, nodes.bullet_list)
    place, paragraphs = 0, 0
    while place < len(section) and isinstance(section[place], opening) and (lesson or not paragraphs):
        paragraphs += isinstance(section[place], nodes.paragraph)
        place += 1
    section.insert(place, box)
    return True


def _add_way(app: Sphinx, document: nodes.document, page: str) -> None:
    """See that a page has its box, and that the box leads on."""
    relations = app.env.collect_relations()
    if page not in relations or page == app.config.root_doc:
        return
    box = next((n for n in document.findall(nodes.field_list) if "rlhf-glance" in n["classes"]), None)
    if box is None:
        box = _own_box(app, page)
        if not _place(document, box, page in chapters(app.env)):
            return
    following = relations[page][2]
    if following is None:
        box += _field(
            "Next", [nodes.Text("this is the last page; the first is "), _link(app, page, app.config.root_doc)]
        )
    elif chapters(app.env).get(following) != page:
        box += _field("Next", [_link(app, page, following)])


def _seconds(app: Sphinx, lesson: str) -> float | None:
    from myst_nb.sphinx_ import NbMetadataCollector

    return (NbMetadataCollector.get_exec_data(app.env, lesson) or {}).get("runtime")


def _fill(app: Sphinx, document: nodes.document, page: str) -> None:
    _add_way(app, document, page)
    for place in list(document.findall(ReadingTime)):
        minutes = math.ceil(words(document) / WORDS_PER_MINUTE)
        place.replace_self(nodes.Text("a minute" if minutes <= 1 else f"about {minutes} minutes"))
    for place in list(document.findall(RunningTime)):
        seconds = _seconds(app, place["lesson"])
        told = f"{duration(seconds)} for this copy" if seconds else ""
        place.replace_self(nodes.Text(told if place.get("alone") or not told else f", which ran in {told}"))


def register(app: Sphinx) -> None:
    """Register the directive and what fills in the times with Sphinx."""
    app.add_directive("at-a-glance", GlanceDirective)
    app.connect("env-purge-doc", _purge)
    app.connect("doctree-resolved", _fill)
