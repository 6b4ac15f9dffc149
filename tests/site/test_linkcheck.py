"""The check of links, on a book with one that leads nowhere. No network is needed to find that."""

from __future__ import annotations

import json
import re

from rlhf_utils.book import linkcheck


def test_a_dead_link_is_named_and_a_refusal_is_not(tmp_path):
    rows = [
        {"filename": "a.md", "lineno": 3, "status": "broken", "uri": "https://gone.example", "info": "404 Not Found"},
        {"filename": "a.md", "lineno": 4, "status": "broken", "uri": "https://shy.example", "info": "403 Forbidden"},
        {"filename": "b.md", "lineno": 1, "status": "working", "uri": "https://here.example", "info": ""},
    ]
    report = tmp_path / "output.json"
    report.write_text("\n".join(map(json.dumps, rows)), encoding="utf8")
    assert linkcheck.broken(report) == ["a.md:3: https://gone.example: 404 Not Found"]


def test_a_book_with_a_dead_link_fails(small_book, capsys):
    with (small_book / "lessons" / "01_figures.md").open("a", encoding="utf8") as file:
        file.write("\n\n[nowhere](http://127.0.0.1:9/gone)\n")
    assert linkcheck.check(small_book) == 1
    assert re.search(
        r"^lessons/01_figures\.md:\d+: http://127\.0\.0\.1:9/gone: ", capsys.readouterr().out, re.MULTILINE
    )
