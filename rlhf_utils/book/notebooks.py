"""Notebooks of the lessons for Jupyter, Colab and Binder: one ``.ipynb`` each, in plain notebook text and without outputs.

``make notebooks`` writes them to ``_build/notebooks`` after the book has been built. The lessons are MyST files, and no
notebook program knows MyST's directives: exercises, hints, quizzes, citations, references and the numbers that the text
takes from the book's run become ordinary Markdown here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from rlhf_utils.book.build import executed_of
from rlhf_utils.book.numbers import true_minus
from rlhf_utils.book.repository import Repository, find_repository

FOLDER = Path("_build") / "notebooks"
#: lessons that gain from a GPU; Colab then offers one
WANT_GPU = ("18_gpt2",)
_GLUE = re.compile(r"\{glue:text\}`([^`]+)`")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+\.md)(#[^)]*)?\)")
_STUB = '''def glue(name, value, display=False):
    """Hands a number to the book's text. Here it does nothing."""'''


class Glued:
    """The numbers that the book's text takes from the run of a lesson.

    Args:
        root: the book's folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = executed_of(root) / "lessons"
        self._known: dict[str, dict[str, str]] = {}

    def _of(self, lesson: str) -> dict[str, str]:
        if lesson not in self._known:
            path, found = self._folder / f"{lesson}.ipynb", {}
            notebook = nbformat.read(path, as_version=4) if path.exists() else None
            for cell in notebook.cells if notebook else []:
                for output in cell.get("outputs", []):
                    scrap = output.get("metadata", {}).get("scrapbook")
                    if scrap:
                        data = output["data"]
                        found[scrap["name"]] = data.get(f"{scrap.get('mime_prefix', '')}text/plain", "")
            self._known[lesson] = found
        return self._known[lesson]

    def text(self, lesson: str, reference: str) -> str:
        """The number as the book prints it; ``"?"`` if the book hasn't been built.

        Args:
            lesson: whose text it is.
            reference: ``key``, ``key:format`` or ``page.md::key:format``.
        """
        if "::" in reference:
            page, reference = reference.split("::")
            lesson = Path(page).stem
        key, _, form = reference.partition(":")
        value = self._of(lesson).get(key)
        if value is None:
            return "?"
        try:
            return true_minus(format(float(value) if form and form[-1] not in "ds" else int(value), form))
        except ValueError:
            return true_minus(value.strip("'\""))


# ---- directives


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
                out += ["#### Solution"]
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

    found = {}
    for key, entry in parse_file(str(root / "book" / "references.bib"), bib_format="bibtex").entries.items():
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [" ".join(map(str, [*p.rich_prelast_names, *p.rich_last_names])) for p in people]
        if len(names) > 2 or names[-1:] == ["others"]:
            who = f"{names[0]} et al."
        else:
            who = " and ".join(names) or entry.fields.get("organization", key)
        found[key] = who, entry.fields.get("year", "n.d.")
    return found


def _labels(folder: Path) -> dict[str, str]:
    """Titles of the exercises and headings that a label names."""
    found = {}
    for path in sorted(folder.glob("*.md")):
        text = path.read_text(encoding="utf8")
        for title, label in re.findall(r"\{exercise-start\}\s*(.*)\n:label:\s*(\S+)", text):
            found[label] = title
        for label, title in re.findall(r"^\(([\w-]+)\)=\n+#+\s*(.*)$", text, re.MULTILINE):
            found[label] = title
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
    """

    def __init__(self, root: Path, repository: Repository | None) -> None:
        self.root = root
        self.repository = repository
        self.glued = Glued(root)
        self.citations = citations(root)
        self.labels = _labels(root / "lessons") | _labels(root / "book")

    def _roles(self, lesson: str, text: str) -> str:
        equations: list[str] = []

        def tag(match: re.Match[str]) -> str:
            equations.append(match[2])
            return f"$$\n{match[1].strip()} \\tag{{{len(equations)}}}\n$$"

        text = re.sub(r"\$\$((?:[^$]|\$(?!\$))*?)\$\$ \(([\w-]+)\)", tag, text)

        def equation(match: re.Match[str]) -> str:
            label = match[1]
            return f"({equations.index(label) + 1})" if label in equations else "(see the chapter)"

        def cite(match: re.Match[str]) -> str:
            told = []
            for key in match[2].split(","):
                who, year = self.citations[key.strip()]
                told.append(f"{who} ({year})" if match[1] == "t" else f"{who} {year}")
            return ", ".join(told) if match[1] == "t" else f"({'; '.join(told)})"

        def reference(match: re.Match[str]) -> str:
            named = re.fullmatch(r"(.+?)\s*<([^>]+)>", match[2])
            label = named[2] if named else match[2]
            return named[1] if named else f"“{self.labels.get(label, label)}”"

        text = _GLUE.sub(lambda m: self.glued.text(lesson, m[1]), text)
        text = re.sub(r"\{eq\}`([^`]+)`", equation, text)
        text = re.sub(r"\{cite:([pt])\}`([^`]+)`", cite, text)
        text = re.sub(r"\{(ref|numref|doc)\}`([^`]+)`", reference, text)
        return _LINK.sub(self._link, text)

    def _link(self, match: re.Match[str]) -> str:
        title, target, anchor = match[1], match[2], match[3] or ""
        path = (self.root / "lessons" / target).resolve()
        title = title or page_title(path)
        if path.parent.name == "lessons" and path.stem != "90_evidence":
            return f"[{title}]({path.stem}.ipynb)"
        if self.repository is None:
            return f"{title}"
        owner, _, name = self.repository.name.partition("/")
        return f"[{title}](https://{owner.lower()}.github.io/{name}/{path.parent.name}/{path.stem}.html{anchor})"

    def first_cells(self, lesson: str) -> list[NotebookNode]:
        """What the notebook says before the lesson begins, and the cell that installs the package on Colab."""
        said = [
            "Run the next cell first. On Colab it installs the book's package and keeps Colab's torch; elsewhere it does "
            "nothing.",
            "Numbers in the text come from the book's run; yours may differ in the last digits.",
            "**Keep your work:** on Colab *File, Save a copy in Drive*; on Binder download the notebook before you leave, "
            "since the machine is thrown away.",
        ]
        if self.repository is None:
            install = 'raise SystemExit("This copy of the book doesn\'t know its repository. Install rlhf_utils by hand.")'
        else:
            package = f"rlhf_utils[lessons] @ git+{self.repository.url}@{self.repository.branch}"
            install = f'get_ipython().run_line_magic("pip", \'install --quiet "{package}"\')'
        code = f'import sys\n\nif "google.colab" in sys.modules:\n    {install}'
        return [new_markdown_cell("\n\n".join(said)), new_code_cell(code)]

    def notebook(self, path: Path) -> NotebookNode:
        """A lesson as a notebook without outputs.

        Raises:
            ValueError: it has a directive that notebooks can't show.
        """
        lesson = path.stem
        source = jupytext.read(path, fmt="md:myst")
        cells: list[NotebookNode] = []
        in_solution = False
        # All text at once, since equations are numbered through the lesson.
        for cell in source.cells:
            if cell.cell_type != "code":
                in_solution = _in_solution(cell.source, in_solution)
                cells.append(new_markdown_cell(_blocks(cell.source).strip()))
                continue
            code = new_code_cell(re.sub(r"^from myst_nb import glue$", lambda _: _STUB, cell.source, flags=re.MULTILINE))
            tags = [tag for tag in cell.metadata.get("tags", []) if tag != "seeds"]
            if tags:
                code.metadata["tags"] = tags
            if in_solution or "solution" in tags:
                code.metadata["jupyter"] = {"source_hidden": True}
                code.metadata["cellView"] = "form"  # what Colab calls it
            cells.append(code)
        marked = "\n\n%%cell%%\n\n".join(c.source for c in cells if c.cell_type == "markdown")
        texts = iter(self._roles(lesson, marked).split("\n\n%%cell%%\n\n"))
        for cell in cells:
            if cell.cell_type == "markdown":
                cell.source = next(texts)
        cells = [c for c in cells if c.source.strip()]
        title, rest = cells[0], cells[1:]
        notebook = nbformat.v4.new_notebook(cells=[title, *self.first_cells(lesson), *rest])
        notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook.metadata["language_info"] = {"name": "python"}
        if lesson in WANT_GPU:
            notebook.metadata["accelerator"] = "GPU"
            notebook.metadata["colab"] = {"gpuType": "T4"}
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"{lesson[:2]}-{number:03}"  # the same at each build
        nbformat.validate(notebook)
        return notebook


def _in_solution(text: str, before: bool) -> bool:
    """Whether the cells behind a text belong to a solution."""
    places = {text.rfind("{solution-start}"): True, text.rfind("{solution-end}"): False}
    last = max(places)
    return before if last < 0 else places[last]


def write(root: Path, folder: Path | None = None, say: Callable[[str], None] = print) -> list[Path]:
    """Write the notebooks of all lessons and return their paths.

    Args:
        root: the book's folder.
        folder: where to; ``_build/notebooks`` unless given.
        say: prints a line.
    """
    repository = find_repository(root)
    if repository is None:
        say("The repository's address isn't known, so these notebooks can't install the package on Colab.")
        say("Set GITHUB_REPOSITORY=owner/name to change that.")
    writer = Writer(root, repository)
    folder = folder or root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for source in sorted((root / "lessons").glob("[0-9]*.md")):
        if source.stem.startswith("90_"):
            continue  # a page that shows results and teaches nothing
        target = folder / f"{source.stem}.ipynb"
        text = json.dumps(writer.notebook(source), indent=1, ensure_ascii=False, sort_keys=True)
        target.write_text(text + "\n", encoding="utf8")
        paths.append(target)
    say(f"{len(paths)} notebooks in {folder}")
    return paths
