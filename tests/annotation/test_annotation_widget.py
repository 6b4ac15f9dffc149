"""The widget of a notebook, driven by the messages that its page sends."""

from __future__ import annotations

import pytest

pytest.importorskip("anywidget")

from rlhf_utils.annotation.database import StoreError
from rlhf_utils.annotation.store import Store
from rlhf_utils.annotation.widget import SOURCE, judge
from rlhf_utils.errors import UserError

PAIRS = [("the tea is", f" warm {n}", f" <b>cold</b> {n}") for n in range(6)]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "my_judgements.db"


def press(widget, choice, token=None, **more):
    """What the page sends when a key is pressed."""
    content = {"do": "judge", "choice": choice, "token": token or widget.state["token"], "seconds": 0.5}
    widget._handle_custom_msg(content | more, [])


def test_each_judgement_is_in_the_file_at_once(file):
    widget = judge(PAIRS, file)
    assert widget.state["judged"] == 0
    for n, choice in enumerate(("a", "b", "tie"), 1):
        before = dict(widget.state)
        press(widget, choice)
        kept = Store(file)
        assert kept.account(kept.annotator("me")).judged == n
        last = widget.records[-1]
        assert (last.choice, last.response_a, last.response_b) == (choice, before["left"], before["right"])
        assert (last.source, last.annotator) == (SOURCE, "me")
        assert last.prompt + last.response_a in {p + x for p, *both in PAIRS for x in both}
        kept.close()
    assert (widget.state["judged"], widget.state["goal"]) == (3, 6)


def test_it_goes_on_where_it_stopped_and_asks_nothing_twice(file):
    first = judge(PAIRS, file)
    press(first, "a")
    shown, seen = dict(first.state), {first.records[0].pair_id}
    first.store.close()  # the kernel is gone
    again = judge(PAIRS, file)
    assert {k: again.state[k] for k in ("left", "right", "judged")} == {
        k: shown[k] for k in ("left", "right", "judged")
    }
    while again.state["token"]:
        press(again, "b")
    assert len(again.records) == len({r.pair_id for r in again.records} | seen) == len(PAIRS)
    press(again, "a", "x")
    assert len(again.records) == len(PAIRS)


def test_a_second_press_on_the_same_pair_counts_once(file):
    widget = judge(PAIRS, file)
    token = widget.state["token"]
    press(widget, "a", token)
    press(widget, "b", token)
    assert [r.choice for r in widget.records] == ["a"]


def test_skip_keeps_no_record_and_undo_brings_the_pair_back(file):
    widget = judge(PAIRS, file)
    assert not widget.state["undo"]
    press(widget, "skip")
    assert (widget.records, widget.state["judged"]) == ([], 1)
    before = dict(widget.state)
    press(widget, "a")
    widget._handle_custom_msg({"do": "undo"}, [])
    assert [widget.state[side] for side in ("left", "right")] == [before[side] for side in ("left", "right")]
    assert (widget.records, widget.state["judged"], widget.state["message"]) == ([], 1, "Taken back.")
    widget.undo()
    widget.undo()
    assert widget.state["message"] == "There is nothing to take back."


def test_sides_are_drawn_by_chance(file):
    pairs = [("", f"first {n}", f"second {n}") for n in range(80)]
    widget = judge(pairs, file)
    while widget.state["token"]:
        press(widget, "a")
    left_is_first = sum(r.response_a.startswith("first") for r in widget.records)
    assert 20 < left_is_first < 60  # of 80; a fair coin is outside in one of 200,000 runs


def test_it_stops_at_a_goal(file):
    widget = judge(PAIRS, file, goal=2)
    press(widget, "a")
    press(widget, "b")
    assert (widget.state["token"], widget.state["judged"], widget.state["goal"]) == ("", 2, 2)


@pytest.mark.parametrize(
    "content",
    [None, [], {}, {"do": "judge"}, {"do": "judge", "token": 5, "choice": "a"}, {"do": "drop"}, {"do": {}}],
)
def test_messages_that_the_page_never_sends_do_nothing(file, content):
    widget = judge(PAIRS, file)
    before = dict(widget.state)
    widget._receive(widget, content, [])
    assert (widget.state, widget.records) == (before, [])


@pytest.mark.parametrize("seconds", ["1", None, -3, True, float("nan")])
def test_times_that_are_none_are_measured_by_the_store(file, seconds):
    widget = judge(PAIRS, file)
    press(widget, "a", seconds=seconds)
    assert 0 <= widget.records[0].seconds < 60


def test_an_unknown_choice_is_not_kept(file):
    widget = judge(PAIRS, file)
    press(widget, "<script>")
    assert widget.records == []


def test_a_full_disk_is_told_and_the_pair_stays(file, monkeypatch):
    widget = judge(PAIRS, file)
    before = dict(widget.state)

    def fails(*_args, **_more):
        raise StoreError("The disk that holds the store is full.")

    with monkeypatch.context() as broken:
        broken.setattr(widget.store, "submit", fails)
        press(widget, "a")
    assert "Not kept" in widget.state["message"]
    assert widget.state["token"] == before["token"]
    press(widget, "a")
    assert len(widget.records) == 1


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([], "holds no pair"), ([("p", "x")], "Pair 1"), ([("p", "x", "x")], "equal"), ([("p", "x", 5)], "not a text")],
)
def test_what_cannot_be_judged_is_named(file, pairs, message):
    with pytest.raises(UserError, match=message):
        judge(pairs, file)


def test_texts_go_into_the_page_as_text():
    from rlhf_utils.annotation.widget import STATIC

    script = (STATIC / "widget.js").read_text(encoding="utf8")
    assert "innerHTML" not in script
    assert "textContent = state.left" in script
