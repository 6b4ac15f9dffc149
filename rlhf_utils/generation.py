"""Batched sampling from a causal language model with a KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.errors import UserError
from rlhf_utils.runtime import autocast, evaluating
from rlhf_utils.tensors import left_pad, position_ids


@dataclass(frozen=True)
class Samples:
    """Prompts and what a policy wrote after them.

    Attributes:
        input_ids: left-padded prompt and response side by side, (B, P + R); after a response's EOS stands PAD.
        attention_mask: (B, P + R), 1 = a real token; the response's EOS is one.
        response_mask: (B, R), 1 = a token that the policy chose, its EOS included.
        ended: (B,), whether the response has an EOS.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    ended: Tensor

    @property
    def response_length(self) -> int:
        """R, the number of response columns."""
        return self.response_mask.shape[1]

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Prompts and responses as one text each, without EOS.

        Args:
            tokenizer: that of the model which wrote them.
        """
        return self._decode(tokenizer, self.input_ids, self.attention_mask)

    def responses(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """The responses, without EOS and with their leading space: prompt + response is the whole text.

        Args:
            tokenizer: that of the model which wrote them.
        """
        prompt = slice(None, -self.response_length)
        prompts = self._decode(tokenizer, self.input_ids[:, prompt], self.attention_mask[:, prompt])
        return [text[len(p) :] for text, p in zip(self.texts(tokenizer), prompts, strict=True)]

    @staticmethod
    def _decode(tokenizer: PreTrainedTokenizerBase, ids: Tensor, mask: Tensor) -> list[str]:
        rows = [row[keep.bool()].tolist() for row, keep in zip(ids.cpu(), mask.cpu(), strict=True)]
        eos = tokenizer.eos_token_id
        rows = [row[:-1] if row and row[-1] == eos else row for row in rows]
        return tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], context: int, max_new_tokens: int
) -> tuple[Tensor, Tensor]:
    """Token ids and mask of the prompts, left-padded, (B, P).

    Args:
        tokenizer: with distinct PAD and EOS.
        prompts: at least one; each at least one token long.
        context: the model's number of positions.
        max_new_tokens: how many tokens will be added.

    Raises:
        UserError: a prompt is empty, or too long for the context.
    """
    rows = tokenizer(list(prompts))["input_ids"]
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise UserError("A prompt is empty.", "Give at least one word.")
        if len(row) + max_new_tokens > context:
            raise UserError(
                f"The prompt {prompt[:40]!r}… has {len(row)} tokens; with {max_new_tokens} new ones that exceeds the "
                f"model's context of {context}.",
                f"Shorten it to {max(context - max_new_tokens, 0)} tokens, or lower --max-new-tokens.",
            )
    return left_pad(rows, tokenizer.pad_token_id)


def sample_tokens(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token from each row of logits by inverting its cumulative distribution. (B, V) → (B,).

    Args:
        logits: (B, V).
        uniform: (B,), numbers in [0, 1).
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    # Rounding can leave the last sum below the uniform number; the clamp keeps the index inside the vocabulary.
    # From the right: a uniform number of exactly 0 must not draw a token of probability 0.
    drawn = torch.searchsorted(cumulative, uniform.unsqueeze(-1) * cumulative[:, -1:], right=True)
    return drawn.squeeze(-1).clamp(max=logits.shape[-1] - 1)


def sample(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    temperature: float = 1.0,
    uniform: Tensor | None = None,
) -> Samples:
    """Sample a response to each prompt, from the whole distribution: no top-k, top-p or minimum length.

    Truncated sampling would draw from another policy than the one whose log-probabilities PPO compares.

    Args:
        model: a causal language model.
        prompt_ids: left-padded prompts, (B, P).
        prompt_mask: (B, P), 1 = a real token.
        max_new_tokens: R is at most this; sampling stops when every row has ended.
        eos_id: ends a response.
        pad_id: stands after it.
        temperature: divides the logits.
        uniform: (B, max_new_tokens), in [0, 1), the chance behind each token; fresh numbers if None. A row's response
            depends on its own numbers alone, whatever the rest of the batch is.
    """
    device = prompt_ids.device
    uniform = (torch.rand(len(prompt_ids), max_new_tokens) if uniform is None else uniform).to(device)
    ids, mask = prompt_ids, prompt_mask
    alive = torch.ones(len(ids), dtype=torch.bool, device=device)
    cache = DynamicCache(config=model.config)
    step_ids, step_positions = ids, position_ids(mask)
    response_mask = []
    with evaluating(model), autocast(device):
        for step in range(max_new_tokens):
            hidden = model.base_model(
                input_ids=step_ids,
                attention_mask=mask,
                position_ids=step_positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            logits = model.get_output_embeddings()(hidden.float()).float() / temperature
            token = sample_tokens(logits, uniform[:, step]).masked_fill(~alive, pad_id)
            response_mask.append(alive)
            step_ids, step_positions = token.unsqueeze(-1), step_positions[:, -1:] + 1
            ids = torch.cat([ids, step_ids], -1)
            mask = torch.cat([mask, alive.long().unsqueeze(-1)], -1)
            alive = alive & (token != eos_id)
            if not alive.any():
                break
    return Samples(ids, mask, torch.stack(response_mask, -1).long(), ~alive)


def sample_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    rows: slice = slice(None),
) -> Samples:
    """Encode the prompts and :func:`sample` a response to each.

    Args:
        model: a causal language model.
        tokenizer: with distinct PAD and EOS.
        prompts: the openings.
        max_new_tokens: cap on a response's length.
        temperature: divides the logits.
        generator: on the CPU, so that the same seed gives the same numbers whatever the device.
        rows: answer only these prompts, as they would be answered among all: one process's share of a batch.
    """
    ids, mask = encode_prompts(tokenizer, prompts, model.config.max_position_embeddings, max_new_tokens)
    return sample(
        model,
        ids[rows].to(model.device),
        mask[rows].to(model.device),
        max_new_tokens,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        temperature,
        torch.rand(len(prompts), max_new_tokens, generator=generator)[rows],
    )
