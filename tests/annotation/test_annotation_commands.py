"""``python -m rlhf_utils annotate``: from a file of pairs to preference records, and what bad files and options do."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
from small_study import some_pairs

from rlhf_utils import artifacts
from rlhf_utils.annotation import commands
from rlhf_utils.annotation.records import Imported, export_records, import_records
from rlhf_utils.annotation.store import Store
from rlhf_utils.cli import main
from rlhf_utils.preferences import Preference, pair_id, read_records

GOOD = {"prompt": "p", "response_a": " x", "response_b": " y"}
BAD = [
    ("nonsense", "not JSON"),
    ("caf\udce9", "not UTF-8"),  # the byte of é in Latin-1
    ("[" * 100_000, "not JSON"),
    (f'{{"prompt": {"1" * 5000}}}', "not JSON"),
    ("[1]", "not an object"),
    ({"prompt": "p", "response_a": " x"}, "the field response_b is missing"),
    ({**GOOD, "response_a": 1}, "response_a is not a text"),
    ({**GOOD, "response_a": " "}, "response_a is empty"),
    ({**GOOD, "response_a": " y"}, "the two responses are equal"),
    ({**GOOD, "response_a": "x" * 20_001}, "response_a has 20001 characters; at most 20000 are taken"),
    ({**GOOD, "prompt": "\0"}, "prompt holds characters that aren't text"),
    ({**GOOD, "prompt": "\ud800"}, "prompt holds characters that aren't text"),
    ({**GOOD, "answer": "left"}, "answer is 'left'; it must be a, b or tie"),
    ({**GOOD, "response_a": " y", "response_b": " x"}, "the same pair as in line 1"),
]


def lines(path, rows):
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf8", errors="surrogateescape")
    return path


@pytest.fixture
def call(tmp_path, capsys):
    """Runs a command on a store, and gives its exit code and what it printed."""

    def run(*arguments):
        name, *rest = map(str, arguments)
        code = main(["annotate", name, "--store", str(tmp_path / "study.db"), *rest])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def made(call, tmp_path):
    file = lines(tmp_path / "pairs", [asdict(pair) for pair in some_pairs(4)])
    assert call("new", "--pairs", file, "--judgements", 2)[0] == 0
    store = Store(tmp_path / "study.db")
    yield store
    store.close()


def record(number=0, annotator="ann", choice="a", **more):
    pair = some_pairs(number + 1)[number]
    texts = {"prompt": pair.prompt, "response_a": pair.response_a, "response_b": pair.response_b}
    rest = {"choice": choice, "annotator": annotator, "seconds": 1.5, "created_at": "2026-01-01T00:00:00Z"}
    return {"pair_id": pair.pair_id, **texts, **rest, "source": "test", **more}


def test_a_study_from_pairs_to_records(call, made, tmp_path):
    code, out, err = call("invite", "--number", 3, "--prefix", "group A")
    invited = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["name"] for row in invited] == ["group A-01", "group A-02", "group A-03"]
    assert all(re.fullmatch(r"(\w{4}-){3}\w{4}", row["code"]) for row in invited)
    assert "shown once" in err
    for row, choice in zip(invited, ("a", "tie", "b"), strict=True):
        who = made.enter(row["code"], "here")
        while showing := made.next_pair(who):
            made.submit(who, showing.pair_id, showing.token, choice)
    code, out, _ = call("status")
    assert "8 of 8 judgements; 4 of 4 pairs have all of them" in out
    assert re.search(r"^Left chosen: \d+%", out, re.MULTILINE)
    assert re.search(r"^group A-02 +no +4 +4 +0 +4 +\d\.\d +0 of 0$", out, re.MULTILINE)
    assert call("export", "--to", tmp_path / "out")[1] == f"8 judgements written to {tmp_path / 'out'}\n"
    records = read_records(tmp_path / "out")
    assert records == export_records(made)
    assert {r.pair_id for r in records} == {pair.pair_id for pair in some_pairs(4)}
    assert all(r.pair_id == pair_id(r.prompt, r.response_a, r.response_b) for r in records)
    assert call("export", "--to", "-")[1] == (tmp_path / "out").read_text(encoding="utf8")
    assert "with 4 judgements" in call("forget", "group A-01")[1]
    assert len(export_records(made)) == 4
    code, _, err = call("forget", "group A-01")
    assert (code, err) == (2, "error: There is no annotator 'group A-01'. `annotate status` lists them.\n")
    assert "is at revision 0001" in call("migrate")[1]


def test_pairs_that_can_t_be_read_are_named_by_line_and_the_rest_is_taken(call, tmp_path):
    file = lines(tmp_path / "pairs", [GOOD, *(row for row, _ in BAD), {**GOOD, "prompt": "q", "answer": "tie"}])
    code, out, err = call("new", "--pairs", file)
    assert code == 0
    assert f"2 pairs, of which 1 attention check; {len(BAD)} lines left out." in out
    told = [f"{file}, line {number}: {message}" for number, (_, message) in enumerate(BAD, 2)]
    assert err.splitlines() == [*told, "Attention checks are shown only with --check-every."]


def test_records_that_can_t_be_read_are_named_by_line_and_the_rest_is_taken(call, made, tmp_path):
    swapped = {"response_a": " second 1", "response_b": " first 1"}
    bad = [
        ({**record(), "choice": "skip"}, "choice is 'skip'; it must be a, b or tie"),
        ({**record(), "annotator": " "}, "annotator is empty"),
        ({**record(), "annotator": "x" * 65}, "annotator has 65 characters; at most 64 are kept"),
        ({**record(), "annotator": "red\x1b[31m"}, "annotator is not one line of text"),
        ({**record(), "seconds": 10**400}, f"seconds is {10**400}; it must be a number from 0"),
        ({**record(), "seconds": "1"}, "seconds is '1'; it must be a number from 0"),
        ({**record(), "seconds": -1}, "seconds is -1; it must be a number from 0"),
        ({"prompt": "p"}, "the field response_a is missing"),
        (record(choice="b"), "this annotator has judged this pair before"),
    ]
    good = [record(), record(1, choice="b", **swapped), record(1, "bob", "tie"), record(9)]
    file = lines(tmp_path / "records", [good[0], *(row for row, _ in bad), *good[1:]])
    code, out, err = call("import", file)
    assert code == 0
    assert (
        out == "4 judgements added, with 1 new pair and 2 new annotators; 1 duplicate and 8 malformed lines left out.\n"
    )
    assert err.splitlines() == [f"{file}, line {i}: {message}" for i, (_, message) in enumerate(bad, 2)]
    found = export_records(made)
    assert [asdict(r) for r in found] == good
    again = import_records(made, [Preference(**row) for row in good])
    assert again == Imported(0, 0, 0, (0, 1, 2, 3))
    # What was imported takes places: of two, pair 0 has one left, pair 1 none.
    ((_, code),) = made.invite(1)
    who, seen = made.enter(code, "here"), []
    while showing := made.next_pair(who):
        seen.append(showing.pair_id)
        made.submit(who, showing.pair_id, showing.token, "a")
    assert seen == [some_pairs(10)[i].pair_id for i in (0, 9, 2, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "--pairs", "nothing"], "nothing can't be read"),
        (["new", "--pairs", "empty"], "empty gives no pair."),
        (["new", "--pairs", "pairs"], "holds a study already. Give another --store."),
        (["new", "--pairs", "pairs", "--check-every", "3"], "--check-every needs attention checks."),
        (["new", "--pairs", "pairs", "--consent", "nothing"], "nothing can't be read"),
        (["new", "--pairs", "pairs", "--instructions", "empty"], "The study can't be made: instructions is empty."),
        (["invite", "--number", "2", "--prefix", "x" * 60], "--prefix isn't a name."),
        (["import", "nothing"], "nothing can't be read"),
        (["export", "--to", "missing/file"], "missing/file can't be written"),
        (["serve", "--host", "no such host"], "Can't listen at no such host, port 8000"),
    ],
)
def test_mistakes_of_the_user_are_one_line(call, made, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    code, _, err = call(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_missing_extra_is_one_line(call, monkeypatch):
    monkeypatch.setattr(commands, "NEEDS", {"sqlalchemy", "nosuchmodule"})
    code, _, err = call("status")
    assert code == 2
    assert err == ('error: The annotation tool needs nosuchmodule. Install them: pip install "rlhf_utils[annotate]"\n')


def test_the_parser_waits_for_nothing_heavy():
    code = "import sys; from rlhf_utils.cli import build_parser; build_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "sqlalchemy", "starlette"} & set(loaded) == set()


def test_a_server_for_others_warns_and_a_short_code_is_refused(call, made, monkeypatch, capsys):
    served = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: served.append(sockets[0].getsockname()))
    _, out, err = call("serve", "--port", 0)
    assert served[0][0] == "127.0.0.1"
    assert f"Annotators: http://127.0.0.1:{served[0][1]}/" in out
    assert re.search(r"Staff's code: (\w{4}-){3}\w{4}$", out, re.MULTILINE)
    assert err == ""
    monkeypatch.setenv(commands.STAFF_CODE, "only for staff")
    _, out, err = call("serve", "--port", 0, "--host", "0.0.0.0")
    assert "only for staff" not in out
    assert "reverse proxy with TLS" in err
    for code in ("short", "-" * 30 + "short", "x" * 65):  # hyphens don't count when a code is entered
        monkeypatch.setenv(commands.STAFF_CODE, code)
        assert call("serve", "--port", 0)[0] == 2


def test_pairs_come_from_a_run(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("rlhf_utils.tasks.tiny.load", lambda: tiny)
    run, file = tmp_path / "run", tmp_path / "pairs.jsonl"
    artifacts.save(run / "sft-key", dict(tiny.load_base_model().named_parameters()))
    options = dict.fromkeys(("dataset", "model", "tokenizer", "max_new_tokens"))
    report = {"options": {"task": "tiny", **options}, "artifacts": {"sft": "sft-key"}, "algorithm": "ppo"}
    (run / "report.json").write_text(json.dumps(report))
    sample = ["annotate", "sample", "--run", str(run), "--pairs", "12", "--to", str(file)]
    assert main(sample) == 0
    first = file.read_text(encoding="utf8")
    assert main(sample) == 0
    assert file.read_text(encoding="utf8") == first
    rows = [json.loads(line) for line in first.splitlines()]
    assert len(rows) == 12
    assert all(row["prompt"] in tiny.train_prompts and row["response_a"] != row["response_b"] for row in rows)
    assert main(["annotate", "new", "--store", str(tmp_path / "study.db"), "--pairs", str(file)]) == 0
