"""The built site in a real browser: every page in light and dark, on a desk and on a phone."""

from __future__ import annotations

import json

import pytest
from conftest import SITE, page_names, written_pages

pytestmark = pytest.mark.browser
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
# What the page's figures hold in their JSON, and what plotly has drawn of it.
COUNT_TRACES = """() => [...document.querySelectorAll('.rlhf-figure')].map(figure => {
  const box = figure.querySelector('.rlhf-plot');
  const told = JSON.parse(figure.querySelector('script').textContent).data.length;
  return {id: figure.id, told, drawn: box.data?.length ?? 0, full: box._fullData?.length ?? 0,
          painted: box.querySelectorAll('.main-svg, canvas').length};
})"""

# Punctuation that stands on another line than the formula before it.
ASTRAY = """() => [...document.querySelectorAll('article .math-inline')].filter(formula => {
  const text = formula.nextSibling;
  if (text?.nodeType !== Node.TEXT_NODE) return false;
  const mark = text.data.search(/[.,;:!?)]/);
  if (mark < 0 || /\\w|\\s/.test(text.data.slice(0, mark))) return false;
  const place = document.createRange();
  place.setStart(text, mark); place.setEnd(text, mark + 1);
  const box = place.getBoundingClientRect();
  return box.width > 0 && box.left < formula.getBoundingClientRect().left;
}).map(formula => formula.textContent.slice(0, 40))"""


@pytest.fixture(params=["light", "dark"])
def visit(request, browser, address):
    """Opens pages and collects what goes wrong in them."""
    context = browser.new_context(viewport=DESK, color_scheme=request.param, reduced_motion="reduce")
    page = context.new_page()
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(f"exception: {error}"))
    page.on("console", lambda m: page.troubles.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("request", lambda r: _note_foreign(page, r.url, address))
    page.on("response", lambda r: page.troubles.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    page.scheme = request.param

    def open_page(name: str):
        page.goto(address + name)
        page.evaluate("document.querySelectorAll('details:not(.rlhf-data)').forEach(d => d.open = true)")
        page.evaluate("document.querySelectorAll('.toggle-hidden .toggle-button').forEach(b => b.click())")
        return page

    yield open_page
    context.close()


def _note_foreign(page, url: str, address: str) -> None:
    if not url.startswith((address, "data:", "blob:")):
        page.troubles.append(f"request to another host: {url}")


def _draw_all(page) -> None:
    for figure in page.query_selector_all(".rlhf-figure"):
        figure.scroll_into_view_if_needed()
        page.wait_for_function(
            "f => f.querySelector('.rlhf-plot').dataset.state === 'drawn'", arg=figure, timeout=20000
        )


@pytest.mark.parametrize("name", page_names())
def test_page(name, visit, site):
    page = visit(name)
    assert page.evaluate("document.documentElement.dataset.theme") == page.scheme
    _draw_all(page)
    for count in page.evaluate(COUNT_TRACES):
        assert count["told"] == count["drawn"] == count["full"] > 0, count
        assert count["painted"] > 0, count
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(250)  # figures are drawn anew a little after the last change of width
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} px wider than a phone"
    assert page.evaluate(ASTRAY) == []
    assert page.troubles == []


def _pages_with(mark: str) -> list[str]:
    return [name for name in page_names() if SITE.exists() and f'class="{mark}"' in (SITE / name).read_text("utf8")]


@pytest.mark.parametrize("name", _pages_with("rlhf-figure"))
def test_data_of_figures(name, visit, site):
    page = visit(name)
    if page.scheme == "dark":
        pytest.skip("a table is the same in both modes")
    for figure in page.query_selector_all(".rlhf-figure"):
        figure.query_selector("summary").click()
        figure.wait_for_selector("tbody tr")
        rows = figure.query_selector_all("tbody tr")
        assert 0 < len(rows) <= 1000
        cells = [cell.inner_text() for row in rows[:50] for cell in row.query_selector_all("td")]
        assert any(any(letter.isdigit() for letter in cell) for cell in cells)
    with page.expect_download() as download:
        page.query_selector(".rlhf-note button").click()
    assert download.value.suggested_filename.endswith(".csv")
    assert page.troubles == []


@pytest.mark.parametrize("name", _pages_with("rlhf-figure")[:1])
def test_figures_follow_the_theme(name, visit, site):
    page = visit(name)
    _draw_all(page)
    colour = "document.querySelector('.rlhf-plot')._fullLayout.font.color"
    before = page.evaluate(colour)
    other = "light" if page.scheme == "dark" else "dark"
    page.evaluate(f"document.documentElement.dataset.theme = '{other}'")
    page.wait_for_function(f"{colour} !== '{before}'")
    assert page.troubles == []


def _pages_with_sliders() -> list[str]:
    return [name for name in _pages_with("rlhf-figure") if '"sliders": [' in (SITE / name).read_text("utf8")]


# What the figure above the first range input draws.
DRAWN = """() => JSON.stringify(document.querySelector('.rlhf-sliders').previousElementSibling.data
  .map(trace => [trace.x, trace.y, trace.z]))"""


@pytest.mark.parametrize("name", _pages_with_sliders())
def test_sliders_work_by_key_and_survive_a_change_of_the_theme(name, visit, site):
    page = visit(name)
    _draw_all(page)
    slider = page.query_selector(".rlhf-sliders input")
    told, before = slider.get_attribute("aria-valuetext"), page.evaluate(DRAWN)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"({DRAWN})() !== {json.dumps(before)}")
    assert slider.get_attribute("aria-valuetext") != told
    moved = page.evaluate(DRAWN)
    other = "light" if page.scheme == "dark" else "dark"
    page.evaluate(f"document.documentElement.dataset.theme = '{other}'")
    page.wait_for_timeout(400)
    assert page.evaluate(DRAWN) == moved
    assert page.troubles == []


def test_search_finds_a_word_of_the_first_page(visit, site, soup):
    word = max(soup(written_pages()[0]).find("article").h1.get_text().split(), key=len).strip("#.,:")
    page = visit(f"search.html?q={word}")
    page.wait_for_selector("#search-results li a")
    assert page.troubles == []


# Boxes of a drawing's lines of text, in pixels relative to the drawing, and the size of their letters.
TEXT_BOXES = """() => [...document.querySelectorAll('.rlhf-drawing')].map(drawing => {
  const frame = drawing.getBoundingClientRect(), scale = frame.width / drawing.viewBox.baseVal.width;
  return {label: drawing.getAttribute('aria-label'), width: frame.width, height: frame.height,
          texts: [...drawing.querySelectorAll('text')].map(text => {
    const box = text.getBoundingClientRect();
    return {says: text.textContent, left: box.left - frame.left, right: box.right - frame.left,
            top: box.top - frame.top, bottom: box.bottom - frame.top,
            size: parseFloat(getComputedStyle(text).fontSize) * scale};
  })};
})"""


def _overlap(one, other):
    """Whether two lines of text cover one another by more than the empty rim of their boxes."""
    wide = min(one["right"], other["right"]) - max(one["left"], other["left"])
    high = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return wide > 2 and high > 0.35 * min(one["bottom"] - one["top"], other["bottom"] - other["top"])


@pytest.mark.parametrize("name", _pages_with("rlhf-drawing"))
def test_drawings_can_be_read_on_a_phone(name, visit, site):
    page = visit(name)
    if page.scheme == "dark":
        pytest.skip("letters have the same size in both modes")
    page.set_viewport_size(PHONE)
    for drawing in page.evaluate(TEXT_BOXES):
        texts = drawing["texts"]
        small = [t["says"] for t in texts if t["size"] < 9]
        cut = [t["says"] for t in texts if t["left"] < -1 or t["right"] > drawing["width"] + 1 or t["top"] < -2]
        covered = [(a["says"], b["says"]) for i, a in enumerate(texts) for b in texts[i + 1 :] if _overlap(a, b)]
        assert (small, cut, covered) == ([], [], []), drawing["label"]


@pytest.mark.parametrize("name", _pages_with("rlhf-quiz")[:1])
def test_a_quiz_works_by_keyboard_and_without_scripts(name, browser, address, site):
    context = browser.new_context(viewport=PHONE, java_script_enabled=False)
    page = context.new_page()
    page.goto(address + name)
    first, second = (page.locator(".rlhf-quiz").first.locator("details").nth(i) for i in (0, 1))
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.locator("p strong").first.is_visible()
    page.keyboard.press("Tab")
    if not second.locator("summary").evaluate("s => s === document.activeElement"):  # a link in the explanation
        second.locator("summary").focus()
    page.keyboard.press("Space")
    assert second.locator("p strong").first.is_visible()
    assert not first.locator("p strong").first.is_visible()
    context.close()
