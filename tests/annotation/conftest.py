"""What the annotation tool's tests share: a study on SQLite and PostgreSQL, a clock that is set by hand, visitors."""

from __future__ import annotations

import itertools
import re

import pytest
from postgres_server import postgres, why_not
from sqlalchemy import create_engine, func, make_url, select, text
from starlette.testclient import TestClient

from rlhf_utils.annotation.records import Pair, add_pairs
from rlhf_utils.annotation.store import Store, Study
from rlhf_utils.annotation.tables import judgements, pairs
from rlhf_utils.annotation.web import create_app

STAFF_CODE = "for members of staff"
FIELD = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')


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


def some_pairs(number, answer=None):
    return [Pair(f"prompt {answer} {i}", f" first {i}", f" second {i}", answer) for i in range(number)]


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


class Person:
    """A visitor of the web app, without a script."""

    def __init__(self, store, **options):
        self.client = TestClient(create_app(store, STAFF_CODE), follow_redirects=False, **options)
        self.answer = None

    def get(self, path):
        self.answer = self.client.get(path)
        return self

    def post(self, path, **fields):
        self.answer = self.client.post(path, data=fields)
        return self

    def follow(self):
        assert self.answer.status_code == 303
        return self.get(self.answer.headers["location"])

    def form(self, action):
        """The hidden fields of the page's form with an action."""
        inside = self.text.partition(f'action="{action}"')[2].partition("</form>")[0]
        return dict(FIELD.findall(inside))

    def send(self, action, **fields):
        return self.post(action, **{**self.form(action), **fields})

    @property
    def text(self):
        return self.answer.text

    @property
    def status(self):
        return self.answer.status_code

    def enter(self, code):
        self.get("/").send("/enter", code=code).follow()
        if self.status == 303:
            self.follow().send("/consent", accept="yes").follow()
        return self

    def enter_staff(self):
        return self.get("/staff").send("/staff/enter", code=STAFF_CODE).follow()


@pytest.fixture
def visit():
    """Makes visitors of a store's web app."""
    return Person
