"""What a page costs its reader: bytes over the wire and requests, with nothing in the browser's cache."""

from __future__ import annotations

import pytest
from site_pages import SITE, page_names

pytestmark = pytest.mark.browser
# Thousands of bytes, compressed as the server sends them, and requests.
BUDGETS = {"text": (250, 20), "figures": (700, 25)}
TABLE = SITE.parent / "budgets.tsv"


def kind_of(name: str) -> str:
    """Whether the page has figures, which bring ``plotly.js`` along."""
    return "figures" if 'class="rlhf-figure"' in (SITE / name).read_text("utf8") else "text"


@pytest.fixture(scope="module")
def table():
    """The lines of a table of all pages, written at the end to ``_build/budgets.tsv``."""
    rows: list[str] = []
    yield rows
    if rows:
        TABLE.write_text("\n".join(["page\tkind\tKB\trequests", *rows]) + "\n", encoding="utf8")


@pytest.mark.parametrize("name", page_names())
def test_budget(name, visit, table, record_property):
    seen, kind = visit(name)["light"], kind_of(name)
    table.append(f"{name}\t{kind}\t{seen.size / 1000:.0f}\t{seen.requests}")
    record_property("budget", table[-1])
    if 'data-plotly="plotly.min.js"' in (SITE / name).read_text("utf8"):
        pytest.skip("the whole plotly.js, as npm wasn't there at the build")
    most, requests = BUDGETS[kind]
    assert seen.size <= most * 1000
    assert seen.requests <= requests
