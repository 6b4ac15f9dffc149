r"""Best of n: keep the one of n responses that the reward model likes best; and fine-tuning on what was kept.

Nothing is trained in best-of-n itself, so it is the rival that every training algorithm has to beat; its price is paid
at each question instead. Rejection-sampling fine-tuning pays it once: the best responses become training texts.
Sources: Stiennon et al. 2020 and Gao et al. 2023 (best-of-n), Beirami et al. 2024 (its divergence), Dong et al. 2023
(RAFT) and Touvron et al. 2023 (rejection sampling).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.generation import Samples, sample_texts
from rlhf_utils.models import response_logprobs
from rlhf_utils.ppo import draw_prompts
from rlhf_utils.progress import progress
from rlhf_utils.reward import Reward
from rlhf_utils.runtime import seed_everything, use_threads
from rlhf_utils.tensors import masked_mean
from rlhf_utils.training import TrainingError, check_finite, make_optimizer


@dataclass(frozen=True)
class BestOfNConfig:
    """Settings of best-of-n."""

    n: int = 16  #: responses to choose from
    temperature: float = 1.0  #: in sampling
    missing_eos_penalty: float = 1.0  #: in deviations of the reward under the SFT policy
    score_samples: int = 512  #: samples that fix this deviation
    batch_size: int = 256  #: samples at a time
    seed: int = 0  #: of all that is drawn at random


@dataclass(frozen=True)
class RejectionConfig:
    """Settings of rejection-sampling fine-tuning."""

    rounds: int = 8  #: each samples from the policy as it is then, chooses, and fine-tunes on what was chosen
    prompts: int = 512  #: a round
    n: int = 8  #: responses to each of them
    keep: Literal["best", "share"] = "best"  #: of every prompt the best one, or the best share of all responses
    epochs: int = 1  #: passes over what was kept
    batch_size: int = 64  #: responses an optimizer step
    learning_rate: float = 6e-4  #: AdamW's, at its highest; falls along a cosine over all rounds
    max_grad_norm: float = 1.0  #: a longer gradient is cut to this length
    temperature: float = 1.0  #: in sampling
    missing_eos_penalty: float = 1.0  #: in deviations of the reward under the SFT policy
    score_samples: int = 512  #: samples that fix this deviation
    seed: int = 0  #: of all that is drawn at random


def kl_bound(n: int) -> float:
    r"""An upper limit of :math:`\mathrm{KL}(\pi_n\,\|\,\pi)` for best-of-n, in nats a prompt.

    .. math:: \mathrm{KL}(\pi_n\,\|\,\pi) \le \log n - \frac{n - 1}{n}

    Equal where no two responses have the same score and none has a probability worth mentioning (Beirami et al. 2024,
    arXiv 2401.01879).

    Args:
        n: number of responses, at least 1.
    """
    return math.log(n) - (n - 1) / n


def kl_best_of_n(scores: Tensor, n: int, probability: Tensor | None = None) -> float:
    r"""Divergence of best-of-n from its policy, :math:`\mathrm{KL}(\pi_n\,\|\,\pi)`, where ties are settled by lot.

    .. math:: \mathrm{KL}(\pi_n\,\|\,\pi) = \sum_c P_n(c) \log\frac{P_n(c)}{P(c)}, \qquad
              P_n(c) = F(c)^n - F(c^-)^n

    over the classes c of responses with equal score; within a class :math:`\pi_n` and :math:`\pi` have the same
    proportions. F is the distribution function of the score.

    Args:
        scores: of all responses, or of N samples for one prompt, (N,).
        n: number of responses to choose from.
        probability: of each response, (N,), summing to 1; None for samples, each 1/N. From samples it is an estimate
            that can't exceed log N.
    """
    weights = torch.full_like(scores, 1 / len(scores), dtype=torch.float64) if probability is None else probability
    _, place = scores.unique(return_inverse=True)  # sorted, so classes come from worst to best
    mass = torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add(0, place, weights.double())
    upper = mass.cumsum(0).clamp(max=1.0)
    chosen = upper**n - (upper - mass).clamp(min=0.0) ** n
    return torch.special.xlogy(chosen, chosen / mass).sum().item()


def best_of_n_shares(scores: Tensor, n: int) -> Tensor:
    r"""How often each of N samples is the best of n drawn from them without replacement, a tie settled by lot.

    .. math:: w_{(i)} = \binom{i - 1}{n - 1} \Big/ \binom{N}{n}, \qquad
              \mathbb{E}[f(\text{best of } n)] \approx \sum_i w_i f(y_i)

    for the i-th worst. The estimate is unbiased (Nakano et al. 2021, arXiv 2112.09332), so one batch of N samples gives
    the curve for every n up to N.

    Args:
        scores: what the best is chosen by, (N,).
        n: from 1 to N.

    Returns:
        (N,), float64, summing to 1.

    Raises:
        ValueError: n is not from 1 to N.
    """
    number = len(scores)
    if not 1 <= n <= number:
        raise ValueError(f"the best of {n} can't be told from {number} samples")
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    upto = counts.cumsum(0)  # samples that are no better than this class

    def subsets(rows: Tensor) -> Tensor:
        """Share of the n-subsets of all samples that lie within the first ``rows``."""
        rows = rows.double()
        log_share = torch.lgamma(rows + 1) - torch.lgamma((rows - n + 1).clamp(min=1))
        whole = math.lgamma(number + 1) - math.lgamma(number - n + 1)
        return torch.where(rows >= n, (log_share - whole).exp(), 0.0)

    return ((subsets(upto) - subsets(upto - counts)) / counts)[place]


def select(samples: Samples, rows: Tensor) -> Samples:
    """These rows of the samples, (K,) indices."""
    return Samples(
        *(getattr(samples, name)[rows] for name in ("input_ids", "attention_mask", "response_mask", "ended"))
    )


def best_of_n(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reward: Reward,
    max_new_tokens: int,
    n: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    missing_eos_penalty: float = 0.0,
) -> Samples:
    """The best of n responses to each prompt, one row a prompt.

    Args:
        model: writes.
        tokenizer: with distinct PAD and EOS.
        prompts: the openings.
        reward: chooses.
        max_new_tokens: cap on a response's length.
        n: responses to choose from.
        generator: on the CPU.
        temperature: divides the logits.
        missing_eos_penalty: taken off the score of a response without EOS, in the reward's own unit.
    """
    asked = [prompt for prompt in prompts for _ in range(n)]
    samples = sample_texts(model, tokenizer, asked, max_new_tokens, temperature, generator)
    scores = reward(samples) - missing_eos_penalty * (~samples.ended).float()
    best = scores.view(-1, n).argmax(-1)
    return select(samples, torch.arange(len(prompts), device=best.device) * n + best)


@dataclass
class RejectionResult:
    """What happened in training.

    Attributes:
        history: one row of metrics a round: ``score`` of all samples and of those ``kept``, in the reward's own unit;
            ``ended``, ``distinct`` (share of distinct kept responses), and the first and last ``loss`` in nats a token.
    """

    history: list[dict[str, float]] = field(default_factory=list)


def kept_rows(scores: Tensor, n: int, keep: Literal["best", "share"]) -> Tensor:
    """Which responses become training texts: a share of 1/n of them all, either way.

    Args:
        scores: (P · n,), a prompt's n side by side.
        n: responses to a prompt.
        keep: ``best`` of every prompt, so that each prompt stays in; ``share`` takes the best of all, whatever their
            prompts, so that prompts which invite good texts are learnt more often.

    Returns:
        Indices, (P,).
    """
    if keep == "share":
        return scores.topk(len(scores) // n).indices
    best = scores.view(-1, n).argmax(-1)
    return torch.arange(len(best), device=scores.device) * n + best


def imitation_loss(model: PreTrainedModel, samples: Samples, temperature: float = 1.0) -> Tensor:
    r"""Cross-entropy of the responses' tokens, :math:`-\frac{1}{\sum m}\sum_{i,t} m_{i,t} \log\pi(y_{i,t})`, nats.

    Args:
        model: the language model that learns.
        samples: prompts and the responses to imitate; the prompts don't count.
        temperature: by which logits are divided, that of sampling.

    Returns:
        A scalar with gradient.
    """
    logprobs = response_logprobs(
        model, samples.input_ids, samples.attention_mask, samples.response_length, temperature
    )  # fmt: skip
    return -masked_mean(logprobs, samples.response_mask)


def train_rejection_sft(
    sft_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reward: Reward,
    max_new_tokens: int,
    config: RejectionConfig,
    threads: int | None = None,
    missing_eos_penalty: float = 0.0,
    on_round: Callable[[int, PreTrainedModel, dict[str, float]], None] | None = None,
) -> tuple[PreTrainedModel, RejectionResult]:
    """Fine-tune a copy of the SFT model on its own best responses, round by round.

    Args:
        sft_model: start; it is not changed.
        tokenizer: with distinct PAD and EOS.
        prompts: openings to learn from.
        reward: chooses.
        max_new_tokens: cap on a response's length.
        config: the settings.
        threads: see :func:`rlhf_utils.runtime.use_threads`.
        missing_eos_penalty: taken off the score of a response without EOS, in the reward's own unit.
        on_round: called after each round with its number, the policy and the metrics.

    Returns:
        The policy and what happened.

    Raises:
        TrainingError: a loss is not finite; ``error.state`` is the last good policy.
    """
    use_threads(threads)
    generator = seed_everything(config.seed)
    policy = copy.deepcopy(sft_model)
    per_round = config.epochs * math.ceil(config.prompts / config.batch_size)
    optimizer, schedule = make_optimizer(policy, config.learning_rate, config.rounds * per_round, eps=1e-5)
    result = RejectionResult()
    bar = progress(range(config.rounds), "rejection sampling")
    for number in bar:
        asked = [p for p in draw_prompts(prompts, config.prompts, generator) for _ in range(config.n)]
        samples = sample_texts(policy, tokenizer, asked, max_new_tokens, config.temperature, generator)
        scores = reward(samples) - missing_eos_penalty * (~samples.ended).float()
        rows = kept_rows(scores, config.n, config.keep)
        kept = select(samples, rows)
        losses = []
        policy.eval()
        for _ in range(config.epochs):
            for batch in torch.randperm(len(rows), generator=generator).split(config.batch_size):
                loss = imitation_loss(policy, select(kept, batch.to(rows.device)), config.temperature)
                try:
                    check_finite(loss, "rejection sampling", number)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
                    check_finite(norm, "rejection sampling", number)
                except TrainingError as error:
                    error.state, error.history = policy, result.history
                    raise
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
        metrics = {
            "score": scores.mean().item(),
            "kept": scores[rows].mean().item(),
            "ended": samples.ended.float().mean().item(),
            "distinct": len(set(kept.texts(tokenizer))) / len(rows),
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }
        result.history.append(metrics)
        bar.set_postfix(score=f"{metrics['score']:.2f}", kept=f"{metrics['kept']:.2f}", refresh=False)
        if on_round:
            on_round(number, policy, metrics)
    return policy.eval(), result
