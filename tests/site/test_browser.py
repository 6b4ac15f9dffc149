"""The built site in a real browser: every page in light and dark, on a desk and on a phone."""

from __future__ import annotations

import json

import pytest
from site_pages import REDIRECT, SITE, page_names, written_pages
from visits import AXE, DESK, MODES, OPEN_ALL, PHONE, WALK, watch

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("name", page_names())
def test_page(name, visit):
    """Figures, formulas, drawings and tables are there, nothing moves or juts out, nothing fails or leaves the site."""
    problems = [f"{mode}: {problem}" for mode, seen in visit(name).items() for problem in seen.problems]
    assert problems == []


@pytest.mark.parametrize("name", page_names())
def test_page_has_no_barriers(name, visit, axe):
    if axe is None:
        pytest.skip("no axe-core: npm isn't there or reaches no registry")
    barriers = [f"{mode}: {barrier}" for mode, seen in visit(name).items() for barrier in seen.barriers]
    assert barriers == []


@pytest.fixture(params=MODES)
def open_page(request, browser, address):
    """Opens pages and collects what goes wrong in them."""
    context = browser.new_context(viewport=DESK, color_scheme=request.param, reduced_motion="reduce")
    page = context.new_page()
    page.troubles = watch(page, address)
    page.scheme = request.param

    def go(name: str):
        page.goto(address + name)
        page.evaluate(OPEN_ALL)
        page.evaluate(WALK)
        return page

    yield go
    assert page.troubles == []
    context.close()


def _pages_with(mark: str) -> list[str]:
    return [name for name in page_names() if SITE.exists() and mark in (SITE / name).read_text("utf8")]


FIGURES = _pages_with('class="rlhf-figure"')
SLIDERS = [name for name in FIGURES if '"sliders": [' in (SITE / name).read_text("utf8")]
QUIZZES = _pages_with('class="rlhf-quiz"')
FIRST = (written_pages() or page_names())[0]


@pytest.mark.parametrize("name", FIGURES[:1])
def test_a_table_opens_by_key_and_can_be_downloaded(name, open_page, axe):
    page = open_page(name)
    figure = page.locator(".rlhf-figure").first
    figure.locator("summary").focus()
    page.keyboard.press("Enter")
    figure.locator("tbody tr").first.wait_for()
    if axe is not None:
        page.evaluate(axe)
        assert page.evaluate(AXE) == []
    with page.expect_download() as download:
        figure.locator(".rlhf-note button").press("Enter")
    assert download.value.suggested_filename.endswith(".csv")


@pytest.mark.parametrize("name", FIGURES[:1])
def test_figures_follow_the_theme(name, open_page):
    page = open_page(name)
    colour = "document.querySelector('.rlhf-plot')._fullLayout.font.color"
    before = page.evaluate(colour)
    other = "light" if page.scheme == "dark" else "dark"
    page.evaluate(f"document.documentElement.dataset.theme = '{other}'")
    page.wait_for_function(f"{colour} !== '{before}'")


# What the figure above the first range input draws.
DRAWN = """() => JSON.stringify(document.querySelector('.rlhf-sliders').previousElementSibling.data
  .map(trace => [trace.x, trace.y, trace.z]))"""


@pytest.mark.parametrize("open_page", ["light"], indirect=True)
@pytest.mark.parametrize("name", SLIDERS)
def test_sliders_work_by_key_and_survive_a_change_of_the_theme(name, open_page):
    page = open_page(name)
    slider = page.query_selector(".rlhf-sliders input")
    told, before = slider.get_attribute("aria-valuetext"), page.evaluate(DRAWN)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"({DRAWN})() !== {json.dumps(before)}")
    assert slider.get_attribute("aria-valuetext") != told
    moved, colour = page.evaluate(DRAWN), "document.querySelector('.rlhf-plot')._fullLayout.font.color"
    shown = page.evaluate(colour)
    other = "light" if page.scheme == "dark" else "dark"
    page.evaluate(f"document.documentElement.dataset.theme = '{other}'")
    page.wait_for_function(f"{colour} !== '{shown}'")
    assert page.evaluate(DRAWN) == moved


# What moves by itself: the page when it scrolls, running animations, and the figures' transitions.
MOTION = """() => [
  getComputedStyle(document.documentElement).scrollBehavior === 'smooth' ? 'the page scrolls slowly' : '',
  ...document.getAnimations().filter(it => it.playState === 'running' && it.effect.getComputedTiming().duration > 1)
    .map(it => it.animationName ?? it.transitionProperty),
  ...[...document.querySelectorAll('.rlhf-plot')].filter(box => box.layout?.transition?.duration).map(box => box.id),
].filter(Boolean)"""


@pytest.mark.parametrize("name", (SLIDERS or FIGURES)[:1])
def test_nothing_moves_for_a_reader_who_wants_none(name, open_page):
    assert open_page(name).evaluate(MOTION) == []


# The element that has the focus, and whether one sees that it has.
FOCUSED = """() => {
  const element = document.activeElement, look = it => {
    const {outlineStyle, outlineWidth, boxShadow, textDecorationLine, borderColor} = getComputedStyle(it);
    return [outlineStyle, outlineWidth, boxShadow, textDecorationLine, borderColor].join();
  };
  const box = element.getBoundingClientRect(), focused = look(element), shown = element.matches(':focus-visible');
  element.blur();
  const differs = focused !== look(element);
  element.focus({focusVisible: true, preventScroll: true});
  return {what: element.outerHTML.slice(0, 120), main: !!element.closest('main'), differs, shown,
          seen: box.width > 0 && box.height > 0 && box.right > 0 && box.left < innerWidth};
}"""


@pytest.mark.parametrize("name", [FIRST, *FIGURES[:1]])
def test_focus_can_be_seen_and_skips_to_the_text(name, open_page):
    page = open_page(name)
    page.reload()  # nothing has been clicked yet
    page.keyboard.press("Tab")
    assert "#main-content" in page.evaluate("document.activeElement.outerHTML")
    assert page.evaluate(FOCUSED)["seen"]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    stops = [page.evaluate(FOCUSED)]
    assert stops[0]["main"]
    for _ in range(30):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(FOCUSED))
    assert [stop for stop in stops if not (stop["differs"] and stop["seen"])] == []


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_search_and_contents_open_without_barriers(size, open_page, axe):
    page = open_page(FIRST)
    page.set_viewport_size(size)
    page.keyboard.press("Control+K")
    page.locator("#pst-search-dialog input").wait_for()
    assert page.evaluate("document.activeElement.type") == "search"
    if axe is not None:
        page.evaluate(axe)
        assert page.evaluate(AXE) == []
    page.keyboard.press("Escape")
    if size is PHONE:
        page.locator(".primary-toggle").press("Enter")
        page.locator("#pst-primary-sidebar-modal .navbar-brand").wait_for()
        assert axe is None or page.evaluate(AXE) == []


CHAPTERS = [name for name in page_names() if name.startswith(("book/0", "book/1", "book/2"))]


def test_search_finds_a_chapter_by_its_title(browser, address, site, soup):
    context = browser.new_context()
    page = context.new_page()
    troubles, found = watch(page, address), {}
    for name in CHAPTERS or page_names()[:1]:
        title = soup(name).find("article").h1.get_text().strip("# \n")
        page.goto(f"{address}search.html?q={title.split('. ', 1)[-1]}")
        page.wait_for_function("document.querySelector('#search-results li a')")
        found[name] = page.evaluate("document.querySelector('#search-results li a').href").partition("?")[0]
    context.close()
    assert {name: at for name, at in found.items() if at != address + name} == {}
    assert troubles == []


def test_the_search_index_is_on_the_search_page_alone(site, soup):
    asks = [name for name in page_names() if "searchindex.js" in (site / name).read_text("utf8")]
    assert [name for name in asks if name != REDIRECT] == ["search.html"]


@pytest.mark.parametrize("name", QUIZZES[:1])
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
