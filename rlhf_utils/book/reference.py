"""The reference of the package: pages made of its docstrings, and links to them from names of code in the chapters.

A page of ``book/api`` has a heading and one line for each module::

    ```{api} rlhf_utils.ppo
    ```

``{api-index}`` lists all modules that such pages describe. A name such as ``ppo.gae``, set as code in a chapter,
becomes a link by itself if the reference knows it. In the modules, a comment that begins with ``#:`` describes the
setting or constant beside it or under it.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.domains.python import PyObject
from sphinx.ext.autodoc import DataDocumenter
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from rlhf_utils.book.sources import PACKAGE, files_below

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config
    from sphinx.domains.python import PythonDomain
    from sphinx.environment import BuildEnvironment

NAME = PACKAGE.name
_SETTINGS = {
    # Members that are imported are described where they are defined, `__all__` or not.
    "autodoc_default_options": {"members": True, "ignore-module-all": True},
    "autodoc_member_order": "bysource",
    "autodoc_preserve_defaults": True,  # as they stand in the source
    "autodoc_typehints_format": "short",
    "napoleon_google_docstring": True,
    "napoleon_numpy_docstring": False,
    "napoleon_use_ivar": True,
    "napoleon_attr_annotations": True,
    "add_module_names": False,
    "python_use_unqualified_type_names": True,
    "python_display_short_literal_types": True,
    "maximum_signature_line_length": 72,  # a longer one has a line for each argument
    "toc_object_entries_show_parents": "hide",
    "html_domain_indices": False,  # `api-index` says more
}
LONGEST_VALUE = 60
# What docutils asks of a directive's class; the class's docstring tells a reader what it takes.
_PLUMBING = frozenset(name for name, value in vars(Directive).items() if name[0] != "_" and not callable(value))
# A name of code, perhaps called: `rlhf_utils.ppo.gae`, `ppo.gae(gae_lambda)`.
_CODE = re.compile(r"^((?:\w+\.)+\w+)(?:\(.*\))?$")


def modules(package: Path = PACKAGE) -> list[str]:
    """The package's modules by name, subpackages included, without private ones and ``__main__``."""
    found = []
    for path in files_below(package):
        parts = path.relative_to(package.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if path.suffix == ".py" and not any(part.startswith("_") for part in parts):
            found.append(".".join(parts))
    return sorted(found)


def _source(module: str, package: Path) -> str:
    path = package.parent.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf8")


def first_sentence(module: str, package: Path = PACKAGE) -> str:
    """What a module's docstring says first, up to a full stop or colon, without importing the module."""
    text = ast.get_docstring(ast.parse(_source(module, package))) or ""
    return re.split(r"(?<=\.)\s", text.split("\n\n")[0].replace("\n", " "))[0]


def aliases(package: Path = PACKAGE) -> dict[str, str]:
    """Names that modules give to types, such as ``Reward``: signatures show the name and not what is behind it."""
    found = {"ArrayLike": "numpy.typing.ArrayLike"}
    for module in modules(package):
        for statement in ast.parse(_source(module, package)).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Subscript | ast.BinOp):
                name = ast.unparse(statement.targets[0])
                if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name):
                    found[name] = f"{module}.{name}"
    return found


@cache
def imported(package: Path = PACKAGE) -> frozenset[str]:
    """Names that the package's modules import from other packages."""
    statements = (s for module in modules(package) for s in ast.walk(ast.parse(_source(module, package))))
    others = (s for s in statements if isinstance(s, ast.ImportFrom) and (s.module or "").split(".")[0] != NAME)
    return frozenset(alias.asname or alias.name for statement in others for alias in statement.names)


class ApiDirective(SphinxDirective):
    """``{api} MODULE``: a module's docstring and those of its public members."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"exclude-members": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """What autodoc writes for the module; docstrings are reStructuredText, and the page around them is Markdown."""
        lines = ["```{eval-rst}", f".. automodule:: {self.arguments[0]}"]
        lines += [f"   :{name}: {value}" for name, value in self.options.items()]
        held = nodes.container()
        self.state.nested_parse(StringList([*lines, "```"], self.env.docname), self.content_offset, held)
        return held.children


class ShortData(DataDocumenter):
    """A constant; its value is shown where it is short."""

    priority = DataDocumenter.priority + 1

    def should_suppress_value_header(self) -> bool:
        """Whether the value stays away."""
        value = repr(self.object)
        return super().should_suppress_value_header() or len(value) > LONGEST_VALUE or "<" in value


class ModuleList(nodes.General, nodes.Element):
    """Stands where the list of modules will."""


class ApiIndexDirective(SphinxDirective):
    """``{api-index}``: see the module."""

    def run(self) -> list[nodes.Node]:
        """A place that is filled once all pages have been read."""
        return [ModuleList()]


def _domain(env: BuildEnvironment) -> PythonDomain:
    return env.get_domain("py")  # type: ignore[return-value]


def described(env: BuildEnvironment) -> dict[str, list[str]]:
    """The modules of the package that each page describes, in the order of the table of contents."""
    order = {page: place for place, page in enumerate(env.collect_relations())}
    pages: dict[str, list[str]] = {}
    for name, entry in _domain(env).modules.items():
        if name.split(".")[0] == NAME:
            pages.setdefault(entry.docname, []).append(name)
    return {page: pages[page] for page in sorted(pages, key=lambda page: order.get(page, len(order)))}


def _said(sentence: str) -> list[nodes.Node]:
    """A docstring's sentence, which goes on after a colon; its code stands between double backquotes."""
    lower = sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() or sentence[1:2] == " " else sentence
    parts = lower.split("``")
    return [nodes.literal(text=part) if place % 2 else nodes.Text(part) for place, part in enumerate(parts)]


def _module_list(app: Sphinx, page: str) -> list[nodes.Node]:
    found: list[nodes.Node] = []
    for target, names in described(app.env).items():
        title = nodes.inline("", "", *(child.deepcopy() for child in app.env.titles[target].children))
        uri = app.builder.get_relative_uri(page, target)
        heading = nodes.paragraph("", "", nodes.reference("", "", title, internal=True, refuri=uri))
        items = nodes.bullet_list()
        for name in names:
            anchor = _domain(app.env).modules[name].node_id
            link = nodes.reference("", "", nodes.literal(text=name), internal=True, refuri=f"{uri}#{anchor}")
            items += nodes.list_item("", nodes.paragraph("", "", link, nodes.Text(": "), *_said(first_sentence(name))))
        found += [heading, items]
    return found


def _object(env: BuildEnvironment, text: str) -> str | None:
    """The name of the object of the package that a name in code means, with or without the package's own."""
    if not (match := _CODE.match(text)):
        return None
    full = match[1] if match[1].split(".")[0] == NAME else f"{NAME}.{match[1]}"
    # An attribute that its class's docstring describes has no place of its own; the class has.
    owner = full.rpartition(".")[0]
    known = _domain(env).objects
    if full in known:
        return full
    return owner if owner in known and known[owner].objtype == "class" else None


def _fill(app: Sphinx, document: nodes.document, page: str) -> None:
    for place in list(document.findall(ModuleList)):
        place.replace_self(_module_list(app, page))
    described_here = {entry.docname for entry in _domain(app.env).modules.values()}
    for code in list(document.findall(nodes.literal)):
        inside = (nodes.reference, addnodes.pending_xref, nodes.title, addnodes.desc_signature)
        name = _object(app.env, code.astext())
        if name and page not in described_here and not _is_inside(code, inside):
            entry = _domain(app.env).objects[name]
            uri = f"{app.builder.get_relative_uri(page, entry.docname)}#{entry.node_id}"
            code.replace_self(nodes.reference("", "", code.deepcopy(), internal=True, refuri=uri, classes=["rlhf-api"]))


def _is_inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while (node := node.parent) is not None:
        if isinstance(node, kinds):
            return True
    return False


def _resolve(app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.Element) -> nodes.Node | None:
    """Links for names that a docstring gives without their module, and none for those of other packages.

    A name of the package that nothing has stays unresolved: a warning, and the build fails.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    known = _domain(env).objects
    candidates = [name for name in known if name.startswith(f"{NAME}.") and name.endswith(f".{target}")]
    if len(candidates) == 1:
        entry = known[candidates[0]]
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, candidates[0])
    annotation = not node.hasattr("refexplicit")  # it may name a type variable as well
    elsewhere = "." in target and not target.startswith(f"{NAME}.")
    return text if annotation or elsewhere or hasattr(builtins, target) or target in imported() else None


def _free_sentences(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from taking a sentence's beginning, up to its colon, for a type: ours stand in the annotations."""
    if what in ("attribute", "data", "property"):
        lines[:1] = [f": {line}" for line in lines[:1]]
    for number, line in enumerate(lines[:-1]):
        if line.strip() in ("Returns:", "Yields:"):
            text = lines[number + 1]
            indent = len(text) - len(text.lstrip())
            lines[number + 1] = f"{text[:indent]}: {text[indent:]}"


def _hide_fields(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str | None, result: str | None
) -> tuple[str, None] | None:
    """Leave out what a signature would only repeat: fields without defaults are listed under it in any case.

    So are settings, with their defaults. A protocol isn't called at all.
    """
    if what == "class" and dataclasses.is_dataclass(thing):
        listed = not {"Attributes:", "Args:"} & set((thing.__doc__ or "").split())
        plain = all(field.default is dataclasses.MISSING for field in dataclasses.fields(thing))
        made = any(field.default_factory is not dataclasses.MISSING for field in dataclasses.fields(thing))
        return ("", None) if listed or plain or made else None
    return ("", None) if getattr(thing, "_is_protocol", False) else None


def _skip_plumbing(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """Leave out how many arguments and which options docutils hands to a directive."""
    return True if what == "class" and name in _PLUMBING else None


def _name_attributes() -> None:
    """What a class has are its attributes; Sphinx would call them variables."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"


def _configure(app: Sphinx, config: Config) -> None:
    for name, value in {**_SETTINGS, "autodoc_type_aliases": aliases()}.items():
        setattr(config, name, value)


def register(app: Sphinx) -> None:
    """Register the directives, what they need of Sphinx, and the links."""
    _name_attributes()
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("config-inited", _configure)
    app.add_autodocumenter(ShortData, override=True)
    app.add_directive("api", ApiDirective)
    app.add_directive("api-index", ApiIndexDirective)
    app.connect("autodoc-process-docstring", _free_sentences, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", _hide_fields)
    app.connect("autodoc-skip-member", _skip_plumbing)
    app.connect("missing-reference", _resolve)
    app.connect("doctree-resolved", _fill)
