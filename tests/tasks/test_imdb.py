import datasets
import pytest
import torch
from small_data import make_rows, write_rows
from transformers import AutoTokenizer, DistilBertConfig, DistilBertForSequenceClassification

from rlhf_utils.errors import UserError
from rlhf_utils.pipeline import default_settings
from rlhf_utils.reward import text_reward
from rlhf_utils.tasks import load_task
from rlhf_utils.tasks.base import Review
from rlhf_utils.tasks.imdb import MAX_WORDS, beginning, classifier_reward

SPLITS = {"train": make_rows(400), "test": make_rows(60, seed=1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_rows(tmp_path_factory.mktemp("imdb") / "rows", SPLITS, "csv", "text"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, bpe_folder):
    """A random DistilBERT with its tokenizer, in a folder."""
    path = tmp_path_factory.mktemp("classifier")
    words = AutoTokenizer.from_pretrained(bpe_folder)
    words.add_special_tokens({"pad_token": "<|pad|>"})
    words.save_pretrained(path)
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(words), dim=16, hidden_dim=32, n_heads=2, n_layers=1, num_labels=2, max_position_embeddings=64
    )
    DistilBertForSequenceClassification(config).save_pretrained(path)
    return str(path)


@pytest.fixture
def task(folder, bpe_folder, classifier, monkeypatch):
    monkeypatch.setenv("RLHF_UTILS_CLASSIFIER", classifier)
    return load_task("imdb", folder, "from-config", bpe_folder)


def test_a_review_is_cut_to_its_beginning_without_tags():
    assert beginning(Review("one<br /><br />two  three", 1)) == Review("one two three", 1)
    assert len(beginning(Review("word " * 500, 0)).text.split()) == MAX_WORDS


def test_judge_and_policy_have_rows_of_their_own(task):
    ours = {r.text for r in task.train}
    assert 0.4 < len(ours) / 400 < 0.6
    assert len(task.validation) == 60
    assert not ours & {r.text for r in task.validation}
    assert task.judge_accuracy > 0.9
    assert not set(task.train_prompts) & set(task.eval_prompts)
    assert task.train_prompts
    assert task.eval_prompts


def test_the_reward_is_the_positive_logit_in_any_batch(classifier):
    texts = [r.text for r in SPLITS["test"][:5]]
    together, alone = classifier_reward(classifier)(texts), classifier_reward(classifier, batch_size=1)(texts)
    assert together == pytest.approx(alone, abs=1e-5)
    words = AutoTokenizer.from_pretrained(classifier)
    model = DistilBertForSequenceClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        logits = model(**words(texts[0], return_tensors="pt")).logits[0]
    assert together[0] == pytest.approx(logits[1].item(), abs=1e-5)


def test_a_tokenizer_that_pads_on_the_left_changes_no_score(classifier, tmp_path):
    words = AutoTokenizer.from_pretrained(classifier, padding_side="left")
    words.save_pretrained(tmp_path)
    DistilBertForSequenceClassification.from_pretrained(classifier).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == "left"
    texts = ["a good film", "a film that nobody should have to see twice , and it is long"]
    assert classifier_reward(str(tmp_path))(texts) == pytest.approx(classifier_reward(classifier)(texts), abs=1e-6)


def test_the_reward_plugs_into_ppo(task):
    from rlhf_utils.generation import sample_texts

    samples = sample_texts(task.load_base_model(), task.tokenizer, task.train_prompts[:3], 4)
    scores = text_reward(task.load_reward(), task.tokenizer)(samples)
    assert scores.shape == (3,)
    assert torch.isfinite(scores).all()


def test_any_function_can_be_the_reward(folder, bpe_folder):
    from rlhf_utils.tasks.imdb import load

    task = load(folder, "from-config", bpe_folder, load_reward=lambda: lambda texts: [1.0] * len(texts))
    assert task.load_reward()(["x", "y"]) == [1.0, 1.0]


def test_there_are_settings_for_it(task):
    settings = default_settings(task)
    assert settings.sft.epochs > 0  # from nothing, the texts must be learnt first


def test_a_missing_classifier_is_an_error(monkeypatch, folder, bpe_folder, tmp_path):
    monkeypatch.setenv("RLHF_UTILS_CLASSIFIER", str(tmp_path / "none"))
    task = load_task("imdb", folder, "from-config", bpe_folder)
    with pytest.raises(UserError, match=r"classifier .*none could not be loaded.*--task tiny"):
        task.load_reward()


def test_an_unreachable_hub_leads_to_local_folders_and_the_tiny_task(monkeypatch, bpe_folder):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"stanfordnlp/imdb could not be fetched.*--task tiny"):
        load_task("imdb", None, "from-config", bpe_folder)


def test_a_wrong_column_is_named(tmp_path, bpe_folder):
    path = write_rows(tmp_path / "rows", SPLITS, "jsonl", "sentence")
    with pytest.raises(UserError, match="lacks the column 'text'; it has sentence, label"):
        load_task("imdb", str(path), "from-config", bpe_folder)
