"""Mathematics as MathML, written into the page at build time by pandoc: no script, no other host, no waiting.

Each page's formulas go through one call of pandoc, and results are kept in the build folder under a hash of
the TeX. A formula that pandoc cannot read is a Sphinx warning, and so fails the build.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from docutils import nodes
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sphinx.application import Sphinx
    from sphinx.writers.html import HTML5Translator

LOGGER = logging.getLogger(__name__)
NAME = "mathml"
_SPLIT = "<!-- next -->"
# The first cell of an aligned equation. Its table sets formulas small unless told otherwise.
_ALIGNED = '<mtable><mtr><mtd columnalign="right" style="text-align: right; padding-right: 0">'
# Over one letter the spacing accents sit right, over several the combining ones, which grow.
_ACCENTS = {"\u0302": "^", "\u0303": "~", "\u0307": "\u02d9", "\u0308": "\u00a8"}
_BARS = ("\u00af", "\u203e")
_MARKS = re.compile(r"[.,;:!?)\]’”]+")
_NAMESPACE = "http://www.w3.org/1998/Math/MathML"
_SCRIPTED = {"msub", "msup", "msubsup", "munder", "mover", "munderover"}
ElementTree.register_namespace("", _NAMESPACE)

Formula = tuple[str, bool]  # TeX, and whether it stands on a line of its own


@cache
def _pandoc() -> tuple[str, list[int]]:
    """Pandoc's path and the version of its document format."""
    import pypandoc

    path = pypandoc.get_pandoc_path()
    result = subprocess.run([path, "-t", "json"], input="", capture_output=True, text=True, check=True)
    return path, json.loads(result.stdout)["pandoc-api-version"]


def _is_function(element: ElementTree.Element) -> bool:
    """Whether an element is a function's name such as log, perhaps with indices."""
    if _tag(element) in _SCRIPTED:
        return _is_function(element[0])
    if _tag(element) == "mi":  # between \left and \right pandoc writes no more than the name
        return len(element.text or "") > 1
    return _tag(element) == "mrow" and len(element) > 0 and element[-1].text == "\u2061"


def _tag(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(f"{{{_NAMESPACE}}}")


def _opens(element: ElementTree.Element) -> bool:
    """Whether an element begins with a bracket or a sign that brings its own space along."""
    first = element[0] if _tag(element) == "mrow" and len(element) and not _is_function(element) else element
    return _tag(first) in ("mo", "mspace")


def _space_functions(parent: ElementTree.Element) -> None:
    """Set the thin spaces that TeX sets around the names of functions, as in "β log σ(x)"."""
    children = list(parent)
    for child in children:
        _space_functions(child)
    if _tag(parent) not in ("mrow", "mtd", "mstyle", "msqrt"):
        return
    for left, right in pairwise(children):
        after = _is_function(left) and not _opens(right)
        before = _is_function(right) and _tag(left) not in ("mo", "mspace")
        if after or before:
            space = ElementTree.Element(f"{{{_NAMESPACE}}}mspace", {"width": "0.167em"})
            parent.insert(list(parent).index(right), space)


def _mend_accents(root: ElementTree.Element) -> None:
    """Choose accents that sit right over a letter, and draw bars over several letters: fonts' do not grow."""
    for element in root.iter(f"{{{_NAMESPACE}}}mover"):
        base, accent = element[0], element[1]
        if accent.get("accent") != "true":
            continue
        if _tag(base) == "mi":
            accent.text = _ACCENTS.get(accent.text or "", accent.text)
        elif accent.text in _BARS:
            element.tag = f"{{{_NAMESPACE}}}mrow"
            element.set("style", "border-top: 0.06em solid; padding-top: 0.12em")
            element.remove(accent)


def _mend_raised_brackets(root: ElementTree.Element) -> None:
    """Let a bracket that carries an index or a power keep its size, and set these close to it."""
    for element in root.iter():
        if _tag(element) in _SCRIPTED and _tag(element[0]) == "mo" and element[0].get("minsize"):
            bracket = element[0]
            row = ElementTree.Element(f"{{{_NAMESPACE}}}mrow")
            row.append(bracket)
            bracket.set("rspace", "0")
            element[0] = row


def tidy(mathml: str) -> str:
    """Mend what browsers draw badly in pandoc's MathML."""
    large = _ALIGNED.replace("<mtable>", '<mtable displaystyle="true" class="aligned">')
    root = ElementTree.fromstring(mathml.replace(_ALIGNED, large))
    _mend_accents(root)
    _mend_raised_brackets(root)
    _space_functions(root)
    return ElementTree.tostring(root, encoding="unicode")


def convert(formulas: Iterable[Formula]) -> dict[Formula, str | None]:
    """MathML of each formula, ``None`` where pandoc cannot read it. One call of pandoc for all of them."""
    wanted = list(dict.fromkeys(formulas))
    if not wanted:
        return {}
    path, version = _pandoc()
    blocks: list[dict[str, Any]] = []
    for tex, display in wanted:
        kind = {"t": "DisplayMath" if display else "InlineMath"}
        blocks += [
            {"t": "Plain", "c": [{"t": "Math", "c": [kind, tex]}]},
            {"t": "RawBlock", "c": ["html", _SPLIT]},
        ]
    document = json.dumps({"pandoc-api-version": version, "meta": {}, "blocks": blocks})
    command = [path, "--from=json", "--to=html", "--mathml", "--wrap=none"]
    result = subprocess.run(command, input=document, capture_output=True, text=True, encoding="utf8", check=True)
    pieces = [piece.strip() for piece in result.stdout.split(_SPLIT)]
    return {f: tidy(p) if p.startswith("<math") else None for f, p in zip(wanted, pieces, strict=False)}


def formula(node: nodes.Element) -> Formula:
    """The TeX of a node as pandoc shall read it: lines of one equation are aligned, as Sphinx does it."""
    tex = node.astext().strip()
    if isinstance(node, nodes.math):
        return tex, False
    if not node.get("nowrap"):
        parts = [part.strip() for part in re.split(r"\n\s*\n", tex) if part.strip()]
        tex = r"\\".join(parts)
        outer = re.sub(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", "", tex, flags=re.DOTALL)
        if r"\\" in outer:
            tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    return tex, True


class Formulas:
    """The book's formulas in MathML, kept in a file from one build to the next.

    Args:
        path: the file; made when it isn't there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = {}
        self.used: set[str] = set()
        if path.exists():
            self.known = json.loads(path.read_text(encoding="utf8"))

    def prepare(self, formulas: Iterable[Formula]) -> None:
        """Convert those that aren't known yet, in one go."""
        for one, mathml in convert(f for f in formulas if self.key(f) not in self.known).items():
            if mathml is not None:
                self.known[self.key(one)] = mathml

    def get(self, one: Formula) -> str | None:
        """MathML of a formula, ``None`` if pandoc cannot read it."""
        key = self.key(one)
        if key not in self.known:
            self.prepare([one])
        self.used.add(key)
        return self.known.get(key)

    @staticmethod
    def key(one: Formula) -> str:
        """The name under which a formula is kept."""
        return hashlib.sha256(json.dumps([_version(), *one]).encode()).hexdigest()[:24]

    def save(self) -> None:
        """Keep what this build used."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = {key: self.known[key] for key in sorted(self.used & self.known.keys())}
        self.path.write_text(json.dumps(kept, ensure_ascii=False, indent=0), encoding="utf8")


@cache
def _version() -> str:
    """What a formula's MathML depends on besides its TeX: pandoc, and this module, which mends it."""
    from importlib.metadata import version

    return version("pypandoc_binary") + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _formulas(app: Sphinx) -> Formulas:
    if not hasattr(app, "rlhf_formulas"):
        app.rlhf_formulas = Formulas(Path(app.srcdir) / "_build" / ".mathml.json")  # type: ignore[attr-defined]
    return app.rlhf_formulas  # type: ignore[attr-defined]


def _bind_marks(doctree: nodes.document) -> None:
    """Hand each formula the punctuation behind it: browsers break lines there, even before a full stop."""
    for node in doctree.findall(nodes.math):
        behind = node.next_node(descend=False, siblings=True)
        if isinstance(behind, nodes.Text) and (marks := _MARKS.match(behind)):
            node["behind"] = marks[0]
            parent = behind.parent
            # By identity: `replace` would take the first text that reads the same, such as another full stop.
            place = next(i for i, child in enumerate(parent) if child is behind)
            parent[place] = nodes.Text(behind[marks.end() :])


def _prepare_page(app: Sphinx, doctree: nodes.document, *_: object) -> None:
    if app.builder.format == "html":
        _bind_marks(doctree)
        found = [n for n in doctree.findall() if isinstance(n, nodes.math | nodes.math_block)]
        _formulas(app).prepare(formula(n) for n in found)


def _mathml(translator: HTML5Translator, node: nodes.Element) -> str:
    one = formula(node)
    mathml = _formulas(translator.builder.app).get(one)
    if mathml is None:
        LOGGER.warning(f"pandoc cannot read this TeX: {one[0]}", location=node, type="rlhf", subtype="math")
        return f"<code>{html.escape(one[0])}</code>"
    return mathml


def _visit_inline(translator: HTML5Translator, node: nodes.Element) -> None:
    # A long formula in a line has to scroll on a phone, since MathML doesn't break; a short one isn't boxed.
    long = " math-long" if len(re.sub(r"\\[A-Za-z]+|[{}_^\s]", "x", node.astext())) > 24 else ""
    text = f'<span class="math-inline{long}">{_mathml(translator, node)}</span>'
    if behind := node.get("behind"):
        text = f'<span class="math-and-mark">{text}{html.escape(behind)}</span>'
    translator.body.append(text)
    raise nodes.SkipNode


def _visit_block(translator: HTML5Translator, node: nodes.Element) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math-block"))
    translator.body.append(f'<div class="math-scroll">{_mathml(translator, node)}</div>')
    if node.get("number"):
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def _note_mathematics(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Tell the page's template whether to fetch the mathematics font early."""
    found = doctree.findall(lambda n: isinstance(n, nodes.math | nodes.math_block)) if doctree else ()
    context["has_mathematics"] = any(True for _ in found)


def _save(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        _formulas(app).save()


def register(app: Sphinx) -> None:
    """Register the renderer ``mathml``; ``html_math_renderer: mathml`` chooses it."""
    app.add_html_math_renderer(NAME, (_visit_inline, None), (_visit_block, None))
    app.connect("doctree-read", _prepare_page)
    app.connect("doctree-resolved", _prepare_page)
    app.connect("html-page-context", _note_mathematics)
    app.connect("build-finished", _save)
