"""Checks of the built pages for what Sphinx doesn't notice: vanished figures, requests to other hosts."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

FIGURE = "application/vnd.plotly.v1+json"
_HIDDEN = {"remove-output", "remove_output", "remove-cell", "remove_cell"}
# Elements that make a browser fetch something, and the attribute that says what.
_LOADS = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "track": ("src",),
    "input": ("src",),
    "form": ("action",),
}
_LINKS_LOADED = {"stylesheet", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch"}
_LINKS_LOADED |= {"icon", "shortcut icon", "apple-touch-icon", "manifest"}
_ELSEWHERE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_CSS_URL = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


def shown_figures(notebook: Path) -> list[dict[str, Any]]:
    """The plotly figures among an executed notebook's outputs, except in cells whose output is removed."""
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf8"))["cells"]:
        if not _HIDDEN & set(cell.get("metadata", {}).get("tags", [])):
            outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
            found += [data[FIGURE] for data in outputs if FIGURE in data]
    return found


def alt_of(figure: dict[str, Any]) -> str:
    """A figure's alt text, empty if it has none."""
    meta = figure.get("layout", {}).get("meta")
    return str(meta.get("alt") or "") if isinstance(meta, dict) else ""


def notebooks(executed: Path) -> Iterator[tuple[str, Path]]:
    """Executed notebooks below a folder, with their pages' names."""
    for path in sorted(executed.rglob("*.ipynb")):
        yield path.relative_to(executed).with_suffix("").as_posix(), path


def missing_figures(site: Path, executed: Path) -> list[str]:
    """Figures that a lesson displayed and that its page doesn't show, as lines of text.

    Args:
        site: the built site.
        executed: the folder of executed notebooks.
    """
    problems = []
    for page, path in notebooks(executed):
        built = site / f"{page}.html"
        text = html.unescape(built.read_text(encoding="utf8")) if built.exists() else ""
        figures = shown_figures(path)
        for number, figure in enumerate(figures, 1):
            alt = alt_of(figure)
            if not alt or f'aria-label="{alt}"' not in text:
                problems.append(f"{page}: figure {number} of {len(figures)} isn't in the page ({alt or 'no alt text'})")
    return problems


class _Loads(HTMLParser):
    """Collects the addresses that a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._style = tag == "style"
        self.found += [values[name] for name in _LOADS.get(tag, ()) if name in values]
        if tag == "link" and values.get("rel", "").lower() in _LINKS_LOADED:
            self.found.append(values.get("href", ""))
        self.found += _CSS_URL.findall(values.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if self._style:
            self.found += _CSS_URL.findall(data)


def page_loads(text: str) -> list[str]:
    """All addresses that a page makes a browser fetch."""
    parser = _Loads()
    parser.feed(text)
    return parser.found


def external_requests(site: Path) -> list[str]:
    """Addresses on other hosts that a page or style of the site would fetch, as lines of text."""
    problems = []
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site).as_posix()
        if path.suffix == ".html":
            loads = [url for url in page_loads(path.read_text(encoding="utf8")) if _ELSEWHERE.match(url.strip())]
        elif path.suffix == ".css":
            loads = _CSS_URL.findall(path.read_text(encoding="utf8"))
        else:
            continue
        problems += [f"{name}: fetches {url} from another host" for url in loads]
    return problems


def leftovers(site: Path) -> list[str]:
    """Files in the site that readers shouldn't get, such as reports of failed lessons."""
    return [f"{path.relative_to(site)}: a failed lesson's report" for path in sorted(site.rglob("*.err.log"))]


def check(site: Path, executed: Path) -> list[str]:
    """All checks; each problem is a line of text."""
    return missing_figures(site, executed) + external_requests(site) + leftovers(site)
