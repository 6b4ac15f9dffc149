"""Pages on paper: the cheat sheet has four pages at most, nothing is cut, and what only a screen needs stays away."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.browser
SHEET = "book/cheat_sheet.html"
PAGES = 4
# A4 less the margins that the style sheet sets, in CSS pixels.
WIDTH = round((210 - 26) / 25.4 * 96)
PAGE = re.compile(rb"/Type\s*/Page\b(?!s)")

# What reaches beyond the box that holds it: the page, or one of its columns.
CUT = """() => {
  const article = document.querySelector('article');
  const columns = parseInt(getComputedStyle(article).columnCount) || 1;
  const gap = columns > 1 ? parseFloat(getComputedStyle(article).columnGap) : 0;
  const column = (article.clientWidth - gap * (columns - 1)) / columns;
  const spans = element => element !== article
    && (getComputedStyle(element).columnSpan === 'all' || spans(element.parentElement));
  return [...article.querySelectorAll('math, table, pre, p, li, td, h1, h2, h3')].filter(element => {
    if (!element.getClientRects().length) return false;
    const room = spans(element) ? article.clientWidth : column;
    const style = getComputedStyle(element);
    const hidden = style.overflowX !== 'visible' && element.scrollWidth > element.clientWidth + 1
      || style.overflowY !== 'visible' && element.scrollHeight > element.clientHeight + 1;
    return hidden || Math.max(...[...element.getClientRects()].map(box => box.width)) > room + 1
      || element.matches('pre, table') && element.scrollWidth > room + 1;
  }).map(element => `${element.tagName}: ${element.textContent.trim().slice(0, 60)}`);
}"""


@pytest.fixture(params=["light", "dark"])
def sheet(request, browser, address, site):
    if not (site / SHEET).exists():
        pytest.skip("this site has no cheat sheet")
    context = browser.new_context(viewport={"width": WIDTH, "height": 1000}, color_scheme=request.param)
    page = context.new_page()
    page.goto(address + SHEET)
    page.evaluate("document.fonts.ready")
    yield page
    context.close()


def test_it_has_four_pages_at_most(sheet):
    printed = sheet.pdf(prefer_css_page_size=True)
    assert 2 <= len(PAGE.findall(printed)) <= PAGES
    # A4 in points, the size that the style sheet asks for.
    assert re.search(rb"/MediaBox\s*\[\s*0 0 59[45](\.\d+)? 84[12]", printed)


def test_nothing_is_cut(sheet):
    sheet.emulate_media(media="print")
    assert sheet.evaluate(CUT) == []


def test_the_paper_is_white_and_the_title_stands_on_it(sheet):
    sheet.emulate_media(media="print")
    for text in ("article p", "article td code", "article pre", "article pre span"):
        colour = f"getComputedStyle(document.querySelector('{text}')).color"
        assert sheet.evaluate(colour) == "rgb(0, 0, 0)", text
    assert sheet.locator("article h1").is_visible()
    for away in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-footer"):
        assert not any(box.is_visible() for box in sheet.locator(away).all()), away


def test_the_test_would_see_a_cut(sheet):
    sheet.emulate_media(media="print")
    sheet.evaluate("document.querySelector('article table').style.width = '2000px'")
    assert sheet.evaluate(CUT) != []
