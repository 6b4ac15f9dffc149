"""Makes the written pages light: one style sheet, one deferred script, and fonts of the signs that are used.

The theme and the extensions bring ten style sheets and as many scripts to every page, in all 280 KB of which a page
uses a fifth. What every page loads is joined in its order; what only some load, such as the script of figures or the
search's index, stays by itself.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_utils.book import fonts, styles

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# What every page of the theme loads, and the pages that Sphinx makes without the theme (the redirects) don't.
_THEME = "_static/styles/sphinx-book-theme.css"
_OPTIONS = "_static/documentation_options.js"
# Bootstrap names all its classes; of those for what the book hasn't got, no element carries one.
_SILENT = ("_static/scripts/bootstrap.js",)
# The theme gives them to every page for results while one types, which this book doesn't have: a fifth of a page.
_SEARCH = ("_static/searchtools.js", "_static/language_data.js", "searchindex.js")
_RESULTS = 'id="search-results"'
_MATH_FONT = "fonts/book-math.woff2"
# sphinx-design's script is for tabs.
_TABS = ("_static/design-tabs.js", "sd-tab-set")
_FONT_AWESOME = re.compile(r"font-family:\s*[\"']?Font Awesome", re.IGNORECASE)
# Icons' families that nothing names in its class have no place in the style sheet.
_FAMILIES = {"fa-brands": {"fab", "fa-brands"}, "fa-regular": {"far", "fa-regular"}, "fa-solid": set()}
# What the theme and the extensions bring and no page loads, now that the rest is joined.
_SPENT = (
    "styles",
    "scripts",
    "vendor",
    "locales",
    "basic.css",
    "*webpack-macros.html",
    "sphinx-thebe.*",
    "copybutton_*",
)

_LOAD = re.compile(
    r"""[ \t]*(?:<link\b(?=[^>]*\brel="stylesheet")[^>]*?\bhref="(?P<style>(?!https?:)[^"]+)"[^>]*>"""
    r"""|<script\b[^>]*?\bsrc="(?P<script>(?!https?:)[^"]+)"[^>]*></script>)\n?"""
)
_PRELOADED = re.compile(r'[ \t]*<link rel="preload" as="script"[^>]*>\n?')
_CLASSES = re.compile(r'\bclass="([^"]*)"')
# The theme measures every box of code one by one, which lays out the page anew for each, folded ones included.
# `book.js` does the same for all of them at once.
_ONE_BY_ONE = re.compile(r'(function \w+\(\)\{)(?=const \w+=\(\)=>\{document\.querySelectorAll\(\["pre",)')
_INLINE = re.compile(r"<script(?![^>]*(?:\bsrc=|json))[^>]*>(.*?)</script>", re.DOTALL)


def _name(address: str) -> str:
    """The file that an address in a page means, from the site's root, as ``_static/book.css``."""
    path = address.partition("?")[0]
    at = path.find("_static/")
    return path[at:] if at >= 0 else re.sub(r"^(?:\.\./)+", "", path)


def loads(page: str) -> list[str]:
    """The local style sheets and scripts of a page, in their order."""
    return [_name(match["style"] or match["script"]) for match in _LOAD.finditer(page)]


def _shared(pages: Iterable[str]) -> list[str]:
    """What each of these pages loads, in the order of the first."""
    first, *others = [loads(page) for page in pages]
    return [name for name in first if all(name in other for other in others)]


def rewritten(page: str, shared: list[str], style: str, script: str, options: str) -> str:
    """The page with the joined files in place of the shared ones, and its other scripts deferred.

    Args:
        page: the page.
        shared: files that are in the joined ones.
        style: the joined style sheet.
        script: the joined script.
        options: the settings of Sphinx's scripts, which stand in the page, as scripts in the page add to them.
    """
    written: set[str] = set()

    def put(match: re.Match[str]) -> str:
        address = match["style"] or match["script"]
        name = _name(address)
        if name == _OPTIONS:
            return f"<script>{options}</script>\n"
        if name not in shared:
            tag = match[0]
            if (name == _TABS[0] and _TABS[1] not in page) or (name in _SEARCH and _RESULTS not in page):
                return ""
            defers = match["script"] and not re.search(r"\b(?:defer|async|type=\"module\")", tag)
            return tag.replace("<script", "<script defer", 1) if defers else tag
        kind = "style" if match["style"] else "script"
        if kind in written:
            return ""
        written.add(kind)
        to = address.partition("_static/")[0] + "_static/" + (style if kind == "style" else script)
        return (
            f'    <link rel="stylesheet" href="{to}"/>\n'
            if kind == "style"
            else f'    <script defer src="{to}"></script>\n'
        )

    return _PRELOADED.sub("", _LOAD.sub(put, page))


def _used(pages: Iterable[str], scripts: Iterable[Path]) -> set[str]:
    """Classes that occur in pages, and words of scripts, any of which may be a class."""
    found: set[str] = set()
    for page in pages:
        for names in _CLASSES.findall(page):
            found |= set(names.split())
        for text in _INLINE.findall(page):
            found |= styles.words(text)
    for script in scripts:
        found |= styles.words(script.read_text(encoding="utf8"))
    return found


def _joined_scripts(paths: Iterable[Path]) -> str:
    # The sign before the first line keeps a "use strict" of one script from holding for all.
    return "".join(f";\n{quick(path.read_text(encoding='utf8'))}\n" for path in paths)


def quick(script: str) -> str:
    """A script of the theme without what makes long pages slow to appear; any other as it is."""
    return _ONE_BY_ONE.sub(r"\1return;", script)


def _write(folder: Path, suffix: str, text: str) -> str:
    """Write a joined file under a name that changes with it, so that a browser never keeps an old one."""
    name = f"all-{hashlib.sha256(text.encode()).hexdigest()[:8]}.{suffix}"
    (folder / name).write_text(text, encoding="utf8")
    return name


def lighten(site: Path) -> None:
    """Join, prune and rewrite the files of a site that has been written."""
    static = site / "_static"
    paths = [path for path in sorted(site.rglob("*.html")) if static not in path.parents]
    pages = {path: text for path in paths if _THEME in (text := path.read_text(encoding="utf8"))}
    shared = [name for name in _shared(pages.values()) if name not in (_OPTIONS, _TABS[0], *_SEARCH)]
    scripts = [path for path in static.rglob("*.js") if not path.name.startswith("plotly")]
    telling = [path for path in scripts if path.relative_to(site).as_posix() not in _SILENT]
    used = _used(pages.values(), telling)
    css = styles.joined([site / name for name in shared if name.endswith(".css")], static)
    css = styles.pruned(css, used, lambda face: face + "\n")
    css = re.sub(r"@font-face\s*\{[^}]*\}\n?", lambda match: _icons(match[0], static, css, used), css)
    style = _write(static, "css", css)
    script = _write(static, "js", _joined_scripts(site / name for name in shared if name.endswith(".js")))
    options = (site / _OPTIONS).read_text(encoding="utf8")
    for path, page in pages.items():
        path.write_text(rewritten(page, shared, style, script, options), encoding="utf8")
    for name in {*shared, _OPTIONS}:
        (site / name).unlink()
    for pattern in _SPENT:
        for path in static.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    font = static / _MATH_FONT
    font.write_bytes(fonts.part(font, fonts.math_signs(pages.values())))


def _icons(face: str, static: Path, css: str, used: set[str]) -> str:
    """A rule for a font as it stands, or, for the icons, with the icons that are used in it."""
    if not _FONT_AWESOME.search(face):
        return face
    for family, names in _FAMILIES.items():
        if family in face:
            wanted = fonts.icon_signs(css) if not names or names & used else set()
            return fonts.inline(face, static, wanted)
    return ""


def _lighten(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.name == "html":
        lighten(Path(app.outdir))


def register(app: Sphinx) -> None:
    """Let the site be lightened after everything has been written to it."""
    app.connect("build-finished", _lighten, priority=950)
