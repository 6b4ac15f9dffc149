"""What goes into a store and comes out of it: pairs to judge, and judgements as the book's preference records."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from sqlalchemy import Connection, func, insert, select

from rlhf_utils.annotation.codes import new_token
from rlhf_utils.annotation.store import Store, check_line, check_text
from rlhf_utils.annotation.tables import NAME_LENGTH, SOURCE_LENGTH, annotators, judgements, pairs
from rlhf_utils.errors import UserError
from rlhf_utils.preferences import CHOICES, Preference, pair_id

_RECORD = [field.name for field in fields(Preference)]


@dataclass(frozen=True)
class Pair:
    """Two responses to judge.

    Attributes:
        prompt: what both continue; may be empty.
        response_a: one of them.
        response_b: the other.
        answer: ``a``, ``b`` or ``tie`` where the right judgement is known, which makes the pair an attention check.
    """

    prompt: str
    response_a: str
    response_b: str
    answer: str | None = None

    @property
    def pair_id(self) -> str:
        """See :func:`rlhf_utils.preferences.pair_id`."""
        return pair_id(self.prompt, self.response_a, self.response_b)


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    judgements: int  #: that were added
    pairs: int  #: that the store didn't have
    annotators: int  #: that the store didn't have
    duplicates: tuple[int, ...]  #: places in the sequence of records whose annotator had judged that pair, from 0


def add_pairs(store: Store, new: Iterable[Pair]) -> int:
    """Add pairs to a study; one that is there already, in whichever order of sides, stays as it is.

    Args:
        store: of the study.
        new: handed out in this order, after those that are there.

    Returns:
        How many were added.
    """
    with store.database.writing() as connection:
        added = len(_add_pairs(connection, new))
    store.database.count_rows()
    return added


def _add_pairs(connection: Connection, new: Iterable[Pair]) -> set[str]:
    known = set(connection.execute(select(pairs.c.pair_id)).scalars())
    lowest = connection.execute(select(func.min(pairs.c.priority))).scalar() or 0
    rows: dict[str, dict[str, object]] = {}
    for pair in new:
        name = pair.pair_id
        if name not in known and name not in rows:
            rows[name] = {
                "pair_id": name,
                "priority": lowest - 1 - len(rows),
                "prompt": pair.prompt,
                "response_a": pair.response_a,
                "response_b": pair.response_b,
                "answer": pair.answer,
                "judged": 0,
            }
    if rows:
        connection.execute(insert(pairs), list(rows.values()))
    return set(rows)


def import_records(store: Store, records: Sequence[Preference]) -> Imported:
    """Add judgements that were made elsewhere, with their pairs and annotators; all of them or, if it raises, none.

    A pair is known by its texts, whatever its name in the record. Of an annotator's judgements of one pair the first
    counts.

    Args:
        store: takes them.
        records: judgements, such as those of :func:`rlhf_utils.preferences.read_records`.
    """
    found = [Pair(r.prompt, r.response_a, r.response_b) for r in records]
    names = [pair.pair_id for pair in found]
    with store.database.writing() as connection:
        new_pairs = _add_pairs(connection, found)
        people = dict(connection.execute(select(annotators.c.name, annotators.c.id)).all())
        new_people = sorted({r.annotator for r in records} - people.keys())
        for name in new_people:
            people[name] = connection.execute(insert(annotators).values(name=name)).inserted_primary_key[0]
        first = dict(connection.execute(select(pairs.c.pair_id, pairs.c.response_a)).all())
        judged = set(map(tuple, connection.execute(select(judgements.c.annotator, judgements.c.pair_id))))
        rows, duplicates = [], []
        for place, (record, name) in enumerate(zip(records, names, strict=True)):
            who = people[record.annotator]
            if (who, name) in judged:
                duplicates.append(place)
                continue
            judged.add((who, name))
            rows.append(
                {
                    "annotator": who,
                    "pair_id": name,
                    "choice": record.choice,
                    "flipped": record.response_a != first[name],
                    "seconds": record.seconds,
                    "created_at": record.created_at,
                    "token": new_token(),
                    "source": record.source,
                }
            )
        if rows:
            connection.execute(insert(judgements), rows)
        _recount(connection, sorted({row["pair_id"] for row in rows}))
    store.database.count_rows()
    return Imported(len(rows), len(new_pairs), len(new_people), tuple(duplicates))


def _recount(connection: Connection, names: Sequence[str]) -> None:
    """Set the pairs' counts of judgements to what is there."""
    number = select(func.count()).where(judgements.c.pair_id == pairs.c.pair_id, judgements.c.choice != "skip")
    for start in range(0, len(names), 500):  # SQLite bounds how many values a statement may carry
        part = pairs.c.pair_id.in_(names[start : start + 500])
        connection.execute(pairs.update().where(part).values(judged=number.scalar_subquery()))


def export_records(store: Store, checks: bool = False) -> list[Preference]:
    """All judgements but skips, in the order in which they were made; ``response_a`` is what the annotator saw first.

    Args:
        store: gives them.
        checks: with those of attention checks, whose pairs were made to be told apart.
    """
    query = (
        select(judgements, pairs.c.prompt, pairs.c.response_a, pairs.c.response_b, annotators.c.name)
        .join(pairs, pairs.c.pair_id == judgements.c.pair_id)
        .join(annotators, annotators.c.id == judgements.c.annotator)
        .where(judgements.c.choice != "skip")
        .order_by(judgements.c.id)
    )
    with store.database.reading() as connection:
        rows = connection.execute(query if checks else query.where(pairs.c.answer.is_(None))).all()
    return [
        Preference(
            pair_id=row.pair_id,
            prompt=row.prompt,
            response_a=row.response_b if row.flipped else row.response_a,
            response_b=row.response_a if row.flipped else row.response_b,
            choice=row.choice,
            annotator=row.name,
            seconds=round(row.seconds, 3),
            created_at=row.created_at,
            source=row.source,
        )
        for row in rows
    ]


def unjudged_pairs(store: Store) -> list[Pair]:
    """The pairs that nobody has judged, in the order in which they are handed out; attention checks stay here.

    Args:
        store: gives them.
    """
    query = select(pairs).where(pairs.c.judged == 0, pairs.c.answer.is_(None)).order_by(pairs.c.priority.desc())
    with store.database.reading() as connection:
        return [Pair(row.prompt, row.response_a, row.response_b) for row in connection.execute(query)]


# -- files, line by line: what is wrong with one line doesn't keep the others out


def read_pairs(path: Path) -> tuple[list[Pair], list[str]]:
    """Pairs of a file of JSON lines: ``prompt``, ``response_a``, ``response_b`` and perhaps ``answer``.

    Preference records have these fields too; their judgements are left aside.

    Returns:
        The pairs, and for each line that gives none, its number and why.

    Raises:
        UserError: the file can't be read.
    """
    found: dict[str, tuple[int, Pair]] = {}
    problems = []
    for number, row in _rows(path):
        try:
            pair = _pair(row)
            before = found.setdefault(pair.pair_id, (number, pair))[0]
            if before != number:
                raise ValueError(f"the same pair as in line {before}")
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    return [pair for _, pair in found.values()], problems


def _rows(path: Path) -> Iterator[tuple[int, object]]:
    """Each line's number and JSON, or the ValueError that says what is wrong with it; empty lines are passed over."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error}).", "Give a file of JSON lines in UTF-8.") from None
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line.decode("utf8"))
            except UnicodeDecodeError:
                yield number, ValueError("not UTF-8")
            except (ValueError, RecursionError):  # a plain ValueError if a number has thousands of digits
                yield number, ValueError("not JSON")


def _pair(row: object) -> Pair:
    """A line as a pair.

    Raises:
        ValueError: says what is wrong with it.
    """
    values = _texts(row, ("prompt", "response_a", "response_b"))
    for name in ("response_a", "response_b"):
        if not values[name].strip():
            raise ValueError(f"{name} is empty")
    if values["response_a"] == values["response_b"]:
        raise ValueError("the two responses are equal")
    answer = row.get("answer")
    if answer not in (None, *CHOICES):
        raise ValueError(f"answer is {answer!r}; it must be a, b or tie")
    return Pair(**values, answer=answer)


def as_record(row: object) -> Preference:
    """A row of a file as a preference record that the store takes.

    Args:
        row: what JSON or another form gave; a ValueError is raised again.

    Raises:
        ValueError: says what is wrong with it.
    """
    _pair(row)
    names = [name for name in _RECORD if name != "seconds"]
    values = _texts(row, names)
    if values["choice"] not in CHOICES:
        raise ValueError(f"choice is {values['choice']!r}; it must be a, b or tie")
    for name, longest in (("annotator", NAME_LENGTH), ("source", SOURCE_LENGTH), ("created_at", 32)):
        if len(values[name]) > longest:
            raise ValueError(f"{name} has {len(values[name])} characters; at most {longest} are kept")
    if not values["annotator"].strip():
        raise ValueError("annotator is empty")
    check_line("annotator", values["annotator"])
    seconds = row.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= sys.float_info.max:
        raise ValueError(f"seconds is {seconds!r}; it must be a number from 0")
    return Preference(**values, seconds=float(seconds))


def _texts(row: object, names: Sequence[str]) -> dict[str, str]:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError("not an object")
    for name in names:
        if name not in row:
            raise ValueError(f"the field {name} is missing")
        check_text(name, row[name])
    return {name: row[name] for name in names}
