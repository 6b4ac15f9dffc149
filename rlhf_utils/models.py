"""The networks around a causal language model: a policy with a value head, and a reward model.

Any Hugging Face causal model works; GPT-2 is what the book uses. Every forward pass sends position ids that follow the
mask, since GPT-2 counts padding otherwise.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_utils.runtime import autocast
from rlhf_utils.tensors import entropy, position_ids, token_logprobs


def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states of a causal model's trunk, without the output layer. (B, T) → (B, T, d)."""
    return trunk_states(model.base_model, input_ids, attention_mask)


def trunk_states(trunk: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states of a trunk, in the precision that suits the device. (B, T) → (B, T, d)."""
    with autocast(input_ids.device):
        out = trunk(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
        )
    return out.last_hidden_state


def response_hidden(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, response_length: int) -> Tensor:
    """Hidden states that predict the response. (B, T) → (B, R, d).

    The state at position t speaks of token t + 1, so the window starts one position before the response and ends one
    before the last token. The output layer then runs on R positions instead of T.
    """
    return hidden_states(model, input_ids, attention_mask)[:, -response_length - 1 : -1]


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
        response_length: R.
        temperature: logits are divided by it here just as in sampling, else ratio and KL speak of another policy.

    Returns:
        (B, R).
    """
    hidden = response_hidden(model, input_ids, attention_mask, response_length)
    logits = model.get_output_embeddings()(hidden.float()) / temperature
    return token_logprobs(logits, input_ids[:, -response_length:])


class PolicyWithValueHead(nn.Module):
    """A language model and a linear value head on its last hidden state.

    The head starts at zero, so that the first advantages are the rewards-to-go themselves and not noise.

    Args:
        lm: the language model; it is trained in place.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm
        self.value_head = nn.Linear(lm.config.hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, response_length: int, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass for all that PPO needs of the last R tokens.

        Args:
            input_ids: prompt and response, (B, T).
            attention_mask: (B, T), 1 = a real token.
            response_length: R.
            temperature: divides the logits.

        Returns:
            ``logprobs`` of the tokens, ``values`` before each token, and ``entropies`` in nats; each (B, R).
            ``entropies`` carry no gradient.
        """
        hidden = response_hidden(self.lm, input_ids, attention_mask, response_length)
        logits = self.lm.get_output_embeddings()(hidden.float()) / temperature
        logprobs = token_logprobs(logits, input_ids[:, -response_length:])
        values = self.value_head(hidden.float()).squeeze(-1)
        return logprobs, values, entropy(logits.detach())


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
        """Scores (B,). Rows (B, T) may be padded on either side: the last position with mask 1 is read."""
        states = trunk_states(self.trunk, input_ids, attention_mask)
        steps = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        last = (attention_mask * steps).argmax(-1)
        hidden = states[torch.arange(len(last), device=last.device), last]
        return self.head(hidden.float()).squeeze(-1)
