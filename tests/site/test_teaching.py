"""What the chapters teach with: quizzes, drawings and the box at their head."""

from __future__ import annotations

import re

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from small_books import add, run_build

from rlhf_utils.book import diagrams, glance

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 90 9" width="90">%s</svg>'


@pytest.fixture(scope="session")
def page(built):
    """The fixture book's page with one of each."""
    return BeautifulSoup((built[0] / "_build/html/book/teaching.html").read_text(encoding="utf8"), "html.parser")


def test_a_quiz_needs_no_script(page):
    first, second = page.select(".rlhf-quiz")
    assert "Question 1" in first.text
    assert "Question 2" in second.text
    options = first.select("details")
    assert [option.summary.find("math") is not None for option in options] == [True, False]
    assert [option["class"][1] for option in options] == ["rlhf-right", "rlhf-wrong"]
    assert [option.select_one("p > strong").text for option in options] == ["Right.", "Wrong."]
    # Opening one answer closes the others of the same question, and of no other.
    assert {option["name"] for option in options} == {"quiz-1"}
    assert {option["name"] for option in second.select("details")} == {"quiz-2"}
    assert "A second paragraph" in options[1].text


def test_a_drawing_takes_the_colours_of_the_page(page):
    figure = page.select_one("figure.rlhf-diagram")
    drawing = figure.svg
    assert drawing["role"] == "img"
    assert drawing["aria-label"].startswith("A box with a model")
    assert drawing.find("marker")["id"] == "batch-head"
    assert drawing.find("path", attrs={"marker-end": True})["marker-end"] == "url(#batch-head)"
    assert figure.figcaption.find("math") is not None
    assert page.find("a", href="#fig-batch").text == "Fig. 1"


def test_the_box_tells_prerequisites_and_times(page):
    box = page.select_one("dl.rlhf-glance")
    assert [term.text.rstrip(":") for term in box.select("dt")] == ["Prerequisites", "Reading time", "Lesson", "Next"]
    known, reading, lesson, following = box.select("dd")
    assert known.find("a")["href"] == "mathematics.html"
    assert reading.text.strip() == "a minute"
    assert lesson.find("a")["href"].endswith("01_figures.html")
    assert "for this copy" in lesson.text
    assert following.find("a")["href"] == "reference.html"


def test_a_page_without_a_box_gets_one(built):
    def box(name):
        page = BeautifulSoup((built[0] / f"_build/html/{name}.html").read_text(encoding="utf8"), "html.parser")
        terms = [term.get_text().rstrip(":") for term in page.select("dl.rlhf-glance > dt")]
        return dict(zip(terms, page.select("dl.rlhf-glance > dd"), strict=True)), page

    lesson, page = box("lessons/01_figures")
    assert list(lesson) == ["Chapter", "Running time", "Next"]
    assert lesson["Chapter"].a["href"] == "../book/teaching.html"
    assert re.fullmatch(r"\d+ s for this copy", lesson["Running time"].get_text().strip())
    assert lesson["Next"].a["href"] == "../book/mathematics.html"
    assert page.select_one("dl.rlhf-glance").find_previous("div", class_="cell") is None  # before the first code
    other, page = box("book/mathematics")
    assert list(other) == ["Prerequisites", "Next"]
    assert other["Prerequisites"].get_text().strip() == "none"
    last, _ = box("book/status")
    assert "the last page" in last["Next"].get_text()
    assert box("book/intro")[0] == {}  # the book's first page says it in its own words


def test_words_are_counted_without_code_and_formulas():
    text = nodes.paragraph("", "three plain words ", nodes.math("", "x + y"), nodes.strong("", "and two"))
    assert glance.words(nodes.section("", text, nodes.literal_block("", "code = 1"))) == 5
    assert glance.duration(0.2) == "1 s"
    assert glance.duration(99.4) == "99 s"
    assert glance.duration(200) == "3 min"


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ("<style>p {color: red}</style>", "<style>"),
        ('<rect fill="#ffffff"/>', "use currentColor"),
        ('<text style="color: red">x</text>', "style="),
        ("<script/>", "<script>"),
        ("<rect>", "not well-formed"),
    ],
)
def test_a_drawing_that_would_not_fit_is_refused(inside, told):
    with pytest.raises(ValueError, match=told):
        diagrams.prepare(SVG % inside, "x", "A picture.")


def test_a_drawing_without_a_view_box_is_refused():
    with pytest.raises(ValueError, match="viewBox"):
        diagrams.prepare("<svg/>", "x", "A picture.")


def test_a_drawing_keeps_its_size_on_wide_pages():
    drawing = diagrams.prepare(SVG % '<use href="#a" fill="none"/>', "one", "A picture.")
    assert 'style="max-width: 90px"' in drawing
    assert ' width="90"' not in drawing
    assert 'href="#one-a"' in drawing


QUIZ = "\n::::{quiz}\nWhat?\n\n%s\n::::\n"


FAULTS = {
    "begins Right. or Wrong.": QUIZ % "- one\n\n  Because.\n- two\n\n  Wrong. No.",
    "exactly one right answer, and this one has 0": QUIZ % "- one\n\n  Wrong. No.\n- two\n\n  Wrong. No.",
    "followed by a list": QUIZ % "No list at all.",
    "none.svg": "\n:::{diagram} none.svg\n:alt: A picture.\n\nA caption.\n:::\n",
    "needs :alt:": "\n:::{diagram} other.svg\nA caption.\n:::\n",
    "`:prerequisites:`": "\n:::{at-a-glance}\n:::\n",
}


def test_faults_in_them_fail_the_build(small_book):
    for fault in FAULTS.values():
        add(small_book, fault)
    result = run_build(small_book)
    assert result.returncode != 0, result.stdout
    assert [told for told in FAULTS if told not in result.stdout] == []
