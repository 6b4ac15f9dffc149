"""What accompanies the pages: texts, citations, descriptions, maps, redirects, the page for wrong addresses."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import datetime, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from docutils import nodes
from docutils.utils import new_document
from pybtex.database import parse_string
from site_pages import SITE, page_names, written_pages
from small_books import ROOT, add, run_build

from rlhf_utils.book import addresses, anchors, citing, notfound, redirects

SITE_URL = "https://someone.github.io/some-book/"


# ---- anchors


@pytest.mark.parametrize("name", written_pages())
def test_sections_have_lasting_and_distinct_anchors(name, site, soup):
    article = soup(name).find("article")
    ids = Counter(element["id"] for element in article.select("[id]"))
    assert [one for one, count in ids.items() if count > 1] == []
    # docutils counts where a heading gives no name or one that is taken; such an anchor moves when a section comes in.
    sections = [section["id"] for section in article.select("section[id]")]
    assert [one for one in sections if re.fullmatch(r"id\d+", one)] == []


def test_anchors_that_were_there_still_are(site, soup):
    """Whoever rewords a heading keeps its old anchor with a label, ``(old-anchor)=``, above it: see CONTRIBUTING."""
    if not SITE.is_relative_to(ROOT):
        pytest.skip("another book's site")
    lost = []
    moved = redirects.read(
        (ROOT / redirects.FILE).read_text(encoding="utf8"), {name.removesuffix(".html") for name in page_names()}
    )
    for page, known in anchors.read((ROOT / anchors.FILE).read_text(encoding="utf8")).items():
        name = f"{moved.get(page, page)}.html"
        there = {element["id"] for element in soup(name).select("[id]")} if (site / name).exists() else set()
        lost += [f"{page}#{anchor}" for anchor in known if anchor not in there]
    assert lost == []


def test_written_anchors_only_grow(tmp_path):
    site = tmp_path / "_build" / "html"
    site.mkdir(parents=True)
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text("root: a\n", encoding="utf8")
    for text in ('<section class="x" id="one"><section id="two">', '<section id="three">'):
        (site / "a.html").write_text(text, encoding="utf8")
        anchors.write(tmp_path)
    assert anchors.read((tmp_path / anchors.FILE).read_text(encoding="utf8")) == {"a": ["one", "two", "three"]}


# ---- citing

WORK = citing.Work("A Book & more", ("Doe, Jane", "The A&B Group"), frozenset({"The A&B Group"}), "1.2")


def test_an_entry_can_be_read_by_bibtex():
    date = datetime(2026, 3, 1, tzinfo=timezone.utc)
    text = citing.bibtex(WORK, "book/08_ppo", "PPO: 100% from scratch", date, SITE_URL)
    ((key, entry),) = parse_string(text, "bibtex").entries.items()
    assert key == "rlhf_book_08_ppo"
    assert entry.type == "incollection"
    assert entry.fields["title"] == r"{PPO: 100\% from scratch}"
    assert [str(person) for person in entry.persons["author"]] == ["Doe, Jane", r"{The A\&B Group}"]
    assert (entry.fields["year"], entry.fields["note"]) == ("2026", "Version 1.2")
    assert entry.fields["url"] == f"{SITE_URL}book/08_ppo.html"
    assert "url" not in citing.bibtex(WORK, "book/08_ppo", "PPO", date, "")


def test_the_book_is_what_its_citation_file_says(tmp_path):
    told = {"title": "T", "version": 3, "authors": [{"family-names": "Doe", "given-names": "Jane"}, {"name": "Group"}]}
    (tmp_path / "CITATION.cff").write_text(yaml.safe_dump(told), encoding="utf8")
    work = citing.work(tmp_path)
    assert (work.title, work.authors, work.groups, work.version) == (
        "T",
        ("Doe, Jane", "Group"),
        frozenset({"Group"}),
        "3",
    )


def test_the_citation_file_has_the_packages_version():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf8")
    assert f'version = "{citing.work(ROOT).version}"' in project


def test_the_date_of_an_edition_does_not_depend_on_the_clock(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert citing.edition_date(ROOT) == datetime(1970, 1, 2, tzinfo=timezone.utc)
    assert citing.edition(ROOT).endswith(", 2 January 1970")
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert citing.edition_date(ROOT) == citing.edition_date(ROOT)


def test_each_chapter_and_lesson_can_be_cited(site, soup):
    cited = [name for name in written_pages() if re.fullmatch(r"(book|lessons)/\d\d_\w+\.html", name)]
    assert cited
    for name in written_pages():
        found = soup(name).select("article details.rlhf-cite pre")
        assert len(found) == (name in cited), name
        if found:
            (entry,) = parse_string(found[0].get_text(), "bibtex").entries.values()
            title = soup(name).find("article").h1.get_text().rstrip("#").strip()
            assert "".join(entry.fields["title"].strip("{}").replace("\\", "").split()) == "".join(title.split()), name


def test_pages_say_which_edition_they_are(site, soup):
    for name in written_pages():
        line = soup(name).select_one(".rlhf-edition").get_text()
        edition, licences = line.split(". ", 1)
        assert re.fullmatch(r"Version [\d.]+(, commit [0-9a-f]{7}( with changes)?)?, \d{1,2} \w+ \d{4}", edition), name
        assert licences == "Text under CC BY 4.0, code under the Apache License 2.0."


# ---- descriptions, cards and maps


def _page(*texts: str) -> nodes.document:
    document, section = new_document("page"), nodes.section()
    section += nodes.title("", "A title")
    section += [nodes.paragraph("", text) for text in texts]
    document += section
    return document


def test_a_description_is_the_first_paragraph_in_whole_words():
    long = "word " * 60
    assert addresses.describe(_page("short", "A paragraph that is long enough to say what it is about.")).startswith(
        "A para"
    )
    cut = addresses.describe(_page(long))
    assert len(cut) <= addresses.LENGTH
    assert cut.endswith("word…")
    formula = _page()
    formula[0] += nodes.paragraph("", "A paragraph that is long enough and has a formula, ", nodes.math("", "x"))
    assert addresses.describe(formula) == ""


def test_every_page_has_a_description_of_its_own(site, soup):
    told = Counter(soup(name).find("meta", attrs={"name": "description"})["content"] for name in written_pages())
    assert "" not in told
    assert [text for text, count in told.items() if count > 1] == []


def test_a_map_of_the_site_is_xml():
    root = ET.fromstring(addresses.site_map([f"{SITE_URL}a.html?b&c"]).encode())
    assert [element.text for element in root.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")] == [
        f"{SITE_URL}a.html?b&c"
    ]


# ---- texts


def _letters(text: str) -> str:
    """A text without what lines and typography change in it."""
    return re.sub(r"\s|[\"'“”‘’.…-]", "", text.replace("–", ""))


def test_every_page_is_there_as_text(site, soup):
    listed = re.findall(r"\]\((.+)\.txt\)", (site / "llms.txt").read_text(encoding="utf8"))
    assert sorted(f"{page.removeprefix(SITE_URL)}.html" for page in listed) == sorted(written_pages())
    for name in written_pages():
        (link,) = soup(name).find_all("link", rel="alternate", type="text/plain")
        text = (site / name).with_name(link["href"]).read_text(encoding="utf8")
        article = soup(name).find("article")
        assert text.split()[0].strip('"') == article.h1.get_text().split()[0].rstrip("#"), name
        assert not re.search(r"(Fig\.|Exercise|Table) %s", text), name
        said = _letters(text)
        for figure in article.select(".rlhf-plot"):
            assert _letters(figure["aria-label"]) in said, name
        for block in article.select(".cell_input pre"):
            assert _letters(block.get_text()) in said, name


def test_texts_have_tex_answers_and_outputs(built):
    folder = built[0] / "_build" / "html"
    teaching = (folder / "book" / "teaching.txt").read_text(encoding="utf8")
    assert "Right." in teaching
    assert "Wrong." in teaching
    mathematics = (folder / "book" / "mathematics.txt").read_text(encoding="utf8")
    assert re.search(r"\$\$\n[^$]*\\[a-z]+[^$]*\n\$\$", mathematics)
    assert "Output:" in (folder / "lessons" / "01_figures.txt").read_text(encoding="utf8")


# ---- pages that lead on


def test_redirects_are_read_and_wrong_ones_refused():
    pages = {"book/new", "book/other"}
    assert redirects.read("# moved\n\nbook/old  book/new\n", pages) == {"book/old": "book/new"}
    for line in ("book/old", "book/other book/new", "book/old book/nowhere", "book/old book/new\nbook/old book/other"):
        with pytest.raises(ValueError, match="book/o"):
            redirects.read(line, pages)


def test_the_books_redirects_can_be_read():
    pages = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for f in ("book", "lessons")
        for path in (ROOT / f).rglob("*.md")
    }
    redirects.read((ROOT / redirects.FILE).read_text(encoding="utf8"), pages)


@pytest.mark.browser
@pytest.mark.parametrize("scripts", [True, False])
def test_a_moved_page_leads_on_from_the_disk(scripts, browser, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new.html").write_text("<h1 id='there'>Here</h1>", encoding="utf8")
    (tmp_path / "old" / "page.html").write_text(redirects.leading_page("A & B", "../new.html"), encoding="utf8")
    context = browser.new_context(java_script_enabled=scripts)
    page = context.new_page()
    page.goto((tmp_path / "old" / "page.html").as_uri() + "#there")
    page.wait_for_url("**/new.html*")
    assert page.url.endswith("#there") or not scripts
    context.close()


# ---- the page for wrong addresses


class _NotFound(SimpleHTTPRequestHandler):
    """A server that shows ``404.html`` for what it hasn't, as GitHub Pages does, perhaps under a path."""

    prefix = "/"

    def translate_path(self, path):
        return (
            super().translate_path("/" + path.removeprefix(self.prefix)) if path.startswith(self.prefix) else "/nowhere"
        )

    def send_error(self, code, message=None, explain=None):
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write((Path(self.directory) / "404.html").read_bytes())

    def log_message(self, *args):
        pass


@pytest.mark.browser
@pytest.mark.parametrize(
    ("prefix", "wrong"),
    [("/", "book/nowhere.html"), ("/some-book/", "nowhere.html"), ("/some-book/", "book/api/no/where.html")],
)
def test_the_page_for_wrong_addresses_works_at_any_depth(prefix, wrong, site, browser):
    handler = type("Handler", (_NotFound,), {"prefix": prefix})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context()
    page = context.new_page()
    root = f"http://127.0.0.1:{server.server_port}{prefix}"
    try:
        page.goto(root + wrong)
        assert page.locator("article h1").inner_text().startswith(notfound.TITLE)
        # What is loaded lies in the site. (Chromium tries other addresses before the script has told the right ones.)
        assert page.evaluate("[...document.styleSheets].every((sheet) => sheet.cssRules.length > 0)")
        every = "[...document.querySelectorAll('link[rel=stylesheet], script[src]')]"
        loaded = page.evaluate(f"{every}.map(element => element.href ?? element.src)")
        inside = (f"{root}_static/", f"{root}searchindex.js")
        assert [address for address in loaded if not address.startswith(inside)] == []
        page.locator("article a", has_text="first page").click()
        page.wait_for_url(f"{root}**/*.html")
        assert not page.url.endswith(wrong)
        assert page.locator("article h1").inner_text() != notfound.TITLE
    finally:
        context.close()
        server.shutdown()
        server.server_close()


def test_a_known_address_tells_the_path():
    assert '<noscript><base href="/some-book/404.html"/></noscript>' in notfound.base("/some-book/", ["book"])
    assert "<noscript>" not in notfound.base("", ["book"])


# ---- with a repository


def test_a_known_repository_gives_cards_a_map_and_whole_addresses(small_book):
    (small_book / "book").mkdir(exist_ok=True)
    (small_book / redirects.FILE).write_text("lessons/00_before lessons/01_figures\n", encoding="utf8")
    add(small_book, "\nA paragraph that says what this page is about, as each page has one.\n")
    result = run_build(small_book, GITHUB_REPOSITORY="someone/some-book", SOURCE_DATE_EPOCH="86400")
    assert result.returncode == 0, result.stdout
    html = small_book / "_build" / "html"
    page, url = (html / "lessons" / "01_figures.html").read_text(encoding="utf8"), f"{SITE_URL}lessons/01_figures"
    assert f'<meta property="og:url" content="{url}.html"/>' in page
    assert f'<link rel="canonical" href="{url}.html"' in page
    assert f"url       = {{{url}.html}}" in page
    assert "https://github.com/someone/some-book/edit/main/lessons/01_figures.md" in page
    assert "https://github.com/someone/some-book/issues/new" in page
    assert "1970" in page
    assert f"<loc>{url}.html</loc>" in (html / "sitemap.xml").read_text(encoding="utf8")
    assert f"({url}.txt)" in (html / "llms.txt").read_text(encoding="utf8")
    assert 'href="01_figures.html"' in (html / "lessons" / "00_before.html").read_text(encoding="utf8")
    assert 'known = "/some-book/"' in (html / "404.html").read_text(encoding="utf8")
