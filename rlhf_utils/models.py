"""The networks around a causal language model: a policy with a value head, and a reward model.

Any Hugging Face causal model works; GPT-2 is what the book uses. Every forward pass sends position ids that follow the
mask, since GPT-2 counts padding otherwise.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_utils.runtime import autocast
from rlhf_utils.tensors import entropy, position_ids, scatter, token_logprobs
from rlhf_utils.unpadded import can_unpad, unpadded_states


def trunk_states(trunk: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states of a trunk, in the precision that suits the device. (B, T) → (B, T, d).

    What stands at the padding is 0 or without meaning: no real token looks at it.

    Args:
        trunk: a transformer without its output layer.
        input_ids: (B, T), padded on either side.
        attention_mask: (B, T), 1 = a real token, 0 = padding.
    """
    with autocast(input_ids.device):
        if can_unpad(trunk):
            return unpadded_states(trunk, input_ids, attention_mask)
        out = trunk(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
        )
    return out.last_hidden_state


def response_hidden(trunk: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_length: int) -> Tensor:
    """Hidden states that predict the response. (B, T) → (B, R, d).

    The state at position t speaks of token t + 1. So a row's last token isn't read at all, and the output layer runs on
    R positions instead of T.

    Args:
        trunk: a transformer without its output layer.
        input_ids: (B, T), the prompt padded on the left, the response on the right.
        attention_mask: (B, T), 1 = a real token, 0 = padding.
        response_length: R, the number of response columns at the end of the rows.
    """
    has_successor = attention_mask[:, :-1] * attention_mask[:, 1:]
    return trunk_states(trunk, input_ids[:, :-1], has_successor)[:, -response_length:]


def response_logprobs(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_length: int,
    temperature: float = 1.0,
) -> Tensor:
    r"""Log-probabilities :math:`\log\pi(y_t \mid x, y_{<t})` of the last R tokens of each row.

    Args:
        model: a causal language model.
        input_ids: prompt and response, (B, T).
        attention_mask: (B, T), 1 = a real token.
        response_length: R, in tokens.
        temperature: logits are divided by it here just as in sampling, else ratio and KL speak of another policy.

    Returns:
        (B, R).
    """
    hidden = response_hidden(model.base_model, input_ids, attention_mask, response_length)
    real = attention_mask[:, -response_length:].bool()
    logits = model.get_output_embeddings()(hidden[real].float()) / temperature
    return scatter(token_logprobs(logits, input_ids[:, -response_length:][real]), real)


class PolicyOutput(NamedTuple):
    """What PPO needs of each response token; 0 where the attention mask is 0.

    Attributes:
        logprobs: log-probability of the token, (B, R).
        values: estimate before the token, (B, R).
        entropies: of the distribution that the token was drawn from, nats, without gradient, (B, R); None unless asked.
    """

    logprobs: Tensor
    values: Tensor
    entropies: Tensor | None


class PolicyWithValueHead(nn.Module):
    """A language model and a linear value head on its last hidden state.

    The head starts at zero, so that the first advantages are the rewards-to-go themselves and not noise.

    Args:
        lm: the language model; it is trained in place.
        value_trunk: the head reads this trunk's states in place of the language model's own: a separate value model,
            which makes an update 1.6 to 1.7 times as dear. It is trained in place.
    """

    def __init__(self, lm: PreTrainedModel, value_trunk: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.lm = lm
        self.value_trunk = value_trunk
        self.value_head = nn.Linear(lm.config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_length: int,
        temperature: float = 1.0,
        entropies: bool = False,
    ) -> PolicyOutput:
        """One pass for all that PPO needs of the last R tokens.

        Args:
            input_ids: prompt and response, (B, T).
            attention_mask: (B, T), 1 = a real token.
            response_length: R, in tokens.
            temperature: divides the logits.
            entropies: whether to compute them; an update doesn't need them.
        """
        real = attention_mask[:, -response_length:].bool()
        hidden = response_hidden(self.lm.base_model, input_ids, attention_mask, response_length)[real].float()
        logits = self.lm.get_output_embeddings()(hidden) / temperature
        logprobs = token_logprobs(logits, input_ids[:, -response_length:][real])
        if self.value_trunk is not None:
            hidden = response_hidden(self.value_trunk, input_ids, attention_mask, response_length)[real].float()
        values = self.value_head(hidden).squeeze(-1)
        spread = scatter(entropy(logits.detach()), real) if entropies else None
        return PolicyOutput(scatter(logprobs, real), scatter(values, real), spread)


class RewardModel(nn.Module):
    r"""A trunk and a linear head that reads the last real token: :math:`r(x, y) = w^\top h_\text{last} + b`.

    The head starts at standard deviation :math:`1/\sqrt{d+1}` and bias 0 (Ziegler et al. 2019). A pairwise loss leaves
    the offset free; PPO shifts and scales the scores before it uses them.

    Args:
        lm: the language model whose trunk is copied; it is left as it is.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(lm.base_model)
        width = lm.config.hidden_size
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1))
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores (B,). Rows (B, T) may be padded on either side: the last position with mask 1 is read.

        Args:
            input_ids: prompt and response, cut at EOS.
            attention_mask: (B, T), 1 = a real token, 0 = padding.
        """
        states = trunk_states(self.trunk, input_ids, attention_mask)
        steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        last = (attention_mask * steps).argmax(-1)
        hidden = states[torch.arange(len(last), device=last.device), last]
        return self.head(hidden.float()).squeeze(-1)
