"""The lessons' notebooks: plain text, the same at each build, and able to run where only the package's wheel is."""

from __future__ import annotations

import json
import re
import sys
import types

import nbformat
import notebook_runs
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from rlhf_utils.book.notebooks import AFTER, SOLUTION, UNKNOWN, Glued, Writer, write, write_all
from rlhf_utils.book.repository import Repository

ROOT = notebook_runs.ROOT
LESSONS = [path.stem for path in sorted((ROOT / "lessons").glob("[0-9]*.md"))]
QUICK = ("02_pizza_robot", "90_evidence")  # they need no chain
# Binder gives 2 GB, and Jupyter itself takes some 200 MB of it.
MEMORY = 1700
BOOK = Repository("someone/some-book", "v1.0.0")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The notebooks as they are published."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_all(Writer(ROOT, BOOK), folder)
    return folder


def read(made, lesson):
    return nbformat.read(made / f"{lesson}.ipynb", as_version=4)


def texts(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]+`", "", text, flags=re.DOTALL)


def test_the_same_notebooks_come_out_twice(made, tmp_path):
    paths = write_all(Writer(ROOT, BOOK), tmp_path)
    assert [path.stem for path in paths] == LESSONS
    for path in paths:
        assert path.read_bytes() == (made / path.name).read_bytes()


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_notebook_is_valid_and_plain(made, lesson):
    notebook = read(made, lesson)
    nbformat.validate(notebook)
    ids = [cell["id"] for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert not any("myst_nb" in cell.source for cell in code)
    assert not any(re.search(r"^(`{3,}\{|:::|\([\w-]+\)=$|\+\+\+)", text, re.MULTILINE) for text in texts(notebook))
    for text in map(without_code, texts(notebook)):
        assert not re.search(r"(?<![\w\\])\{(glue|eq|ref|numref|doc|cite|term)[:\w]*\}", text), text
        assert text.count("<details>") == text.count("</details>")
        assert re.findall(r"\]\((?!https?://)[^)\s]*\)", re.sub(r"\$[^$]*\$", "", text)) == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_exercises_and_solutions_all_arrive(made, lesson):
    source = (ROOT / "lessons" / f"{lesson}.md").read_text(encoding="utf8")
    said = "\n".join(texts(read(made, lesson)))
    assert said.count("### Exercise: ") == source.count("{exercise-start}")
    assert len(re.findall(rf"^{SOLUTION}$", said, re.MULTILINE)) == source.count("{solution-start}")
    assert said.count("<summary>Hint</summary>") == source.count("{admonition} Hint")


def test_a_folded_solution_hides_nothing_else(made):
    for lesson in LESSONS:
        notebook = read(made, lesson)
        folded = [number for number, cell in enumerate(notebook.cells) if cell.source.startswith(SOLUTION)]
        assert [notebook.cells[n]["id"] for n in folded] == notebook.metadata["colab"].get("collapsed_sections", [])
        for number in folded:
            assert notebook.cells[number].metadata["jp-MarkdownHeadingCollapsed"]
            below = notebook.cells[number + 1 :]
            after = [c for c in below if re.match(r"#{1,4} ", c.source) and c.cell_type == "markdown"]
            inside = below[: below.index(after[0])] if after else below
            assert all(c.metadata.get("cellView") == "form" for c in inside if c.cell_type == "code"), lesson
    assert AFTER in "\n".join(texts(read(made, "08_ppo")))


@pytest.fixture
def first_cell(made):
    """Runs a notebook's first code cell as IPython would; what it installs is recorded."""

    def run(lesson):
        cell = next(cell for cell in read(made, lesson).cells if cell.cell_type == "code")
        asked = []
        shell = types.SimpleNamespace(run_line_magic=lambda name, line: asked.append((name, line)))
        exec(TransformerManager().transform_cell(cell.source), {"get_ipython": lambda: shell})
        return asked

    return run


def test_the_first_cell_installs_on_colab_and_nowhere_else(first_cell, monkeypatch):
    assert first_cell("08_ppo") == []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    package = "rlhf_utils[lessons] @ https://github.com/someone/some-book/archive/v1.0.0.zip"
    assert first_cell("08_ppo") == [("pip", f'install --quiet "{package}"')]


def test_a_gpu_is_asked_for_where_one_helps(made):
    assert read(made, "18_gpt2").metadata["accelerator"] == "GPU"
    assert "accelerator" not in read(made, "01_written_reward").metadata


def test_numbers_come_from_the_run(tmp_path):
    assert Glued(tmp_path).text("01_a", "share:.0%") == UNKNOWN
    cells = [nbformat.v4.new_code_cell("")]
    for name, value in (("share", "0.126"), ("word", "'dull'"), ("many", "12288")):
        output = nbformat.v4.new_output("display_data", {"text/plain": value}, metadata={"scrapbook": {"name": name}})
        cells[0].outputs.append(output)
    (tmp_path / "lessons").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "lessons" / "01_a.ipynb")
    glued = Glued(tmp_path)
    assert [glued.text("01_a", key) for key in ("share:.0%", "word", "many:,")] == ["13%", "dull", "12,288"]
    assert glued.text("02_b", "../lessons/01_a.md::share:.1f") == "0.1"
    with pytest.raises(ValueError, match="has no number 'gone'"):
        glued.text("01_a", "gone")


LESSON = """---
kernelspec: {{name: python3, display_name: Python 3, language: python}}
jupytext: {{text_representation: {{extension: .md, format_name: myst}}}}
---
# A lesson

{text}

```{{code-cell}} ipython3
from myst_nb import glue
import math
glue("a", 1)
```
"""


@pytest.fixture
def lesson_of(tmp_path):
    """Makes a notebook of a lesson with this text; the repository isn't known."""

    def make(text, repository=None):
        (tmp_path / "lessons").mkdir(exist_ok=True)
        path = tmp_path / "lessons" / "01_a.md"
        path.write_text(LESSON.format(text=text), encoding="utf8")
        return Writer(tmp_path, repository).notebook(path)

    return make


def test_directives_become_plain_text(lesson_of):
    text = (
        "$$\na = b\n$$ (eq-a)\n\nBy {eq}`eq-a`:\n\n```{exercise-start} Two\n:label: ex-two\n```\n\nAdd.\n\n"
        ":::{admonition} Hint\n:class: dropdown\nOne.\n:::\n\n```{exercise-end}\n```\n\n"
        "```{solution-start} ex-two\n```\n\nTwo.\n\n```{solution-end}\n```\n\nSee {ref}`ex-two`, [here](01_a.md)."
    )
    said = "\n".join(texts(lesson_of(text))[1:])
    assert said == (
        "$$\na = b \\tag{1}\n$$\n\nBy (1):\n\n### Exercise: Two\n\nAdd.\n\n<details><summary>Hint</summary>\n\nOne.\n\n"
        "</details>\n#### Solution\n\nTwo.\n### Further\n\nSee “Two”, here."
    )
    assert "https://someone.github.io/some-book/lessons/01_a.html" in texts(lesson_of("[b](01_a.md)", BOOK))[1]


@pytest.mark.parametrize(
    ("text", "message"), [(":::{odd}\n:::", "can't show the directive {odd}"), ("[b](gone.md)", "leads nowhere")]
)
def test_what_a_notebook_cannot_say_is_an_error(lesson_of, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lesson_of(text)


def test_glue_does_nothing_in_a_notebook(lesson_of):
    *_, cell = lesson_of("Text.").cells
    assert cell.source.startswith("import math\n\n\ndef glue(")
    exec(cell.source, {})


def test_the_branch_has_what_binder_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", BOOK.name)
    monkeypatch.setenv("GITHUB_REF_NAME", BOOK.branch)
    said = []
    write(ROOT, tmp_path / "out", said.append)
    assert (tmp_path / "out" / ".binder" / "package").read_text() == f"{Writer(ROOT, BOOK).package()}\n"
    assert (tmp_path / "out" / ".binder" / "postBuild").stat().st_mode & 0o100
    assert "torch==" in (tmp_path / "out" / ".binder" / "requirements.lock.txt").read_text()
    assert "22 notebooks" in said[-1]


# ---- from a wheel, outside the repository


@pytest.fixture(scope="session")
def outside(tmp_path_factory):
    """An interpreter with the package from a wheel, and a folder for the artefacts that the notebooks share."""
    folder = tmp_path_factory.mktemp("outside")
    python = notebook_runs.install(notebook_runs.build_wheel(folder), folder / "environment")
    return python, folder / "cache"


def run(made, outside, folder, lesson):
    python, cache = outside
    ran = notebook_runs.execute(python, made / f"{lesson}.ipynb", folder / "empty", cache)
    print(f"{lesson}: {ran.seconds:.0f} s, at most {ran.peak:.0f} MB")
    assert not ran.error, ran.error
    assert ran.peak < MEMORY
    return nbformat.read(folder / "empty" / "executed.ipynb", as_version=4)


def test_the_package_is_the_wheels(outside, tmp_path):
    python, cache = outside
    code = "import json, rlhf_utils; from rlhf_utils import experiments; "
    code += "print(json.dumps([rlhf_utils.__file__, str(experiments.folder())]))"
    found = notebook_runs.output([str(python), "-c", code], tmp_path, cache)
    for path in json.loads(found):
        assert path.startswith(str(python.parents[1]))


@pytest.mark.parametrize("lesson", QUICK)
def test_a_quick_notebook_runs_from_a_wheel(made, outside, tmp_path, lesson):
    executed = run(made, outside, tmp_path, lesson)
    assert any(cell.get("outputs") for cell in executed.cells)


@pytest.mark.wheel
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("lesson", [lesson for lesson in LESSONS if lesson not in QUICK])
def test_each_notebook_runs_from_a_wheel(made, outside, tmp_path, lesson):
    run(made, outside, tmp_path, lesson)
