"""The annotator's page, driven by keyboard and mouse: what it notes, keeps, learns and hands out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from site_pages import parsed
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from rlhf_utils.preference_formats import read_comparisons
from rlhf_utils.preferences import pair_id

pytestmark = pytest.mark.browser
PAGE = "book/annotator.html"


@pytest.fixture(scope="module")
def facts(site):
    return json.loads(parsed(site / PAGE).find(id="rlhf-annotator-facts").string)


@pytest.fixture
def page(browser, address):
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.goto(address + PAGE)
    yield page
    context.close()


def records(page):
    return json.loads(page.evaluate("localStorage.getItem('rlhf-book-judgements')") or "[]")


def judge(page, number):
    """Judge pairs by keyboard: the longer text, or about the same where they have equally many words."""
    page.locator(".rlhf-choice").first.focus()
    for _ in range(number):
        left, right = (len(text.split()) for text in page.locator(".rlhf-choice").all_inner_texts())
        page.keyboard.press("ArrowLeft" if left > right else "ArrowRight" if right > left else "ArrowDown")


def test_twenty_pairs_by_keyboard_become_records_that_the_package_reads(page, facts, tmp_path):
    judge(page, 20)
    assert "20 of 60 pairs judged" in page.locator(".rlhf-numbers").inner_text()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the judgements").click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    found = read_comparisons(path)
    assert len(found) == len({r.pair_id for r in found}) == 20
    for record in found:
        lengths = len(record.response_a.split()), len(record.response_b.split())
        assert record.choice == ("tie" if lengths[0] == lengths[1] else "ab"[lengths[1] > lengths[0]])
        assert record.pair_id == pair_id(record.prompt, record.response_a, record.response_b)
        assert record.response_a.startswith(" ")
        assert (record.annotator, record.source) == ("reader", "site")
        assert 0 <= record.seconds < 60


def test_the_model_is_that_of_logistic_regression(page, facts):
    judge(page, 30)
    pairs = [
        (r["prompt"] + r["response_a"], r["prompt"] + r["response_b"])[:: 1 if r["choice"] == "a" else -1]
        for r in records(page)
        if r["choice"] != "tie"
    ]
    counter = CountVectorizer(token_pattern=r"\S+", lowercase=False)
    chosen = counter.fit_transform([text for pair in pairs for text in pair]).toarray()
    gaps = chosen[::2] - chosen[1::2]
    signs = np.resize([1, -1], len(gaps))  # both classes have to occur
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-9, max_iter=5000)
    model.fit(gaps * signs[:, None], signs)
    theirs = dict(zip(counter.get_feature_names_out(), model.coef_[0], strict=True))
    found = dict(page.evaluate("pairs => [...annotation.fit(pairs).weights]", pairs))
    for word, weight in theirs.items():
        assert found.get(word, 0.0) == pytest.approx(weight, abs=2e-3)


def test_a_judge_who_counts_words_gets_a_model_that_likes_words(page, facts):
    judge(page, 40)
    told = page.locator(".rlhf-next").inner_text()
    assert "What it likes" in told
    words = [text.split("\t")[0] for text in page.locator(".rlhf-columns tbody").first.all_inner_texts()]
    assert words
    pairs = facts["heldOut"]
    longer = [pair if len(pair[0].split()) > len(pair[1].split()) else pair[::-1] for pair in pairs]
    longer = [pair for pair in longer if len(pair[0].split()) != len(pair[1].split())]
    mine = [(r["prompt"] + r["response_a"], r["prompt"] + r["response_b"], r["choice"]) for r in records(page)]
    mine = [(a, b) if choice == "a" else (b, a) for a, b, choice in mine if choice != "tie"]
    share = page.evaluate("([mine, held]) => annotation.agreement(annotation.fit(mine).weights, held)", [mine, longer])
    assert share > 0.7


def test_agreement_worked_by_hand(page):
    script = "pairs => annotation.agreement(new Map([['good', 1], ['bad', -2]]), pairs)"
    # Right, wrong, and one that the weights can't tell.
    assert page.evaluate(script, [["good", "bad"], ["bad", "good"], ["so", "so"]]) == 0.5


def test_judgements_survive_the_page_and_can_be_taken_back(page):
    judge(page, 3)
    before = records(page)
    page.reload()
    assert records(page) == before
    assert "3 of 60 pairs judged" in page.locator(".rlhf-numbers").inner_text()
    page.get_by_role("button", name="Undo").click()
    assert records(page) == before[:2]
    shown = [text.removeprefix("… ") for text in page.locator(".rlhf-choice").all_inner_texts()]
    assert shown == [before[2][key].strip() for key in ("response_a", "response_b")]
    page.get_by_role("button", name="Skip").click()
    assert records(page) == before[:2]
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Forget all").click()
    assert records(page) == []


def test_which_text_stands_on_the_left_is_left_to_chance(page, facts):
    order = {pair["id"]: pair["responses"][0] for pair in facts["pairs"]}
    judge(page, 40)
    swapped = sum(r["response_a"] != order[r["pair_id"]] for r in records(page))
    assert 6 < swapped < 34  # of 40; outside with chance 1e-5


def test_something_else_in_the_storage_harms_nothing(page):
    page.evaluate("localStorage.setItem('rlhf-book-judgements', '{broken')")
    page.reload()
    judge(page, 1)
    assert len(records(page)) == 1


def test_all_pairs_can_be_judged(page, facts):
    judge(page, len(facts["pairs"]))
    assert "You have seen all pairs." in page.locator(".rlhf-annotator").inner_text()
    assert page.get_by_role("button", name="About the same").is_disabled()
