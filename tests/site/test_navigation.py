"""The way through the book: from any page its prerequisites and its next step are one click away."""

from __future__ import annotations

import posixpath

import pytest
from site_pages import SITE, page_names
from small_books import ROOT

# Pages that Sphinx makes, which stand outside the order of reading.
MADE = ("genindex.html", "search.html", "py-modindex.html", "404.html")


def pages() -> list[str]:
    return [name for name in page_names() if name not in MADE]


def first_page(soup) -> str:
    return _target("index.html", soup("index.html").find("link", rel="canonical"))


def _target(page: str, link) -> str:
    """The page that a link on a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link["href"].split("#")[0]))


def next_of(page: str, soup):
    return soup(page).select_one(".prev-next-footer a.right-next")


def previous_of(page: str, soup):
    return soup(page).select_one(".prev-next-footer a.left-prev")


def box_of(page: str, soup) -> dict:
    """The fields of a page's box at its head."""
    terms = soup(page).select("article dl.rlhf-glance > dt")
    values = soup(page).select("article dl.rlhf-glance > dd")
    return {term.get_text().strip().rstrip(":"): value for term, value in zip(terms, values, strict=True)}


def test_the_pages_follow_each_other_without_a_gap(site, soup):
    page, seen = first_page(soup), []
    assert previous_of(page, soup) is None
    while page:
        assert page not in seen
        seen.append(page)
        link = next_of(page, soup)
        following = _target(page, link) if link else None
        if following:
            back = previous_of(following, soup)
            assert _target(following, back) == page
            titles = (soup(p).h1.get_text(" ").split() for p in (following, page))
            for title, shown in zip(titles, (link, back), strict=True):
                wanted = " ".join(title).rstrip("# ")
                assert wanted.replace(" ", "") in shown.get_text(" ").replace(" ", "").replace("\n", "")
        page = following
    assert sorted(seen) == sorted(pages())


@pytest.mark.parametrize("page", pages())
def test_prerequisites_and_the_next_step_are_one_click_away(page, site, soup):
    footer, first = next_of(page, soup), first_page(soup)
    if page == first:
        targets = [_target(page, a) for a in soup(page).select("article a.reference.internal[href]")]
        assert footer is not None
        assert "book/how_to_use.html" in targets or not (SITE / "book/how_to_use.html").exists()
        return
    box = box_of(page, soup)
    leads = [_target(page, a) for name in ("Next", "Lesson") if name in box for a in box[name].select("a")]
    assert (_target(page, footer) if footer else first) in leads
    if "Chapter" in box:  # a lesson: its text says what it takes, and the chapter's box what that takes
        chapter = _target(page, box["Chapter"].a)
        assert "Prerequisites" in box_of(chapter, soup)
        assert _target(chapter, box_of(chapter, soup)["Lesson"].a) == page
        if SITE.is_relative_to(ROOT):
            told = [p for p in soup(page).select("article p") if p.get_text().strip().startswith("Prerequisites:")]
            assert len(told) == 1
            assert told[0].select("a.reference.internal")
    else:
        known = box["Prerequisites"]
        assert known.get_text().strip() == "none" or known.select("a") or "Reading time" in box


@pytest.mark.parametrize("page", pages())
def test_the_box_stands_at_the_head(page, site, soup):
    if box_of(page, soup):
        before = soup(page).select_one("article dl.rlhf-glance").find_all_previous(["h2", "h3"])
        assert [heading for heading in before if heading.find_parent("article")] == []
