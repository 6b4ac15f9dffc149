"""The real thing: GPT-2 on the Stanford Sentiment Treebank, from the hub or from local folders.

The rows are split in two by a hash. Policy and reward model see one half; the judge, a classifier of another
architecture, is trained on the other, so that it can't share the reward model's mistakes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlhf_utils.artifacts import code_hash, make_key, text_hash
from rlhf_utils.errors import UserError
from rlhf_utils.progress import bars_shown
from rlhf_utils.runtime import hub_reachable
from rlhf_utils.tasks.base import Review, Task, check_tokenizer

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MODEL = ("gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e")
DATASET = ("stanfordnlp/sst2", "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb")
PROMPT_WORDS = (2, 3, 4)
MAX_NEW_TOKENS = 24
OFFLINE = "Give local folders (--dataset, --model, --tokenizer), or use --task tiny, which needs no network."


class ClassifierJudge:
    """TF-IDF of words and word pairs with logistic regression: no network and nothing in common with a transformer."""

    name = "TF-IDF judge"

    def __init__(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        if len(set(labels)) < 2:
            raise UserError(
                "The judge's half of the training rows has fewer than two labels.",
                "Give more rows, with labels 0 and 1.",
            )
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        self._pipeline: Pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
            LogisticRegression(C=10.0, max_iter=1000),
        )
        self._pipeline.fit(list(texts), list(labels))

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The classifier's log-odds of "positive"."""
        return self._pipeline.decision_function([text.strip() for text in texts]).tolist()


def side(text: str, parts: int) -> int:
    """Which of ``parts`` equal shares a text falls into, by its hash."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % parts


def read_rows(dataset: str | None, name: str, revision: str | None, text_column: str) -> dict[str, list[Review]]:
    """Labelled rows of the splits ``train`` and ``validation`` (or ``test``).

    Args:
        dataset: a local folder, or None for the hub.
        name: of the data set on the hub.
        revision: pinned commit on the hub.
        text_column: holds the text.

    Raises:
        UserError: the folder is missing or empty, a column is missing, or the hub can't be reached.
    """
    import datasets

    if not bars_shown():
        datasets.disable_progress_bars()

    if dataset is not None and not Path(dataset).exists():
        raise UserError(f"The data set folder {dataset} does not exist.", OFFLINE)
    try:
        if not dataset and not hub_reachable():
            datasets.config.HF_HUB_OFFLINE = True  # take what an earlier run has cached, and ask nobody
        splits = datasets.load_dataset(dataset) if dataset else datasets.load_dataset(name, revision=revision)
    except Exception as error:
        if dataset:
            raise UserError(
                f"No data set could be read from {dataset} ({first_line(error)}).",
                "Put parquet, CSV or JSON lines files into it, named after the splits train and validation.",
            ) from None
        raise UserError(f"{name} could not be fetched from the hub ({first_line(error)}).", OFFLINE) from None
    held_out = "test" if "test" in splits and "validation" not in splits else "validation"
    rows = {}
    for split, source in (("train", "train"), ("validation", held_out)):
        if source not in splits:
            raise UserError(f"The data set has no split {source}; it has {', '.join(splits)}.", "Name its files so.")
        columns = splits[source].column_names
        missing = [c for c in (text_column, "label") if c not in columns]
        if missing:
            raise UserError(
                f"The split {source} lacks the column {missing[0]!r}; it has {', '.join(columns)}.",
                f"Rename the columns to {text_column!r} (text) and 'label' (1 = positive, 0 = negative).",
            )
        table = splits[source]
        rows[split] = [
            Review(text.strip(), int(label))
            for text, label in zip(table[text_column], table["label"], strict=True)
            if text and text.strip() and label in (0, 1)
        ]
        if not rows[split]:
            raise UserError(f"The split {source} has no usable row.", "Each row needs a text and a label of 0 or 1.")
    return rows


def first_line(error: Exception) -> str:
    """An exception's first line, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]


def is_missing_folder(source: str) -> bool:
    """Whether a source is meant as a folder that isn't there; ``owner/name`` may be a repository on the hub."""
    meant = source.startswith((".", "~", "/", "\\")) or source.count("/") > 1 or ":" in source
    return meant and not Path(source).exists()


def hub_options(source: str, revision: str | None = None) -> dict[str, object]:
    """What ``from_pretrained`` needs to know: a folder has no revision, and without a network only the cache counts."""
    if Path(source).exists():
        return {}
    return {"revision": revision, "local_files_only": not hub_reachable()}


def load_tokenizer(source: str, revision: str | None) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or the hub, padded on the left, with a PAD of its own.

    Raises:
        UserError: it can't be loaded, or has no EOS.
    """
    if is_missing_folder(source):
        raise UserError(f"The tokenizer folder {source} does not exist.", OFFLINE)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **hub_options(source, revision))
    except Exception as error:
        raise UserError(f"The tokenizer {source} could not be loaded ({first_line(error)}).", OFFLINE) from None
    tokenizer.padding_side = "left"
    return check_tokenizer(tokenizer, add_pad=True)


def trim_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer cut down to the tokens that the texts need; the texts are still split as before.

    A model from nothing spends most of its time in the softmax over GPT-2's 50,257 tokens, most of which never occur.
    Kept are the tokens that occur, the parts that they are merged from, and all single bytes, so any text can be read.

    Args:
        tokenizer: a fast tokenizer; one whose model isn't BPE is returned as it is.
        texts: what will be read.
    """
    layout = json.loads(tokenizer.backend_tokenizer.to_str())
    if layout["model"]["type"] != "BPE":
        return tokenizer
    names = tokenizer.convert_ids_to_tokens(sorted({i for row in tokenizer(list(texts))["input_ids"] for i in row}))
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in layout["model"]["merges"]]
    parts = {"".join(merge): merge for merge in merges}
    kept = {token for token in layout["model"]["vocab"] if len(token) == 1}
    queue = list(names)
    while queue:
        token = queue.pop()
        if token not in kept:
            kept.add(token)
            queue.extend(parts.get(token, ()))
    special = [tokenizer.pad_token, tokenizer.eos_token]
    ordered = special + [t for t in layout["model"]["vocab"] if t in kept and t not in special]
    layout["model"]["vocab"] = {token: i for i, token in enumerate(ordered)}
    layout["model"]["merges"] = [list(m) for m in merges if "".join(m) in kept and set(m) <= kept]
    template = layout["added_tokens"][0]
    layout["added_tokens"] = [
        {**template, "id": i, "content": token, "special": True} for i, token in enumerate(special)
    ]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(layout)),
        pad_token=tokenizer.pad_token,
        eos_token=tokenizer.eos_token,
        padding_side="left",
    )


def small_config(tokenizer: PreTrainedTokenizerBase) -> GPT2Config:
    """A two-layer GPT-2 for training from nothing on a CPU."""
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=128,
        n_layer=2,
        n_head=4,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def load_model(source: str, revision: str | None, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A causal model from a folder, from the hub or (``from-config``) at random initialisation.

    Raises:
        UserError: it can't be loaded.
    """
    if source == "from-config":
        torch.manual_seed(0)
        return GPT2LMHeadModel(small_config(tokenizer)).eval()
    if is_missing_folder(source):
        raise UserError(f"The model folder {source} does not exist.", OFFLINE)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **hub_options(source, revision))
    except Exception as error:
        raise UserError(f"The model {source} could not be loaded ({first_line(error)}).", OFFLINE) from None
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer))  # a row for the PAD that was added
    return model.eval()


def word_prompts(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The first two to four words of texts longer than that, distinct; four in five to train on, by hash."""
    found = []
    for text in texts:
        words = text.split()
        length = PROMPT_WORDS[side(text, len(PROMPT_WORDS))]
        if len(words) > length + 2:
            found.append(" ".join(words[:length]))
    distinct = list(dict.fromkeys(found))
    train, held_out = [p for p in distinct if side(p, 5)], [p for p in distinct if not side(p, 5)]
    if not train or not held_out:
        raise UserError(
            "Too few texts are long enough to take a prompt from.", "Give more texts of seven or more words."
        )
    return train, held_out


def load(dataset: str | None = None, model: str | None = None, tokenizer: str | None = None) -> Task:
    """The task ``sst2``.

    Args:
        dataset: folder with the splits train and validation; else ``RLHF_UTILS_SST2``, else the hub.
        model: folder, hub name or ``from-config``; else ``RLHF_UTILS_GPT2``, else ``gpt2`` from the hub.
        tokenizer: folder or hub name; else ``RLHF_UTILS_TOKENIZER``, else the model's own.

    Raises:
        UserError: something can't be loaded.
    """
    dataset = dataset or os.environ.get("RLHF_UTILS_SST2")
    source = model or os.environ.get("RLHF_UTILS_GPT2") or MODEL[0]
    words_from = (
        tokenizer or os.environ.get("RLHF_UTILS_TOKENIZER") or (MODEL[0] if source == "from-config" else source)
    )
    words = load_tokenizer(words_from, MODEL[1] if words_from == MODEL[0] else None)
    rows = read_rows(dataset, *DATASET, text_column="sentence")
    if source == "from-config":
        words = trim_tokenizer(words, [r.text for r in rows["train"]])
    ours = [r for r in rows["train"] if side(r.text, 2) == 0]
    others = [r for r in rows["train"] if side(r.text, 2) == 1]
    judge = ClassifierJudge([r.text for r in others], [r.label for r in others])
    verdicts = judge.scores([r.text for r in rows["validation"]])
    train_prompts, eval_prompts = word_prompts([r.text for r in ours])
    return Task(
        name="sst2",
        tokenizer=words,
        load_base_model=lambda: load_model(source, MODEL[1] if source == MODEL[0] else None, words),
        train=ours,
        validation=rows["validation"],
        train_prompts=train_prompts,
        eval_prompts=eval_prompts,
        judge=judge,
        judge_accuracy=fmean((s > 0) == (r.label == 1) for s, r in zip(verdicts, rows["validation"], strict=True)),
        feedback="labels",
        max_new_tokens=MAX_NEW_TOKENS,
        key=make_key(
            model=source,
            tokenizer=words_from,
            texts=text_hash(r.text for r in rows["train"]),
            code=code_hash("rlhf_utils.tasks.sst2"),
        ),
    )
