"""What the annotation tool's tests share: a study on SQLite and PostgreSQL, a clock that is set by hand, visitors."""

from __future__ import annotations

import itertools

import pytest
from postgres_server import postgres, why_not
from small_study import Person, some_pairs
from sqlalchemy import create_engine, func, make_url, select, text

from rlhf_utils.annotation.records import add_pairs
from rlhf_utils.annotation.store import Store, Study
from rlhf_utils.annotation.tables import judgements, pairs


class Clock:
    """Stands still until it is moved."""

    now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def postgres_url():
    if reason := why_not():
        pytest.skip(reason)
    with postgres() as url:
        yield url


_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request, tmp_path):
    """Where a store can be made, on each database."""
    if request.param == "sqlite":
        return tmp_path / "study.db"
    url, name = make_url(request.getfixturevalue("postgres_url")), f"study{next(_numbers)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def make_store(location, clock):
    """Makes a store with ordinary pairs."""
    made = []

    def make(number=4, checks=(), **settings):
        store = Store.create(location, Study("Title", "Instructions", "Consent", **settings), clock)
        add_pairs(store, [*some_pairs(number), *checks])
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def counts():
    """Checks a store from outside, and says how many judgements each pair has, skips left out."""

    def check(store, wanted=None):
        placed = select(func.count()).where(judgements.c.pair_id == pairs.c.pair_id, judgements.c.choice != "skip")
        with store.database.reading() as connection:
            rows = connection.execute(select(pairs.c.pair_id, pairs.c.judged, placed.scalar_subquery())).all()
            everybody = connection.execute(select(judgements.c.annotator, judgements.c.pair_id)).all()
        assert [row for row in rows if row[1] != row[2]] == []
        assert len(set(map(tuple, everybody))) == len(everybody)
        if wanted is not None:
            assert max(row[2] for row in rows) <= wanted
        return {row[0]: row[2] for row in rows}

    return check


@pytest.fixture
def visit():
    """Makes visitors of a store's web app."""
    return Person
