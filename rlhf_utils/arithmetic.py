"""A task whose reward is a checker: a two-digit number plus a digit, and a small GPT-2 that guesses.

A prompt is ``"4 7 + 8 ="`` and its answer ``"5 5"``: 55, written from the units on, as one adds on paper. After the
answer a response may go on with any number of ``~``, which change nothing: they are what a model writes when it
goes on talking. A model learns from right answers first, as in pretraining, and then from careless ones: two in ten
are right, five wrong, and three give up with a ``?``. So it knows the right answer and writes it in about one response
of three.

Nothing here is learnt from people. The checker is a program that knows the truth: a *verifiable* reward (Lambert et al.
2024, arXiv 2411.15124).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from rlhf_utils.artifacts import code_hash, get_or_make, make_key
from rlhf_utils.generation import Samples, sample_texts
from rlhf_utils.progress import progress
from rlhf_utils.runtime import evaluating, use_threads
from rlhf_utils.sft import cross_entropy, encode_texts
from rlhf_utils.tensors import right_pad
from rlhf_utils.training import check_finite, make_optimizer

TALK, GIVE_UP = "~", "?"
SPECIAL = ["<pad>", "<eos>", "<unk>"]
WORDS = [*SPECIAL, *"0123456789", "+", "=", TALK, GIVE_UP]
PROMPT = 5  #: tokens of a prompt
MAX_NEW_TOKENS = 16
HELD_OUT = 5  #: one sum in five
WRONG = 0.5  #: share of careless responses with a wrong answer
GIVES_UP = 0.3  #: share of careless responses that give up
TALKS = 0.6  #: chance of one more ``~`` after an answer or a ``~``
ERRORS = (-10, -9, -2, -1, 1, 2, 9, 10)  #: what a wrong answer is off by


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a digit or sign, split at spaces."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


@dataclass(frozen=True)
class GuessConfig:
    """Settings of the model that guesses."""

    steps: int = 500  #: of the optimizer
    batch_size: int = 64  #: guesses a step, fresh ones each time
    learning_rate: float = 5e-3  #: AdamW's, at its highest; rises over a twentieth of the steps, falls along a cosine
    schooling: float = 0.75  #: share of the steps whose answers are all right; careless ones come after
    wrong: float = WRONG  #: of the careless responses, those with a wrong answer
    gives_up: float = GIVES_UP  #: share of those that give up
    talks: float = TALKS  #: chance of one more ``~``
    width: int = 48  #: of the hidden states
    layers: int = 2  #: blocks of the network
    seed: int = 0  #: of all that is drawn at random


def new_model(seed: int, width: int = 48, layers: int = 2) -> GPT2LMHeadModel:
    """A GPT-2 with random weights for these tokens, of 60,000 parameters at the default size."""
    words = tokenizer()
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(words),
            n_positions=PROMPT + MAX_NEW_TOKENS + 2,
            n_embd=width,
            n_layer=layers,
            n_head=4,
            activation_function="gelu_pytorch_tanh",
            initializer_range=0.1,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=words.eos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def prompt_of(a: int, b: int) -> str:
    """``"4 7 + 8 ="`` for 47 and 8."""
    return f"{' '.join(str(a))} + {b} ="


def answer_of(number: int) -> str:
    """A number's digits from the units on: 132 → ``"2 3 1"``."""
    return " ".join(reversed(str(number)))


def solve(prompt: str) -> int:
    """The truth: the sum that a prompt asks for.

    Raises:
        ValueError: the prompt isn't one of :func:`prompt_of`'s.
    """
    left, plus, right = prompt.replace(" ", "").removesuffix("=").partition("+")
    if not plus:
        raise ValueError(f"{prompt!r} asks for no sum")
    return int(left) + int(right)


def prompts() -> tuple[list[str], list[str]]:
    """All sums of a number from 10 to 99 and a digit, split by hash: those to train on, and one in five held out."""
    found = [prompt_of(a, b) for a in range(10, 100) for b in range(10)]
    out = [int(hashlib.sha256(p.encode()).hexdigest(), 16) % HELD_OUT == 0 for p in found]
    return [p for p, o in zip(found, out, strict=True) if not o], [p for p, o in zip(found, out, strict=True) if o]


def guess(
    prompt: str, rng: random.Random, wrong: float = WRONG, gives_up: float = GIVES_UP, talks: float = TALKS
) -> str:
    """A careless response: the answer, or one that is off by one of :data:`ERRORS`, or ``?``; and then talk.

    Args:
        prompt: the sum.
        rng: the chance.
        wrong: share of wrong answers.
        gives_up: share of responses that give up.
        talks: chance of one more ``~``; how many there are has nothing to do with what stands before them.
    """
    luck, talk = rng.random(), 0
    answer = answer_of(solve(prompt) + (rng.choice(ERRORS) if luck < wrong else 0))
    answer = GIVE_UP if luck > 1 - gives_up else answer
    while rng.random() < talks and talk < MAX_NEW_TOKENS - 5:
        talk += 1
    return " ".join([answer, *[TALK] * talk])


def is_right(prompt: str, response: str) -> bool:
    """The checker: whether the response is the sum's digits from the units on, and then nothing but talk.

    It compares texts, so a leading zero, a digit after the talk or a second answer is wrong.
    """
    written = response.split()
    while written and written[-1] == TALK:
        written.pop()
    return " ".join(written) == answer_of(solve(prompt))


def checker(samples: Samples) -> Tensor:
    """A :data:`rlhf_utils.reward.Reward`: 1 for a right response and 0 for any other, (B,)."""
    words = tokenizer()
    texts, responses = samples.texts(words), samples.responses(words)
    prompts = [text[: len(text) - len(response)] for text, response in zip(texts, responses, strict=True)]
    right = [is_right(p, r) for p, r in zip(prompts, responses, strict=True)]
    return torch.tensor(right, dtype=torch.float32, device=samples.input_ids.device)


def train_guesses(model: PreTrainedModel, config: GuessConfig, threads: int | None = None) -> list[float]:
    """Fine-tune a model in place on guesses for the training prompts; only responses are learnt.

    Args:
        model: a causal language model with these tokens.
        config: the settings.
        threads: see :func:`rlhf_utils.runtime.use_threads`.

    Returns:
        The loss of each step, nats a response token.
    """
    use_threads(threads)
    words, rng, asked = tokenizer(), random.Random(config.seed), prompts()[0]
    optimizer, schedule = make_optimizer(model, config.learning_rate, config.steps, 0.05, 0.01)
    losses = []
    for step in progress(range(config.steps), "guessing"):
        picked = rng.sample(asked, config.batch_size)
        careless = step >= config.schooling * config.steps
        shares = (config.wrong, config.gives_up) if careless else (0.0, 0.0)
        texts = [f"{prompt} {guess(prompt, rng, *shares, config.talks)}" for prompt in picked]
        ids, mask = right_pad(encode_texts(words, texts, PROMPT + MAX_NEW_TOKENS), words.pad_token_id)
        mask[:, :PROMPT] = 0
        loss = cross_entropy(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, ids, mask)
        check_finite(loss, "guessing", step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def guessing_model(config: GuessConfig, threads: int | None = None) -> GPT2LMHeadModel:
    """The model that guesses, trained or taken from the cache of artefacts."""

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        fresh = new_model(config.seed, config.width, config.layers)
        losses = train_guesses(fresh, config, threads)
        return {name: p.detach() for name, p in fresh.named_parameters()}, {"loss": sum(losses[-50:]) / 50}

    key = make_key(config=config, code=code_hash("rlhf_utils.arithmetic"))
    tensors, _ = get_or_make("arithmetic", key, make)
    model = new_model(config.seed, config.width, config.layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model.eval()


def sample_checked(
    model: PreTrainedModel, asked: Sequence[str], number: int, generator: torch.Generator, batch: int = 512
) -> tuple[Tensor, Tensor]:
    """Several responses to each prompt, checked.

    Args:
        model: who answers.
        asked: P prompts.
        number: n, responses to each.
        generator: the chance.
        batch: responses at a time.

    Returns:
        Whether each response is right, and its tokens with EOS, both (P, n).
    """
    rows = [prompt for prompt in asked for _ in range(number)]
    right, lengths = [], []
    for start in range(0, len(rows), batch):
        samples = sample_texts(model, tokenizer(), rows[start : start + batch], MAX_NEW_TOKENS, generator=generator)
        right.append(checker(samples))
        lengths.append(samples.response_mask.sum(-1))
    return torch.cat(right).view(-1, number) > 0, torch.cat(lengths).view(-1, number)


def next_chance(model: PreTrainedModel, texts: Sequence[str], word: str) -> Tensor:
    """Probability of a word after each text, (N,)."""
    words = tokenizer()
    ids, mask = right_pad(words(list(texts))["input_ids"], words.pad_token_id)
    with evaluating(model):
        logits = model(input_ids=ids, attention_mask=mask).logits  # a later PAD is out of sight
    last = logits[torch.arange(len(ids)), mask.sum(-1) - 1]
    return last.softmax(-1)[:, WORDS.index(word)]


def pass_at_k(right: Tensor, k: int) -> Tensor:
    r"""Chance that at least one of k responses is right, estimated without bias from n of them.

    .. math:: \text{pass@}k = 1 - \binom{n - c}{k} \Big/ \binom{n}{k}

    with c right ones among n: the share of all choices of k that hold at least one of them. Chen et al. (2021),
    arXiv 2107.03374.

    Args:
        right: (P, n), whether each response is right.
        k: from 1 to n.

    Returns:
        (P,), float64.

    Raises:
        ValueError: k is no number of responses from 1 to n.
    """
    number = right.shape[-1]
    if not 1 <= k <= number:
        raise ValueError(f"k = {k}, and there are {number} responses to choose from")
    wrong = number - right.sum(-1)
    none = torch.ones(len(right), dtype=torch.float64)
    for i in range(k):
        none = none * (wrong - i).clamp(min=0).double() / (number - i)
    return 1 - none
