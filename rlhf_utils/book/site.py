"""Settings that Jupyter Book's configuration file cannot express, and what is taken out of the site's pages.

The site asks no other host for anything: whatever would is removed here, and a check of the build makes sure.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sphinx.util import logging

from rlhf_utils.book.repository import Repository, find_repository

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

LOGGER = logging.getLogger(__name__)
ASSETS = Path("book") / "_assets"
# sphinx-thebe would fetch itself from another host, and its inline script throws on every page.
_PRUNED_FILES = ("sphinx-thebe.js", "sphinx-thebe.css")
_PRUNED_BODIES = ("THEBE_JS_URL",)


def theme_options(repository: Repository | None) -> dict[str, Any]:
    """The theme's options that depend on whether the repository's address is known."""
    # The theme would launch the sources, which neither Colab nor Binder can run: `launch` has links of its own.
    options: dict[str, Any] = {"navbar_persistent": [], "search_as_you_type": False, "launch_buttons": {}}
    if repository is None:
        unknown = {"repository_url": "", "use_repository_button": False, "use_issues_button": False}
        return {**options, **unknown, "use_edit_page_button": False}
    return {
        **options,
        "repository_url": repository.url,
        "repository_branch": repository.branch,
        "path_to_docs": "",
        "use_repository_button": True,
        "use_issues_button": True,
        "use_edit_page_button": True,
    }


def _configure(app: Sphinx, config: Config) -> None:
    repository = find_repository(Path(app.srcdir))
    if repository is None:
        LOGGER.info("No launch and repository buttons: neither $GITHUB_REPOSITORY nor a remote on GitHub is known.")
    # Updated and not replaced: Jupyter Book has put its own options there.
    config.html_theme_options = {**(config.html_theme_options or {}), **theme_options(repository)}
    # Widgets would load require.js from another host.
    config.nb_ipywidgets_js = {}
    assets = Path(app.srcdir) / ASSETS
    config.html_static_path = [*config.html_static_path, str(assets / "static")]
    config.templates_path = [str(assets / "templates"), str(_slim_templates(app)), *config.templates_path]
    config.html_search_scorer = str(assets / "search" / "score.js")
    config.html_favicon = str(assets / "static" / "favicon.svg")
    # The reader's system decides; the theme logs an error on every page unless that is said.
    config.html_context = {**config.html_context, "default_mode": "auto"}
    app.add_css_file("book.css", priority=900)
    app.add_js_file("book.js", loading_method="defer")


def _slim_templates(app: Sphinx) -> Path:
    """The theme's list of scripts without Font Awesome's (1.5 MB): its fonts show the icons as well."""
    import pydata_sphinx_theme

    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme"
    name = Path("static") / "webpack-macros.html"
    text = (theme / name).read_text(encoding="utf8")
    slim = Path(app.outdir).parent / "templates"
    (slim / name).parent.mkdir(parents=True, exist_ok=True)
    (slim / name).write_text(re.sub(r"<script[^>]*fontawesome\.js.*?</script>", "", text), encoding="utf8")
    return slim


def _is_pruned(asset: object) -> bool:
    name = str(getattr(asset, "filename", asset) or "")
    body = str(getattr(asset, "attributes", {}).get("body") or "")
    return any(f in name for f in _PRUNED_FILES) or any(b in body for b in _PRUNED_BODIES)


def _prune(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: object) -> None:
    for kind in ("script_files", "css_files"):
        # In place: the builder's own list, which later handlers still append to.
        context[kind][:] = [asset for asset in context[kind] if not _is_pruned(asset)]


def register(app: Sphinx) -> None:
    """Register the settings and the pruning with Sphinx."""
    app.connect("config-inited", _configure)
    app.connect("html-page-context", _prune)
