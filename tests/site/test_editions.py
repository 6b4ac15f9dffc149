"""The editions: the PDF, the EPUB, the zip, and the site itself opened from a disk with no network."""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from pypdf import PdfReader
from site_pages import SITE, page_names, written_pages
from small_books import ROOT

from rlhf_utils.book import archive, ebook, editions, paper
from rlhf_utils.book.citing import work

XHTML = "{http://www.w3.org/1999/xhtml}"
MATHML = "{http://www.w3.org/1998/Math/MathML}"
OPF = "{http://www.idpf.org/2007/opf}"
ANSWER = "Two fingers on each hand."  # of a question in the fixture book


def write_edition(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Write an edition as a user would; in a process of its own, since two Playwrights don't share one."""
    run = [sys.executable, "-m", "rlhf_utils.book", command, "--root", str(root)]
    return subprocess.run(run, capture_output=True, text=True, timeout=1800, stdin=subprocess.DEVNULL)


def edition_of(root: Path, command: str, file: Path) -> Path:
    result = write_edition(root, command)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "MB" in result.stdout
    return root / file


@pytest.fixture(scope="session")
def pdf(built, browser):
    return edition_of(built[0], "pdf", paper.FILE)


@pytest.fixture(scope="session")
def epub(built, browser):
    return edition_of(built[0], "epub", ebook.FILE)


# ---- the table of contents


def test_pages_stand_in_the_order_of_the_table_of_contents(tmp_path):
    below = {"caption": "One", "chapters": [{"file": "x/b", "sections": [{"file": "c"}]}]}
    toc = {"root": "a", "parts": [below, {"caption": "Two", "chapters": [{"file": "d"}]}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf8")
    found = [(place.key, place.part) for place in editions.places(tmp_path)]
    assert found == [("a", ""), ("x-b", "One"), ("c", "One"), ("d", "Two")]


@pytest.mark.parametrize("command", ["pdf", "epub", "zip"])
def test_without_a_site_an_edition_says_what_to_do(command, small_book):
    result = write_edition(small_book, command)
    assert result.returncode == 2
    assert "make book" in result.stderr or "No browser" in result.stderr
    assert "Traceback" not in result.stderr


# ---- the PDF


def check_pdf(path: Path, root: Path, least: int) -> None:
    """What holds for the fixture book and for the whole one."""
    reader = PdfReader(path)
    told, pages = work(root), editions.places(root)
    assert len(reader.pages) >= least
    assert (reader.metadata.title, reader.metadata.author) == (told.title, ", ".join(told.authors))
    assert told.title.split()[0] in reader.pages[0].extract_text()
    links = [a.get_object() for page in reader.pages for a in page.get("/Annots", [])]
    outside = [link["/A"]["/URI"] for link in links if "/URI" in link.get("/A", {})]
    assert [address for address in outside if not address.startswith(("http", "mailto:"))] == []
    inside = [str(link["/Dest"]) for link in links if "/Dest" in link]
    assert len(inside) > len(pages)
    assert {name for name in inside if name not in reader.named_destinations} == set()
    # The table of contents tells the sheet on which a page begins, and so do the bookmarks.
    numbers = {
        name.lstrip("/"): reader.get_destination_page_number(to) + 1 for name, to in reader.named_destinations.items()
    }
    first = min(numbers[place.key] for place in pages)
    contents = "".join(reader.pages[number].extract_text() for number in range(1, first - 1))
    told_numbers = re.findall(r"(\d+)\s*$", contents, re.MULTILINE)
    marked = []

    def walk(items: list) -> None:
        for item in items:
            if isinstance(item, list):
                walk(item)
            else:
                marked.append((item.title, reader.get_destination_page_number(item) + 1))

    walk(reader.outline)
    for place in pages:
        number = numbers[place.key]
        assert str(number) in told_numbers, place.name
        assert number in [at for _, at in marked], place.name
        title = next(title for title, at in marked if at == number)
        assert title.split()[0].strip("“”") in reader.pages[number - 1].extract_text(), place.name
    assert "Answers" in [title for title, _ in marked]


@pytest.mark.browser
def test_the_pdf_is_whole(pdf, built):
    check_pdf(pdf, built[0], 8)
    # As letters, where the file has signs of two letters in one.
    texts = [unicodedata.normalize("NFKC", page.extract_text()) for page in PdfReader(pdf).pages]
    assert any(ANSWER in text for text in texts)
    # A figure is drawn as lines and letters, not left out and not as dots.
    assert any("second factor" in text for text in texts)


# ---- the EPUB


def check_epub(path: Path, root: Path) -> dict[str, ET.Element]:
    """What holds for the fixture book and for the whole one; its pages by name."""
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.read("mimetype") == b"application/epub+zip"
        names = set(archive.namelist())
        ET.fromstring(archive.read("META-INF/container.xml"))
        package = ET.fromstring(archive.read("EPUB/package.opf"))
        items = {item.get("id"): item for item in package.iter(f"{OPF}item")}
        pages = {
            n: ET.fromstring(archive.read(f"EPUB/{n}"))
            for n in (i.get("href") for i in items.values())
            if n.endswith(".xhtml")
        }
        for name in names:
            if name.endswith(".svg"):
                ET.fromstring(archive.read(name))
    assert {f"EPUB/{item.get('href')}" for item in items.values()} == names - {
        "mimetype",
        "META-INF/container.xml",
        "EPUB/package.opf",
    }
    order = [items[ref.get("idref")].get("href") for ref in package.iter(f"{OPF}itemref")]
    assert order == ["title.xhtml", "nav.xhtml", *(f"{place.key}.xhtml" for place in editions.places(root))]
    ids = {name: [e.get("id") for e in page.iter() if e.get("id")] for name, page in pages.items()}
    for name, page in pages.items():
        assert len(ids[name]) == len(set(ids[name])), name
        assert not [formula for formula in page.iter(f"{MATHML}math") if formula.get("aria-label")], name
        kinds = {element.tag.rpartition("}")[2] for element in page.iter()}
        assert not kinds & {"script", "button", "details", "noscript"}, name
        item = next(item for item in items.values() if item.get("href") == name)
        properties = set((item.get("properties") or "").split()) & {"mathml", "svg"}
        assert properties == {word for word, kind in (("mathml", "math"), ("svg", "svg")) if kind in kinds}, name
        for image in page.iter(f"{XHTML}img"):
            assert image.get("alt"), name
            assert f"EPUB/{image.get('src')}" in names, name
        for link in page.iter(f"{XHTML}a"):
            target = link.get("href") or ""
            if re.match(r"https?:|mailto:", target) or not target:
                continue
            file, _, place = target.partition("#")
            assert posixpath.normpath(file) in pages, (name, target)
            assert not place or unquote(place) in ids[file], (name, target)
    return pages


@pytest.mark.browser
def test_the_epub_is_whole(epub, built):
    pages = check_epub(epub, built[0])
    lesson = pages["lessons-01_figures.xhtml"]
    assert [image.get("alt") for image in lesson.iter(f"{XHTML}img")]
    teaching = "".join(pages["book-teaching.xhtml"].itertext())
    assert ANSWER in teaching[teaching.index("Answers") :]


def run_epubcheck(epub: Path) -> None:
    if (path := shutil.which("epubcheck")) is None or shutil.which("java") is None:
        pytest.skip("epubcheck or java isn't installed")
    command = ["java", "-jar", path] if Path(path).read_bytes().startswith(b"PK") else [path]
    result = subprocess.run([*command, str(epub)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.browser
def test_epubcheck_finds_nothing(epub):
    run_epubcheck(epub)


def test_links_lead_into_the_files_of_their_pages():
    text = '<a href="#book-a">A</a> <a href="#book-a--x">x</a> <a href="https://b.example/#c">c</a>'
    assert ebook.split_links(text) == (
        '<a href="book-a.xhtml">A</a> <a href="book-a.xhtml#book-a--x">x</a> <a href="https://b.example/#c">c</a>'
    )


def test_the_same_files_give_the_same_archive(tmp_path):
    date = datetime(2026, 1, 2, 3, 4, 6, tzinfo=timezone.utc)
    for name in ("one.zip", "two.zip"):
        archive.write_zip(tmp_path / name, [("first", "1"), ("b/second", b"2" * 1000)], date)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


# ---- the site from a disk


@pytest.fixture
def from_disk(browser):
    """Opens files with the network off and collects what goes wrong."""
    context = browser.new_context(reduced_motion="reduce")
    context.set_offline(True)
    page = context.new_page()
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(f"exception: {error}"))
    page.on("console", lambda m: page.troubles.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("requestfailed", lambda r: page.troubles.append(f"failed: {r.url}"))
    yield page
    assert page.troubles == []
    context.close()


def _first_with(mark: str) -> list[str]:
    return [n for n in page_names() if SITE.exists() and mark in (SITE / n).read_text("utf8")][:1]


@pytest.mark.browser
def test_the_zip_works_from_the_disk(built, from_disk, tmp_path):
    with zipfile.ZipFile(edition_of(built[0], "zip", archive.FILE)) as packed:
        packed.extractall(tmp_path)
    folder = tmp_path / archive.FOLDER
    from_disk.goto((folder / "index.html").as_uri())
    from_disk.wait_for_url("**/book/intro.html")
    assert from_disk.locator("article h1").is_visible()
    assert not (folder / ".stamp").exists()


@pytest.mark.browser
@pytest.mark.parametrize("name", _first_with('class="rlhf-figure"') + _first_with("<math"))
def test_a_page_works_from_the_disk(name, from_disk, site):
    from_disk.goto((site / name).as_uri())
    for figure in from_disk.query_selector_all(".rlhf-figure"):
        figure.scroll_into_view_if_needed()
        from_disk.wait_for_function("f => f.querySelector('.rlhf-plot').dataset.state === 'drawn'", arg=figure)
    if from_disk.locator("article math").count():
        from_disk.wait_for_function(
            "[...document.fonts].some(f => f.family.includes('Book Math') && f.status === 'loaded')"
        )


@pytest.mark.browser
def test_search_works_from_the_disk(from_disk, site, soup):
    word = max(soup(written_pages()[0]).find("article").h1.get_text().split(), key=len).strip("#.,:")
    from_disk.goto((site / "search.html").as_uri() + f"?q={word}")
    from_disk.wait_for_selector("#search-results li a")
    from_disk.wait_for_timeout(300)  # the quotes, which may not be fetched, would come now


@pytest.mark.browser
@pytest.mark.parametrize("name", _first_with('data-part="playground"'))
def test_the_playground_writes_from_the_disk(name, from_disk, site):
    from_disk.goto((site / name).as_uri())
    words = "document.querySelectorAll('.rlhf-playground .rlhf-token').length"
    from_disk.locator(".rlhf-playground").get_by_role("button", name="Fetch").click()
    from_disk.get_by_role("button", name="Write to the end").click()
    from_disk.wait_for_function(f"{words} > 0", timeout=60000)


# ---- the whole book


@pytest.mark.slow
@pytest.mark.browser
def test_the_whole_book_as_pdf(site, browser):
    check_pdf(edition_of(ROOT, "pdf", paper.FILE), ROOT, 400)


@pytest.mark.slow
@pytest.mark.browser
def test_the_whole_book_as_epub(site, browser):
    path = edition_of(ROOT, "epub", ebook.FILE)
    pages = check_epub(path, ROOT)
    run_epubcheck(path)
    assert sum(1 for page in pages.values() for _ in page.iter(f"{XHTML}img")) >= 100
