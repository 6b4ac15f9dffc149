"""The web app by its forms alone, as a browser without a script sends them, and what it answers to bad ones."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from small_study import STAFF_CODE, some_pairs
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from rlhf_utils.annotation.records import Pair, add_pairs, export_records
from rlhf_utils.annotation.store import ATTEMPTS_ADDRESS, Store, Study
from rlhf_utils.annotation.web import BODY_BYTES, COOKIE
from rlhf_utils.preferences import read_records

NASTY = '"><script>alert(1)</script>&amp;<img src=x onerror=alert(2)>'


@pytest.fixture
def store(tmp_path, clock):
    made = Store.create(tmp_path / "study.db", Study("Title", "Instructions", "Consent"), clock)
    add_pairs(made, some_pairs(3))
    yield made
    made.close()


@pytest.fixture
def person(store, visit):
    ((_, code),) = store.invite(1)
    return visit(store).enter(code)


def choices(store):
    return [r.choice for r in export_records(store)]


# -- the way through


def test_the_way_of_an_annotator(store, visit, tmp_path):
    ((name, code),) = store.invite(1)
    person = visit(store).get("/")
    assert person.status == 200
    person.send("/enter", code=code.lower()).follow().follow()
    assert "Before you begin" in person.text
    assert name in person.text
    person.get("/judge")
    assert person.answer.headers["location"] == "/consent"
    person.follow().send("/consent")
    assert person.status == 400
    assert "Without your consent no pair is shown" in person.text
    person.send("/consent", accept="yes").follow()
    for number, choice in enumerate(("a", "tie", "skip")):
        assert f"{number} of 3 judged" in person.text
        person.send("/judge", choice=choice).follow()
    assert "You judged 3 pairs" in person.text
    person.send("/undo").follow()
    assert "2 of 3 judged" in person.text
    person.send("/judge", choice="b", seconds="0.0").follow().send("/leave").follow()
    assert "Your invitation code" in person.text
    assert person.get("/judge").status == 401
    assert choices(store) == ["a", "tie", "b"]


def test_the_way_of_staff(store, person, visit, tmp_path):
    person.send("/judge", choice="a").follow().send("/judge", choice="tie")
    staff = visit(store).enter_staff()
    assert "2 of 9 judgements; 0 of 3 pairs have all 3" in staff.text
    assert "annotator-01" in staff.text
    staff.get("/staff/export")
    assert staff.answer.headers["content-disposition"] == 'attachment; filename="preferences.jsonl"'
    (tmp_path / "file").write_text(staff.text, encoding="utf8")
    assert read_records(tmp_path / "file") == export_records(store)
    staff.get("/staff/study").send("/staff/study", title="New", instructions="Line\r\ntwo", consent=NASTY).follow()
    assert "closed" in staff.text
    study = store.study()
    assert (study.title, study.instructions, study.consent, study.is_open) == ("New", "Line\ntwo", NASTY, False)
    staff.get("/staff/study").send("/staff/study", title="", instructions="typed", consent="x", is_open="yes")
    assert staff.status == 400
    assert "typed</textarea>" in staff.text  # nothing that was typed is lost
    assert "title is empty" in staff.text
    assert store.study() == study
    assert "The study is closed" in person.get("/judge").text


def test_the_staff_s_pages_are_for_staff(store, person, visit):
    for path in ("/staff/export", "/staff/study"):
        assert person.get(path).status == visit(store).get(path).status == 401
    assert "Annotators" not in person.get("/staff").text
    outsider = visit(store).get("/staff")
    outsider.post("/staff/study", form=outsider.form("/staff/enter")["form"], title="x")
    assert outsider.status == 401
    assert visit(store).get("/staff").send("/staff/enter", code="wrong").status == 403
    staff = visit(store).enter_staff()
    assert staff.get("/judge").status == 401
    assert staff.get("/").answer.headers["location"] == "/staff"


# -- bad input: a clear answer, nothing kept, nothing lost


def test_an_unknown_code(store, visit):
    person = visit(store).get("/").send("/enter", code="AAAA-AAAA-AAAA-AAAA")
    assert person.status == 403
    assert "This code isn&#39;t known." in person.text


def test_too_many_codes(store, visit):
    ((_, code),) = store.invite(1)
    person = visit(store).get("/")
    for _ in range(ATTEMPTS_ADDRESS):
        assert person.send("/enter", code="wrong").status == 403
    assert person.send("/enter", code=code).status == 429
    assert "Wait ten minutes" in person.text
    assert visit(Store(store.database.name, store.clock)).get("/").send("/enter", code=code).status == 429
    assert visit(store, client=("192.0.2.1", 1)).get("/").send("/enter", code=code).status == 303


def test_an_address_without_a_page(store, visit):
    person = visit(store)
    assert (person.get("/nothing").status, person.post("/nothing").status, person.post("/judge/").status) == (404,) * 3
    assert "This address has no page." in person.text
    assert person.get("/enter").status == 405
    assert "This address doesn&#39;t take such a request." in person.text


def test_an_expired_session(store, person, clock):
    person.send("/judge", choice="a").follow()
    clock.now += 12 * 3600 + 1
    person.send("/judge", choice="b")
    assert person.status == 401
    assert "Enter your code again, and you go on where you stopped." in person.text
    assert choices(store) == ["a"]


def test_a_deleted_annotator(store, person):
    store.delete_annotator("annotator-01")
    assert person.send("/judge", choice="a").status == 401
    assert choices(store) == []


def test_a_pair_that_doesn_t_exist_or_isn_t_assigned(store, person):
    form, other = person.form("/judge"), some_pairs(3)[2].pair_id
    assert person.post("/judge", **{**form, "choice": "a", "pair": "nothing"}).status == 404
    assert "This study has no such pair." in person.text
    assert person.post("/judge", **{**form, "choice": "a", "pair": other}).status == 409
    assert "no longer on your screen" in person.text
    assert person.post("/judge", **{**form, "choice": "a", "token": "x"}).status == 409
    assert person.post("/judge", **{**form, "choice": "z"}).status == 400
    assert person.post("/judge", **form).status == 400
    for seconds in ("-1", "nan", "inf", "soon"):
        assert person.post("/judge", **{**form, "choice": "a", "seconds": seconds}).status == 400
    assert choices(store) == []
    assert person.post("/judge", **{**form, "choice": "a"}).status == 303


def test_a_replayed_request(store, person):
    form = {**person.form("/judge"), "choice": "a"}
    assert [person.post("/judge", **{**form, "choice": c}).status for c in ("a", "a", "b")] == [303] * 3
    assert choices(store) == ["a"]
    undo = person.get("/judge").form("/undo")
    assert [person.post("/undo", **undo).status for _ in range(2)] == [303] * 2
    assert choices(store) == []
    assert person.post("/judge", **form).status == 409


def test_a_form_of_another_site(store, person, visit):
    form = person.form("/judge")
    other = visit(store).get("/").form("/enter")["form"]
    for wrong in ({}, {"form": ""}, {"form": other}, {"form": "é"}):
        fields = {name: value for name, value in form.items() if name != "form"}
        assert person.post("/judge", **fields, choice="a", **wrong).status == 403
    for action in ("/undo", "/leave", "/consent"):
        assert person.post(action, pair="x").status == 403
    ((_, code),) = store.invite(1)
    assert visit(store).post("/enter", code=code).status == 403
    assert visit(store).post("/staff/enter", code=STAFF_CODE).status == 403
    staff = visit(store).enter_staff()
    assert staff.post("/staff/study", title="x", instructions="x", consent="x").status == 403
    assert choices(store) == []


def test_a_judgement_before_consent(store, visit):
    ((_, code),) = store.invite(1)
    person = visit(store).get("/").send("/enter", code=code).follow().follow()
    person.post("/judge", form=person.form("/consent")["form"], choice="a")
    assert person.status == 403
    assert "Accept the consent text first" in person.text


def test_oversized_and_unreadable_input(store, person):
    form = person.form("/judge")
    assert person.post("/judge", **{**form, "token": "x" * 65}).status == 413
    assert "The field token is too long: at most 64 characters." in person.text
    headers = {"content-type": "application/x-www-form-urlencoded"}

    def send(content, headers=headers):
        person.answer = person.client.post("/judge", content=content, headers=headers)
        return person.status

    assert send(b"x" * (BODY_BYTES + 1)) == 413
    assert "The request has more than 512 KiB." in person.text
    assert send(iter([b"x" * 65536] * 100)) == 413  # no length is told, and more than is read
    assert send(b"choice=a\xff") == send(b"choice=%ff") == send(b"choice=%00") == 400
    assert send(b"&".join(b"choice=a" for _ in range(100))) == 400
    assert send(b"unknown=1") == 400
    assert send(b"{}", {"content-type": "application/json"}) == 415
    assert person.get("/nothing").status == 404
    assert person.get("/undo").status == 405
    assert choices(store) == []
    assert person.post("/judge", **form, choice="a").status == 303


# -- what a page may hold


class Tags(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_all_text_is_escaped(tmp_path, visit):
    store = Store.create(tmp_path / "study.db", Study(NASTY, NASTY, NASTY))
    add_pairs(store, [Pair(NASTY, f"{NASTY} 1", f"{NASTY} 2"), *some_pairs(1)])
    ((name, code),) = store.invite(1, NASTY[:40])
    assert name == f"{NASTY[:40]}-01"
    person, staff = visit(store).get("/"), visit(store).get("/staff")
    pages = [person.text, person.send("/enter", code=NASTY).text, staff.text]
    person.enter(code)
    pages += [person.text, person.get("/consent").text]
    person.get("/judge").send("/judge", choice="a").follow()
    pages += [person.text, person.send("/judge", choice="a").follow().text, person.get("/" + NASTY).text]
    staff.enter_staff()
    pages += [staff.text, staff.get("/staff/study").text]
    scripts = [{"src": f"/static/{name}.js", "defer": None} for name in ("app", "staff")]
    for page in pages:
        for tag, attributes in Tags(page).found:
            assert tag != "img"
            assert (tag != "script") or attributes in scripts
            assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert sum("&lt;script&gt;" in page for page in pages) == len(pages) - 1  # an unknown address has no title
    record = json.loads(staff.get("/staff/export").text.splitlines()[0])
    assert record["prompt"] == NASTY
    store.close()


def test_headers_and_cookies(store, visit):
    person = visit(store).get("/")
    for path in ("/", "/judge", "/nothing", "/static/app.js"):
        headers = visit(store).get(path).answer.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
    cookie = person.answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert "Secure" in visit(store, base_url="https://testserver").get("/").answer.headers["set-cookie"]


def test_entering_a_code_changes_the_cookie(store, visit):
    ((_, code),) = store.invite(1)
    person = visit(store).get("/")
    before = person.client.cookies[COOKIE]
    person.send("/enter", code=code)
    assert person.client.cookies[COOKIE] != before
    assert store.session(before) is None


def test_pages_can_be_read_aloud(store, person, visit):
    staff = visit(store).enter_staff()
    pages = [person.text, visit(store).get("/").text, person.get("/consent").text, staff.text]
    for page in [*pages, staff.get("/staff/study").text]:
        tags = Tags(page).found
        assert [tag for tag, _ in tags].count("h1") == 1
        labels = {attributes.get("for") for tag, attributes in tags if tag == "label"}
        for tag, attributes in tags:
            typed = tag == "input" and attributes.get("type") not in ("hidden", "checkbox")
            if typed or tag in ("textarea", "progress"):
                assert attributes["id"] in labels
        assert ("html", {"lang": "en"}) in tags


# -- a store that can't keep anything


def test_a_full_disk(store, person):
    add_pairs(store, some_pairs(300))
    limits = [100_000]

    @event.listens_for(store.database.engine, "begin")
    def bound(connection):
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limits[0]}")

    kept = []
    while True:
        limits[0] = 100_000
        form = person.get("/judge").form("/judge")
        limits[0] = 1  # SQLite takes the size that the file has
        if person.post("/judge", **{**form, "choice": "a", "seconds": "2.5"}).status != 303:
            break
        kept.append(form["pair"])
    assert person.status == 507
    assert "disk that holds the store is full" in person.text
    assert "Nothing is lost" in person.text
    again = person.form("/judge")
    assert again == {**form, "choice": "a", "seconds": "2.5"}
    assert person.post("/judge", **again).status == 507
    assert person.get("/judge").form("/judge") == form  # what is on a screen can be read
    assert [r.pair_id for r in export_records(store)] == kept
    limits[0] = 100_000
    assert person.post("/judge", **again).status == 303
    assert [r.pair_id for r in export_records(store)] == [*kept, form["pair"]]


def test_a_store_that_is_busy(store, person, monkeypatch):
    def broken(*_, **__):
        raise OperationalError("COMMIT", {}, Exception("database is locked"))

    form = person.form("/judge")
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_utils.annotation.store._lock_annotator", broken)
        person.post("/judge", **{**form, "choice": "tie", "seconds": "2.5"})
        assert person.status == 503
        assert person.answer.headers["retry-after"] == "5"
        assert "Nothing is lost" in person.text
        again = person.form("/judge")
        assert again == {**form, "choice": "tie", "seconds": "2.5"}
    assert choices(store) == []
    assert person.post("/judge", **again).status == 303
    assert choices(store) == ["tie"]


def test_a_mistake_of_the_program_shows_nothing_of_it(store, visit, monkeypatch):
    monkeypatch.setattr("rlhf_utils.annotation.store.Store.session", lambda *_: 1 / 0)
    person = visit(store, raise_server_exceptions=False).get("/judge")
    assert person.status == 500
    assert "mistake of the program" in person.text
    assert "ZeroDivisionError" not in person.text
