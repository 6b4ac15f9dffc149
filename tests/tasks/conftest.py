"""A tokenizer in a folder, and the folder of the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_data import make_rows
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory) -> str:
    """A byte-level BPE tokenizer like GPT-2's, with 400 tokens and, like it, without a PAD."""
    core = ByteLevelBPETokenizer(add_prefix_space=False)
    core.train_from_iterator(
        [r.text for r in make_rows(300)], vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False
    )
    words = PreTrainedTokenizerFast(tokenizer_object=core._tokenizer, eos_token="<|endoftext|>")
    folder = tmp_path_factory.mktemp("bpe")
    words.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real SST-2 and GPT-2's tokenizer."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("RLHF_SHARED_DATA") or beside)
    if not (folder / "sst2").is_dir() or not (folder / "gpt2-tokenizer").is_dir():
        pytest.skip(f"{folder} has no sst2 and gpt2-tokenizer; set RLHF_SHARED_DATA to a folder that has")
    return folder
