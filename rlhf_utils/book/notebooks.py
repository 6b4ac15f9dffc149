"""Notebooks of the lessons for Jupyter, Colab and Binder: one ``.ipynb`` each, in plain text and without outputs.

The site offers them for download, and ``make notebooks`` writes them to ``_build/notebooks`` together with what else
lies on the repository's branch ``notebooks``, from which Colab and Binder open them. The lessons are MyST files, and no
notebook program knows MyST's directives: exercises, hints, quizzes, citations, references and the numbers that the text
takes from the book's run become ordinary Markdown here.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from rlhf_utils.book.build import executed_of
from rlhf_utils.book.numbers import true_minus
from rlhf_utils.book.repository import Repository, find_repository

FOLDER = Path("_build") / "notebooks"
#: the branch that holds the notebooks and nothing of the book's sources
BRANCH = "notebooks"
#: lessons that gain from a GPU; Colab then offers one
WANT_GPU = ("18_gpt2",)
UNKNOWN = "?"  #: stands for a number while the book hasn't been built
_GLUE = re.compile(r"\{glue:text\}`([^`]+)`")
_LINK = re.compile(r"(?<![!\\`])\[([^\]]*)\]\(([^)\s]+)\)")
_IMPORT = re.compile(r"^from myst_nb import glue\n?", re.MULTILINE)
_STUB = '''def glue(name, value, display=False):
    """Hands a number to the text of the book's page. Here nobody waits for it."""'''


class Glued:
    """The numbers that the book's text takes from the run of a lesson.

    Args:
        executed: the folder of the executed lessons.
    """

    def __init__(self, executed: Path) -> None:
        self._folder = executed / "lessons"
        self._known: dict[str, dict[str, str] | None] = {}

    def _of(self, lesson: str) -> dict[str, str] | None:
        """What a lesson has glued, by name; None if it hasn't been executed."""
        if lesson not in self._known:
            path = self._folder / f"{lesson}.ipynb"
            found: dict[str, str] = {}
            for cell in nbformat.read(path, as_version=4).cells if path.exists() else []:
                for output in cell.get("outputs", []):
                    scrap = output.get("metadata", {}).get("scrapbook")
                    if scrap:
                        found[scrap["name"]] = output["data"].get(f"{scrap.get('mime_prefix', '')}text/plain", "")
            self._known[lesson] = found if path.exists() else None
        return self._known[lesson]

    def text(self, lesson: str, reference: str) -> str:
        """The number as the book prints it; :data:`UNKNOWN` if the book hasn't been built.

        Args:
            lesson: whose text it is.
            reference: ``key``, ``key:format`` or ``page.md::key:format``.

        Raises:
            ValueError: the lesson has been executed and hasn't glued such a number.
        """
        if "::" in reference:
            page, reference = reference.split("::")
            lesson = Path(page).stem
        key, _, form = reference.partition(":")
        known = self._of(lesson)
        if known is None:
            return UNKNOWN
        if key not in known:
            raise ValueError(f"lesson {lesson} has no number {key!r}: the built book is older than its text")
        try:
            return true_minus(format(ast.literal_eval(known[key]), form))
        except (SyntaxError, ValueError):
            return true_minus(known[key])


# ---- directives

SOLUTION = "#### Solution"
AFTER = "### Further"  #: heads a text behind a solution that has no heading of its own


def _options(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options at a directive's head, and what is below them."""
    found, at = {}, 0
    while at < len(lines) and (match := re.fullmatch(r":([\w-]+):\s*(.*)", lines[at])):
        found[match[1]] = match[2]
        at += 1
    return found, lines[at:]


def _quiz(lines: list[str]) -> list[str]:
    """Question and options, the explanations folded away."""
    out, explanation = [], []

    def close() -> None:
        if explanation:
            out.extend(["", "  <details><summary>Right or wrong?</summary>", "", *explanation, "", "  </details>", ""])
            explanation.clear()

    for line in lines:
        if line.startswith("- "):
            close()
            out.append(line)
        elif explanation or line.lstrip().startswith(("Right.", "Wrong.")):
            explanation.append(line)
        else:
            out.append(line)
    close()
    return ["**A question.**", "", *out]


def _admonition(title: str, options: dict[str, str], lines: list[str]) -> list[str]:
    if "dropdown" in options.get("class", ""):
        return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>"]
    return [f"**{title}**", "", *lines]


def _blocks(text: str) -> str:
    """Replace the directives that enclose text. Fences nest by length, so the outermost of a kind is taken first."""
    lines, out, at = text.split("\n"), [], 0
    while at < len(lines):
        start = re.fullmatch(r"([:`]{3,})\{([\w-]+)\}\s*(.*)", lines[at])
        if start is None:
            out.append(lines[at])
            at += 1
            continue
        fence, name, title = start.groups()
        try:
            end = lines.index(fence, at + 1)
        except ValueError:
            raise ValueError(f"{lines[at]!r} isn't closed") from None
        options, inside = _options(lines[at + 1 : end])
        inside = _blocks("\n".join(inside).strip("\n")).split("\n")
        at = end + 1
        match name:
            case "exercise-start":
                out += [f"### Exercise: {title}"]
            case "solution-start":
                out += [SOLUTION]
            case "exercise-end" | "solution-end" | "at-a-glance":
                pass
            case "quiz":
                out += _quiz(inside)
            case "admonition":
                out += _admonition(title, options, inside)
            case "note" | "warning" | "tip" | "important":
                out += _admonition(name.capitalize(), options, inside)
            case _:
                raise ValueError(f"notebooks can't show the directive {{{name}}}")
    return "\n".join(out)


# ---- roles


def citations(root: Path) -> dict[str, tuple[str, str]]:
    """Author and year of each entry of the bibliography, by key."""
    from pybtex.database import parse_file

    path, found = root / "book" / "references.bib", {}
    if not path.exists():
        return found
    for key, entry in parse_file(str(path), bib_format="bibtex").entries.items():
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [" ".join(map(str, [*p.rich_prelast_names, *p.rich_last_names])) for p in people]
        if len(names) > 2 or names[-1:] == ["others"]:
            who = f"{names[0]} et al."
        else:
            who = " and ".join(names) or entry.fields.get("organization", key)
        found[key] = who, entry.fields.get("year", "n.d.")
    return found


@dataclass(frozen=True)
class Label:
    """What a label stands before, and where.

    Attributes:
        page: such as ``"book/08_ppo"``.
        title: the exercise's or heading's; what kind of thing it is where it has no title.
        anchor: on the site's page.
    """

    page: str
    title: str
    anchor: str


_LABELLED = (
    (re.compile(r"\{exercise-start\}[ ]*(?P<title>.*)\n:label: *(?P<label>\S+)"), ""),
    (re.compile(r"^\((?P<label>[\w-]+)\)=\n+#+ *(?P<title>.*)$", re.MULTILINE), ""),
    (re.compile(r"^:name: *(?P<label>fig-\S+)$", re.MULTILINE), "the figure"),
    (re.compile(r"\$\$ \((?P<label>[\w-]+)\)"), "the equation"),
)


def labels(root: Path) -> dict[str, Label]:
    """What the book's labels stand before: exercises, headings, figures and equations."""
    found = {}
    for path in sorted((root / "book").glob("*.md")) + sorted((root / "lessons").glob("*.md")):
        text = path.read_text(encoding="utf8")
        for pattern, kind in _LABELLED:
            for match in pattern.finditer(text):
                name = match["label"]
                anchor = f"equation-{name}" if kind == "the equation" else name
                title = kind or match["title"].strip()
                found[name] = Label(f"{path.parent.name}/{path.stem}", title, anchor)
    return found


def page_title(path: Path) -> str:
    """A page's first heading."""
    match = re.search(r"^# (.+)$", path.read_text(encoding="utf8"), re.MULTILINE)
    return match[1] if match else path.stem


class Writer:
    """Turns lessons into notebooks.

    Args:
        root: the book's folder.
        repository: where the book is published; None = not known.
        executed: the folder of the executed lessons; the built book's unless given.
    """

    def __init__(self, root: Path, repository: Repository | None, executed: Path | None = None) -> None:
        self.root = root
        self.repository = repository
        self.glued = Glued(executed or executed_of(root))
        self.citations = citations(root)
        self.labels = labels(root)

    def package(self) -> str | None:
        """What pip installs to get the package as it was when the notebooks were made; None if nobody knows."""
        if self.repository is None:
            return None
        return f"rlhf_utils[lessons] @ {self.repository.url}/archive/{self.repository.branch}.zip"

    def _roles(self, lesson: str, text: str) -> str:
        equations: list[str] = []

        def tag(match: re.Match[str]) -> str:
            equations.append(match[2])
            return f"$$\n{match[1].strip()} \\tag{{{len(equations)}}}\n$$"

        text = re.sub(r"\$\$((?:[^$]|\$(?!\$))*?)\$\$ \(([\w-]+)\)", tag, text)

        def equation(match: re.Match[str]) -> str:
            label = match[1]
            return f"({equations.index(label) + 1})" if label in equations else self._labelled(label)

        def cite(match: re.Match[str]) -> str:
            told = []
            for key in match[2].split(","):
                who, year = self.citations[key.strip()]
                told.append(f"{who} ({year})" if match[1] == "t" else f"{who} {year}")
            return ", ".join(told) if match[1] == "t" else f"({'; '.join(told)})"

        def reference(match: re.Match[str]) -> str:
            named = re.fullmatch(r"(.+?)\s*<([^>]+)>", match[2])
            if named:
                return self._labelled(named[2], named[1])
            label = self.labels[match[2]]
            return f"“{label.title}”" if label.page == f"lessons/{lesson}" else self._labelled(match[2])

        text = _GLUE.sub(lambda m: self.glued.text(lesson, m[1]), text)
        text = re.sub(r"\{eq\}`([^`]+)`", equation, text)
        text = re.sub(r"\{cite(?::([pt]))?\}`([^`]+)`", cite, text)
        text = re.sub(r"\{(?:ref|numref)\}`()([^`]+)`", reference, text)
        return _outside_code(lambda part: _LINK.sub(self._link, part), text)

    def _to_site(self, title: str, page: str, anchor: str = "") -> str:
        """A link to a page of the site; the bare title if the site's address isn't known."""
        return f"[{title}]({self.repository.site}{page}.html{anchor})" if self.repository else title

    def _labelled(self, name: str, title: str = "") -> str:
        label = self.labels[name]
        return self._to_site(title or label.title, label.page, f"#{label.anchor}")

    def _link(self, match: re.Match[str]) -> str:
        title, target = match[1], match[2]
        if re.match(r"https?://|mailto:", target):
            return match[0]
        if target.startswith("#"):
            return title  # programs disagree about the anchors of headings
        if target in self.labels:
            return self._labelled(target, title)
        page, _, anchor = target.partition("#")
        path = (self.root / "lessons" / page).resolve()
        if not path.is_file() or path.suffix != ".md":
            raise ValueError(f"the link to {target!r} leads nowhere")
        place = path.relative_to(self.root.resolve()).with_suffix("").as_posix()
        return self._to_site(title or page_title(path), place, f"#{anchor}" if anchor else "")

    def first_cells(self, lesson: str, title: str) -> list[NotebookNode]:
        """Title and what to know before running, and the cell that installs the package on Colab."""
        page = self._to_site("page of the book", f"lessons/{lesson}")
        package = self.package()
        if package is None:
            first = (
                "**The package first.** This copy of the book doesn't know where it is published. Install the package "
                "from the book's folder: `python -m pip install 'PATH-OF-THE-BOOK[lessons]'`."
            )
        else:
            first = (
                "**Run the next cell first.** On Colab it installs the book's package and keeps Colab's torch. "
                "Elsewhere it does nothing: there the package has to be installed already."
            )
        said = [
            title,
            f"*This notebook is a {page}, to be run and changed.*",
            first,
            "**Keep your work.** Colab: *File, Save a copy in Drive*. Binder: download the notebook before you leave, "
            "since the machine is thrown away.",
            "The numbers in the text come from the book's own run; yours may differ a little. Solutions are folded: "
            "a click beside their heading opens one, and another shows the code of a cell.",
        ]
        if package is None:
            return [new_markdown_cell("\n\n".join(said))]
        install = f'%pip install --quiet "{package}"'
        code = f'import sys\n\nif "google.colab" in sys.modules:\n    {install}'
        return [new_markdown_cell("\n\n".join(said)), new_code_cell(code)]

    def notebook(self, path: Path) -> NotebookNode:
        """A lesson as a notebook without outputs.

        Raises:
            ValueError: it has a directive that notebooks can't show, a link that leads nowhere, or an unknown number.
        """
        lesson = path.stem
        source = jupytext.read(path, fmt="md:myst")
        cells: list[NotebookNode] = []
        in_solution = folded = False
        for cell in source.cells:
            if cell.cell_type == "code":
                cells.append(_code(cell, in_solution))
                continue
            for part in _parts(cell.source):
                text = _blocks(part).strip()
                if folded and not in_solution and text:
                    folded = False
                    if not text.startswith("#"):
                        text = f"{AFTER}\n\n{text}"  # or it would be folded as well
                in_solution = _is_solution(part, in_solution)
                folded = folded or "{solution-start}" in part
                cells.append(new_markdown_cell(text))
        # All text at once, since equations are numbered through the lesson.
        written = [cell for cell in cells if cell.cell_type == "markdown"]
        texts = self._roles(lesson, _BETWEEN.join(cell.source for cell in written)).split(_BETWEEN)
        for cell, text in zip(written, texts, strict=True):
            cell.source = text
        cells = [cell for cell in cells if cell.source.strip()]
        title, _, rest = cells[0].source.partition("\n")
        cells[0].source = rest.strip()
        notebook = nbformat.v4.new_notebook(cells=[*self.first_cells(lesson, title), *cells])
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook.metadata["language_info"] = {"name": "python"}
        notebook.metadata["colab"] = {"name": f"{lesson}.ipynb", "toc_visible": True}
        if lesson in WANT_GPU:
            notebook.metadata["accelerator"] = "GPU"
            notebook.metadata["colab"]["gpuType"] = "T4"
        for number, cell in enumerate(notebook.cells):
            # The same at each build. Colab looks for it in the metadata.
            cell["id"] = cell.metadata["id"] = f"{lesson[:2]}-{number:03}"
        _fold_solutions(notebook)
        nbformat.validate(notebook)
        return notebook


_BETWEEN = "\n\n%%cell%%\n\n"


def _outside_code(change: Callable[[str], str], text: str) -> str:
    """Change a text except where it is set as code."""
    parts = re.split(r"(```.*?```|`[^`\n]+`)", text, flags=re.DOTALL)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def _parts(text: str) -> list[str]:
    """Cut a text where a solution begins and where it ends."""
    return re.split(r"(?=^```\{solution-start\})|(?<=\{solution-end\}\n```)", text, flags=re.MULTILINE)


def _is_solution(part: str, before: bool) -> bool:
    """Whether what comes behind a part belongs to a solution."""
    last = max(part.rfind("{solution-start}"), part.rfind("{solution-end}"))
    return before if last < 0 else part.startswith("{solution-start}", last)


def _code(cell: NotebookNode, in_solution: bool) -> NotebookNode:
    """A code cell without the book's own marks; solutions and what the page hides are folded."""
    source = cell.source
    if _IMPORT.search(source):
        source = _with_stub(_IMPORT.sub("", source))
    code = new_code_cell(source)
    tags = cell.metadata.get("tags", [])
    if kept := [tag for tag in tags if tag in ("exercise", "solution")]:
        code.metadata["tags"] = kept
    if in_solution or {"solution", "hide-input", "remove-cell"} & set(tags):
        code.metadata["jupyter"] = {"source_hidden": True}
        code.metadata["cellView"] = "form"  # what Colab calls it
    return code


def _with_stub(source: str) -> str:
    """A cell with a function in place of the book's `glue`, behind its imports."""
    lines = source.split("\n")
    imports = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    last = max((node.end_lineno or 0 for node in imports), default=0)
    rest = "\n".join(lines[last:]).strip("\n")
    return "\n".join(lines[:last]) + f"\n\n\n{_STUB}" + (f"\n\n\n{rest}" if rest else "")


def _fold_solutions(notebook: NotebookNode) -> None:
    """Fold each solution below its heading."""
    folded = []
    for cell in notebook.cells:
        if not cell.source.startswith(SOLUTION):
            continue
        cell.metadata["jp-MarkdownHeadingCollapsed"] = True
        folded.append(cell["id"])
    if folded:
        notebook.metadata["colab"]["collapsed_sections"] = folded


def write_all(writer: Writer, folder: Path) -> list[Path]:
    """Write the notebooks of all lessons into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for source in sorted((writer.root / "lessons").glob("[0-9]*.md")):
        target = folder / f"{source.stem}.ipynb"
        text = json.dumps(writer.notebook(source), indent=1, ensure_ascii=False, sort_keys=True)
        target.write_text(text + "\n", encoding="utf8", newline="\n")
        paths.append(target)
    return paths


_README = """# Notebooks of the lessons

Made from {source}. Nothing here is edited by hand: a change belongs in the book's repository.

`.binder` says how Binder makes a machine for them. On your own: `pip install "{package}" jupyterlab`
"""


def write(root: Path, folder: Path | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """Write the notebooks of all lessons, and beside them what the branch :data:`BRANCH` needs; return their paths.

    Args:
        root: the book's folder.
        folder: where to; ``_build/notebooks`` unless given.
        say: prints a line.
    """
    writer = Writer(root, find_repository(root))
    folder = folder or root / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    paths = write_all(writer, folder)
    package = writer.package()
    if package is None or writer.repository is None:
        say("The repository's address isn't known, so these notebooks can't install the package on Colab.")
        say("Set GITHUB_REPOSITORY=owner/name to change that.")
    else:
        shutil.copytree(root / ".binder", folder / ".binder")
        shutil.copy(root / "requirements.lock.txt", folder / ".binder")
        (folder / ".binder" / "package").write_text(package + "\n", encoding="utf8", newline="\n")
        readme = _README.format(source=f"{writer.repository.url}, at `{writer.repository.branch}`", package=package)
        (folder / "README.md").write_text(readme, encoding="utf8", newline="\n")
        shutil.copy(root / "LICENSE", folder)
    if not executed_of(root).exists():
        say(f"The book hasn't been built: numbers in the text are shown as {UNKNOWN!r}.")
    say(f"{len(paths)} notebooks in {folder}")
    return paths
