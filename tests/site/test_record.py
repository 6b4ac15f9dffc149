"""The page about the book's state: what a copy was built from and with, and which lessons ran when."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version

import pytest
from bs4 import BeautifulSoup

from rlhf_utils.book import record


def _page(path):
    return BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")


def _rows(table):
    return [[cell.get_text().strip() for cell in row.select("th, td")] for row in table.select("tr")]


@pytest.fixture(scope="module")
def tables(built):
    """The rows of the fixture book's two tables."""
    root, result = built
    assert result.returncode == 0, result.stdout + result.stderr
    return [_rows(table) for table in _page(root / "_build/html/book/status.html").select("article table")]


def test_versions_are_those_that_are_installed(tables):
    told = dict(tables[0])
    for name in ("torch", "transformers", "trl", "jupyter-book"):
        assert told[name] == version(name)
    assert re.fullmatch(r"3\.\d+\.\d+", told["Python"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", told["Date of this copy"])
    assert told["Commit"] == "not known"


def test_lessons_are_listed_with_times(tables):
    head, *lessons, total = tables[1]
    assert head == ["Lesson", "Ran (UTC)", "Seconds", "Status"]
    assert [row[0] for row in lessons] == ["Two figures"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", lessons[0][1])
    assert float(lessons[0][2]) > 0
    assert lessons[0][3] == "passed"
    assert float(total[2]) == pytest.approx(sum(float(row[2]) for row in lessons), abs=0.1)


def test_the_commit_is_the_books_own(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)

    assert record.commit(tmp_path) is None
    git("init", "-q")
    assert record.commit(tmp_path) is None  # nothing is committed yet
    (tmp_path / "page.md").write_text("one")
    git("add", ".")
    git("commit", "-qm", "one")
    name, changed = record.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", name)
    assert not changed
    (tmp_path / "page.md").write_text("two")
    assert record.commit(tmp_path) == (name, True)
    (tmp_path / "inner").mkdir()
    assert record.commit(tmp_path / "inner") is None


def test_a_date_can_be_set_and_a_package_be_missing(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert record.built_at().isoformat() == "1970-01-01T00:00:00+00:00"
    assert record.package_version("no-such-package") == "not installed"


def test_the_book_says_how_it_was_built(site):
    path = site / "book" / "status.html"
    if not path.exists():
        pytest.skip("this site has no such page")
    versions, runs = [_rows(table) for table in _page(path).select("article table")]
    assert dict(versions)["torch"] == version("torch")
    assert {row[3].split(",")[0] for row in runs[1:-1]} == {"passed"}
