"""The built site, read as files: figures, alt texts, headings, links, mathematics, no other hosts."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from site_pages import SITE, page_names

from rlhf_utils.book import checks

EXECUTED = SITE.parent / "jupyter_execute"


def lesson_pages() -> list[str]:
    return [page for page, _ in checks.notebooks(EXECUTED)] if EXECUTED.exists() else []


@pytest.mark.parametrize("page", lesson_pages())
def test_every_figure_of_a_lesson_is_in_its_page(page, soup):
    shown = Counter(checks.alt_of(figure) for figure in checks.shown_figures(EXECUTED / f"{page}.ipynb"))
    drawn = Counter(box["aria-label"] for box in soup(f"{page}.html").select(".rlhf-figure [role=group]"))
    assert drawn == shown


def test_alt_texts_are_there_and_distinct(site, soup):
    alts = Counter(
        (element.get("alt") or element.get("aria-label") or "").strip()
        for name in page_names()
        for element in soup(name).select("article .rlhf-plot, article img, article svg[role=img]")
    )
    assert "" not in alts
    assert [alt for alt, count in alts.items() if count > 1] == []


def test_figures_have_captions_and_the_text_is_there_without_scripts(site, soup):
    for name in page_names():
        for figure in soup(name).select(".rlhf-figure"):
            assert figure.figcaption.get_text(strip=True)
            assert figure.noscript.get_text(strip=True) == figure.select_one(".rlhf-plot")["aria-label"]


def test_nothing_comes_from_another_host(site):
    assert checks.external_requests(site) == []


def test_plotly_is_loaded_on_pages_with_figures_only(site, soup):
    for name in page_names():
        scripts = [script.get("src", "") for script in soup(name).find_all("script")]
        loaded = any("figures.js" in source for source in scripts)
        assert loaded == bool(soup(name).select(".rlhf-figure")), name
        assert not any("plotly" in source for source in scripts), name


@pytest.mark.parametrize("name", page_names())
def test_headings(name, site, soup):
    levels = [int(heading.name[1]) for heading in soup(name).find_all(re.compile("^h[1-6]$"))]
    assert levels.count(1) == 1
    assert levels[0] == 1
    steps = [after - before for before, after in pairwise(levels)]
    assert max(steps, default=0) <= 1, levels


@pytest.mark.parametrize("name", page_names())
def test_internal_links_resolve(name, site, soup):
    broken = []
    for element in soup(name).find_all(["a", "link", "script", "img", "source"]):
        target = element.get("href") or element.get("src") or ""
        if urlsplit(target).scheme or target.startswith("//") or not target.strip("#"):
            continue
        if not _resolves(site, site / name, target, soup):
            broken.append(target)
    assert broken == []


def _resolves(site: Path, page: Path, target: str, soup) -> bool:
    address, anchor = urldefrag(target)
    path = (page.parent / unquote(urlsplit(address).path)).resolve() if urlsplit(address).path else page
    if not path.is_file():
        return False
    if not anchor or path.suffix != ".html":
        return True
    found = soup(path.relative_to(site).as_posix()).find(attrs={"id": unquote(anchor)})
    return found is not None


@pytest.mark.parametrize("name", page_names())
def test_no_mathematics_is_left_unrendered(name, site, soup):
    article = soup(name).find("article")
    if article is None:
        return
    assert article.select(".MathJax, span.math:not(:has(math))") == []
    text = " ".join(
        string for string in article.strings if not {"annotation", "pre", "code", "script"} & _ancestors(string)
    )
    assert not re.search(r"\$\$|\\\(|\\\[|\\begin\{", text)


def _ancestors(string) -> set[str]:
    return {parent.name for parent in string.parents}


def test_no_page_knows_where_it_was_built(site):
    root = str(SITE.parents[1])
    if len(root) < 6:
        pytest.skip("the book's folder has too short a name to look for")
    texts = [path for suffix in ("html", "js", "css") for path in site.rglob(f"*.{suffix}")]
    assert [path for path in texts if root in path.read_text(encoding="utf8", errors="replace")] == []
