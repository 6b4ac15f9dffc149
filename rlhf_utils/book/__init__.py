"""The book's machinery: a Sphinx extension and the command ``python -m rlhf_utils.book``.

Listed in ``_config.yml`` as the Sphinx extension ``rlhf_utils.book``. Nothing heavy is imported here: the
build command has to notice within a second or two that there is nothing to do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Register figures, mathematics, the execution cache and the site's settings with Sphinx."""
    from rlhf_utils.book import (
        accessible,
        addresses,
        anchors,
        breaks,
        bundle,
        citing,
        diagrams,
        execution,
        explorables,
        figures,
        glance,
        languages,
        launch,
        mathematics,
        notfound,
        numbers,
        offline,
        playground,
        quiz,
        record,
        redirects,
        reference,
        site,
        texts,
    )

    # The kernels that run the lessons inherit it: `show` then writes figures for the page.
    os.environ["RLHF_UTILS_BOOK"] = "1"
    lessons = (execution, figures, launch, record)
    directives = (diagrams, quiz, glance, languages, reference, playground, explorables)
    typography = (mathematics, numbers, breaks)
    companions = (addresses, anchors, citing, texts, redirects, notfound, offline)
    # The last two change the pages once they are written.
    for part in (*lessons, *directives, *typography, site, *companions, accessible, bundle):
        part.register(app)
    # Figures and mathematics are collected in this process; Jupyter Book builds with one process anyway.
    return {"version": "1", "env_version": 1, "parallel_read_safe": False, "parallel_write_safe": False}
