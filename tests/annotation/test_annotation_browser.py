"""The web app in a browser: judging by keyboard, patience while the server is away, both modes, what comes of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from annotation_load import Server
from barriers import AXE
from small_study import STAFF_CODE, some_pairs

from rlhf_utils.annotation import commands
from rlhf_utils.annotation.records import Pair, add_pairs, export_records
from rlhf_utils.annotation.store import Store, Study
from rlhf_utils.cli import main
from rlhf_utils.preferences import chosen_rejected, from_labels, read_records

pytestmark = pytest.mark.browser
NASTY = '<script>document.title = "run"</script><img src=x onerror="document.title = 1">'


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A study, and a server for it."""
    monkeypatch.setenv(commands.STAFF_CODE, STAFF_CODE)
    store = Store.create(tmp_path / "study.db", Study("Which is kinder?", "Take the kinder text.", "Read this."))
    server = Server(str(tmp_path / "study.db"))
    server.start()
    yield store, server
    server.kill()
    store.close()


@pytest.fixture
def page(browser, served):
    """A page of an annotator who has entered; complaints of the browser fail the test."""
    store, server = served
    context, complaints = browser.new_context(accept_downloads=True), []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    ((_, code),) = store.invite(1)
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.get_by_label("Your invitation code").fill(code)
    page.keyboard.press("Enter")
    page.get_by_label("I have read this").check()
    page.get_by_role("button", name="Go on").click()
    page.wait_for_url("**/judge")
    yield page
    assert [text for text in complaints if "ERR_CONNECTION" not in text] == []
    context.close()


def press(page, key, then):
    """Press a key and wait for what the next page says."""
    page.keyboard.press(key)
    page.get_by_text(then).wait_for()
    page.wait_for_load_state()  # the next key finds the script


def test_keys_undo_and_a_server_that_is_away(served, page):
    store, server = served
    add_pairs(store, [Pair(NASTY, f" {NASTY} one", f" {NASTY} two"), *some_pairs(5)])
    page.goto(f"http://127.0.0.1:{server.port}/judge")
    assert NASTY in page.locator(".quoted").first.inner_text()
    assert page.locator(".quoted[dir=auto]").count() == 3  # Arabic is read from the right
    for number, key in enumerate(("ArrowLeft", "2", "t", "s"), 1):
        press(page, key, f"{number} of 6 judged")
    press(page, "u", "3 of 6 judged")
    press(page, "1", "4 of 6 judged")
    page.get_by_label("Use these keys").uncheck()
    page.keyboard.press("ArrowLeft")
    assert page.get_by_text("4 of 6 judged").is_visible()
    page.get_by_label("Use these keys").check()
    server.kill()
    page.keyboard.press("ArrowRight")
    page.get_by_text("Your judgement isn't kept yet").wait_for()
    server.start()
    page.get_by_text("5 of 6 judged").wait_for()
    page.get_by_role("button", name="About the same").click()
    page.get_by_text("You judged 6 pairs").wait_for()
    assert [r.choice for r in export_records(store)] == ["a", "b", "tie", "a", "b", "tie"]
    assert all(0 < r.seconds < 300 for r in export_records(store))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_one_response_under_the_other(served, page, scheme):
    store, server = served
    add_pairs(store, [Pair("p", " word" * 60, " " + "x" * 300)])
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"http://127.0.0.1:{server.port}/judge")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    left, right = (page.get_by_role("button", name=f"{side} is better").bounding_box() for side in ("Left", "Right"))
    assert left["y"] < right["y"]
    assert min(left["height"], right["height"]) >= 44
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")


SEND_WITHOUT_SCRIPT = """() => {
  const form = document.getElementById("judge");
  form.append(Object.assign(document.createElement("input"), {type: "hidden", name: "choice", value: "a"}));
  form.submit();
}"""


def test_no_page_has_barriers(served, browser, axe):
    if axe is None:
        pytest.skip("no axe-core: npm isn't there or reaches no registry")
    store, server = served
    add_pairs(store, [Pair("", " word" * 300, f" {NASTY}")])
    ((_, code),) = store.invite(1)
    context = browser.new_context(viewport={"width": 390, "height": 800})
    context.set_default_timeout(120_000)  # for a busy machine
    page, found = context.new_page(), {}

    def look(path=None):
        if path is not None:
            page.goto(f"http://127.0.0.1:{server.port}{path}")
        page.evaluate(axe)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found[f"{len(found)}: {page.title()}, {scheme}"] = page.evaluate(AXE)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

    def go_on(button="Go on"):
        with page.expect_navigation():
            page.get_by_role("button", name=button).click()
        look()

    look("/")
    page.get_by_label("Your invitation code").fill("wrong")
    go_on()
    assert page.get_by_role("alert").inner_text() == "This code isn't known."
    page.get_by_label("Your invitation code").fill(f" {code.lower().replace('-', ' ')} ")
    go_on()
    page.get_by_label("I have read this").check()
    go_on()
    with closing(sqlite3.connect(store.database.name)) as connection:
        connection.execute("ALTER TABLE assignments RENAME TO away")  # every judgement fails
        with page.expect_navigation():
            page.evaluate(SEND_WITHOUT_SCRIPT)
        look()
        assert "Nothing is lost" in page.get_by_role("alert").inner_text()
        connection.execute("ALTER TABLE away RENAME TO assignments")
    go_on("Send my judgement again")
    assert page.get_by_text("You judged 1 pair.").is_visible()
    for path in ("/staff", "/nothing", "/staff/study"):  # to enter, unknown, for others
        look(path)
    page.goto(f"http://127.0.0.1:{server.port}/staff")
    page.get_by_label("The staff's code").fill(STAFF_CODE)
    go_on()
    look("/staff/study")
    context.close()
    assert len(found) == 2 * 11
    assert {name: barriers for name, barriers in found.items() if barriers} == {}


def test_the_staff_s_page_shows_what_is_new(served, browser):
    store, server = served
    add_pairs(store, some_pairs(2))
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    page.goto(f"http://127.0.0.1:{server.port}/staff")
    page.get_by_label("The staff's code").fill(STAFF_CODE)
    page.keyboard.press("Enter")
    page.get_by_text("0 of 6 judgements").wait_for()
    region = page.get_by_role("region", name="Annotators")
    region.focus()
    who = store.annotator("somebody")
    showing = store.next_pair(who)
    store.submit(who, showing.pair_id, showing.token, "a")
    page.clock.run_for(10_000)
    page.get_by_text("1 of 6 judgements").wait_for()
    assert page.get_by_role("row", name="somebody").is_visible()
    assert region.evaluate("it => it === document.activeElement")
    page.get_by_label("Show what is new").uncheck()
    store.annotator("another")
    page.clock.run_for(60_000)
    assert not page.get_by_role("row", name="another").is_visible()
    page.get_by_label("Show what is new").check()
    server.kill()
    page.clock.run_for(10_000)
    page.get_by_text("The server doesn't answer; these figures are old.").wait_for()
    server.start()
    context.clear_cookies()
    page.clock.run_for(10_000)
    page.get_by_label("The staff's code").wait_for()
    context.close()


@pytest.mark.slow
def test_twenty_pairs_judged_by_keyboard_train_a_reward_model(served, page, tiny, tmp_path, monkeypatch, capsys):
    store, server = served
    labelled = [r for r in from_labels(tiny.train, 60, "labels", 0) if len(r.response_a.split()) < 40][:20]
    kind = {better for better, _ in chosen_rejected(labelled)}
    add_pairs(store, [Pair(r.prompt, r.response_a, r.response_b) for r in labelled])
    page.goto(f"http://127.0.0.1:{server.port}/judge")
    for number in range(1, 21):
        left = page.locator("#left-text").inner_text()
        press(
            page,
            "ArrowLeft" if left in kind else "ArrowRight",
            f"{number} of 20 judged" if number < 20 else "Thank you",
        )
    page.get_by_role("button", name="Leave").click()
    page.goto(f"http://127.0.0.1:{server.port}/staff")
    page.get_by_label("The staff's code").fill(STAFF_CODE)
    page.keyboard.press("Enter")
    page.get_by_text("20 of 60 judgements").wait_for()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download the judgements").click()
    file = tmp_path / "class.jsonl"
    waiting.value.save_as(file)
    assert {better for better, _ in chosen_rejected(read_records(file))} == kind
    monkeypatch.setattr("rlhf_utils.tasks.tiny.load", lambda: tiny)
    quick = ["--sft-epochs", "0.02", "--updates", "1", "--batch-size", "16", "--threads", "1"]
    assert main(["pipeline", "--out", str(tmp_path / "run"), "--preferences", str(file), *quick]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert read_records(tmp_path / "run" / "preferences.jsonl") == read_records(file)
    assert 0 <= report["reward_model"]["pair_accuracy"] <= 1
    assert "pair" in capsys.readouterr().out
