import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import datasets
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rlhf_utils import artifacts, cli, pipeline
from rlhf_utils.algorithms import TITLES
from rlhf_utils.cli import main
from rlhf_utils.errors import UserError
from rlhf_utils.models import PolicyWithValueHead
from rlhf_utils.preferences import read_records, write_records
from rlhf_utils.tasks import load_task
from rlhf_utils.training import TrainingError

QUICK = ["--sft-epochs", "0.02", "--pairs", "64", "--updates", "1", "--batch-size", "16", "--threads", "1"]
TRAINERS = ("train_sft", "sample_pairs", "train_reward_model", "train_ppo")


@pytest.fixture(autouse=True)
def _load_once(tiny, monkeypatch):
    monkeypatch.setattr("rlhf_utils.tasks.tiny.load", lambda: tiny)
    with warnings.catch_warnings():  # the command line sets its own way to show them
        yield


@pytest.fixture(scope="session")
def run_folder(tiny, tmp_path_factory):
    """A finished run; read-only."""
    out = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr("rlhf_utils.tasks.tiny.load", lambda: tiny)
        assert main(["pipeline", "--out", str(out), *QUICK]) == 0
    return out


@pytest.fixture
def run_copy(run_folder, tmp_path):
    """A finished run to play with."""
    return Path(shutil.copytree(run_folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def bpe(tmp_path_factory):
    """A tokenizer folder like GPT-2's."""
    core = ByteLevelBPETokenizer()
    core.train_from_iterator(["a film"], vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    folder = tmp_path_factory.mktemp("bpe")
    PreTrainedTokenizerFast(tokenizer_object=core._tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return str(folder)


def complaint(capsys, *argv):
    """The one line that a command that fails prints."""
    try:
        code = main([str(a) for a in argv])
    except SystemExit as leave:
        code = leave.code
    out, err = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


# -- what goes wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "chess"], "Unknown task 'chess'. Choose one of tiny, summaries, sst2, imdb"),
        (["--dataset", "x"], "--dataset has no meaning for the task tiny"),
        (["--updates", "0"], "0 is out of range"),
        (["--updates", "many"], "'many' is not a number"),
        (["--kl-coef", "-1"], "-1 is out of range"),
        (["--learning-rate", "2"], "2 is out of range; give a number from 1e-09 to 1"),
        (["--threads", "0"], "0 is out of range"),
        (["--unknown"], "unrecognized arguments: --unknown. See rlhf-utils"),
        (["--preferences", "/no/records"], "/no/records is not a file"),
        (["--device", "abacus"], "abacus"),
        (["--task", "sst2", "--dataset", "/no/data"], "does not exist"),
    ],
)
def test_an_option_that_does_not_fit_is_named_with_a_remedy(capsys, tmp_path, options, message, bpe):
    if "sst2" in options:
        options = [*options, "--model", "from-config", "--tokenizer", bpe]
    assert message in complaint(capsys, "pipeline", "--out", tmp_path / "out", *options)


def test_data_that_cannot_be_read_is_named(capsys, tmp_path, bpe):
    options = ["pipeline", "--task", "sst2", "--out", tmp_path / "o", "--model", "from-config", "--tokenizer", bpe]
    (tmp_path / "data").mkdir()
    assert "No data set could be read" in complaint(capsys, *options, "--dataset", tmp_path / "data")
    for split in ("train", "validation"):
        (tmp_path / "data" / f"{split}.csv").write_text("review,label\ngood,1\nbad,0\n")
    assert "lacks the column 'sentence'" in complaint(capsys, *options, "--dataset", tmp_path / "data")


def test_an_unreachable_hub_leads_to_the_tiny_task(capsys, tmp_path, bpe, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("offline")))
    options = ["pipeline", "--task", "sst2", "--out", tmp_path, "--model", "from-config", "--tokenizer", bpe]
    assert "--task tiny" in complaint(capsys, *options)


def test_out_must_be_a_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "is a file, not a folder" in complaint(capsys, "pipeline", "--out", tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_out_must_be_writable(capsys, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot write" in complaint(capsys, "pipeline", "--out", tmp_path / "locked")


@pytest.mark.parametrize("command", [["generate", "--prompt", "the plot"], ["export", "--to", "x"]])
def test_a_run_must_come_first(capsys, tmp_path, command):
    line = complaint(capsys, *command, "--out", tmp_path)
    assert f"holds no finished run. Run: rlhf-utils pipeline --out {tmp_path}" in line


def test_unknown_words_are_named(capsys, run_folder):
    line = complaint(capsys, "generate", "--out", run_folder, "--prompt", "the xyzzy plot frobs")
    assert "Not in the vocabulary: xyzzy, frobs." in line


def test_a_prompt_too_long_for_the_context_is_an_error(capsys, run_folder):
    line = complaint(capsys, "generate", "--out", run_folder, "--prompt", "the plot " * 20)
    assert "exceeds the model's context of 48. Shorten it to 28 tokens" in line
    line = complaint(capsys, "generate", "--out", run_folder, "--prompt", "the", "--max-new-tokens", 48)
    assert "context of 48" in line


def test_an_empty_prompt_is_an_error(capsys, run_folder):
    assert "prompt is empty" in complaint(capsys, "generate", "--out", run_folder, "--prompt", "")


def test_ties_alone_teach_nothing(capsys, tmp_path, run_copy):
    write_records(
        [dataclasses.replace(r, choice="tie") for r in read_records(run_copy / "preferences.jsonl")], tmp_path / "t"
    )
    options = ["pipeline", "--out", run_copy, *QUICK, "--preferences", tmp_path / "t"]
    assert "ties don't count" in complaint(capsys, *options)


def longer(record, words):
    """The same judgement about two texts that part only behind so many words."""
    start = " the plot is good ." * (words // 5)
    return dataclasses.replace(record, response_a=start + " good", response_b=start + " bad")


def test_pairs_that_are_equal_where_they_are_read_teach_nothing(capsys, tmp_path, run_copy):
    records = [r for r in read_records(run_copy / "preferences.jsonl") if r.choice != "tie"][:4]
    write_records([longer(r, 60) for r in records], tmp_path / "long")
    options = ["pipeline", "--out", run_copy, *QUICK, "--preferences"]
    line = complaint(capsys, *options, tmp_path / "long")
    assert "In each of the 4 pairs the two texts are equal in the first 48 tokens" in line
    write_records([longer(records[0], 60), *records[1:]], tmp_path / "one")
    assert main([str(o) for o in [*options, tmp_path / "one"]]) == 0
    assert "warning: in 1 of 4 pairs the two texts are equal" in capsys.readouterr().err


def test_judgements_that_a_ready_reward_would_ignore_are_refused(run_copy):
    records = read_records(run_copy / "preferences.jsonl")
    task = dataclasses.replace(load_task("tiny"), name="imdb", load_reward=lambda: len)
    with pytest.raises(UserError, match="imdb has a reward of its own, which --preferences wouldn't change"):
        cli._check_judgements(records, task, 48, "ppo")
    cli._check_judgements(records, task, 48, "dpo")


def test_a_training_that_diverges_says_what_to_do(capsys, run_copy, monkeypatch):
    def diverge(sft_model, *args, **kwargs):
        error = TrainingError("PPO: the loss is nan. Lower the learning rate.")
        error.state, error.history = PolicyWithValueHead(sft_model), []
        raise error

    monkeypatch.setattr(pipeline, "train_ppo", diverge)
    line = complaint(capsys, "pipeline", "--out", run_copy, *QUICK, "--kl-coef", "0.3")
    assert "Lower the learning rate" in line
    assert "ppo-stopped" in line


def test_an_interrupted_run_says_that_it_can_go_on(capsys, tmp_path, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_doctor", interrupt)
    assert main(["doctor"]) == 130
    assert "goes on from there" in capsys.readouterr().err


def test_errors_of_the_program_itself_are_not_hidden(monkeypatch):
    def fail(args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "run_doctor", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])


# -- a run


def test_the_report_holds_the_promised_numbers(run_folder):
    report = json.loads((run_folder / "report.json").read_text())
    assert (report["task"], report["seed"]) == ("tiny", 0)
    assert report["seconds"] > 0
    numbers = {
        "sft": ["positive_rate"],
        "reward_model": ["pair_accuracy", "label_accuracy"],
        "policy": ["positive_rate", "kl", "distinct", "eos", "mean_reward"],
    }
    for part, names in numbers.items():
        for name in names:
            assert isinstance(report[part][name], float), (part, name)
    assert report["settings"]["ppo"]["updates"] == 1
    assert len(read_records(run_folder / "preferences.jsonl")) == 64


def test_a_second_run_trains_nothing(capsys, run_copy, monkeypatch):
    before = json.loads((run_copy / "report.json").read_text())
    for name in TRAINERS:
        monkeypatch.setattr(pipeline, name, lambda *a, **k: pytest.fail("trained again"))
    assert main(["pipeline", "--out", str(run_copy), *QUICK]) == 0
    after = json.loads((run_copy / "report.json").read_text())
    assert {**before, "seconds": 0} == {**after, "seconds": 0}
    assert "Report:" in capsys.readouterr().out


def test_a_damaged_artefact_is_named_and_made_again(capsys, run_copy, monkeypatch):
    (folder,) = run_copy.glob("reward-*")
    path = folder / "tensors.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(pipeline, "train_sft", lambda *a, **k: pytest.fail("the SFT model is whole"))
    assert main(["pipeline", "--out", str(run_copy), *QUICK]) == 0
    assert f"damaged artefact {folder}" in capsys.readouterr().err
    assert len(path.read_bytes()) == len(whole)


def test_generate_writes_with_either_model_by_seed(capsys, run_folder):
    def write(*options):
        assert main(["generate", "--out", str(run_folder), "--prompt", "the plot", "--number", "4", *options]) == 0
        return capsys.readouterr().out.splitlines()

    first = write()
    assert len(first) == 4
    assert all(line.startswith("the plot") for line in first)
    assert write() == first
    assert write("--seed", "1") != first
    assert all(len(line.split()) <= 2 + 3 for line in write("--max-new-tokens", "3", "--model", "sft"))


@pytest.mark.parametrize("name", [a for a in cli.ALGORITHMS if a != "ppo"])
def test_every_algorithm_gives_the_same_report(capsys, run_copy, name, monkeypatch):
    for stage in ("train_sft", "sample_pairs", "train_reward_model"):
        monkeypatch.setattr(pipeline, stage, lambda *a, **k: pytest.fail("trained again"))
    known = json.loads((run_copy / "report.json").read_text())
    tuning = {"dpo": [], "best-of-n": ["--responses", "3"], "rejection-sft": ["--updates", "1", "--responses", "3"]}
    quick = tuning.get(name, ["--updates", "1", "--batch-size", "16", "--responses", "2"])
    rest = [*QUICK[:4], *QUICK[-2:]]
    assert main(["pipeline", "--out", str(run_copy), "--algorithm", name, *rest, *quick]) == 0
    assert TITLES[name] in capsys.readouterr().out
    report = json.loads((run_copy / "report.json").read_text())
    assert report["algorithm"] == name
    assert known.keys() == report.keys()
    assert known["policy"].keys() == report["policy"].keys()
    assert known["sft"] == report["sft"]
    assert list(report["settings"])[-1] == name
    assert main(["generate", "--out", str(run_copy), "--prompt", "the plot", "--number", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    exported = main(["export", "--out", str(run_copy), "--to", str(run_copy / "model")])
    assert exported == (2 if name == "best-of-n" else 0)


def test_the_commands_know_the_packages_algorithms():
    assert tuple(TITLES) == cli.ALGORITHMS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--algorithm", "dpo", "--updates", "3"], ["--updates", "dpo", "rejection-sft"]),
        (["--algorithm", "grpo", "--kl-target", "3"], ["--kl-target", "grpo", "--algorithm ppo"]),
        (["--algorithm", "best-of-n", "--kl-coef", "1"], ["--kl-coef", "best-of-n"]),
        (["--algorithm", "rloo", "--batch-size", "30"], ["Batch_size 30", "--responses"]),
        (["--algorithm", "rloo", "--shard"], ["--shard", "ppo"]),
    ],
)
def test_an_option_that_does_not_fit_the_algorithm_is_named(capsys, tmp_path, options, words):
    assert main(["pipeline", "--out", str(tmp_path), *options]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(word in line for word in words)


def test_an_exported_policy_loads_and_gives_the_same_logits(run_folder, tmp_path, tiny):
    assert main(["export", "--out", str(run_folder), "--to", str(tmp_path / "model")]) == 0
    (folder,) = run_folder.glob("ppo-*")
    weights, _ = artifacts.load(folder)
    policy = tiny.load_base_model()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.copy_(weights[name])
    text = ["the plot is superb ."]
    ids = torch.tensor(tiny.tokenizer(text)["input_ids"])
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(text)["input_ids"] == ids.tolist()
    with torch.no_grad():
        torch.testing.assert_close(exported(ids).logits, policy(ids).logits, atol=1e-6, rtol=0)


def test_a_run_can_start_from_given_preferences(run_copy, capsys):
    options = ["pipeline", "--out", str(run_copy), *QUICK, "--preferences", str(run_copy / "preferences.jsonl")]
    assert main(options) == 0
    options = json.loads((run_copy / "report.json").read_text())["options"]
    assert options["preferences"] == str(run_copy / "preferences.jsonl")
    assert main(["generate", "--out", str(run_copy), "--prompt", "the plot"]) == 0


def test_doctor_says_what_is_installed(capsys, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError

    monkeypatch.setattr(socket, "create_connection", unreachable)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("python", "torch", "device", "threads", "memory", "not reachable: use --task tiny", "cache", "free"):
        assert word in out


def test_the_cache_can_be_listed_and_cleared(capsys, run_copy):
    assert main(["cache", "list", "--out", str(run_copy)]) == 0
    out = capsys.readouterr().out
    assert all(stage in out for stage in ("sft-", "preferences-", "reward-", "ppo-"))
    assert main(["cache", "clear", "--out", str(run_copy)]) == 0
    assert "Deleted 4 artefacts" in capsys.readouterr().out
    assert sorted(p.name for p in run_copy.iterdir()) == ["preferences.jsonl", "report.json"]


def test_the_lessons_cache_is_the_default(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_UTILS_CACHE", str(tmp_path / "none"))
    assert main(["cache", "list"]) == 0
    assert str(tmp_path / "none") in capsys.readouterr().out


def test_the_module_runs_from_a_shell(tmp_path):
    def shell(*argv):
        return subprocess.run([sys.executable, "-m", "rlhf_utils", *argv], capture_output=True, text=True)

    help_text = shell("--help")
    assert help_text.returncode == 0
    assert "pipeline" in help_text.stdout
    failed = shell("pipeline", "--task", "chess", "--out", str(tmp_path))
    assert failed.returncode == 2
    assert failed.stderr == "error: Unknown task 'chess'. Choose one of tiny, summaries, sst2, imdb.\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_default_run_aligns_the_policy(tmp_path):
    """The acceptance test: the tiny task as a reader runs it."""
    assert main(["pipeline", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert 0.35 <= report["sft"]["positive_rate"] <= 0.6
    assert report["policy"]["positive_rate"] >= 0.95
    assert report["policy"]["kl"] <= 5
    assert report["policy"]["distinct"] >= 0.6
    assert report["policy"]["eos"] >= 0.9
