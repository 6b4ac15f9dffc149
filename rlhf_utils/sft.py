"""Supervised fine-tuning: next-token prediction on texts that show what is wanted.

The base model's pretraining runs through the same loop on other texts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.models import trunk_states
from rlhf_utils.progress import progress
from rlhf_utils.runtime import evaluating, seed_everything, use_threads
from rlhf_utils.tensors import right_pad, token_logprobs
from rlhf_utils.training import check_finite, make_optimizer


@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised fine-tuning."""

    epochs: float = 2.0  #: passes over the texts; the last may be partial; 0 leaves the model as it is
    batch_size: int = 64  #: texts a step
    learning_rate: float = 1e-3  #: Adam's, at its highest
    warmup: float = 0.05  #: share of the steps over which the rate rises from 0; then a cosine takes it back to 0
    weight_decay: float = 0.01  #: on weights with two or more dimensions
    max_tokens: int = 48  #: longer texts are cut
    max_texts: int | None = None  #: use this many of the texts, drawn at random; None = all
    seed: int = 0  #: of all that is drawn at random


@dataclass(frozen=True)
class SFTResult:
    """What happened in training.

    Attributes:
        steps: steps at which validation was measured.
        losses: training loss of every step, nats a token.
        validation_losses: at ``steps``, nats a token.
    """

    steps: list[int]
    losses: list[float]
    validation_losses: list[float]


def cross_entropy(logits: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
    r"""Mean negative log-likelihood of the tokens that count, in nats.

    .. math:: L = -\frac{\sum_{b,t} m_{b,t} \log p(x_{b,t} \mid x_{b,<t})}{\sum_{b,t} m_{b,t}}

    Args:
        logits: (B, T, V); ``logits[:, t]`` predicts ``input_ids[:, t + 1]``.
        input_ids: (B, T).
        mask: (B, T), 1 = a token to learn. The first column never counts, since nothing predicts it.
    """
    keep = mask[:, 1:].bool()
    # Selecting the tokens that count before the softmax spares the padding's share of the work.
    return -token_logprobs(logits[:, :-1][keep], input_ids[:, 1:][keep]).mean()


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text with EOS behind it, cut to ``max_tokens`` (a cut text has no EOS).

    Args:
        tokenizer: with distinct PAD and EOS.
        texts: each becomes one row.
        max_tokens: longest row, EOS included.
    """
    rows = tokenizer(list(texts), truncation=False)["input_ids"]
    return [[*row, tokenizer.eos_token_id][:max_tokens] for row in rows]


def length_batches(rows: Sequence[Sequence[int]], batch_size: int, rng: random.Random) -> Iterator[list[int]]:
    """Indices of one shuffled pass, each batch of rows of like length, so that little is spent on padding.

    Args:
        rows: token ids; their lengths are what counts.
        batch_size: rows of a batch; the last may have fewer.
        rng: breaks ties of length and shuffles the batches.
    """
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), rng.random()))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    rng.shuffle(batches)
    yield from batches


def batch_loss(model: PreTrainedModel, rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """:func:`cross_entropy` of a batch of token rows; the output layer runs only where a token is predicted.

    Args:
        model: a causal language model.
        rows: token ids, two or more in at least one row; the first of a row isn't predicted.
        pad_id: the id that fills up shorter rows; it doesn't count.

    Returns:
        A scalar with gradient, nats a token.
    """
    ids, mask = (t.to(model.device) for t in right_pad(rows, pad_id))
    keep = mask[:, 1:].bool()
    hidden = trunk_states(model.base_model, ids[:, :-1], mask[:, 1:])  # a row's last token predicts nothing
    logits = model.get_output_embeddings()(hidden[keep].float())
    return -token_logprobs(logits, ids[:, 1:][keep]).mean()


def validation_loss(model: PreTrainedModel, rows: Sequence[Sequence[int]], pad_id: int, batch_size: int = 64) -> float:
    """Loss over all tokens of the rows, nats a token.

    Args:
        model: a causal language model.
        rows: token ids; each token counts the same, whatever its row.
        pad_id: the id that fills up shorter rows; it doesn't count.
        batch_size: rows at a time.
    """
    total, count = 0.0, 0
    ordered = sorted(rows, key=len)
    with evaluating(model):
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            tokens = sum(len(row) - 1 for row in batch)
            total += batch_loss(model, batch, pad_id).item() * tokens
            count += tokens
    return total / count


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    validation_texts: Sequence[str],
    config: SFTConfig,
    threads: int | None = None,
    description: str = "SFT",
) -> SFTResult:
    """Fine-tune a model in place.

    Args:
        model: a causal language model.
        tokenizer: with distinct PAD and EOS.
        texts: what to imitate.
        validation_texts: where the loss is measured, ten times in all.
        config: the settings.
        threads: see :func:`rlhf_utils.runtime.use_threads`.
        description: stands beside the progress bar.

    Raises:
        TrainingError: the loss or the gradient is not finite; the weights are those before that step.
    """
    use_threads(threads)
    seed_everything(config.seed)
    rng = random.Random(config.seed)
    rows = [row for row in encode_texts(tokenizer, texts, config.max_tokens) if len(row) > 1]
    if config.max_texts is not None and config.max_texts < len(rows):
        rows = rng.sample(rows, config.max_texts)
    held_out = [row for row in encode_texts(tokenizer, validation_texts, config.max_tokens) if len(row) > 1]
    pad_id = tokenizer.pad_token_id

    per_epoch = math.ceil(len(rows) / config.batch_size)
    total = max(1, round(config.epochs * per_epoch)) if config.epochs else 0
    optimizer, schedule = make_optimizer(model, config.learning_rate, total, config.warmup, config.weight_decay)
    result = SFTResult([0], [], [validation_loss(model, held_out, pad_id)])
    model.train()
    batches = (batch for _ in range(math.ceil(config.epochs)) for batch in length_batches(rows, config.batch_size, rng))
    bar = progress(range(1, total + 1), description)
    for step in bar:
        loss = batch_loss(model, [rows[i] for i in next(batches)], pad_id)
        check_finite(loss, description, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        check_finite(norm, description, step)
        optimizer.step()
        schedule.step()
        result.losses.append(loss.item())
        bar.set_postfix(loss=f"{result.losses[-1]:.3f}", refresh=False)
        if step % max(1, total // 10) == 0 or step == total:
            result.steps.append(step)
            result.validation_losses.append(validation_loss(model, held_out, pad_id))
    model.eval()
    return result
