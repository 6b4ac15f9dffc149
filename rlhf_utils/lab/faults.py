"""Faulty versions of PPO, each with one mistake of a kind that real code has had; the package refuses some of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlhf_utils.generation import Samples, encode_prompts, sample, sample_texts
from rlhf_utils.lab.loop import Loop
from rlhf_utils.models import trunk_states
from rlhf_utils.pipeline import Chain
from rlhf_utils.ppo import PPOConfig, token_rewards
from rlhf_utils.rollout import Rollout
from rlhf_utils.runtime import evaluating
from rlhf_utils.tensors import entropy, kl_k1, masked_mean, token_logprobs

DROPOUT = 0.1  #: GPT-2's default; the tiny model is built without
TOP_K = 5
SHARP = 0.7  #: temperature


class AliasedReference(Loop):
    """``copy.copy`` in place of ``copy.deepcopy``: another object, but the same tensors."""

    def __init__(self, chain: Chain, config: PPOConfig) -> None:
        super().__init__(chain, config)
        self.reference = copy.copy(self.policy.lm)


class KLWithoutGradient(Loop):
    """The price stands in the loss and not in the reward, and is computed under ``no_grad``: a constant."""

    def rewards(self, rollout: Rollout) -> Tensor:
        """The score alone."""
        return token_rewards(rollout.scores, rollout.old_logprobs, rollout.ref_logprobs, rollout.response_mask, 0.0)

    def extra_loss(self, rollout: Rollout, rows: Tensor, logprobs: Tensor) -> Tensor:
        """A number without a gradient."""
        with torch.no_grad():
            k1 = kl_k1(logprobs, rollout.ref_logprobs[rows])
            return self.config.kl_coef * masked_mean(k1, rollout.response_mask[rows])


class KLSwapped(Loop):
    """The arguments of the KL's estimator are swapped, in the reward and in the log."""

    def rewards(self, rollout: Rollout) -> Tensor:
        """Pays for drifting."""
        args = (rollout.ref_logprobs, rollout.old_logprobs, rollout.response_mask, self.config.kl_coef)
        return token_rewards(rollout.scores, *args)

    def metrics(self, rollout: Rollout, returns: Tensor) -> dict[str, float]:
        """The KL as this loop computes it."""
        metrics = super().metrics(rollout, returns)
        return metrics | {"kl": -metrics["kl"]}


class OldRecomputed(Loop):
    """The old log-probabilities are computed anew at each step, so the ratio is always 1."""

    def old_logprobs(self, rollout: Rollout, rows: Tensor, logprobs: Tensor) -> Tensor:
        """Those of now."""
        return logprobs.detach()


class _OwnScoring(Loop):
    """Scores responses by a pass of its own over padded rows, from ``own_states``, (b, R, d)."""

    own_states: Callable[[nn.Module, Tensor, Tensor, int], Tensor]

    def own_pass(self, lm: nn.Module, samples: Samples, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and hidden states, 0 at the padding."""
        ids, mask, length = samples.input_ids[rows], samples.attention_mask[rows], samples.response_length
        states = self.own_states(lm.base_model, ids, mask, length)
        logits = lm.get_output_embeddings()(states)
        hidden = mask[:, -length:] == 0
        logprobs = token_logprobs(logits, ids[:, -length:]).masked_fill(hidden, 0.0)
        return logprobs, entropy(logits.detach()).masked_fill(hidden, 0.0), states

    def collect(self, samples: Samples, scores: Tensor) -> Rollout:
        """Policy and reference by this pass."""
        parts = []
        with evaluating(self.policy, self.reference):
            for rows in torch.arange(len(scores)).split(self.config.minibatch_size):
                logprobs, spread, states = self.own_pass(self.policy.lm, samples, rows)
                theirs = self.own_pass(self.reference, samples, rows)[0]
                parts.append((logprobs, theirs, self.own_values(states, samples, rows), spread))
        return Rollout(samples, scores, *(torch.cat(column) for column in zip(*parts, strict=True)))

    def forward(self, samples: Samples, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The update by the same pass."""
        self.policy.eval()
        logprobs, _, states = self.own_pass(self.policy.lm, samples, rows)
        return logprobs, self.own_values(states, samples, rows)

    def own_values(self, states: Tensor, samples: Samples, rows: Tensor) -> Tensor:
        """The value head on these states, 0 at the padding."""
        hidden = samples.attention_mask[rows][:, -samples.response_length :] == 0
        return self.policy.value_head(states).squeeze(-1).masked_fill(hidden, 0.0)


class OffByOne(_OwnScoring):
    """``logits[t]`` are taken to speak of token t; they speak of token t + 1."""

    def own_states(self, trunk: nn.Module, ids: Tensor, mask: Tensor, length: int) -> Tensor:
        """The states of the response's own tokens."""
        return trunk_states(trunk, ids, mask)[:, -length:]


class NoPositions(_OwnScoring):
    """Position ids are left out in scoring, so padding in front of a prompt counts."""

    def own_states(self, trunk: nn.Module, ids: Tensor, mask: Tensor, length: int) -> Tensor:
        """The states of the tokens before, from a pass without position ids."""
        states = trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states[:, -length - 1 : -1]


class SharpSampling(Loop):
    """Sampled at another temperature than scored."""

    def sample(self, prompts: Sequence[str]) -> Samples:
        """Responses at 0.7."""
        return sample_texts(
            self.policy.lm, self.task.tokenizer, prompts, self.task.max_new_tokens, SHARP, self.generator
        )


class _TopK(nn.Module):
    """An output layer that hides all but the k likeliest tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits, −∞ for most tokens."""
        logits = self.layer(hidden)
        return logits.masked_fill(logits < logits.topk(TOP_K).values[:, -1:], -torch.inf)


class TopKSampling(Loop):
    """Sampled from the five likeliest tokens, scored under the whole distribution."""

    def sample(self, prompts: Sequence[str]) -> Samples:
        """Responses from the five likeliest tokens."""
        layer = (lm := self.policy.lm).get_output_embeddings()
        lm.set_output_embeddings(_TopK(layer))
        try:
            return super().sample(prompts)
        finally:
            lm.set_output_embeddings(layer)


class DropoutInUpdate(Loop):
    """``policy.train()`` before the update: its dropout makes another network of each pass."""

    def __init__(self, chain: Chain, config: PPOConfig) -> None:
        super().__init__(chain, config)
        for module in (m for m in self.policy.modules() if isinstance(m, nn.Dropout)):
            module.p = DROPOUT

    def forward(self, samples: Samples, rows: Tensor) -> tuple[Tensor, Tensor]:
        """With dropout."""
        self.policy.train()
        return self.policy(samples.input_ids[rows], samples.attention_mask[rows], samples.response_length)[:2]


class ReturnsAfterWhitening(Loop):
    """The returns are made from whitened advantages, so the value head chases another unit in every batch."""

    def credit(self, rollout: Rollout, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened advantages, and what they would be the advantages of."""
        advantages, _ = super().credit(rollout, rewards)
        return advantages, (advantages + rollout.values).masked_fill(rollout.response_mask == 0, 0.0)


class ScoreOnPad(Loop):
    """The score is written one place behind the last token, and then masked like all padding."""

    def rewards(self, rollout: Rollout) -> Tensor:
        """Only a row without padding keeps its score."""
        mask = rollout.response_mask
        none = torch.zeros_like(rollout.scores)
        rewards = token_rewards(none, rollout.old_logprobs, rollout.ref_logprobs, mask, self.config.kl_coef)
        place = mask.sum(-1, keepdim=True).clamp(max=mask.shape[1] - 1)
        return rewards.scatter_add(1, place, rollout.scores.unsqueeze(-1)).masked_fill(mask == 0, 0.0)


class ReadAtMinusOne(Loop):
    """The reward head is read in the last column, where most rows have padding, and no mask says so."""

    def raw_scores(self, samples: Samples) -> Tensor:
        """The head on the last column's states."""
        model = self.chain.reward_model
        with evaluating(model):
            states = model.trunk(input_ids=samples.input_ids, use_cache=False).last_hidden_state
            return model.head(states[:, -1]).squeeze(-1)


class SignFlipped(Loop):
    """The loss is minimised as if it were the objective."""

    def credit(self, rollout: Rollout, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages with the other sign."""
        advantages, returns = super().credit(rollout, rewards)
        return -advantages, returns


class PaddingCounts(Loop):
    """The mask of the response is all ones: what stands behind EOS counts as chosen."""

    def collect(self, samples: Samples, scores: Tensor) -> Rollout:
        """Every column counts."""
        ones = torch.ones_like(samples.response_mask)
        mask = torch.cat([samples.attention_mask[:, : -samples.response_length], ones], -1)
        return super().collect(replace(samples, attention_mask=mask, response_mask=ones), scores)


class EosMasked(Loop):
    """PAD is the same token as EOS, so a mask made of ``ids != pad`` hides every EOS."""

    def collect(self, samples: Samples, scores: Tensor) -> Rollout:
        """Everything but EOS counts."""
        mask = samples.response_mask
        eos = samples.input_ids[:, -samples.response_length :] == self.task.tokenizer.eos_token_id
        mask = mask.masked_fill(eos, 0)
        mask[:, 0] = 1  # a response that is nothing but EOS keeps a token
        return super().collect(replace(samples, response_mask=mask), scores)


class NotCut(Loop):
    """Sampling goes on behind EOS, and the reward model reads all of it."""

    def sample(self, prompts: Sequence[str]) -> Samples:
        """Every response runs to the cap; it counts as ended if there is an EOS anywhere."""
        task, number = self.task, self.task.max_new_tokens
        lm, words = self.policy.lm, task.tokenizer
        ids, mask = encode_prompts(words, prompts, lm.config.max_position_embeddings, number)
        uniform = torch.rand(len(ids), number, generator=self.generator)
        drawn = sample(lm, ids, mask, number, -1, words.pad_token_id, self.config.temperature, uniform)
        return replace(drawn, ended=(drawn.input_ids[:, -number:] == words.eos_token_id).any(-1))


class NoEosPenalty(Loop):
    """Nothing is subtracted from a response that never ended."""

    def score(self, samples: Samples) -> Tensor:
        """Normalised only."""
        return (self.raw_scores(samples) - self.scale.mean) / self.scale.std


class NotNormalised(Loop):
    """The reward model's scores go into PPO as they are."""

    def __init__(self, chain: Chain, config: PPOConfig) -> None:
        super().__init__(chain, config)
        self.honest, self.scale = self.scale, replace(self.scale, mean=0.0, std=1.0)

    def evaluate(self) -> dict[str, float]:
        """With the right scale."""
        self.scale = self.honest
        return super().evaluate()


class RowsMixedUp(Loop):
    """Rows are sorted by length before they are scored, for speed, and the scores aren't put back."""

    def score(self, samples: Samples) -> Tensor:
        """Each score belongs to another row."""
        return super().score(samples)[samples.response_mask.sum(-1).argsort(stable=True)]


FAULTS: dict[str, type[Loop]] = {
    "healthy": Loop,
    "aliased-reference": AliasedReference,
    "kl-without-gradient": KLWithoutGradient,
    "kl-swapped": KLSwapped,
    "old-recomputed": OldRecomputed,
    "off-by-one": OffByOne,
    "no-position-ids": NoPositions,
    "sharp-sampling": SharpSampling,
    "top-k-sampling": TopKSampling,
    "dropout-in-update": DropoutInUpdate,
    "returns-after-whitening": ReturnsAfterWhitening,
    "score-on-pad": ScoreOnPad,
    "score-read-at-pad": ReadAtMinusOne,
    "sign-flipped": SignFlipped,
    "padding-counts": PaddingCounts,
    "eos-masked": EosMasked,
    "not-cut-at-eos": NotCut,
    "no-eos-penalty": NoEosPenalty,
    "scores-not-normalised": NotNormalised,
    "rows-mixed-up": RowsMixedUp,
}
