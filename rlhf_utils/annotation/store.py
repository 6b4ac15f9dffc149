"""The store: hands out pairs, keeps judgements, and knows who may ask.

What holds, whatever comes at once or breaks in the middle:

- A judgement that was acknowledged is in the database, once. A showing of a pair has a token; a request that carries
  the same token again is told the same and changes nothing.
- A pair has at most ``judgements_wanted`` places. Every judgement takes one, and so does every screen that shows the
  pair, until it is judged or its time is up. A skip gives its place back. Attention checks are for everybody.
- Nobody judges a pair twice.

Whoever writes locks the annotator's row first and then the pair's, so no two requests wait for each other in a circle.
"""

from __future__ import annotations

import secrets
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from rlhf_utils.annotation import codes, tables
from rlhf_utils.annotation.database import Database
from rlhf_utils.annotation.tables import annotators, assignments, attempts, judgements, pairs, sessions
from rlhf_utils.errors import UserError

Judgement = Literal["a", "b", "tie", "skip"]  #: the left response, the right, neither, or no judgement
JUDGEMENTS = ("a", "b", "tie", "skip")
SWAPPED = {"a": "b", "b": "a", "tie": "tie", "skip": "skip"}  #: the same judgement with the sides exchanged
TEXT_LENGTH = 20_000  #: of a prompt, a response or a text of the study, in characters
SESSION_SECONDS = 12 * 3600.0  #: after so long a code has to be entered again
ATTEMPT_SECONDS = 600.0  #: the window in which wrong codes are counted
ATTEMPTS_ADDRESS = 30  #: wrong codes from one address in that window; a class may share one
ATTEMPTS_ALL = 300  #: wrong codes from everywhere


def check_text(name: str, value: object, longest: int = TEXT_LENGTH) -> None:
    """Refuse what no database keeps or no page shows.

    Args:
        name: of the field, for the message.
        value: should be a text.
        longest: that is taken, in characters.

    Raises:
        ValueError: it is no text, too long, or has characters that aren't text.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    if len(value) > longest:
        raise ValueError(f"{name} has {len(value)} characters; at most {longest} are taken")
    if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError(f"{name} holds characters that aren't text")


def check_line(name: str, value: str) -> None:
    """Refuse line ends and other control characters, which a terminal would obey.

    Args:
        name: of the field, for the message.
        value: its text.

    Raises:
        ValueError: it has some.
    """
    if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in value):
        raise ValueError(f"{name} is not one line of text")


@dataclass(frozen=True)
class Study:
    """What is asked, of whom and how often.

    Raises:
        ValueError: a text is missing or too long, or a number out of range.
    """

    title: str  #: stands above every page
    instructions: str  #: what makes one response better; shown beside each pair
    consent: str  #: has to be accepted before the first pair
    judgements_wanted: int = 3  #: places of a pair, k
    pairs_each: int = 0  #: after so many an annotator is done; 0 = as many as there are
    check_every: int = 0  #: one showing in so many is an attention check; 0 = none
    hasty_seconds: float = 1.0  #: quicker judgements are counted as hasty on the staff's page
    reservation_seconds: float = 900.0  #: how long a pair waits for who sees it before somebody else gets it
    is_open: bool = True  #: whether pairs are handed out

    def __post_init__(self) -> None:
        for name, longest in (("title", 200), ("instructions", TEXT_LENGTH), ("consent", TEXT_LENGTH)):
            check_text(name, getattr(self, name), longest)
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty")
        check_line("title", self.title)
        for name, least in (("judgements_wanted", 1), ("pairs_each", 0), ("check_every", 0), ("hasty_seconds", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 10 <= self.reservation_seconds <= 86400:
            raise ValueError(f"reservation_seconds is {self.reservation_seconds}; it must be from 10 to 86400")


@dataclass(frozen=True)
class Showing:
    """A pair on somebody's screen."""

    token: str  #: names this showing; its judgement carries it
    pair_id: str  #: of the pair
    prompt: str  #: what both responses continue
    left: str  #: the response that is judged by ``a``
    right: str  #: the response that is judged by ``b``
    shown_at: float  #: seconds since the epoch


@dataclass(frozen=True)
class Account:
    """How far an annotator is."""

    name: str  #: the pseudonym
    judged: int  #: pairs judged, skips and attention checks included
    goal: int  #: pairs that the study has for each annotator
    last: str | None  #: the pair that :meth:`Store.undo` would take back
    consented: bool  #: whether the consent text was accepted


@dataclass(frozen=True)
class Session:
    """Who a cookie belongs to."""

    annotator: int | None  #: an annotator's number; None = a member of staff
    consented: bool  #: whether the annotator accepted the consent text


class RequestError(Exception):
    """A request that can't be granted; nothing was changed. The message is for who sent it."""


class UnknownPairError(RequestError):
    """The pair isn't in the study."""


class NotAssignedError(RequestError):
    """The pair isn't on this person's screen, or waited too long and went to somebody else."""


class AlreadyJudgedError(RequestError):
    """The person judged this pair in another request."""


class UnknownCodeError(RequestError):
    """No such code."""


class TooManyAttemptsError(RequestError):
    """So many codes were wrong that none is tried for a while."""


def utc(seconds: float) -> str:
    """Seconds since the epoch as records carry a time: ISO 8601, UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """A study with its pairs, annotators and judgements; safe to share between threads and processes.

    Args:
        location: a path of a SQLite file, or a URL that SQLAlchemy reads.
        clock: gives seconds since the epoch.

    Raises:
        UserError: there is no store, or one without a study.
        StoreError: the database can't be reached; every method may raise it, and StoreFullError when it writes.
    """

    def __init__(self, location: str | Path, clock: Callable[[], float] = time.time) -> None:
        self.database = Database(location)
        self.clock = clock
        with self.database.reading() as connection:
            if connection.execute(select(tables.study.c.id)).first() is None:
                raise UserError(
                    f"{self.database.name} holds no study.", "Make one: python -m rlhf_utils annotate new …"
                )
            self._secret = connection.execute(select(tables.study.c.secret)).scalar_one()

    @classmethod
    def create(cls, location: str | Path, study: Study, clock: Callable[[], float] = time.time) -> Store:
        """Make a store for a study.

        Args:
            location: a SQLite file that is made, or the URL of a database that is there.
            study: what is asked.
            clock: gives seconds since the epoch.

        Raises:
            UserError: a study is there already, or the file can't be made.
        """
        database = Database(location, create=True)
        try:
            with database.writing() as connection:
                connection.execute(insert(tables.study).values(id=1, secret=secrets.token_hex(32), **asdict(study)))
        except IntegrityError:  # its one row is there
            raise UserError(f"{database.name} holds a study already.", "Give another --store.") from None
        database.close()
        return cls(location, clock)

    def close(self) -> None:
        """Close the connections."""
        self.database.close()

    # -- the study

    def study(self) -> Study:
        """The study as it stands now."""
        with self.database.reading() as connection:
            return _study(connection)

    def change_study(self, study: Study) -> None:
        """Put another text or setting in place; pairs and judgements stay.

        Args:
            study: all of its new fields.
        """
        with self.database.writing() as connection:
            connection.execute(update(tables.study).values(**asdict(study)))

    # -- annotators

    def invite(self, number: int, prefix: str = "annotator") -> list[tuple[str, str]]:
        """New annotators; the codes are told here and never again.

        Args:
            number: how many.
            prefix: of the pseudonyms, which end in a number.

        Returns:
            (pseudonym, code) of each.
        """
        with self.database.writing() as connection:
            taken = set(connection.execute(select(annotators.c.name)).scalars())
            free = (name for i in range(1, len(taken) + number + 1) if (name := f"{prefix}-{i:02d}") not in taken)
            invited = [(next(free), codes.new_code()) for _ in range(number)]
            rows = [{"name": name, "code_hash": codes.code_hash(code)} for name, code in invited]
            connection.execute(insert(annotators), rows)
        return invited

    def annotator(self, name: str) -> int:
        """The number of an annotator who needs no code, such as the reader of a notebook; made if there is none.

        Args:
            name: the pseudonym, at most 64 characters.
        """
        with self.database.writing() as connection:
            return _annotator(connection, name)

    def account(self, annotator: int) -> Account:
        """How far an annotator is.

        Raises:
            UnknownCodeError: there is no such annotator (any more).
        """
        with self.database.reading() as connection:
            row = connection.execute(select(annotators).where(annotators.c.id == annotator)).first()
            if row is None:
                raise UnknownCodeError("Your code is no longer known.")
            judged, last = _judged(connection, annotator), _last(connection, annotator)
            study, number = _study(connection), select(func.count()).select_from(pairs)
            shown = number if study.check_every else number.where(pairs.c.answer.is_(None))
            there = connection.execute(shown).scalar_one()
            goal = min(there, study.pairs_each or there)
        return Account(row.name, judged, goal, last and last.pair_id, row.consented_at is not None)

    def consent(self, annotator: int) -> None:
        """Note that the consent text was accepted."""
        with self.database.writing() as connection:
            first = and_(annotators.c.id == annotator, annotators.c.consented_at.is_(None))
            connection.execute(update(annotators).where(first).values(consented_at=utc(self.clock())))

    def delete_annotator(self, name: str) -> int:
        """Delete all rows of a person: judgements, code, sessions. Places that they took are free again.

        Args:
            name: the pseudonym.

        Returns:
            How many judgements were deleted.

        Raises:
            UserError: there is no such annotator.
        """
        with self.database.writing() as connection:
            number = connection.execute(select(annotators.c.id).where(annotators.c.name == name)).scalar()
            if number is None:
                raise UserError(f"There is no annotator {name!r}.", "`annotate status` lists them.")
            _lock_annotator(connection, number)
            own = select(judgements.c.pair_id).where(judgements.c.annotator == number)
            connection.execute(
                select(pairs.c.pair_id).where(pairs.c.pair_id.in_(own)).order_by(pairs.c.pair_id).with_for_update()
            )
            placed = own.where(judgements.c.choice != "skip")
            connection.execute(update(pairs).where(pairs.c.pair_id.in_(placed)).values(judged=pairs.c.judged - 1))
            gone = connection.execute(delete(judgements).where(judgements.c.annotator == number)).rowcount
            for table in (assignments, sessions):
                connection.execute(delete(table).where(table.c.annotator == number))
            connection.execute(delete(annotators).where(annotators.c.id == number))
        if self.database.is_sqlite:  # what was deleted isn't to stand in the write-ahead log either
            with self.database.engine.connect().execution_options(reads_only=True) as connection:
                connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    # -- who asks

    def enter(self, code: str, address: str) -> int:
        """The annotator whom a code belongs to.

        Args:
            code: as typed.
            address: where it comes from; only a keyed hash is kept, and only if the code is wrong.

        Raises:
            UnknownCodeError: nobody has it.
            TooManyAttemptsError: too many codes were wrong lately.
        """
        people = select(annotators.c.id, annotators.c.code_hash).where(annotators.c.code_hash.is_not(None))
        with self._attempt(address) as (connection, miss):
            rows = connection.execute(people).all()
            place = codes.find(codes.code_hash(code), [row.code_hash for row in rows])
            if place is None:
                miss()
        if place is None:
            raise UnknownCodeError("This code isn't known.")
        return rows[place].id

    def enter_staff(self, code: str, staff_hash: str, address: str) -> None:
        """Check the staff's code.

        Args:
            code: as typed.
            staff_hash: :func:`~rlhf_utils.annotation.codes.code_hash` of the right one.
            address: as in :meth:`enter`.

        Raises:
            UnknownCodeError: it is another.
            TooManyAttemptsError: too many codes were wrong lately.
        """
        with self._attempt(address) as (_, miss):
            place = codes.find(codes.code_hash(code), [staff_hash])
            if place is None:
                miss()
        if place is None:
            raise UnknownCodeError("This code isn't known.")

    @contextmanager
    def _attempt(self, address: str) -> Iterator[tuple[Connection, Callable[[], None]]]:
        """A transaction in which a code may be tried, and a function that notes that it was wrong."""
        now, place = self.clock(), codes.address_hash(address, self._secret)
        with self.database.writing() as connection:
            connection.execute(select(tables.study.c.id).with_for_update())  # one attempt at a time
            connection.execute(delete(attempts).where(attempts.c.at < now - ATTEMPT_SECONDS))
            everywhere = select(func.count()).select_from(attempts)
            here = everywhere.where(attempts.c.address_hash == place)
            if (
                connection.execute(here).scalar_one() >= ATTEMPTS_ADDRESS
                or connection.execute(everywhere).scalar_one() >= ATTEMPTS_ALL
            ):
                raise TooManyAttemptsError("Too many wrong codes. Wait ten minutes, then try again.")
            yield connection, lambda: connection.execute(insert(attempts).values(address_hash=place, at=now))

    def open_session(self, annotator: int | None) -> str:
        """Begin a session; its token goes into a cookie, and only a hash of it is kept.

        Args:
            annotator: whose; None = a member of staff.
        """
        token, now = codes.new_token(), self.clock()
        row = {"token_hash": codes.token_hash(token), "annotator": annotator, "expires_at": now + SESSION_SECONDS}
        with self.database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires_at < now))
            connection.execute(insert(sessions).values(row))
        return token

    def session(self, token: str) -> Session | None:
        """Who a cookie belongs to; None if the session has ended or never was."""
        values = {"token": codes.token_hash(token), "now": self.clock()}
        with self.database.reading() as connection:
            row = connection.execute(_SESSION, values).first()
        return row and Session(row.annotator, row.consented_at is not None)

    def close_session(self, token: str) -> None:
        """End a session."""
        with self.database.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.token_hash == codes.token_hash(token)))

    # -- pairs and judgements

    def next_pair(self, annotator: int) -> Showing | None:
        """The pair to judge: the one on the annotator's screen, else a free one that gets its place.

        Pairs that others have begun come first, so that a study that stops early has whole pairs.

        Args:
            annotator: the number.

        Returns:
            None if the study is closed, the annotator has judged enough, or nothing is free.

        Raises:
            UnknownCodeError: there is no such annotator (any more).
        """
        with self.database.reading() as connection:  # a page that is loaded again writes nothing
            row = _assignment(connection, annotator)
            if row is not None and row.expires_at > self.clock():
                return _showing(row)
        with self.database.writing() as connection:
            _lock_annotator(connection, annotator)
            now, study, row = self.clock(), _study(connection), _assignment(connection, annotator)
            if row is not None and row.expires_at > now:  # another tab was quicker
                return _showing(row)
            if row is not None:
                connection.execute(_RELEASE, {"who": annotator})
            judged = _judged(connection, annotator)
            if not study.is_open or (study.pairs_each and judged >= study.pairs_each):
                return None
            pair = None
            if study.check_every and (judged + annotator) % study.check_every == 0:
                pair = _check_for(connection, annotator)
            pair = pair or _free_pair(connection, annotator, study.judgements_wanted, now)
            if pair is None:
                return None
            _assign(connection, annotator, pair, secrets.randbelow(2) == 1, now, study)
            return _showing(_assignment(connection, annotator))

    def submit(
        self,
        annotator: int,
        pair_id: str,
        token: str,
        choice: Judgement,
        seconds: float | None = None,
        source: str = "annotate, web",
    ) -> bool:
        """Keep a judgement. When this returns, it is on the disk.

        Args:
            annotator: the number.
            pair_id: of the pair that was shown.
            token: of its showing.
            choice: in terms of what was seen; see :data:`Judgement`.
            seconds: that the judgement took, as the page measured it; no more than the server measured counts.
            source: which door it came through.

        Returns:
            True; or False if this showing's judgement was kept before, whatever it was.

        Raises:
            RequestError: one of its kinds; nothing was changed.
        """
        if choice not in JUDGEMENTS:
            raise RequestError("A judgement is a, b, tie or skip.")
        with self.database.writing() as connection:
            _lock_annotator(connection, annotator)
            kept = connection.execute(_KEPT, {"who": annotator, "pair": pair_id}).scalar()
            if kept is not None:
                if kept == token:
                    return False
                raise AlreadyJudgedError(
                    "You judged this pair before. Your first judgement stands; undo takes it back."
                )
            pair = connection.execute(_LOCK_PAIR, {"pair": pair_id}).first()
            if pair is None:
                raise UnknownPairError("This study has no such pair.")
            now, row = self.clock(), _assignment(connection, annotator)
            if row is None or row.pair_id != pair_id or row.token != token:
                raise NotAssignedError("This pair is no longer on your screen. Nothing was kept; here is the next one.")
            late = row.expires_at <= now and pair.answer is None
            if late and pair.judged + _on_screens(connection, pair_id, now) >= _study(connection).judgements_wanted:
                raise NotAssignedError("This pair waited so long that somebody else judged it. Here is the next one.")
            measured = max(0.0, now - row.shown_at)
            values = {
                "annotator": annotator,
                "pair_id": pair_id,
                "choice": choice,
                "flipped": row.flipped,
                "seconds": measured if seconds is None else min(max(0.0, seconds), measured),
                "created_at": utc(now),
                "token": token,
                "source": source[: tables.SOURCE_LENGTH],
            }
            connection.execute(insert(judgements), values)
            connection.execute(_RELEASE, {"who": annotator})
            if choice != "skip":
                _count_judged(connection, pair_id, 1)
        return True

    def undo(self, annotator: int, pair_id: str) -> bool:
        """Take one's last judgement back; its pair is shown again, with the same sides.

        Args:
            annotator: the number.
            pair_id: of the judgement. A repeated request finds another one last, and takes nothing back.

        Returns:
            Whether a judgement was taken back.
        """
        with self.database.writing() as connection:
            _lock_annotator(connection, annotator)
            last = _last(connection, annotator)
            if last is None or last.pair_id != pair_id:
                return False
            pair = connection.execute(_LOCK_PAIR, {"pair": pair_id}).one()
            study, now = _study(connection), self.clock()
            if last.choice == "skip":  # its place was given back and may be somebody else's by now
                full = pair.judged + _on_screens(connection, pair_id, now) >= study.judgements_wanted
                if full and pair.answer is None:
                    return False
            else:
                _count_judged(connection, pair_id, -1)
            connection.execute(delete(judgements).where(judgements.c.id == last.id))
            connection.execute(_RELEASE, {"who": annotator})
            _assign(connection, annotator, pair_id, last.flipped, now, study)
        return True


# -- queries that several methods need; all run inside a transaction of theirs. They are put together once, since that
# takes SQLAlchemy longer than a database needs to answer them.

_WHO, _PAIR, _NOW, _WANTED = (bindparam(name) for name in ("who", "pair", "now", "wanted"))
_SESSION = (
    select(sessions.c.annotator, annotators.c.consented_at)
    .join(annotators, isouter=True)
    .where(sessions.c.token_hash == bindparam("token"), sessions.c.expires_at >= _NOW)
)
_LOCK_ANNOTATOR = select(annotators.c.id).where(annotators.c.id == _WHO).with_for_update()
_LOCK_PAIR = select(pairs.c.answer, pairs.c.judged).where(pairs.c.pair_id == _PAIR).with_for_update()
_JUDGED = select(func.count()).select_from(judgements).where(judgements.c.annotator == _WHO)
_LAST = select(judgements).where(judgements.c.annotator == _WHO).order_by(judgements.c.id.desc()).limit(1)
_KEPT = select(judgements.c.token).where(judgements.c.annotator == _WHO, judgements.c.pair_id == _PAIR)
_ASSIGNMENT = (
    select(assignments, pairs.c.prompt, pairs.c.response_a, pairs.c.response_b)
    .join(pairs)
    .where(assignments.c.annotator == _WHO)
)
_RELEASE = delete(assignments).where(assignments.c.annotator == _WHO)
_COUNT_JUDGED = update(pairs).where(pairs.c.pair_id == _PAIR).values(judged=pairs.c.judged + bindparam("change"))
_ON_SCREENS = select(func.count()).where(assignments.c.pair_id == _PAIR, assignments.c.expires_at > _NOW)
_UNSEEN = ~exists().where(judgements.c.pair_id == pairs.c.pair_id, judgements.c.annotator == _WHO)
_CHECK = select(pairs.c.pair_id).where(pairs.c.answer.is_not(None), _UNSEEN).order_by(pairs.c.priority.desc()).limit(1)
_SCREENS = select(func.count()).where(assignments.c.pair_id == pairs.c.pair_id, assignments.c.expires_at > _NOW)
_FREE = (
    select(pairs.c.pair_id, pairs.c.judged)
    .where(pairs.c.answer.is_(None), pairs.c.judged < _WANTED, _UNSEEN)
    .where(pairs.c.judged + _SCREENS.scalar_subquery() < _WANTED)
    .where(pairs.c.pair_id.not_in(bindparam("passed", expanding=True)))
    # `answer` is empty in all of them; named here, it lets PostgreSQL read the index backwards and sort nothing.
    .order_by(pairs.c.answer.desc(), pairs.c.judged.desc(), pairs.c.priority.desc())
    .limit(1)
)
# First what nobody else is looking at this moment; if there is nothing, wait for what is locked. SQLite locks
# everything anyway and ignores both.
_FREE_QUERIES = (_FREE.with_for_update(skip_locked=True, of=pairs), _FREE.with_for_update(of=pairs))


def _study(connection: Connection) -> Study:
    row = connection.execute(select(tables.study)).one()
    return Study(**{field.name: getattr(row, field.name) for field in fields(Study)})


def _lock_annotator(connection: Connection, annotator: int) -> None:
    """Let one request of an annotator at a time go on."""
    if connection.execute(_LOCK_ANNOTATOR, {"who": annotator}).first() is None:
        raise UnknownCodeError("Your code is no longer known.")


def _annotator(connection: Connection, name: str) -> int:
    number = connection.execute(select(annotators.c.id).where(annotators.c.name == name)).scalar()
    if number is None:
        number = connection.execute(insert(annotators).values(name=name)).inserted_primary_key[0]
    return number


def _judged(connection: Connection, annotator: int) -> int:
    return connection.execute(_JUDGED, {"who": annotator}).scalar_one()


def _last(connection: Connection, annotator: int) -> Row | None:
    return connection.execute(_LAST, {"who": annotator}).first()


def _assignment(connection: Connection, annotator: int) -> Row | None:
    return connection.execute(_ASSIGNMENT, {"who": annotator}).first()


def _assign(connection: Connection, annotator: int, pair_id: str, flipped: bool, now: float, study: Study) -> None:
    row = {
        "annotator": annotator,
        "pair_id": pair_id,
        "flipped": flipped,
        "token": codes.new_token(),
        "shown_at": now,
        "expires_at": now + study.reservation_seconds,
    }
    connection.execute(insert(assignments), row)


def _showing(row: Row) -> Showing:
    sides = (row.response_b, row.response_a) if row.flipped else (row.response_a, row.response_b)
    return Showing(row.token, row.pair_id, row.prompt, *sides, row.shown_at)


def _count_judged(connection: Connection, pair_id: str, change: int) -> None:
    connection.execute(_COUNT_JUDGED, {"pair": pair_id, "change": change})


def _on_screens(connection: Connection, pair_id: str, now: float) -> int:
    """How many people have the pair before them and may still judge it."""
    return connection.execute(_ON_SCREENS, {"pair": pair_id, "now": now}).scalar_one()


def _check_for(connection: Connection, annotator: int) -> str | None:
    """An attention check that the annotator hasn't judged."""
    return connection.execute(_CHECK, {"who": annotator}).scalar()


def _free_pair(connection: Connection, annotator: int, wanted: int, now: float) -> str | None:
    """A pair with a place left, whose row is locked until the transaction ends; None if there is none."""
    for query in _FREE_QUERIES:
        values = {"who": annotator, "wanted": wanted, "now": now, "passed": []}
        while row := connection.execute(query, values).first():
            # The search saw the screens as they were when it began. With the row locked, they are counted again.
            if row.judged + _on_screens(connection, row.pair_id, now) < wanted:
                return row.pair_id
            values["passed"].append(row.pair_id)
    return None
