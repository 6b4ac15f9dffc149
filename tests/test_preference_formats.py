import gzip
import json

import datasets
import pytest

from rlhf_utils import preference_formats
from rlhf_utils.errors import UserError
from rlhf_utils.preference_formats import from_row, read_comparisons
from rlhf_utils.preferences import chosen_rejected, to_trl, write_records

# Fields as in the README of openai/summarize-from-feedback.
TLDR = {
    "info": {"id": "t3_1", "post": "My cat hid my keys.", "title": "Keys?", "subreddit": "advice"},
    "summaries": [
        {"text": " Cat lost keys.", "policy": "sup2", "note": None},
        {"text": "My cat hid my keys. Help?", "policy": "ref", "note": "fine"},
    ],
    "choice": 1,
    "worker": "w7",
    "batch": "batch9",
    "split": "train",
    "extra": {"confidence": 8},
}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A joke?\n\nAssistant: What do you call a fish? Fsh.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A joke?\n\nAssistant: What? No.",
}
TRL = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
MESSAGES = {
    "prompt": [{"role": "user", "content": "What colour is the sky?"}],
    "chosen": [{"role": "assistant", "content": "It is blue."}],
    "rejected": [{"role": "assistant", "content": "It is green."}],
}


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


# -- one row of each form


def test_tldr_comparisons_become_post_and_two_summaries():
    record = from_row(TLDR)
    assert record.prompt == "SUBREDDIT: r/advice\n\nTITLE: Keys?\n\nPOST: My cat hid my keys.\n\nTL;DR:"
    assert (record.response_a, record.response_b) == (" Cat lost keys.", " My cat hid my keys. Help?")
    assert (record.choice, record.annotator, record.source) == ("b", "w7", "TL;DR comparisons, batch9")


def test_news_articles_have_a_prompt_of_their_own():
    info = {"id": "x", "article": "Rain fell.", "title": "Rain", "site": "cnn", "post": None, "subreddit": None}
    assert from_row(TLDR | {"info": info}).prompt == "Article:\nRain fell.\n\nTL;DR:"


def test_dialogues_are_cut_behind_the_last_answer_that_they_share():
    assert to_trl([from_row(HH)]) == [
        {
            "prompt": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A joke?\n\nAssistant:",
            "chosen": " What do you call a fish? Fsh.",
            "rejected": " What? No.",
        }
    ]
    assert chosen_rejected([from_row(HH)]) == [(HH["chosen"], HH["rejected"])]


def test_an_implicit_prompt_ends_before_the_space_of_the_first_word_that_differs():
    row = {"chosen": "The sky is blue.", "rejected": "The sky is black."}
    assert to_trl([from_row(row)]) == [{"prompt": "The sky is", "chosen": " blue.", "rejected": " black."}]


def test_trl_rows_stay_as_they_are():
    assert to_trl([from_row(TRL)]) == [TRL]


def test_messages_become_a_dialogue():
    expected = {
        "prompt": "\n\nHuman: What colour is the sky?\n\nAssistant:",
        "chosen": " It is blue.",
        "rejected": " It is green.",
    }
    assert to_trl([from_row(MESSAGES)]) == [expected]
    question = MESSAGES["prompt"]
    whole = {name: question + MESSAGES[name] for name in ("chosen", "rejected")}
    assert to_trl([from_row(whole)]) == [expected]  # an implicit prompt
    assert to_trl([from_row(whole | {"prompt": question[0]["content"]})]) == [expected]
    assert to_trl([from_row(MESSAGES | {"prompt": question[0]["content"]})]) == [expected]


def test_equal_texts_are_a_tie():
    assert from_row(TRL | {"rejected": " blue."}).choice == "tie"


def test_the_side_of_the_chosen_response_is_no_hint():
    records = [from_row(TRL | {"prompt": f"{i}: the sky is"}) for i in range(400)]
    assert 150 < sum(r.choice == "a" for r in records) < 250
    assert all(row["chosen"] == " blue." for row in to_trl(records))


# -- files and folders


@pytest.mark.parametrize("row", [TLDR, HH, TRL, MESSAGES])
def test_any_form_is_read_from_lines(tmp_path, row):
    path = write_lines(tmp_path / "some.jsonl", row, row)
    assert read_comparisons(path) == [from_row(row)] * 2
    assert read_comparisons(str(path), limit=1) == [from_row(row)]


def test_our_own_records_come_back_as_they_were(tmp_path):
    records = [from_row(row) for row in (TLDR, HH, TRL)]
    write_records(records, tmp_path / "own.jsonl")
    assert read_comparisons(tmp_path / "own.jsonl") == records
    write_lines(tmp_path / "trl.jsonl", TRL)
    assert read_comparisons(tmp_path) == [*records, from_row(TRL)]  # a folder, its files in order


def test_packed_files_and_folders_are_read(tmp_path):
    folder = tmp_path / "harmless-base"
    folder.mkdir()
    with gzip.open(folder / "train.jsonl.gz", "wt", encoding="utf8") as file:
        file.write(json.dumps(HH) + "\n\n" + json.dumps(HH) + "\n")
    assert read_comparisons(tmp_path) == read_comparisons(folder / "train.jsonl.gz") == [from_row(HH)] * 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x", "label": 1}, "unknown fields label, text"),
        (TLDR | {"choice": 2}, "there are 2 summaries and choice is 2"),
        (TLDR | {"summaries": TLDR["summaries"][:1]}, "there are 1 summaries"),
        (TLDR | {"summaries": [{"note": ""}, {"note": ""}]}, "the field 'text' is missing"),
        (TLDR | {"info": None}, "isn't what its name promises"),
        (TRL | {"chosen": 3}, "must be texts or lists of messages"),
        (MESSAGES | {"chosen": [{"role": "robot", "content": ""}]}, "the field 'robot' is missing"),
        ({"chosen": "yes", "rejected": "no"}, "share no beginning"),
        ([1], "not an object"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, row, message):
    path = write_lines(tmp_path / "some.jsonl", TRL, row)
    with pytest.raises(UserError, match="line 2") as caught:
        read_comparisons(path)
    assert message in caught.value.problem
    assert "prompt, chosen, rejected" in caught.value.remedy


def test_what_is_no_json_is_named(tmp_path):
    (tmp_path / "some.jsonl").write_text(json.dumps(TRL) + "\n{oops\n")
    with pytest.raises(UserError, match=r"some.jsonl, line 2: not JSON"):
        read_comparisons(tmp_path / "some.jsonl")
    (tmp_path / "some.jsonl").write_text("{oops\n")
    with pytest.raises(UserError, match=r"some.jsonl, line 1: not JSON"):
        read_comparisons(tmp_path / "some.jsonl")
    (tmp_path / "bad.jsonl.gz").write_text("no archive")
    with pytest.raises(UserError, match=r"bad.jsonl.gz can't be read"):
        read_comparisons(tmp_path / "bad.jsonl.gz")


def test_nothing_to_read_is_an_error(tmp_path):
    for source, message in ((tmp_path, "holds no file"), (tmp_path / "none.jsonl", "is not a file")):
        with pytest.raises(UserError, match=message):
            read_comparisons(source)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no preference"):
        read_comparisons(tmp_path / "empty.jsonl")


# -- the hub


@pytest.fixture
def hub(monkeypatch):
    """Answers in the hub's place; remembers what it was asked."""
    asked = []

    def load(name, **options):
        asked.append((name, options))
        return [TLDR] * 3 if "summarize" in name else [HH, TRL]

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_names_of_the_hub_are_looked_up_there(hub):
    assert read_comparisons("Anthropic/hh-rlhf", split="test") == [from_row(HH), from_row(TRL)]
    assert read_comparisons("openai/summarize_from_feedback", limit=2) == [from_row(TLDR)] * 2
    assert hub == [
        ("Anthropic/hh-rlhf", {"split": "test"}),
        (
            "openai/summarize_from_feedback",
            {"split": "train", "data_dir": "comparisons", "revision": "refs/convert/parquet"},
        ),
    ]


def test_a_row_of_the_hub_is_named_by_its_number(hub, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: [HH, {"text": "x"}])
    with pytest.raises(UserError, match="some/set, row 2: unknown fields text"):
        read_comparisons("some/set")


def test_without_a_network_a_file_is_asked_for(monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("offline\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"could not be fetched from the hub \(offline\)"):
        read_comparisons("Anthropic/hh-rlhf")


def test_the_table_of_forms_names_sets_that_the_loader_knows():
    assert set(preference_formats.HUB) == {"openai/summarize_from_feedback"}
    assert all(name in preference_formats.__doc__ for name in (*preference_formats.HUB, "Anthropic/hh-rlhf"))
