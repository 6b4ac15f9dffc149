import json
from dataclasses import asdict

import pytest

from rlhf_utils import own_labels as module
from rlhf_utils.errors import UserError
from rlhf_utils.own_labels import VARIABLE, find_own, judge_here, own_labels, read_own
from rlhf_utils.preferences import Preference, pair_id

RECORD = Preference(pair_id("p", " x", " y"), "p", " x", " y", "a", "me", 1.0, "2026-05-01T10:00:00Z", "test")


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def write(path, **changes):
    path.write_text(json.dumps(asdict(RECORD) | changes) + "\n", encoding="utf8")
    return path


def test_files_in_the_folder_and_in_the_book_are_found(tmp_path, monkeypatch):
    lessons = tmp_path / "lessons"
    lessons.mkdir()
    assert find_own(lessons) == []
    (tmp_path / "_toc.yml").touch()
    here, book = write(lessons / "my_preferences.jsonl"), write(tmp_path / "my_preferences.jsonl")
    assert find_own(lessons) == [here, book]
    assert find_own(tmp_path) == [book]
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named.jsonl"))
    assert find_own(lessons) == [tmp_path / "named.jsonl"]


def test_records_and_the_widgets_store_are_read(tmp_path):
    widget = pytest.importorskip("rlhf_utils.annotation.widget")
    judge = widget.judge([("p", " x", " y"), ("p", " v", " w")], tmp_path / "my_judgements.db")
    judge.answer("b")
    judge.answer("skip")
    kept = judge.records
    judge.store.close()
    write(tmp_path / "my_preferences.jsonl")
    assert dict(own_labels(tmp_path)) == {
        tmp_path / "my_preferences.jsonl": [RECORD],
        tmp_path / "my_judgements.db": kept,
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("my_preferences.jsonl", b"{oops\n", "line 1: not JSON"),
        ("my_preferences.jsonl", b"\xff\xfe", "can't be read"),
        ("my_judgements.db", b"no database at all, but long enough to be looked at", "not a database"),
    ],
)
def test_what_cannot_be_read_is_told_and_left_as_it_is(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    ((path, error),) = own_labels(tmp_path)
    assert isinstance(error, UserError)
    assert message in str(error)
    assert path.read_bytes() == content


def test_seconds_have_to_be_a_number(tmp_path):
    with pytest.raises(UserError, match="seconds is 'long'"):
        read_own(write(tmp_path / "x.jsonl", seconds="long"))


def test_the_widget_is_shown_in_a_live_notebook_alone(tmp_path, monkeypatch, capsys):
    pytest.importorskip("anywidget")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "in_book_build", lambda: False)
    pairs = [("p", " x", " y")]
    assert judge_here(pairs) is None
    assert capsys.readouterr().out == "In a live notebook, two texts to judge appear here.\n"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(module, "in_notebook", lambda: True)
    widget = judge_here(pairs)
    assert (widget.state["goal"], widget.state["prompt"]) == (1, "p")
    widget.store.close()


def test_without_the_extra_one_line_says_what_is_missing(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name}", name="anywidget")

    monkeypatch.setattr(module, "in_book_build", lambda: False)
    monkeypatch.setattr(module, "in_notebook", lambda: True)
    monkeypatch.setattr(module.importlib, "import_module", missing)
    assert judge_here([]) is None
    assert capsys.readouterr().out.startswith("anywidget is missing: pip install")
