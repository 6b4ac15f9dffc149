import sys
import types

import pytest

from rlhf_utils import progress as module
from rlhf_utils.progress import in_book_build, in_notebook, note, progress


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_items_pass_through_and_numbers_can_be_shown():
    bar = progress(range(3), "x")
    for _ in bar:
        bar.set_postfix(loss="1")
    assert list(progress([1, 2], "x", total=2)) == [1, 2]


def test_bars_are_off_in_files_and_on_in_terminals(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert progress([], "x").disable


def test_bars_are_on_in_terminals_and_off_in_book_builds(terminal, monkeypatch):
    monkeypatch.setattr(module, "in_notebook", lambda: False)
    assert not progress([], "x").disable
    monkeypatch.setenv("RLHF_UTILS_BOOK", "1")
    assert in_book_build()
    assert progress([], "x").disable


def test_notes_go_to_standard_error_but_not_in_a_book_build(capsys, monkeypatch):
    note("made")
    assert capsys.readouterr() == ("", "made\n")
    monkeypatch.setenv("RLHF_UTILS_BOOK", "1")
    note("made")
    assert capsys.readouterr() == ("", "")


def test_a_notebook_is_a_shell_with_a_kernel(monkeypatch):
    for shell, expected in ((None, False), (types.SimpleNamespace(), False), (types.SimpleNamespace(kernel=1), True)):
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert in_notebook() is expected
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()
