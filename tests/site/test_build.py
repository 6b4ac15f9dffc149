"""The build command on a tiny book: it passes, does nothing twice, fails loudly, also when tried again."""

from __future__ import annotations

import shutil
import time

import pytest
from small_books import CELL, LESSON, add, run_build
from sphinx.errors import ExtensionError

from rlhf_utils.book import checks
from rlhf_utils.book.execution import jobs

IMPORT = "import plotly.graph_objects as go\n"
PLAIN_FIGURE = IMPORT + "fig = go.Figure(go.Bar(y=[1, 2]))\n"
ODD_OUTPUT = "from IPython.display import display\ndisplay({'application/x-odd': '1'}, raw=True)"
SHOW_TWICE = """from rlhf_utils.plotting import show
for _ in range(2):
    show(go.Figure(go.Bar(y=[1, 2])), alt="Two bars.", caption="The second is taller.")"""


def test_a_good_book_is_built(built):
    root, result = built
    assert result.returncode == 0, result.stdout + result.stderr
    site = root / "_build" / "html"
    assert (site / "index.html").resolve().as_uri() in result.stdout
    assert "lessons/01_figures" in result.stdout.split("Seconds per lesson")[1]
    assert "No launch and repository buttons" in result.stdout
    assert checks.check(site, root / "_build" / "jupyter_execute") == []
    assert len(checks.shown_figures(root / "_build" / "jupyter_execute" / "lessons" / "01_figures.ipynb")) == 2
    assert not (root / "_build" / "attempt").exists()
    page = (site / "book" / "mathematics.html").read_text(encoding="utf8")
    assert page.count("<math") > 10
    assert "mathjax" not in page.lower().replace("mathjax_ignore", "")
    assert 'href="#equation-eq-clip">(1)</a>' in page.replace('class="reference internal" ', "")


def test_a_second_build_does_nothing_and_is_quick(built):
    root, _ = built
    started = time.perf_counter()
    result = run_build(root)
    assert time.perf_counter() - started < 2
    assert result.returncode == 0
    assert "Nothing has changed" in result.stdout


def test_a_figure_that_vanished_is_noticed(built, tmp_path):
    site = tmp_path / "html"
    shutil.copytree(built[0] / "_build" / "html", site)
    page = site / "lessons" / "01_figures.html"
    page.write_text(page.read_text(encoding="utf8").replace("A heat map of the products", "?"), encoding="utf8")
    problems = checks.missing_figures(site, built[0] / "_build" / "jupyter_execute")
    assert len(problems) == 1
    assert "lessons/01_figures: figure 2 of 2" in problems[0]


def test_a_known_repository_gives_buttons_and_lessons_are_kept(small_book):
    first = run_build(small_book)
    assert first.returncode == 0, first.stdout
    second = run_build(small_book, GITHUB_REPOSITORY="someone/some-book")
    assert second.returncode == 0, second.stdout
    assert "kept from an earlier build" in second.stdout
    page = (small_book / "_build" / "html" / "lessons" / "01_figures.html").read_text(encoding="utf8")
    assert "https://github.com/someone/some-book" in page
    assert "https://mybinder.org/v2/gh/someone/some-book/" in page


MEETING = """import pathlib, time
pathlib.Path("{mine}").touch()
for _ in range(600):
    if pathlib.Path("{theirs}").exists():
        break
    time.sleep(0.1)
else:
    raise TimeoutError("the other lesson never began")"""


@pytest.mark.parametrize("asked", ["many", "0", "-1"])
def test_a_wrong_number_of_jobs_is_refused(monkeypatch, asked):
    monkeypatch.setenv("RLHF_UTILS_JOBS", asked)
    with pytest.raises(ExtensionError, match=f"RLHF_UTILS_JOBS is '{asked}'. Give the number"):
        jobs()


def test_lessons_run_beside_each_other(small_book):
    lesson = (small_book / LESSON).read_text(encoding="utf8")
    add(small_book, CELL % MEETING.format(mine="one", theirs="two"))
    other = lesson + CELL % MEETING.format(mine="two", theirs="one")
    (small_book / "lessons" / "02_other.md").write_text(other, encoding="utf8")
    with (small_book / "_toc.yml").open("a", encoding="utf8") as toc:
        toc.write("chapters:\n  - file: lessons/02_other\n")
    result = run_build(small_book, RLHF_UTILS_JOBS="2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "kept from an earlier build" not in result.stdout


@pytest.mark.parametrize(
    ("fault", "told", "tries"),
    [
        (CELL % "raise ValueError('this cell fails')", "this cell fails", 2),
        ("\nSee {ref}`nowhere`.\n", "nowhere", 2),
        ("\n$$\n\\nosuchcommand{x}\n$$\n", "nosuchcommand", 1),
        (CELL % (PLAIN_FIGURE + "fig"), "without alt text", 1),
        (CELL % (IMPORT + SHOW_TWICE), "same alt text", 1),
        (CELL % ODD_OUTPUT, "application/x-odd", 1),
    ],
    ids=["failing cell", "warning", "TeX", "no alt", "same alt", "no renderer"],
)
def test_a_fault_fails_the_build_and_leaves_the_site_before_it(small_book, fault, told, tries):
    add(small_book, fault)
    site = small_book / "_build" / "html"
    site.mkdir(parents=True)
    (site / "before.txt").write_text("the site before", encoding="utf8")
    for _ in range(tries):
        result = run_build(small_book)
        assert result.returncode != 0, result.stdout
        assert told in result.stdout
        assert "lessons/01_figures" in result.stdout
        assert [path.name for path in site.iterdir()] == ["before.txt"]


def test_a_folder_without_a_book_is_refused(tmp_path):
    result = run_build(tmp_path)
    assert result.returncode == 2
    assert "_config.yml" in result.stderr
