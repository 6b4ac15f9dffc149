import dataclasses
import json
import math

import pytest
import torch

from rlhf_utils.errors import UserError
from rlhf_utils.preferences import (
    Preference,
    PreferenceConfig,
    annotate,
    choice_probability,
    chosen_rejected,
    from_labels,
    now,
    pair_id,
    ranked_by_judge,
    read_records,
    sample_pairs,
    to_trl,
    write_records,
)
from rlhf_utils.tasks.base import Review


def record(choice="a", prompt="the film", a=" is good .", b=" is bad .", **fields):
    base = Preference(pair_id(prompt, a, b), prompt, a, b, choice, "anna", 2.5, "2024-05-01T10:00:00Z", "tool")
    return dataclasses.replace(base, **fields)


# -- the file format


def test_records_survive_a_round_trip(tmp_path):
    odd = record("tie", a=' "quoted"\nline\t—é\u2028\x85', b="")
    records = [record(), record("b", prompt=""), odd]
    write_records(records, tmp_path / "r.jsonl")
    assert read_records(tmp_path / "r.jsonl") == records


def test_blank_lines_and_further_fields_are_ignored(tmp_path):
    row = dataclasses.asdict(record()) | {"mood": "fine"}
    (tmp_path / "r.jsonl").write_bytes(b"\r\n" + json.dumps(row).encode() + b"\r\n\n")
    assert read_records(tmp_path / "r.jsonl") == [record()]


GOOD = json.dumps(dataclasses.asdict(record()))
BAD_LINES = {
    "not JSON": "{oops",
    "choice is 'c'": GOOD.replace('"choice": "a"', '"choice": "c"'),
    "the field 'prompt' is missing": GOOD.replace('"prompt"', '"question"'),
    "not an object": "[1, 2]",
    "prompt is not a text": GOOD.replace('"prompt": "the film"', '"prompt": null'),
}


@pytest.mark.parametrize("message", BAD_LINES)
def test_errors_name_the_line(tmp_path, message):
    path = tmp_path / "r.jsonl"
    path.write_text(f"{GOOD}\n\n{BAD_LINES[message]}\n")
    with pytest.raises(UserError, match=f"line 3: {message}"):
        read_records(path)


def test_a_missing_or_empty_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="not a file"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no preference"):
        read_records(tmp_path / "empty.jsonl")


# -- meaning


def test_a_pairs_name_does_not_depend_on_the_sides():
    assert pair_id("p", "x", "y") == pair_id("p", "y", "x")
    names = {pair_id("p", "x", "y"), pair_id("q", "x", "y"), pair_id("p", "x", "z"), pair_id("px", "", "y")}
    assert len(names) == 4


def test_ties_give_no_pair():
    records = [record("a"), record("tie"), record("b")]
    good, bad = "the film is good .", "the film is bad ."
    assert chosen_rejected(records) == [(good, bad), (bad, good)]


def test_trl_rows_keep_the_prompt_apart():
    assert to_trl([record("b"), record("tie")]) == [
        {"prompt": "the film", "chosen": " is bad .", "rejected": " is good ."}
    ]


def test_choice_probability_by_hand():
    assert choice_probability(0.3, 0.3, 0.15) == 0.5
    # a gap of one temperature: σ(1)
    assert choice_probability(0.4, 0.25, 0.15) == pytest.approx(1 / (1 + math.exp(-1)))
    assert choice_probability(0.9, 0.2, 0.5) + choice_probability(0.2, 0.9, 0.5) == pytest.approx(1)


def test_choice_probability_survives_extreme_gaps():
    assert choice_probability(1e9, 0.0, 1e-9) == 1.0
    assert choice_probability(0.0, 1e9, 1e-9) == pytest.approx(0.0)


def test_time_is_utc_in_whole_seconds():
    assert len(now()) == len("2024-05-01T10:00:00Z")
    assert now().endswith("Z")


# -- simulated annotators


class LengthJudge:
    name = "length judge"

    def scores(self, texts):
        return [float(len(t.split())) for t in texts]


@pytest.fixture
def task(tiny, words):
    return dataclasses.replace(tiny, tokenizer=words, judge=LengthJudge(), max_new_tokens=6)


def test_noise_has_the_promised_frequency(task):
    pairs = [("a", f" b c{i}", f" b{i}") for i in range(20_000)]  # scores 3 and 2
    records = annotate(pairs, task, PreferenceConfig(temperature=0.5), seed=0)
    share = sum(r.choice == "a" for r in records) / len(records)
    # σ(2) = 0.8808; the standard error of 20,000 draws is 0.0023
    assert share == pytest.approx(0.8808, abs=0.009)


def test_the_judges_ranking_has_no_noise_and_leaves_ties_out(task):
    pairs = [("a", " b c", " d"), ("a", " b", " c d"), ("a", " b", " c")]
    assert ranked_by_judge(pairs, task) == [("a b c", "a d"), ("a c d", "a b")]


def test_annotators_share_the_work_and_their_seed_decides(task):
    pairs = [("a", f" b c{i}", f" b{i}") for i in range(500)]
    config = PreferenceConfig(annotators=3, temperature=2.0)
    first, again, other = (annotate(pairs, task, config, seed) for seed in (0, 0, 1))
    assert first == again
    assert [r.choice for r in first] != [r.choice for r in other]
    counts = [sum(r.annotator == f"simulated-{i}" for r in first) for i in range(3)]
    assert sum(counts) == 500
    assert min(counts) > 120
    assert [(r.prompt, r.response_a, r.response_b) for r in first] == pairs
    assert all(r.pair_id == pair_id(*p) for r, p in zip(first, pairs, strict=True))


def test_sampled_pairs_differ_and_are_finished(lm, task):
    pairs = sample_pairs(lm, task, ["a b", "c"], 50, torch.Generator().manual_seed(0), threads=1)
    assert len(pairs) == 50
    for prompt, a, b in pairs:
        assert prompt in ("a b", "c")
        assert a != b
        assert len(a.split()) < 6  # the sixth token would have been the EOS
        assert len(b.split()) < 6


def test_the_same_seed_samples_the_same_pairs(lm, task):
    first, again, other = (
        sample_pairs(lm, task, ["a b", "c"], 20, torch.Generator().manual_seed(s), threads=1) for s in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_model_that_never_ends_is_an_error(make_lm, task):
    model = make_lm()
    endless = torch.nn.Linear(16, 16)
    with torch.no_grad():
        endless.bias[1] = -1e4
    model.lm_head = endless
    with pytest.raises(UserError, match="Only 0 of 10"):
        sample_pairs(model, task, ["a"], 10, torch.Generator(), threads=1)


# -- preferences from labels


def test_labels_imply_preferences():
    reviews = [Review(f"good {i}", 1) for i in range(5)] + [Review(f"bad {i}", 0) for i in range(5)]
    records = from_labels(reviews, 400, "labels", seed=0)
    assert all(
        chosen.startswith("good") and rejected.startswith("bad") for chosen, rejected in chosen_rejected(records)
    )
    first = sum(r.choice == "a" for r in records)
    assert 150 < first < 250  # the sides are drawn: 200 ± 10
    assert from_labels(reviews, 400, "labels", seed=0) == records
    assert from_labels(reviews, 400, "labels", seed=1) != records


def test_labels_use_each_text_once_before_any_twice():
    rows = [Review(f"good {i}", 1) for i in range(10)] + [Review(f"bad {i}", 0) for i in range(7)]
    chosen, rejected = zip(*chosen_rejected(from_labels(rows, 20, "labels", seed=0)), strict=True)
    assert len(set(chosen[:10])) == len(set(chosen[10:])) == 10
    assert len(set(rejected[:7])) == len(set(rejected[7:14])) == 7


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_alone_implies_nothing(label):
    with pytest.raises(UserError, match="only one label"):
        from_labels([Review("x", label)], 10, "labels", seed=0)
