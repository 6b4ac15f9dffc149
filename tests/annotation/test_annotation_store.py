"""The store on SQLite and PostgreSQL: places, tokens, undo, codes, and what many at once do to them."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from small_study import some_pairs
from sqlalchemy import event, func, inspect, select, text

from rlhf_utils.annotation import codes, tables
from rlhf_utils.annotation.database import Database, StoreError, StoreFullError, as_url
from rlhf_utils.annotation.records import Pair, add_pairs, export_records
from rlhf_utils.annotation.store import (
    ATTEMPTS_ADDRESS,
    ATTEMPTS_ALL,
    AlreadyJudgedError,
    NotAssignedError,
    RequestError,
    Store,
    Study,
    TooManyAttemptsError,
    UnknownCodeError,
    UnknownPairError,
)
from rlhf_utils.errors import UserError


def people(store, number):
    return [store.annotator(f"person {i}") for i in range(number)]


def submit(store, who, showing, choice="a", **more):
    return store.submit(who, showing.pair_id, showing.token, choice, **more)


def judge_all(store, who, choice="a"):
    """Judge until nothing is left; the pairs in their order."""
    seen = []
    while showing := store.next_pair(who):
        assert submit(store, who, showing, choice) is True
        seen.append(showing.pair_id)
    return seen


# -- places


def test_each_pair_goes_to_as_many_as_are_wanted(make_store, counts):
    store = make_store(3, judgements_wanted=2)
    first, second, third = people(store, 3)
    assert judge_all(store, first) == [pair.pair_id for pair in some_pairs(3)]
    assert len(judge_all(store, second)) == 3
    assert judge_all(store, third) == []
    assert set(counts(store).values()) == {2}


def test_a_pair_on_a_screen_is_taken_until_its_time_is_up(make_store, clock, counts):
    store = make_store(1, judgements_wanted=1, reservation_seconds=60)
    first, second = people(store, 2)
    left = store.next_pair(first)
    assert store.next_pair(first) == left  # a page that is loaded again
    assert store.next_pair(second) is None
    clock.now += 61
    taken = store.next_pair(second)
    assert taken.pair_id == left.pair_id
    with pytest.raises(NotAssignedError, match="somebody else"):
        submit(store, first, left)
    assert submit(store, second, taken)
    with pytest.raises(NotAssignedError):
        submit(store, first, left)
    assert counts(store, 1) == {left.pair_id: 1}


def test_a_late_judgement_is_kept_if_nobody_took_its_place(make_store, clock, counts):
    store = make_store(1, judgements_wanted=1, reservation_seconds=60)
    (who,) = people(store, 1)
    showing = store.next_pair(who)
    clock.now += 3600
    assert submit(store, who, showing)
    assert list(counts(store).values()) == [1]


def test_who_comes_back_late_gets_a_new_showing(make_store, clock):
    store = make_store(1, reservation_seconds=60)
    (who,) = people(store, 1)
    old = store.next_pair(who)
    clock.now += 61
    new = store.next_pair(who)
    assert new.pair_id == old.pair_id
    assert new.token != old.token
    assert new.shown_at == clock.now
    with pytest.raises(NotAssignedError):
        submit(store, who, old)
    assert submit(store, who, new)


def test_a_skip_gives_its_place_back(make_store, counts):
    store = make_store(1, judgements_wanted=1)
    first, second, third = people(store, 3)
    judge_all(store, first, "skip")
    assert len(judge_all(store, second)) == 1
    assert judge_all(store, third) == []
    assert judge_all(store, first) == []  # not shown again
    assert [r.annotator for r in export_records(store)] == ["person 1"]
    assert list(counts(store).values()) == [1]


def test_pairs_that_were_begun_come_first(make_store):
    store = make_store(3, judgements_wanted=2)
    first, second = people(store, 2)
    submit(store, first, store.next_pair(first), "skip")
    begun = store.next_pair(first)
    submit(store, first, begun)
    assert store.next_pair(second).pair_id == begun.pair_id


def test_a_study_may_be_closed_and_may_have_an_end(make_store):
    store = make_store(4, pairs_each=2)
    first, second = people(store, 2)
    assert store.account(first).goal == 2
    assert len(judge_all(store, first)) == 2
    showing = store.next_pair(second)
    store.change_study(Study("Title", "Instructions", "Consent", is_open=False))
    assert submit(store, second, showing)  # what was on a screen is taken
    assert store.next_pair(second) is None


def test_attention_checks_are_for_everybody_and_come_as_often_as_asked(make_store, counts):
    checks = [Pair("Take the word yes.", " yes", " no", "a"), Pair("Take the word no.", " yes", " no", "b")]
    store = make_store(20, checks, check_every=4, judgements_wanted=1, pairs_each=8)
    known = {pair.pair_id for pair in checks}
    seen = [judge_all(store, who) for who in people(store, 2)]
    assert [[pair in known for pair in pairs].count(True) for pairs in seen] == [2, 2]
    assert [sum(pair in known for pair in pairs[:4]) for pairs in seen] == [1, 1]
    assert sum(counts(store).values()) == 16
    assert len(export_records(store)) == 12
    assert len(export_records(store, checks=True)) == 16


def test_sides_are_drawn_and_told(make_store):
    store = make_store(60, judgements_wanted=1)
    (who,) = people(store, 1)
    first = []
    while showing := store.next_pair(who):
        first.append(showing.left.startswith(" first"))
        submit(store, who, showing, "a" if first[-1] else "b")
    assert 12 <= sum(first) <= 48  # a fair coin is outside once in 10⁵ times
    records = export_records(store)
    assert [r.response_a.startswith(" first") for r in records] == first
    better = [r.response_a if r.choice == "a" else r.response_b for r in records]
    assert all(response.startswith(" first") for response in better)


# -- once, and only once


def test_a_repeated_request_counts_once_and_the_first_choice_stands(make_store, counts):
    store = make_store(1)
    (who,) = people(store, 1)
    showing = store.next_pair(who)
    assert submit(store, who, showing, "b") is True
    assert submit(store, who, showing, "b") is False
    assert submit(store, who, showing, "a") is False
    assert [r.choice for r in export_records(store)] == ["b"]
    counts(store, 1)


def test_another_judgement_of_the_same_pair_is_refused(make_store):
    store = make_store(1)
    (who,) = people(store, 1)
    showing = store.next_pair(who)
    submit(store, who, showing)
    with pytest.raises(AlreadyJudgedError):
        store.submit(who, showing.pair_id, "another token", "a")


def test_a_pair_has_to_exist_and_to_be_on_the_screen(make_store):
    store = make_store(2)
    first, second = people(store, 2)
    showing = store.next_pair(first)
    other = some_pairs(2)[1].pair_id
    with pytest.raises(UnknownPairError):
        store.submit(first, "no such pair", showing.token, "a")
    with pytest.raises(NotAssignedError):
        store.submit(first, other, showing.token, "a")
    with pytest.raises(NotAssignedError):
        submit(store, second, showing)
    with pytest.raises(RequestError, match="a, b, tie or skip"):
        submit(store, first, showing, "c")
    with pytest.raises(UnknownCodeError):
        submit(store, 99, showing)
    assert export_records(store) == []
    assert submit(store, first, showing)


def test_seconds_are_measured_and_no_more_is_believed(make_store, clock):
    store = make_store(3)
    (who,) = people(store, 1)
    for told in (None, 2.5, 1000.0):
        showing = store.next_pair(who)
        clock.now += 4
        submit(store, who, showing, seconds=told)
    assert [r.seconds for r in export_records(store)] == [4.0, 2.5, 4.0]
    assert {r.created_at for r in export_records(store)} == {
        "2023-11-14T22:13:24Z",
        "2023-11-14T22:13:28Z",
        "2023-11-14T22:13:32Z",
    }


# -- undo


def test_undo_shows_the_pair_again_with_the_same_sides(make_store, counts):
    store = make_store(3)
    (who,) = people(store, 1)
    first = store.next_pair(who)
    submit(store, who, first)
    store.next_pair(who)
    assert store.account(who).last == first.pair_id
    assert store.undo(who, first.pair_id)
    again = store.next_pair(who)
    assert (again.pair_id, again.left, again.right) == (first.pair_id, first.left, first.right)
    assert export_records(store) == []
    counts(store)
    with pytest.raises(NotAssignedError):  # a request that was on its way when undo came
        submit(store, who, first)
    assert submit(store, who, again, "b")


def test_a_repeated_undo_takes_back_one_judgement(make_store):
    store = make_store(3)
    (who,) = people(store, 1)
    judge_all(store, who)
    last = store.account(who).last
    assert [store.undo(who, last) for _ in range(3)] == [True, False, False]
    assert len(export_records(store)) == 2


def test_a_skip_whose_place_was_taken_is_not_undone(make_store, counts):
    store = make_store(1, judgements_wanted=1)
    first, second = people(store, 2)
    judge_all(store, first, "skip")
    pair = store.account(first).last
    assert store.undo(first, pair)
    submit(store, first, store.next_pair(first), "skip")
    judge_all(store, second)
    assert not store.undo(first, pair)
    counts(store, 1)


def test_the_deleted_are_gone_and_their_places_free(make_store, counts, location):
    store = make_store(2, judgements_wanted=1)
    (name, code), (other, _) = store.invite(2)
    who = store.enter(code, "here")
    token = store.open_session(who)
    judge_all(store, who)
    assert store.delete_annotator(name) == 2
    assert set(counts(store).values()) == {0}
    assert store.session(token) is None
    with pytest.raises(UnknownCodeError):
        store.enter(code, "here")
    with pytest.raises(UnknownCodeError):
        store.next_pair(who)
    with store.database.reading() as connection:
        names = connection.execute(select(tables.annotators.c.name)).scalars().all()
        assert names == [other]
        for table in (tables.assignments, tables.judgements, tables.sessions):
            assert connection.execute(select(func.count()).select_from(table)).scalar_one() == 0
    if store.database.is_sqlite:  # nor do they stand in free pages of the file
        for path in location.parent.iterdir():
            assert name.encode() not in path.read_bytes()
    with pytest.raises(UserError, match="no annotator"):
        store.delete_annotator(name)


# -- codes and sessions


def test_codes_are_long_and_only_hashes_are_kept(make_store, location):
    store = make_store()
    invited = store.invite(40)
    assert len({code for _, code in invited}) == 40
    assert len(codes.ALPHABET) ** (codes.GROUPS * codes.GROUP_LENGTH) > 2**64
    assert [name for name, _ in store.invite(1)] == ["annotator-41"]
    with store.database.reading() as connection:
        kept = connection.execute(select(tables.annotators)).all()
    for _, code in invited:
        assert code not in str(kept)
        assert code.replace("-", "") not in str(kept)
    name, code = invited[7]
    who = store.enter(f" {code.lower().replace('-', ' ')} ", "here")
    assert store.account(who).name == name


def test_wrong_codes_are_limited_for_an_address_and_after_a_restart(make_store, location, clock):
    store = make_store()
    ((_, code),) = store.invite(1)
    for i in range(ATTEMPTS_ADDRESS):
        with pytest.raises(UnknownCodeError):
            store.enter(f"wrong {i}", "2001:db8::1")
    again = Store(location, clock)
    for _ in range(2):
        with pytest.raises(TooManyAttemptsError):
            again.enter(code, "2001:db8::ffff")  # the same network
    assert again.enter(code, "192.0.2.1")
    with pytest.raises(TooManyAttemptsError):
        again.enter_staff("x", codes.code_hash("y"), "2001:db8::2")
    clock.now += 601
    assert again.enter(code, "2001:db8::1")
    again.close()


def test_wrong_codes_are_limited_over_all_addresses(make_store, monkeypatch):
    assert ATTEMPTS_ALL == 300
    monkeypatch.setattr("rlhf_utils.annotation.store.ATTEMPTS_ALL", 50)
    store = make_store()
    for i in range(50):
        with pytest.raises(UnknownCodeError):
            store.enter("wrong", f"192.0.2.{i}")
    with pytest.raises(TooManyAttemptsError):
        store.enter("wrong", "198.51.100.1")


def test_no_address_is_kept(make_store):
    store = make_store()
    with pytest.raises(UnknownCodeError):
        store.enter("wrong", "192.0.2.77")
    with store.database.reading() as connection:
        row = connection.execute(select(tables.attempts)).one()
    assert row.address_hash != codes.address_hash("192.0.2.77", "another study's secret")
    assert "192.0.2.77" not in str(row)


def test_all_known_hashes_are_compared(monkeypatch):
    looked = []
    monkeypatch.setattr(codes.hmac, "compare_digest", lambda a, b: looked.append((a, b)) or a == b)
    assert codes.find("b", ["a", "b", "c"]) == 1
    assert codes.find("d", ["a", "b", "c"]) is None
    assert looked == [(known, wanted) for wanted in "bd" for known in "abc"]


def test_sessions_end(make_store, clock):
    store = make_store()
    (who,) = people(store, 1)
    token, staff = store.open_session(who), store.open_session(None)
    assert store.session(token).annotator == who
    assert store.session(staff).annotator is None
    assert store.session("another") is None
    clock.now += 12 * 3600 + 1
    assert store.session(token) is None
    store.close_session(staff)
    assert store.session(staff) is None


# -- many at once


def at_once(number, work):
    """Run `work(i)` in threads that start together; raises what one of them raised."""
    barrier, problems = threading.Barrier(number), []

    def go(i):
        try:
            barrier.wait()
            work(i)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=go, args=(i,)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def test_places_aren_t_given_twice_when_many_ask_at_once(make_store, counts):
    store = make_store(6, judgements_wanted=2)
    crowd, shown = people(store, 12), Counter()

    def work(i):
        while showing := store.next_pair(crowd[i]):
            shown[showing.pair_id, crowd[i]] += 1
            submit(store, crowd[i], showing)
            submit(store, crowd[i], showing)

    at_once(12, work)
    assert set(counts(store, 2).values()) == {2}
    assert set(shown.values()) == {1}


def test_nobody_is_sent_away_while_the_last_places_are_fought_for(make_store):
    store = make_store(1, judgements_wanted=8)
    crowd, shown = people(store, 8), []
    at_once(8, lambda i: shown.append(store.next_pair(crowd[i])))
    assert len(shown) == 8
    assert None not in shown


def test_two_tabs_of_one_person_get_one_pair_and_keep_one_judgement(make_store, counts):
    store = make_store(8)
    (who,) = people(store, 1)
    shown, kept = [], []
    at_once(6, lambda i: shown.append(store.next_pair(who)))
    assert len(set(shown)) == 1
    at_once(6, lambda i: kept.append(submit(store, who, shown[0], "ab"[i % 2])))
    assert sorted(kept) == [False] * 5 + [True]
    undone = []
    at_once(6, lambda i: undone.append(store.undo(who, shown[0].pair_id)))
    assert sorted(undone) == [False] * 5 + [True]
    counts(store)


def test_codes_tried_at_once_are_all_counted(make_store):
    store, answers = make_store(), []

    def work(i):
        for _ in range(5):
            try:
                store.enter("wrong", "here")
            except RequestError as error:
                answers.append(type(error))

    at_once(10, work)
    assert Counter(answers) == {UnknownCodeError: ATTEMPTS_ADDRESS, TooManyAttemptsError: 50 - ATTEMPTS_ADDRESS}


# -- the database


def test_the_tables_are_what_the_migrations_make(make_store):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    store = make_store()
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
        checks = {c["name"] for t in ("study", "judgements") for c in inspect(connection).get_check_constraints(t)}
    assert checks == {"ck_study_one", "ck_judgements_choice"}


def test_a_store_is_opened_by_many_at_once_and_made_once(location):
    Database(location, create=True).close()
    study = Study("t", "i", "c")
    made, refused = [], []

    def work(_):
        try:
            made.append(Store.create(location, study))
        except UserError as error:
            refused.append(error.problem)

    at_once(4, work)
    assert len(made) == 1
    assert len(refused) == 3
    assert all("holds a study already" in problem for problem in refused)
    made[0].close()


def test_a_store_of_a_newer_version_is_left_alone(make_store, location):
    store = make_store()
    with store.database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="newer version"):
        Store(location)


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(UserError, match="annotate new"):
        Store(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()
    (tmp_path / "text.db").write_text("This is a text of more than a hundred signs. " * 50)
    with pytest.raises(UserError, match="not a database"):
        Store(tmp_path / "text.db")
    with pytest.raises(UserError, match="neither a path nor a URL"):
        as_url("://host")
    with pytest.raises(UserError, match="can't be used"):
        Database("nosuch://host/name")
    with pytest.raises(StoreError):
        Database(f"postgresql://nobody@/nothing?host={tmp_path}")


def test_the_file_is_for_its_owner_and_a_commit_waits_for_the_disk(tmp_path):
    store = Store.create(tmp_path / "study.db", Study("t", "i", "c"))
    assert (tmp_path / "study.db").stat().st_mode & 0o77 == 0
    with store.database.reading() as connection:
        settings = {p: connection.execute(text(f"PRAGMA {p}")).scalar() for p in ("journal_mode", "synchronous")}
    assert settings == {"journal_mode": "wal", "synchronous": 2}  # 2 = FULL
    store.close()


def test_a_full_disk_keeps_nothing_by_halves(tmp_path, counts):
    store = Store.create(tmp_path / "study.db", Study("t", "i", "c"))
    add_pairs(store, some_pairs(400))
    (who,) = people(store, 1)
    with store.database.reading() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
    limits = [pages + 2]

    @event.listens_for(store.database.engine, "begin")
    def bound(connection):
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limits[0]}")

    kept = []

    def fill():
        while showing := store.next_pair(who):
            submit(store, who, showing, source="x" * 200)
            kept.append(showing.pair_id)

    with pytest.raises(StoreFullError):
        fill()
    assert 0 < len(kept) < 400
    assert [r.pair_id for r in export_records(store)] == kept  # reading goes on
    counts(store, 1)
    limits[0] = pages + 400
    judge_all(store, who)
    assert len(export_records(store)) == 400
    counts(store, 1)
    store.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": " "}, "title is empty"),
        ({"title": "two\nlines"}, "title is not one line"),
        ({"title": "red\x1b[31m"}, "title is not one line"),
        ({"title": "x" * 201}, "at most 200"),
        ({"consent": "x" * 20_001}, "at most 20000"),
        ({"instructions": "a\0b"}, "aren't text"),
        ({"judgements_wanted": 0}, "at least 1"),
        ({"reservation_seconds": 1}, "from 10"),
    ],
)
def test_a_study_needs_sound_settings(change, message):
    with pytest.raises(ValueError, match=message):
        Study(**{"title": "t", "instructions": "i", "consent": "c", **change})
