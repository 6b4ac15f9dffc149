"""Links that open a lesson's notebook: on every lesson, on no chapter, and to a file that the site has."""

from __future__ import annotations

import json

import pytest
from site_pages import page_names

from rlhf_utils.book.launch import links
from rlhf_utils.book.repository import Repository

LESSONS = [name for name in page_names() if name.startswith("lessons/")]


def test_colab_and_binder_open_the_branch_of_notebooks():
    assert links("08_ppo", "../notebooks/08_ppo.ipynb", Repository("someone/book", "v1.0.0")) == {
        "Open in Colab": "https://colab.research.google.com/github/someone/book/blob/notebooks/08_ppo.ipynb",
        "Open on Binder": "https://mybinder.org/v2/gh/someone/book/notebooks?labpath=08_ppo.ipynb",
        "Download the notebook": "../notebooks/08_ppo.ipynb",
    }


def test_without_a_repository_there_is_the_download():
    assert links("08_ppo", "x.ipynb", None) == {"Download the notebook": "x.ipynb"}


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_leads_to_its_notebook(site, soup, name):
    *_, download = soup(name).select(".rlhf-launch a")
    assert download.has_attr("download")
    path = ((site / name).parent / download["href"]).resolve()
    assert path == (site / "notebooks" / path.name).resolve()
    assert path.stem == (site / name).stem
    assert json.loads(path.read_text(encoding="utf8"))["nbformat"] == 4


def test_a_chapter_has_nothing_to_run(soup):
    assert not any(soup(name).select(".rlhf-launch") for name in page_names() if name.startswith("book/"))


def test_the_file_is_downloaded(browser, address):
    page = browser.new_page()
    page.goto(address + LESSONS[0])
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download the notebook").click()
    assert waiting.value.suggested_filename == LESSONS[0].removeprefix("lessons/").replace(".html", ".ipynb")
    page.close()
