import dataclasses

import datasets
import pytest
import torch
from small_data import make_rows, write_rows
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from rlhf_utils.errors import UserError
from rlhf_utils.generation import sample_texts
from rlhf_utils.models import RewardModel
from rlhf_utils.ppo import PPOConfig, train_ppo
from rlhf_utils.preferences import chosen_rejected, from_labels
from rlhf_utils.reward import RewardConfig, model_reward, train_reward_model
from rlhf_utils.sft import SFTConfig, train_sft
from rlhf_utils.tasks import load_task
from rlhf_utils.tasks.base import Review
from rlhf_utils.tasks.sst2 import ClassifierJudge, load_tokenizer, read_rows, side, trim_tokenizer, word_prompts

SPLITS = {"train": make_rows(400), "validation": make_rows(60, seed=1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_rows(tmp_path_factory.mktemp("sst2") / "rows", SPLITS, "parquet", "sentence"))


@pytest.fixture(scope="module")
def task(folder, bpe_folder):
    return load_task("sst2", folder, "from-config", bpe_folder)


# -- loading


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_are_read_from_a_folder(tmp_path, kind):
    path = write_rows(tmp_path / "rows", SPLITS, kind, "sentence")
    assert read_rows(str(path), "name", None, "sentence") == SPLITS


def test_a_test_split_stands_in_for_validation(tmp_path):
    splits = {"train": SPLITS["train"], "test": SPLITS["validation"]}
    path = write_rows(tmp_path / "rows", splits, "jsonl", "sentence")
    assert read_rows(str(path), "name", None, "sentence") == SPLITS


def test_a_missing_held_out_split_is_called_by_its_first_name(tmp_path):
    path = write_rows(tmp_path / "rows", {"train": SPLITS["train"]}, "jsonl", "sentence")
    with pytest.raises(UserError, match="no split validation; it has train"):
        read_rows(str(path), "name", None, "sentence")


def test_rows_without_text_or_label_are_left_out(tmp_path):
    bad = [Review("  ", 1), Review("no label", -1)]
    path = write_rows(tmp_path / "rows", {**SPLITS, "train": bad + SPLITS["train"]}, "jsonl", "sentence")
    assert read_rows(str(path), "name", None, "sentence") == SPLITS


def test_the_judge_is_trained_on_rows_that_the_policy_never_sees(folder, bpe_folder, monkeypatch):
    seen = []
    real = ClassifierJudge.__init__
    monkeypatch.setattr(
        ClassifierJudge, "__init__", lambda self, texts, labels: seen.extend(texts) or real(self, texts, labels)
    )
    task = load_task("sst2", folder, "from-config", bpe_folder)
    ours = {r.text for r in task.train}
    assert ours | set(seen) == {r.text for r in SPLITS["train"]}
    assert not ours & set(seen)
    assert not (ours | set(seen)) & {r.text for r in task.validation}
    assert 0.4 < len(ours) / 400 < 0.6


def test_the_judge_is_right_about_clear_rows(task):
    assert task.judge_accuracy > 0.95
    good, bad = task.judge.scores(["the film was lovely warm", " the film was awful dull "])
    assert good > 0 > bad


def test_prompts_are_disjoint_openings_of_the_policys_rows(task):
    train, held_out = set(task.train_prompts), set(task.eval_prompts)
    assert train
    assert held_out
    assert not train & held_out
    texts = [r.text for r in task.train]
    for prompt in train | held_out:
        assert 2 <= len(prompt.split()) <= 4
        assert any(t.startswith(prompt + " ") for t in texts)


def test_prompts_of_short_texts_are_an_error():
    with pytest.raises(UserError, match="prompt"):
        word_prompts(["too short", "also short"])


def test_a_share_is_decided_by_the_text():
    sides = [side(f"text {i}", 4) for i in range(4000)]
    assert sides == [side(f"text {i}", 4) for i in range(4000)]
    assert all(abs(sides.count(i) - 1000) < 120 for i in range(4))  # four deviations of √750


def test_the_key_depends_on_texts_model_and_tokenizer(tmp_path, folder, task, bpe_folder):
    assert load_task("sst2", folder, "from-config", bpe_folder).key == task.key
    other = write_rows(tmp_path / "rows", {**SPLITS, "train": SPLITS["train"][:-1]}, "jsonl", "sentence")
    assert load_task("sst2", str(other), "from-config", bpe_folder).key != task.key


# -- tokenizer and model


def test_pad_is_added_where_there_is_none(bpe_folder):
    words = load_tokenizer(bpe_folder, None)
    assert words.pad_token_id != words.eos_token_id
    assert words.padding_side == "left"


def test_a_trimmed_tokenizer_splits_texts_as_before(bpe_folder):
    full = load_tokenizer(bpe_folder, None)
    texts = [r.text for r in SPLITS["train"][:5]]
    small = trim_tokenizer(full, texts)
    assert len(small) < len(full)
    for text in texts:
        assert small.convert_ids_to_tokens(small(text)["input_ids"]) == full.tokenize(text)
    odd = "Ünïcode € 🙂 unseen"
    assert small.decode(small(odd)["input_ids"]) == odd
    assert len({small.pad_token_id, small.eos_token_id}) == 2


def test_a_tokenizer_that_is_not_bpe_is_left_as_it_is(words):
    assert trim_tokenizer(words, ["a b"]) is words


def test_the_model_fits_the_tokenizer_and_runs(task):
    model = task.load_base_model()
    assert model.get_input_embeddings().num_embeddings == len(task.tokenizer)
    samples = sample_texts(model, task.tokenizer, task.eval_prompts[:4], 5, generator=torch.Generator().manual_seed(0))
    for prompt, response, text in zip(
        task.eval_prompts, samples.responses(task.tokenizer), samples.texts(task.tokenizer), strict=False
    ):
        assert prompt + response == text
    again = task.load_base_model()
    assert again is not model
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_a_model_from_a_folder_gets_a_row_for_pad(tmp_path, folder, bpe_folder):
    vocabulary = 400
    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    task = load_task("sst2", folder, str(tmp_path / "model"), bpe_folder)
    assert task.tokenizer.pad_token_id == vocabulary
    assert task.load_base_model().get_input_embeddings().num_embeddings == vocabulary + 1
    assert task.load_base_model().dtype == torch.float32


# -- errors


def test_a_missing_folder_is_named(bpe_folder):
    for option in ("dataset", "model", "tokenizer"):
        args = {"dataset": "/no/data", "model": "from-config", "tokenizer": bpe_folder}
        if option != "dataset":
            args |= {"tokenizer": "/no/words"}
        with pytest.raises(UserError, match=r"/no/(data|words) does not exist.*--task tiny"):
            load_task("sst2", **args)


def test_a_missing_model_folder_is_named(folder, bpe_folder):
    with pytest.raises(UserError, match="/no/model"):
        load_task("sst2", folder, "/no/model", bpe_folder).load_base_model()


def test_an_empty_folder_is_an_error(tmp_path, bpe_folder):
    with pytest.raises(UserError, match=r"No data set could be read.*parquet, CSV or JSON"):
        load_task("sst2", str(tmp_path), "from-config", bpe_folder)


def test_a_wrong_column_is_named_with_those_that_are_there(tmp_path, bpe_folder):
    path = write_rows(tmp_path / "rows", SPLITS, "csv", "review")
    with pytest.raises(UserError, match=r"lacks the column 'sentence'; it has review, label.*Rename"):
        load_task("sst2", str(path), "from-config", bpe_folder)


def test_a_missing_split_is_named(tmp_path, bpe_folder):
    path = write_rows(tmp_path / "rows", {"train": SPLITS["train"]}, "jsonl", "sentence")
    with pytest.raises(UserError, match="no split"):
        load_task("sst2", str(path), "from-config", bpe_folder)


def test_one_label_alone_is_an_error(tmp_path, bpe_folder):
    rows = {split: [r for r in rows if r.label] for split, rows in SPLITS.items()}
    path = write_rows(tmp_path / "rows", rows, "jsonl", "sentence")
    with pytest.raises(UserError, match="label"):
        load_task("sst2", str(path), "from-config", bpe_folder)


def test_labels_in_words_are_an_error(tmp_path, bpe_folder):
    rows = {split: [dataclasses.replace(r, label="pos") for r in rows] for split, rows in SPLITS.items()}
    path = write_rows(tmp_path / "rows", rows, "jsonl", "sentence")
    with pytest.raises(UserError, match=r"no usable row.*0 or 1"):
        load_task("sst2", str(path), "from-config", bpe_folder)


def test_a_tokenizer_without_eos_is_an_error(tmp_path, folder, words):
    words.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match="EOS"):
        load_task("sst2", folder, "from-config", str(tmp_path))


def test_an_unreachable_hub_leads_to_local_folders_and_the_tiny_task(monkeypatch, bpe_folder):
    def fail(*args, **kwargs):
        raise ConnectionError("no route to huggingface.co\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"no route.*--dataset.*--task tiny") as caught:
        load_task("sst2", None, "from-config", bpe_folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"tokenizer gpt2 could not be loaded.*--task tiny"):
        load_task("sst2", None, "from-config", None)


# -- the real data


@pytest.fixture(scope="module")
def real(shared_data):
    return load_task("sst2", str(shared_data / "sst2"), "from-config", str(shared_data / "gpt2-tokenizer"))


@pytest.mark.realdata
def test_the_real_rows_are_complete(shared_data):
    rows = read_rows(str(shared_data / "sst2"), "stanfordnlp/sst2", None, "sentence")
    assert (len(rows["train"]), len(rows["validation"])) == (67_349, 872)


@pytest.mark.realdata
def test_the_real_judge_is_right_on_four_rows_in_five(real):
    assert len(real.validation) == 872
    assert real.judge_accuracy > 0.78


@pytest.mark.realdata
def test_the_real_tokenizer_is_trimmed_without_changing_the_split(real, shared_data):
    full = GPT2TokenizerFast.from_pretrained(str(shared_data / "gpt2-tokenizer"))
    assert len(real.tokenizer) < len(full) / 2
    for row in real.train[:300]:
        assert real.tokenizer.tokenize(row.text) == full.tokenize(row.text)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.timeout(1800)
def test_gpt2_at_full_size_takes_a_step_of_each_stage(real, shared_data, weights_of):
    words = load_tokenizer(str(shared_data / "gpt2-tokenizer"), None)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words)))
    assert sum(p.numel() for p in model.parameters()) > 124_000_000
    texts = [r.text for r in real.train[:4]]
    result = train_sft(model, words, texts, texts, SFTConfig(epochs=1, batch_size=4, learning_rate=1e-4), threads=1)
    assert result.validation_losses[1] < result.validation_losses[0]
    reward_model = RewardModel(model)
    pairs = chosen_rejected(from_labels(real.train, 4, "labels", 0))
    scored = train_reward_model(reward_model, words, pairs, RewardConfig(epochs=1, batch_size=4), threads=1)
    assert len(scored.losses) == 1
    config = PPOConfig(updates=1, batch_size=4, minibatch_size=2, epochs=1, learning_rate=1e-5, score_samples=4)
    before = weights_of(model)
    policy, history = train_ppo(model, words, real.train_prompts, model_reward(reward_model), 4, config, threads=1)
    assert history.history[0]["first_log_ratio"] < 1e-5
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert not torch.equal(policy.lm.lm_head.weight, model.lm_head.weight)
