"""What the package's tests share: a toy language model that runs in milliseconds, and a cache of their own."""

from __future__ import annotations

import os

# Read when the libraries are loaded: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from barriers import axe_script
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_utils.generation import sample_texts
from rlhf_utils.tasks import load_task

WORDS = ["<pad>", "<eos>", "<unk>", *["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"]]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_UTILS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        for name in ("SST2", "IMDB", "GPT2", "GPT2_IMDB", "TOKENIZER", "CLASSIFIER", "BOOK"):
            patch.delenv(f"RLHF_UTILS_{name}", raising=False)
        yield


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """A tokenizer of 16 words."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


@pytest.fixture(scope="session")
def make_lm():
    """Makes a random GPT-2 of 8,000 parameters; its distributions are far from uniform."""

    def make(seed: int = 0, dropout: float = 0.0, scale: float = 0.3) -> GPT2LMHeadModel:
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=len(WORDS),
            n_positions=24,
            n_embd=16,
            n_layer=2,
            n_head=2,
            initializer_range=scale,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
        )
        model = GPT2LMHeadModel(config).eval()
        with torch.no_grad():  # GPT-2 starts positions like words; larger ones make a wrong position visible
            model.transformer.wpe.weight.mul_(2)
        return model

    return make


@pytest.fixture(scope="session")
def lm(make_lm) -> GPT2LMHeadModel:
    """A random GPT-2; read-only."""
    return make_lm()


@pytest.fixture(scope="session")
def samples(lm, words):
    """32 samples of unequal lengths, some without EOS."""
    prompts = ["a b c", "d", "e f", "g h i j"] * 8
    drawn = sample_texts(lm, words, prompts, 8, generator=torch.Generator().manual_seed(3))
    assert len(set(drawn.response_mask.sum(-1).tolist())) > 2
    assert 0 < drawn.ended.float().mean() < 1
    return drawn


@pytest.fixture(scope="session")
def tiny():
    """The task ``tiny``; read-only."""
    return load_task("tiny")


@pytest.fixture
def weights_of():
    """A copy of a model's weights by name."""
    return lambda model: {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="session")
def axe():
    """axe-core's script, from npm, or ``None`` where it can't be had."""
    return axe_script()
