"""The decks in a browser: nothing is cut, nothing is fetched, keys move them, and the PDF has a page a slide."""

from __future__ import annotations

import subprocess
import sys

import pytest
import visits
from pypdf import PdfReader
from small_books import ROOT

from rlhf_utils.book import decks, slides

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NAMES = [deck.name for deck in slides.decks(ROOT)]
# Beyond the edge of the slide, or, for what can be scrolled sideways, beyond its own.
CUT = """() => {
  const slide = document.querySelector('.slide.now');
  const body = slide.querySelector('.body') ?? slide;
  const wide = [slide, body, ...slide.querySelectorAll('.formula, .scroller, pre')];
  return wide.some(box => box.scrollWidth > box.clientWidth + 1)
    || [slide, body].some(box => box.scrollHeight > box.clientHeight + 1);
}"""


@pytest.fixture(scope="module")
def folder(site, chromium):
    """The decks, written from the built site by the command, since a second browser can't be driven from here."""
    made = subprocess.run([sys.executable, "-m", "rlhf_utils.book", "slides"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return ROOT / decks.FOLDER


def opened(browser, path, mode, size):
    page = browser.new_page(viewport=size, color_scheme=mode)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.resolve().as_uri())
    page.evaluate("document.fonts.ready.then(() => true)")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    return page


@pytest.mark.parametrize("mode", visits.MODES)
@pytest.mark.parametrize("name", NAMES)
def test_no_slide_is_cut(name, mode, folder, browser):
    page = opened(browser, folder / f"{name}.html", mode, {"width": 1280, "height": 720})
    count = page.locator(".slide").count()
    for place in range(1, count + 1):
        assert page.locator("nav [role=status]").inner_text() == f"{place} of {count}"
        assert not page.evaluate(CUT), f"slide {place}"
        page.keyboard.press("ArrowRight")
    page.close()


@pytest.mark.parametrize("mode", visits.MODES)
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing(name, mode, folder, browser, axe):
    if axe is None:
        pytest.skip("axe-core can't be had from npm")
    for size in ({"width": 1280, "height": 720}, visits.PHONE):
        page = opened(browser, folder / f"{name}.html", mode, size)
        if size != visits.PHONE:
            page.keyboard.press("a")  # all slides at once
        page.evaluate(axe)
        assert page.evaluate(visits.AXE) == []
        page.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_shows_all_slides_without_scrolling_sideways(name, folder, browser):
    page = opened(browser, folder / f"{name}.html", "light", visits.PHONE)
    assert page.evaluate(visits.TOO_WIDE) <= 0
    assert all(slide.is_visible() for slide in page.locator(".slide").all())
    page.close()


def test_keys_and_the_speakers_window(folder, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.goto((folder / "lecture.html").resolve().as_uri())
    now = page.locator(".slide.now")
    for key, place in (("ArrowRight", 2), ("End", 26), ("ArrowLeft", 25), ("Home", 1), (" ", 2), ("PageUp", 1)):
        page.keyboard.press(key)
        assert now.get_attribute("id") == f"slide-{place}", key
        assert now.evaluate("slide => slide === document.activeElement")
    notes = page.locator("#slide-2 .notes")
    page.keyboard.press("ArrowRight")
    assert not notes.is_visible()
    page.keyboard.press("n")
    assert notes.is_visible()
    with context.expect_page() as found:
        page.keyboard.press("s")
    speaker = found.value
    speaker.wait_for_selector("#slide-2.now .notes")
    speaker.keyboard.press("ArrowRight")
    page.wait_for_selector("#slide-3.now")
    page.keyboard.press("End")
    speaker.wait_for_selector("#slide-26.now")
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.keyboard.press("d")
    assert page.evaluate("document.documentElement.dataset.theme") != theme
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_pdf_has_a_page_a_slide(name, folder):
    deck = slides.read(ROOT / slides.SOURCES / f"{name}.md")
    pages = PdfReader(folder / f"{name}.pdf").pages
    assert len(pages) == len(deck.slides) + 1
    assert (round(float(pages[0].mediabox.width) / 0.75), round(float(pages[0].mediabox.height) / 0.75)) == decks.SIZE
    spoken = [slide.notes.split(".")[1].strip()[:40] for slide in deck.slides[:3]]
    text = " ".join(" ".join(page.extract_text().split()) for page in pages)
    assert not any(sentence in text for sentence in spoken)
