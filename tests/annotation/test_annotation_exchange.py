"""Forms of other tools: what comes back is what went out, and a bad row keeps nothing else out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from rlhf_utils import cli
from rlhf_utils.annotation import exchange
from rlhf_utils.annotation.records import Pair, export_records, import_records
from rlhf_utils.annotation.store import TEXT_LENGTH, Store, Study
from rlhf_utils.errors import UserError
from rlhf_utils.preferences import Preference, pair_id

SUFFIX = {"records": "out.jsonl", "datasets": "out.parquet", "label-studio": "out.json", "argilla": "out.json"}


def record(choice="a", annotator="ada", a=" warm ☕ <b>", b=" cold\nand long", seconds=3.25, prompt="the tea is"):
    made = "2026-05-01T10:00:00Z"
    return Preference(pair_id(prompt, a, b), prompt, a, b, choice, annotator, seconds, made, "test, web")


RECORDS = [
    record("a"),
    record("b", "bo", " cold\nand long", " warm ☕ <b>"),  # the other order of the sides
    record("tie", "cy"),
    record("b", "bo", " x", " y", 0.0, ""),
]


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "study.db", Study("Which?", "By taste.", "Yes."))
    yield store
    store.close()


# -- there and back


@pytest.mark.parametrize("form", SUFFIX)
def test_nothing_is_lost_on_the_way_there_and_back(form, tmp_path):
    path = tmp_path / SUFFIX[form]
    exchange.write(RECORDS, path, form)
    found = exchange.read(path)  # the form is told by its fields
    assert found.form == form
    assert found.problems == ()
    assert sorted(map(repr, (r for _, r in found.records))) == sorted(map(repr, RECORDS))


def test_a_folder_of_a_data_set_comes_back_and_is_not_overwritten(tmp_path):
    exchange.write(RECORDS, tmp_path / "folder", "datasets")
    assert [r for _, r in exchange.read(tmp_path / "folder").records] == RECORDS
    with pytest.raises(UserError, match="is there already"):
        exchange.write(RECORDS, tmp_path / "folder", "datasets")


def test_a_data_set_in_memory(tmp_path):
    dataset = exchange.to_dataset(RECORDS)
    assert dataset.column_names == list(asdict(RECORDS[0]))
    assert exchange.from_dataset(dataset) == (RECORDS, [])
    trl = [{"prompt": "p", "chosen": " x", "rejected": " y"}, {"prompt": "p", "chosen": 5}]
    records, problems = exchange.from_dataset(trl)
    assert (len(records), problems) == (1, ["row 2: unknown fields chosen, prompt"])
    assert exchange.to_dataset([]).num_rows == 0


def test_the_sites_download_is_read(tmp_path):
    path = tmp_path / "my_preferences.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(asdict(record())).encode() + b"\r\n")
    assert [r for _, r in exchange.read(path).records] == [record()]


def test_public_forms_are_read_as_well(tmp_path):
    path = tmp_path / "trl.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": " x", "rejected": " y"}) + "\n")
    ((_, found),) = exchange.read(path).records
    assert {found.response_a if found.choice == "a" else found.response_b, found.annotator} == {" x", "unknown"}


# -- Label Studio, as its documentation gives the form


def ls_task(**annotation):
    result = {"from_name": "pw", "to_name": "pw", "type": "pairwise", "id": "aB", "value": {"selected": "right"}}
    given = {
        "id": 1001,
        "result": [result],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2021-03-09T22:16:08.728353Z",
        "updated_at": "2021-03-09T22:16:08.728378Z",
        "lead_time": 4.288,
        "task": 1,
        "completed_by": 10,
    }
    return {"id": 1, "data": {"text1": "left text", "text2": "right text"}, "annotations": [given | annotation]}


def test_an_export_of_label_studio_is_read():
    (found,) = exchange.from_label_studio(ls_task())
    assert (found.choice, found.response_a, found.response_b) == ("b", "left text", "right text")
    assert (found.annotator, found.seconds, found.source) == ("label-studio-10", 4.288, "Label Studio")
    assert found.created_at == "2021-03-09T22:16:08.728353Z"


def test_no_address_of_a_person_is_kept():
    person = {"id": 7, "email": "ada@example.org", "first_name": "Ada"}
    (found,) = exchange.from_label_studio(ls_task(completed_by=person))
    assert found.annotator == "label-studio-7"
    assert "example" not in repr(found)


def test_sides_that_differ_become_two_tasks_and_unjudged_pairs_tasks_without_annotations():
    tasks = exchange.to_label_studio(RECORDS, [Pair("p", " new", " pair")])
    assert [len(task["annotations"]) for task in tasks] == [2, 1, 1, 0]
    assert [task["data"]["text1"] for task in tasks[:2]] == [" warm ☕ <b>", " cold\nand long"]
    assert exchange.from_label_studio(tasks[-1]) == []


def test_a_skipped_annotation_is_passed_over():
    assert exchange.from_label_studio(ls_task(was_cancelled=True, result=[])) == []


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (ls_task(result=[]), "0 choices"),
        (ls_task(result=None), "no list of results"),
        (ls_task() | {"data": {"image": "x"}}, "no text1 and text2"),
        (ls_task() | {"data": {"text1": "x", "text2": 5}}, "not a text"),
        (ls_task() | {"annotations": "x"}, "not a list"),
        (ls_task(lead_time="long"), "seconds is 'long'"),
        ({"data": {"text1": "x", "text2": "x"}, "annotations": ls_task()["annotations"]}, "are equal"),
        ([], "no data"),
    ],
)
def test_what_label_studio_never_wrote_is_named(task, message):
    (error,) = exchange.from_label_studio(task)
    assert message in str(error)


# -- Argilla


def argilla_row(value, fields=None, question="ranking"):
    fields = fields or {"instruction": "i", "response1": " x", "response2": " y"}
    given = {"value": value, "user_id": "3b0cbd6f-4d56-4f2e-8f0c-0d7a6f1f5a11"}
    return {"id": "1", "fields": fields, "metadata": {}, "suggestions": {}, "responses": {question: [given]}}


@pytest.mark.parametrize("value", [["response2", "response1"], [{"value": "response2", "rank": 1}], "response2"])
def test_a_ranking_of_argilla_is_read(value):
    (found,) = exchange.from_argilla(argilla_row(value))
    assert (found.prompt, found.response_a, found.response_b, found.choice) == ("i", " x", " y", "b")
    assert found.annotator == "argilla-3b0cbd6f-4d56-4f2e-8f0c-0d7a6f1f5a11"


def test_somebody_elses_answer_to_our_record_is_not_taken_for_ours():
    (row,) = exchange.to_argilla([record()])
    row["responses"]["preference"].append({"value": "tie", "user_id": "3b0cbd6f-4d56-4f2e-8f0c-0d7a6f1f5a11"})
    ours, theirs = exchange.from_argilla(row)
    assert ours == record()
    assert (theirs.annotator[:8], theirs.choice, theirs.seconds) == ("argilla-", "tie", 0.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (argilla_row("good"), "names neither response1 nor response2"),
        (argilla_row([]), "names neither"),
        (argilla_row("a", {"prompt": "p", "a": " x"}), "1 fields"),
        (argilla_row("a", {"a": " x", "b": None}), "not a text"),
        (argilla_row("a") | {"responses": []} | {"responses": [1]}, "not an object of lists"),
        ({"fields": None}, "no fields"),
    ],
)
def test_what_argilla_never_wrote_is_named(row, message):
    (error,) = exchange.from_argilla(row)
    assert message in str(error)


# -- bad files


def test_bad_rows_are_named_and_the_rest_is_imported(tmp_path, capsys, store):
    good, other = record(), record("tie", "bo")
    lines = [
        json.dumps(asdict(good)),
        "{oops",
        json.dumps(asdict(good)),
        json.dumps(asdict(replace(other, choice="c"))),
        "",
        json.dumps(asdict(replace(other, response_a="x" * (TEXT_LENGTH + 1)))),
        json.dumps(asdict(other)),
        '"text"',
        "[" * 5000,
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines), encoding="utf8")
    assert cli.main(["annotate", "import", "--store", str(tmp_path / "study.db"), str(path)]) == 0
    told = capsys.readouterr()
    assert told.out == (
        "2 judgements added, with 1 new pair and 2 new annotators; 1 duplicate and 5 malformed lines left out.\n"
    )
    places = [line.split(", line ")[1] for line in told.err.splitlines()]
    assert [place.split(":")[0] for place in places] == ["2", "3", "4", "6", "8", "9"]
    assert "judged this pair before" in places[1]
    assert f"at most {TEXT_LENGTH}" in places[3]
    assert export_records(store) == [good, other]


@pytest.mark.parametrize("form", ["label-studio", "argilla", "datasets"])
def test_the_commands_write_and_read_each_form(form, tmp_path, capsys, store):
    import_records(store, RECORDS)
    path, source = tmp_path / SUFFIX[form], str(tmp_path / "study.db")
    assert cli.main(["annotate", "export", "--store", source, "--to", str(path), "--format", form]) == 0
    again = Store.create(tmp_path / "again.db", Study("Which?", "By taste.", "Yes."))
    assert cli.main(["annotate", "import", "--store", str(tmp_path / "again.db"), str(path)]) == 0
    assert "4 judgements added, with 2 new pairs and 3 new annotators; 0 duplicates" in capsys.readouterr().out
    assert sorted(map(repr, export_records(again))) == sorted(map(repr, RECORDS))
    assert cli.main(["annotate", "import", "--store", str(tmp_path / "again.db"), str(path)]) == 0
    assert "0 judgements added" in capsys.readouterr().out
    again.close()


def test_unjudged_pairs_go_out_where_there_is_a_place_for_them(tmp_path, capsys, store):
    from rlhf_utils.annotation.records import add_pairs

    add_pairs(store, [Pair("p", " one", " two"), Pair("p", " left", " right", "a")])
    options = ["annotate", "export", "--store", str(tmp_path / "study.db"), "--unjudged"]
    assert cli.main([*options, "--to", str(tmp_path / "o.json"), "--format", "argilla"]) == 0
    assert [row["fields"]["response_a"] for row in json.loads((tmp_path / "o.json").read_text())] == [" one"]
    assert cli.main([*options, "--to", str(tmp_path / "o.jsonl")]) == 2
    assert "holds judgements alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "form", "message"),
    [
        ("x.json", "[{]", None, "not JSON"),
        ("x.json", "[" * 100_000, None, "nested too deeply"),
        ("x.jsonl", b"\xff\xfe\x00", None, "can't be read"),
        ("none.jsonl", None, None, "can't be read"),
        ("x.parquet", "no parquet", None, "no data set"),
        ("x.parquet", None, None, "no data set"),
        ("x.parquet", "", "argilla", "not a file of the form argilla"),
        ("x.jsonl", "{}", "datasets", "no data set on the disk"),
        (".", None, None, "no data set"),
    ],
)
def test_files_that_are_none_are_named(name, content, form, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        exchange.read(path, form)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "FILE_BYTES", 10)
    (tmp_path / "x.jsonl").write_text("x" * 11)
    with pytest.raises(UserError, match="At most 0 are read"):
        exchange.read(tmp_path / "x.jsonl")


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    for form in ("records", "label-studio"):
        with pytest.raises(UserError, match="can't be written"):
            exchange.write(RECORDS, tmp_path / "nowhere" / "x.json", form)
