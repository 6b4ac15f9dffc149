"""What differs with GPT-2: a folder as `save_pretrained` leaves it, and the numbers that were counted once."""

import json
import math
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_utils.budget import GPT2
from rlhf_utils.ppo import PPOConfig, train_ppo
from rlhf_utils.reward import text_reward
from rlhf_utils.sft import encode_texts
from rlhf_utils.tasks import load_task, tiny
from rlhf_utils.tasks.sst2 import DATASET, MAX_NEW_TOKENS, load_tokenizer, read_rows, side

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """SST-2's form with the tiny grammar's rows; GPT-2's own configuration with narrow blocks, in a folder."""
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("gpt2")
    splits = {"train": tiny.reviews(400, 1, False), "validation": tiny.reviews(60, 2, True)}
    (folder / "rows").mkdir()
    for split, reviews in splits.items():
        lines = [json.dumps({"idx": i, "sentence": r.text + " ", "label": r.label}) for i, r in enumerate(reviews)]
        (folder / "rows" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    core = ByteLevelBPETokenizer()
    texts = [r.text for r in splits["train"]]
    core.train_from_iterator(texts, 500, show_progress=False, special_tokens=["<|endoftext|>"])
    words = PreTrainedTokenizerFast(tokenizer_object=core._tokenizer, eos_token="<|endoftext|>")
    words.save_pretrained(folder / "model")
    torch.manual_seed(0)
    end = words.eos_token_id
    config = GPT2Config(vocab_size=len(words), n_embd=32, n_layer=2, n_head=2, bos_token_id=end, eos_token_id=end)
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    return load_task("sst2", str(folder / "rows"), str(folder / "model"))


def test_gpt2s_configuration_survives_loading(task):
    config = task.load_base_model().config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.1, 0.1, 0.1)
    assert config.n_positions == 1024


def test_rows_are_stripped_and_prompts_are_cut_before_spaces(task):
    words, alike = task.tokenizer, 0
    for row in task.train:
        assert row.text == row.text.strip()
        prompt, _, rest = row.text.partition(" ")
        whole = words(row.text)["input_ids"]
        assert words(prompt)["input_ids"] + words(" " + rest)["input_ids"] == whole
        alike += words(prompt + " ")["input_ids"] + words(rest)["input_ids"] == whole
    assert alike < 0.4 * len(task.train)  # only where a rare word has lost its space anyway
    assert all(p == p.strip() for p in task.train_prompts + task.eval_prompts)


def test_a_new_pad_is_never_likelier_than_one_word_in_all(task):
    """Its row is the mean of the others, so its logit is the mean of theirs, and exp is convex."""
    torch.manual_seed(0)
    model, words = task.load_base_model(), task.tokenizer
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # far from uniform
        logits = model(torch.tensor([words(task.train[0].text)["input_ids"]])).logits
    others = logits[..., :-1]
    assert words.pad_token_id == len(words) - 1
    torch.testing.assert_close(logits[..., -1], others.mean(-1), atol=0.05, rtol=0.02)
    assert others.softmax(-1).max() > 0.05
    assert logits.softmax(-1)[..., -1].max() < 1 / (len(words) - 1)


def test_the_first_ratio_is_one_though_the_configuration_has_dropout(task):
    config = PPOConfig(updates=1, batch_size=16, minibatch_size=8, epochs=1, score_samples=16)
    reward = text_reward(lambda texts: [len(t.split()) % 3 for t in texts], task.tokenizer)
    model = task.load_base_model()
    _, result = train_ppo(model, task.tokenizer, task.train_prompts, reward, 8, config, threads=1)
    assert result.history[0]["first_log_ratio"] < 1e-5


# -- what was measured and counted once


@pytest.fixture(scope="module")
def measured():
    lines = (ROOT / "benchmarks" / "results" / "gpt2.jsonl").read_text().splitlines()
    return {row["part"]: row for row in map(json.loads, lines) if "part" in row}


def test_the_kept_measurements_fit_their_formula(measured):
    n = GPT2.parameters + GPT2.width  # PAD's row
    assert measured["scoring"]["operations"] == pytest.approx(3 * measured["sampling"]["operations"])
    assert measured["update"]["operations"] == pytest.approx(3 * measured["sampling"]["operations"])
    assert measured["sampling"]["operations"] == pytest.approx(2 * n * 8 * 28, rel=0.01)
    for part in ("sampling", "scoring", "update", "sft"):
        row = measured[part]
        assert row["rate"] == pytest.approx(row["operations"] / row["seconds"], rel=2e-3)
    # A row of logits is kept once, and little beside it.
    assert 4 * 50_258 <= measured["kept"]["logit_bytes"] < 4.2 * 50_258


@pytest.mark.realdata
def test_every_real_sentence_ends_with_a_space(shared_data):
    import datasets

    splits = datasets.load_dataset(str(shared_data / "sst2"))
    texts = [t for split in ("train", "validation") for t in splits[split]["sentence"]]
    assert len(texts) == 68_221
    assert all(t.endswith(" ") for t in texts)


@pytest.mark.realdata
def test_the_counted_tokens_are_those_of_the_real_rows(shared_data, measured):
    counted = measured["tokens"]
    words = load_tokenizer(str(shared_data / "gpt2-tokenizer"), None)
    rows = [r.text for r in read_rows(str(shared_data / "sst2"), *DATASET, text_column="sentence")["train"]]
    ours = [t for t in rows if side(t, 2) == 0]
    lengths = [len(row) for row in encode_texts(words, ours, 48)]
    assert (len(rows), len(ours)) == (counted["texts"], counted["ours"])
    assert fmean(lengths) == pytest.approx(counted["text_tokens"], abs=1e-3)
    assert math.isclose(counted["rest_beyond_cap"], 0.1346)
    assert counted["rest_tokens"] < MAX_NEW_TOKENS
