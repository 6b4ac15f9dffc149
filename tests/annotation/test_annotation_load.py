"""Simulated annotators against a running server that is killed halfway: what was acknowledged is there, once."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest
from annotation_load import Browser, Server, Told, annotate, compare, run
from small_study import some_pairs
from sqlalchemy import create_engine, make_url, text

from rlhf_utils.annotation.database import StoreError
from rlhf_utils.annotation.records import add_pairs, export_records
from rlhf_utils.annotation.store import Store, Study


def check(outcome, least):
    assert outcome.told.problems == []
    assert outcome.missing == outcome.doubled == outcome.unasked == outcome.miscounted == 0
    assert outcome.most <= outcome.wanted
    assert len(outcome.told.kept) >= least
    assert outcome.told.again > 0
    assert outcome.told.repeated > 0


def test_ten_annotators_for_a_few_seconds(location):
    check(run(str(location), people=10, seconds=5, number=400), least=30)


@pytest.mark.slow
def test_fifty_annotators_for_a_minute(location):
    check(run(str(location), people=50, seconds=60), least=500)


def test_few_pairs_and_many_annotators(tmp_path):
    """All places are fought for, and each is filled."""
    outcome = run(str(tmp_path / "study.db"), people=12, seconds=5, number=10, wanted=2)
    assert outcome.told.problems == []
    assert outcome.missing == outcome.doubled == outcome.unasked == outcome.miscounted == 0
    assert outcome.most == 2
    assert sum(choice != "skip" for _, _, choice in outcome.told.kept) == 20


def test_a_lost_or_doubled_judgement_would_be_seen(tmp_path):
    store = Store.create(tmp_path / "study.db", Study("t", "i", "c", judgements_wanted=1))
    add_pairs(store, some_pairs(2))
    who, told = store.annotator("one"), Told()
    showing = store.next_pair(who)
    store.submit(who, showing.pair_id, showing.token, "a")
    told.kept = [("one", showing.pair_id, "a")]
    found = compare(store, told, 1, 1.0, 0.0, 1)
    assert (found.missing, found.doubled, found.unasked, found.most, found.miscounted) == (0, 0, 0, 1, 0)
    told.kept = [("one", showing.pair_id, "b"), ("one", showing.pair_id, "b")]
    found = compare(store, told, 1, 1.0, 0.0, 1)
    assert (found.missing, found.doubled, found.unasked) == (2, 1, 1)
    with store.database.writing() as connection:
        connection.execute(text("UPDATE pairs SET judged = 7 WHERE judged = 0"))
    assert compare(store, told, 1, 1.0, 0.0, 1).miscounted == 1
    store.close()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of four mebibytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small disk can be mounted: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_and_then_isn_t(small_disk):
    store = Store.create(small_disk / "study.db", Study("t", "i", "c"))
    add_pairs(store, some_pairs(500))
    ((name, code),) = store.invite(1)
    server = Server(str(small_disk / "study.db"))
    server.start()
    told, until = Told(), threading.Event()
    try:
        Browser(server.port).enter(code)
        filler = small_disk / "filler"
        size = os.statvfs(small_disk)
        filler.write_bytes(b"x" * (size.f_bavail * size.f_frsize - 500_000))  # the write-ahead log takes the rest
        thread = threading.Thread(target=annotate, args=(name, code, server.port, until, 0.0, told, "seed"))
        thread.start()
        full = -1
        while thread.is_alive() and full < len(told.kept):  # until nothing is acknowledged for a while
            full = len(told.kept)
            time.sleep(3)
        filler.unlink()
        while thread.is_alive() and len(told.kept) < full + 5:
            time.sleep(0.05)
        until.set()
        thread.join()
    finally:
        until.set()
        server.kill()
    found = compare(store, told, 1, 1.0, 0.0, 3)
    assert told.problems == []
    assert 0 < full < 500
    assert told.again > 0
    assert (found.missing, found.doubled, found.unasked, found.miscounted) == (0, 0, 0, 0)
    assert len(export_records(store)) >= full
    store.close()


def test_postgres_that_goes_away_is_told(postgres_url):
    """A connection that PostgreSQL closed is replaced; the request that met it is told to come again."""
    name = "goesaway"
    engine = create_engine(make_url(postgres_url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    store = Store.create(
        make_url(postgres_url).set(database=name).render_as_string(hide_password=False), Study("t", "i", "c")
    )
    add_pairs(store, some_pairs(1))
    who = store.annotator("one")
    showing = store.next_pair(who)
    with engine.connect() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        )
    with pytest.raises(StoreError):
        store.submit(who, showing.pair_id, showing.token, "a")
    assert store.submit(who, showing.pair_id, showing.token, "a")
    store.close()
    engine.dispose()
