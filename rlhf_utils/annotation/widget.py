"""Judging in a notebook: two responses side by side, each judgement kept at once in a file beside the notebook.

    from rlhf_utils.annotation.widget import judge
    judge(pairs)

It is an `anywidget <https://anywidget.dev>`_: a widget of ``ipywidgets`` with a small script of its own, since
``ipywidgets`` knows buttons and no keys. Its makers name JupyterLab, Jupyter Notebook, Colab and VS Code as places
where such widgets run; this one has been tried in JupyterLab. Keys work while the widget has the focus, as after a
click into it, and only then: 1 or ← for the left, 2 or → for the right, 3 or T for about the same, S to skip, U to
undo. Texts go into the page as text, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from rlhf_utils.annotation.database import StoreError
from rlhf_utils.annotation.records import Pair, add_pairs, export_records
from rlhf_utils.annotation.store import JUDGEMENTS, RequestError, Showing, Store, Study, check_text
from rlhf_utils.errors import UserError
from rlhf_utils.preferences import Preference

FILE = "my_judgements.db"  #: the store beside the notebook
SOURCE = "annotate, notebook"  #: what records say of where they come from
STATIC = Path(__file__).parent / "static"
STUDY = Study(
    title="Which text is better?",
    instructions="Go by your own taste. If you can't tell, say so.",
    consent="The judgements stay in a file beside the notebook.",
    judgements_wanted=1000,  # whoever opens the notebook may judge every pair
)


class Judge(anywidget.AnyWidget):
    """The widget. :func:`judge` makes one.

    Args:
        store: a study that has pairs.
        annotator: the pseudonym.
        goal: it stops after so many judgements of this annotator, skips included; 0 = when no pair is left.
    """

    _esm = STATIC / "widget.js"
    _css = STATIC / "widget.css"
    state = traitlets.Dict().tag(sync=True)  #: what the page shows

    def __init__(self, store: Store, annotator: str = "me", goal: int = 0) -> None:
        self.store = store
        self.annotator = annotator
        self.goal = goal
        self._number = store.annotator(annotator)
        self._showing: Showing | None = None
        super().__init__()
        self.on_msg(self._receive)
        self._advance()

    @property
    def records(self) -> list[Preference]:
        """What this annotator has judged, skips left out."""
        return [record for record in export_records(self.store) if record.annotator == self.annotator]

    def answer(self, choice: str, token: str | None = None, seconds: float | None = None) -> None:
        """Judge the pair on the screen, as a button or a key does.

        Args:
            choice: ``a`` for the left, ``b`` for the right, ``tie`` or ``skip``.
            token: of the pair that was seen; without it, whichever is on the screen. A second press, or one that comes
                late, names a pair that is gone and changes nothing.
            seconds: that it took; without them, as the store measures it.
        """
        if self._showing is None or token not in (None, self._showing.token):
            return
        if choice not in JUDGEMENTS:
            return
        try:
            self.store.submit(self._number, self._showing.pair_id, self._showing.token, choice, seconds, source=SOURCE)
        except RequestError as error:
            self._advance(str(error))
        except StoreError as error:
            self.state = {**self.state, "message": f"{error} Not kept. Press again."}
        else:
            self._advance()

    def undo(self) -> None:
        """Take the last judgement back; its pair is shown again."""
        try:
            last = self.store.account(self._number).last
            undone = last is not None and self.store.undo(self._number, last)
        except (RequestError, StoreError) as error:
            self.state = {**self.state, "message": str(error)}
        else:
            self._advance("Taken back." if undone else "There is nothing to take back.")

    def _receive(self, _widget: object, content: Any, _buffers: object) -> None:  # noqa: ANN401
        """A message of the page; anything could be in it."""
        if not isinstance(content, dict):
            return
        if content.get("do") == "undo":
            self.undo()
        elif content.get("do") == "judge" and isinstance(content.get("token"), str):
            seconds = content.get("seconds")
            measured = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0
            self.answer(str(content.get("choice")), content["token"], float(seconds) if measured else None)

    def _advance(self, message: str = "") -> None:
        account = self.store.account(self._number)
        goal = min(self.goal or account.goal, account.goal)
        done = account.judged >= goal
        self._showing = None if done else self.store.next_pair(self._number)
        shown = self._showing
        self.state = {
            "token": shown.token if shown else "",
            "prompt": shown.prompt if shown else "",
            "left": shown.left if shown else "",
            "right": shown.right if shown else "",
            "judged": account.judged,
            "goal": goal,
            "undo": account.last is not None,
            "instructions": self.store.study().instructions,
            "message": message,
        }


def judge(
    pairs: Iterable[tuple[str, str, str]] = (),
    store: str | Path = FILE,
    annotator: str = "me",
    goal: int = 0,
) -> Judge:
    """Show pairs in a notebook and keep what is chosen.

    Called again, it goes on where it stopped, also after the kernel was lost: nobody is asked about a pair twice. The
    sides are drawn by chance. ``python -m rlhf_utils annotate export --store my_judgements.db`` writes the judgements.

    Args:
        pairs: (prompt, response, other response); those that the store has are left as they are.
        store: a SQLite file, made if it isn't there, or the URL of a store.
        annotator: a pseudonym.
        goal: it stops after so many judgements; 0 = when no pair is left.

    Raises:
        UserError: there is no pair, a pair's texts are equal, empty or too long, or the store can't be used.
    """
    new = []
    for number, pair in enumerate(pairs, 1):
        try:
            texts = dict(zip(("prompt", "response_a", "response_b"), pair, strict=True))
            for name, text in texts.items():
                check_text(name, text)
            if texts["response_a"] == texts["response_b"]:
                raise ValueError("the two responses are equal")
        except ValueError as error:
            raise UserError(f"Pair {number}: {error}.", "Give (prompt, response, other response).") from None
        new.append(Pair(**texts))
    is_file = "://" not in str(store)
    opened = Store.create(store, STUDY) if is_file and not Path(store).expanduser().is_file() else Store(store)
    add_pairs(opened, new)
    widget = Judge(opened, annotator, goal)
    if not widget.state["goal"]:
        raise UserError(f"{store} holds no pair.", "Give judge() some.")
    return widget
