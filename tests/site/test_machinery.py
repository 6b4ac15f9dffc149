"""The parts of the book's machinery one by one: formulas, addresses, figures, requests, hashes."""

from __future__ import annotations

import json
import re
import subprocess

import plotly.graph_objects as go
import pytest
from docutils import nodes
from docutils.utils import new_document

from rlhf_utils import plotting
from rlhf_utils.book import checks, execution, figures, mathematics, repository, sources

FORMULAS = [
    r"\pi_\theta(a \mid s)",
    r"\operatorname*{arg\,max}_{\pi} \mathbb{E}_{x \sim \mathcal{D}}\left[ r(x, y) \,\middle|\, x \right]",
    r"\begin{aligned} a &= b \\ &= \sum_i c_i \end{aligned}",
    r"\begin{align} a &= b \label{eq} \\ c &= d \end{align}",
    r"\begin{cases} 1 & \text{if } x > 0 \\ 0 & \text{otherwise} \end{cases}",
    r"\underbrace{\exp\bigl(\tfrac{1}{\beta} r\bigr)}_{\text{tilt}}",
    r"D_{\mathrm{KL}}\!\left(\pi \,\|\, \pi_{\text{ref}}\right)",
    r"\mathbb{1}[x > 0] \cdot \boldsymbol{\theta} \cdot \widehat{A}_t^{\text{GAE}(\gamma, \lambda)}",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
    r"\lVert g \rVert_2 \le \sqrt[3]{x} \propto \binom{n}{k}",
]


@pytest.mark.parametrize("tex", FORMULAS)
def test_formulas_become_mathml(tex):
    for display in (True, False):
        mathml = mathematics.convert([(tex, display)])[tex, display]
        assert mathml is not None
        assert mathml.startswith("<math")
        assert f'display="{"block" if display else "inline"}"' in mathml


def test_a_bracket_with_a_power_keeps_its_size():
    formula = (r"\Bigl( x \Bigr)^\lambda", True)
    mathml = mathematics.convert([formula])[formula]
    # A browser lets no sign that is itself the base of a power grow.
    assert re.search(r'<msup><mrow><mo minsize="180%"[^>]*rspace="0">\)</mo></mrow>', mathml)


def test_unreadable_tex_is_told_apart_from_the_formulas_around_it():
    good, bad, last = ("x", False), (r"\nosuch{x}", True), (r"\beta \log x", False)
    result = mathematics.convert([good, bad, last])
    assert result[bad] is None
    assert "<mi>x</mi>" in result[good]
    assert "β" in result[last]


@pytest.mark.parametrize(
    ("tex", "spaces"),
    [
        (r"\beta \log x", 2),
        (r"\log(x)", 0),
        (r"a = \log x", 1),
        (r"\max_i x_i", 1),
        (r"\log \sigma x", 1),
        ("xy", 0),
    ],
)
def test_functions_get_their_thin_spaces(tex, spaces):
    mathml = mathematics.convert([(tex, False)])[tex, False]
    assert mathml.count('width="0.167em"') == spaces


def test_formulas_are_kept(tmp_path):
    path = tmp_path / "kept.json"
    kept = mathematics.Formulas(path)
    kept.prepare([("x", False), ("y", False)])
    kept.get(("x", False))
    kept.save()
    again = mathematics.Formulas(path)
    assert len(again.known) == 1  # only what was used
    assert again.get(("x", False)) == kept.get(("x", False))


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("https://github.com/someone/book.git", "someone/book"),
        ("https://github.com/someone/book", "someone/book"),
        ("https://token@github.com/some-one/b.ook.git", "some-one/b.ook"),
        ("git@github.com:someone/book.git", "someone/book"),
        ("ssh://git@github.com/someone/book.git", "someone/book"),
        ("https://example.org/someone/book.git", None),
        ("https://example.org/github.com/a/b", None),
        ("/srv/git/book.git", None),
        ("", None),
    ],
)
def test_only_remotes_on_github_count(remote, name):
    assert repository.parse_remote(remote) == name


def test_the_environment_names_the_repository_before_the_remote(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.delenv("GITHUB_REF_NAME", raising=False)
    assert repository.find_repository(tmp_path) is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    remote = ["git", "-C", str(tmp_path), "remote", "add", "origin", "git@github.com:someone/book.git"]
    subprocess.run(remote, check=True)
    assert repository.find_repository(tmp_path).url == "https://github.com/someone/book"
    monkeypatch.setenv("GITHUB_REPOSITORY", "another/book")
    monkeypatch.setenv("GITHUB_REF_NAME", "12/merge")
    assert repository.find_repository(tmp_path) == repository.Repository("another/book", "main")


def test_duplicates_of_alt_texts():
    alts = {"a": ["one", "two"], "b": ["two", "", ""], "c": ["three"]}
    assert figures.duplicates(alts) == [("two", "a", "b")]


def test_a_figure_stands_safely_in_its_page():
    tricky = '</script><!-- "quotes" & <b>'
    node = figures.FigureNode(
        figure=json.dumps({"data": [{"name": tricky}]}),
        alt=tricky,
        caption=tricky,
        height=300,
        ids=["figure-1"],
    )
    text = figures.figure_html(node)
    assert tricky not in text
    inside = text.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(inside) == {"data": [{"name": tricky}]}
    assert "height: 300px" in text


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://a.example/x.js"></script>',
        '<link rel="stylesheet" href="//a.example/x.css">',
        '<link rel="preconnect" href="https://a.example">',
        "<style>@import 'https://a.example/x.css';</style>",
        '<p style="background: url(https://a.example/x.png)">',
        '<img src="https://a.example/x.png">',
    ],
)
def test_requests_to_other_hosts_are_found(page, tmp_path):
    (tmp_path / "page.html").write_text(page + '<a href="https://b.example">fine</a>', encoding="utf8")
    problems = checks.external_requests(tmp_path)
    assert len(problems) == 1
    assert "a.example" in problems[0]


def test_what_stays_on_the_site_is_fine(tmp_path):
    text = '<a href="https://b.example"></a><link rel="canonical" href="https://b.example"><img src="x.png">'
    (tmp_path / "page.html").write_text(text, encoding="utf8")
    (tmp_path / "style.css").write_text("a { background: url(x.png) } /* https://b.example */", encoding="utf8")
    assert checks.external_requests(tmp_path) == []


def test_the_stamp_follows_what_the_build_reads(tmp_path):
    (tmp_path / "book").mkdir()
    page = tmp_path / "book" / "page.md"
    page.write_text("one", encoding="utf8")
    before = sources.stamp(tmp_path)
    (tmp_path / "unrelated.txt").write_text("x", encoding="utf8")
    assert sources.stamp(tmp_path) == before
    page.write_text("two", encoding="utf8")
    assert sources.stamp(tmp_path) != before


def test_the_execution_hash_follows_code_and_not_comments(tmp_path):
    package = tmp_path / "package"
    (package / "book").mkdir(parents=True)
    versions = ["x = 1\n", "# said\nx = 1\n", "x = 2\n"]
    hashes = []
    for number, text in enumerate(versions):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "part.py").write_text(text, encoding="utf8")
        (folder / "book").mkdir()
        (folder / "book" / "machinery.py").write_text(text, encoding="utf8")
        hashes.append(execution.execution_hash(tmp_path, folder))
    assert hashes[0] == hashes[1] != hashes[2]


def test_show_wants_texts_and_fixes_the_height():
    fig = go.Figure(go.Bar(y=[1, 2]))
    with pytest.raises(ValueError, match="alt is empty"):
        plotting.show(fig, alt=" ", caption="c")
    with pytest.raises(ValueError, match="caption is empty"):
        plotting.show(fig, alt="a", caption="")
    fig.update_layout(meta={"kept": 1})
    plotting.show(fig, alt="Two bars.", caption="The second is taller.")  # no kernel: nothing to see, nothing opened
    assert fig.layout.meta == {"kept": 1, "alt": "Two bars.", "caption": "The second is taller."}
    assert fig.layout.height == plotting.DEFAULT_HEIGHT
    tall = go.Figure(layout_height=500)
    plotting.show(tall, alt="Nothing.", caption="Nothing.")
    assert tall.layout.height == 500


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", plotting.COLOURS)
def test_colours_are_seen_on_both_pages(colour):
    white, dark = (
        1.05 / (_luminance(colour) + 0.05),
        (_luminance(colour) + 0.05) / (_luminance("#121212") + 0.05),
    )
    assert min(white, dark) >= 3


def test_a_readers_own_records_make_the_lessons_run_again(tmp_path, monkeypatch):
    seen = {(execution.execution_hash(tmp_path), sources.stamp(tmp_path))}
    for path in (tmp_path / "my_preferences.jsonl", tmp_path / "my_judgements.db", tmp_path / "named.jsonl"):
        path.write_text("{}")
        monkeypatch.setenv("RLHF_UTILS_PREFERENCES", str(path))
        path.write_text(f'{{"pair_id": "{path.name}"}}')
        seen.add((execution.execution_hash(tmp_path), sources.stamp(tmp_path)))
    assert len({one for one, _ in seen}) == len({one for _, one in seen}) == 4


def test_a_mark_behind_a_formula_takes_no_other_text_that_reads_the_same():
    """A full stop behind a link and one behind a formula: only the second goes with the formula."""
    link = nodes.reference("", "chapter 2", refuri="x")
    formula = nodes.math("", "x")
    paragraph = nodes.paragraph("", "", link, nodes.Text("."), formula, nodes.Text("."))
    document = new_document("page")
    document += paragraph
    mathematics._bind_marks(document)
    assert [str(child) for child in paragraph if isinstance(child, nodes.Text)] == [".", ""]
    assert formula["behind"] == "."
