"""What the tests of the built site share: the site itself, its pages, a server and a browser."""

from __future__ import annotations

import functools
import gzip
import http.server
import shutil
import threading
from pathlib import Path

import pytest
import visits
from site_pages import REDIRECT, SITE, parsed
from small_books import CELL, LESSON, copy_book, run_build

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / REDIRECT).exists():
        pytest.fail("there is no built site in _build/html: run `make book`", pytrace=False)
    return SITE


@pytest.fixture
def soup(site):
    """Parses a page of the site by its name."""
    return lambda name: parsed(site / name)


# What a server of static pages sends compressed, as GitHub Pages does.
TEXT = ("text/", "application/javascript", "application/json", "application/xml", "image/svg")


@functools.cache
def _compressed(path: Path, changed: float) -> bytes:
    return gzip.compress(path.read_bytes(), 6)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, text compressed, over connections that stay open."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        kind = self.guess_type(str(path))
        if not (path.is_file() and kind.startswith(TEXT) and "gzip" in self.headers.get("Accept-Encoding", "")):
            return super().do_GET()
        data = _compressed(path, path.stat().st_mtime)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A browser that goes away in the middle of an answer is no error."""


@pytest.fixture(scope="session")
def address(site):
    """The address of the site on a server that runs for the tests."""
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def chromium():
    """The path of a browser that is installed."""
    pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return path


@pytest.fixture(scope="session")
def browser(chromium):
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=visits.ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def visit(request, chromium, address, axe):
    """Gives what was seen on a page in each mode.

    The pages of all tests to come are looked at one after the other, each once, in both modes at a time.
    """
    own = [item for item in request.session.items if item.path.parent == Path(__file__).parent]
    names = dict.fromkeys(item.callspec.params["name"] for item in own if "visit" in item.fixturenames)
    eyes = {mode: visits.Eye(mode, chromium) for mode in visits.MODES}
    ahead = {name: {mode: eye.look(address, name, axe) for mode, eye in eyes.items()} for name in names}
    yield lambda name: {mode: seen.result() for mode, seen in ahead[name].items()}
    for eye in eyes.values():
        eye.close()


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
