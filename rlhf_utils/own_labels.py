"""A reader's own judgements, wherever they were made.

They may lie in ``my_preferences.jsonl``, which the site's annotator page offers for download and the lesson's prompt
writes, or in ``my_judgements.db``, which the widget of a notebook fills (:mod:`rlhf_utils.annotation.widget`).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf_utils.errors import UserError
from rlhf_utils.preferences import Preference, read_records
from rlhf_utils.progress import in_book_build, in_notebook

NAMES = ("my_preferences.jsonl", "my_judgements.db")
VARIABLE = "RLHF_UTILS_PREFERENCES"  #: may name a file instead
DATABASES = (".db", ".sqlite", ".sqlite3")


def find_own(here: Path) -> list[Path]:
    """The reader's files: the one that :data:`VARIABLE` names, or those in a folder and in the book that it is part of.

    Args:
        here: the working folder.
    """
    if named := os.environ.get(VARIABLE):
        return [Path(named).expanduser()]
    books = [folder for folder in (here, *here.parents) if (folder / "_toc.yml").is_file()]
    folders = dict.fromkeys([here, *books[:1]])
    return [folder / name for name in NAMES for folder in folders if (folder / name).is_file()]


def read_own(path: Path) -> list[Preference]:
    """Judgements of a file of records or of a store; nothing is written to it.

    Args:
        path: one that :func:`find_own` found.

    Raises:
        UserError: it can't be read, says why.
    """
    try:
        if path.suffix in DATABASES and path.is_file():
            return _read_store(path)
        rows = read_records(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}).", "Give preference records in UTF-8.") from None
    for row in rows:
        if isinstance(row.seconds, bool) or not isinstance(row.seconds, int | float):
            raise UserError(f"{path}: seconds is {row.seconds!r}.", "Give a number.")
    return rows


def _read_store(path: Path) -> list[Preference]:
    # By name, since results that depend on this module don't depend on the annotation tool, which an import would say.
    try:
        store_of = importlib.import_module("rlhf_utils.annotation.store").Store
        export = importlib.import_module("rlhf_utils.annotation.records").export_records
    except ModuleNotFoundError as error:
        raise UserError(f"{path} needs {error.name}.", 'Install it: pip install "rlhf_utils[annotate]"') from None
    store = store_of(path)
    try:
        return export(store)
    finally:
        store.close()


def judge_here(pairs: Iterable[tuple[str, str, str]]) -> object | None:
    """The widget that shows pairs, or, where nobody could use it, one line.

    Args:
        pairs: (prompt, response, other response).

    Returns:
        :class:`rlhf_utils.annotation.widget.Judge`, to be shown; None in a book build and outside a notebook.
    """
    if in_book_build() or not in_notebook():
        print("In a live notebook, two texts to judge appear here.")
        return None
    try:
        return importlib.import_module("rlhf_utils.annotation.widget").judge(pairs)
    except ModuleNotFoundError as error:
        print(f'{error.name} is missing: pip install "rlhf_utils[annotate]"')
        return None


def own_labels(here: Path) -> Iterator[tuple[Path, list[Preference] | UserError]]:
    """Each of the reader's files with its judgements, or with what is wrong with it.

    Args:
        here: the working folder.
    """
    for path in find_own(here):
        try:
            yield path, read_own(path)
        except UserError as error:
            yield path, error
