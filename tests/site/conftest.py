"""What the tests of the built site share: the site itself, its pages, a server and a browser."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from small_books import CELL, LESSON, ROOT, copy_book, run_build

# Another book's site can be given, such as the fixture book's while the machinery is being worked on.
SITE = Path(os.environ.get("RLHF_SITE") or ROOT / "_build" / "html")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The page that only leads to the first one.
REDIRECT = "index.html"


def page_names() -> list[str]:
    """The built site's pages, for parametrizing; one name that says so when there is no site."""
    pages = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
    # Those that only lead on to another aren't pages.
    names = [
        path.relative_to(SITE).as_posix() for path in pages if 'http-equiv="refresh"' not in path.read_text("utf8")
    ]
    return names or ["no built site"]


def written_pages() -> list[str]:
    """Those that somebody wrote, without those that Sphinx makes, which lie in the top folder."""
    return [name for name in page_names() if "/" in name]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / REDIRECT).exists():
        pytest.fail("there is no built site in _build/html: run `make book`", pytrace=False)
    return SITE


@functools.cache
def _soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")


@pytest.fixture
def soup(site):
    """Parses a page of the site by its name."""
    return lambda name: _soup(site / name)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def address(site):
    """The address of the site on a server that runs for the tests."""
    handler = functools.partial(_Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A built book, and what the command printed."""
    root = copy_book(tmp_path_factory.mktemp("built") / "book")
    return root, run_build(root)


@pytest.fixture
def small_book(tmp_path):
    """A book of one lesson without figures, for breaking."""
    root = copy_book(tmp_path / "book")
    text = (root / LESSON).read_text(encoding="utf8")
    (root / LESSON).write_text(text.split("# Two figures")[0] + "# A lesson\n" + CELL % "print(1)", encoding="utf8")
    (root / "_toc.yml").write_text("format: jb-book\nroot: lessons/01_figures\n", encoding="utf8")
    return root
