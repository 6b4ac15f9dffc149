"""Judging a policy by something other than the reward that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from transformers import PreTrainedModel

from rlhf_utils.generation import Samples, sample_texts
from rlhf_utils.models import response_logprobs
from rlhf_utils.progress import progress
from rlhf_utils.reward import Reward
from rlhf_utils.runtime import evaluating
from rlhf_utils.tasks.base import Task
from rlhf_utils.tensors import kl_k1

SAMPLES = 512
EVALUATION_SEED = 12_345  #: the same prompts for every policy and every training seed


@dataclass(frozen=True)
class Evaluation:
    """A policy on fresh samples for prompts that it was not trained on; response tokens only.

    Attributes:
        samples: how many.
        mean_reward: of the training reward, normalised, without the penalty for a missing EOS; NaN without a reward.
        judge_score: the judge's mean score.
        positive_rate: share that the judge calls positive (score above 0).
        kl: from the SFT model, nats a response: mean over responses of the summed k1.
        perplexity: under the SFT model, of the response tokens.
        distinct: share of distinct responses.
        eos: share of responses that end in EOS.
        length: mean number of response tokens, the EOS included.
        texts: the first ten, as (prompt, response, judge's score).
    """

    samples: int
    mean_reward: float
    judge_score: float
    positive_rate: float
    kl: float
    perplexity: float
    distinct: float
    eos: float
    length: float
    texts: list[tuple[str, str, float]] = field(repr=False)

    @property
    def positive_interval(self) -> tuple[float, float]:
        """95 % interval of the positive rate (Wilson)."""
        return wilson_interval(self.positive_rate, self.samples)

    def numbers(self) -> dict[str, float]:
        """All but the texts."""
        return {name: value for name, value in asdict(self).items() if name != "texts"}


def wilson_interval(share: float, number: int, z: float = 1.96) -> tuple[float, float]:
    r"""Wilson's score interval of a proportion; unlike :math:`\hat p \pm z\,\mathrm{se}` it stays within [0, 1].

    Args:
        share: observed proportion.
        number: of independent trials.
        z: quantile of the normal distribution; 1.96 gives 95 %.
    """
    centre = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return centre - half, centre + half


def evaluation_prompts(prompts: Sequence[str], number: int, seed: int = EVALUATION_SEED) -> list[str]:
    """Prompts for evaluation: each once in random order, then again from the start, until there are enough.

    Args:
        prompts: to choose from.
        number: how many to give; more than there are repeats some.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < number:
        order += torch.randperm(len(prompts), generator=generator).tolist()
    return [prompts[i] for i in order[:number]]


def sequence_kl(policy: PreTrainedModel, ref_model: PreTrainedModel, samples: Samples) -> torch.Tensor:
    r"""Summed k1 of each response, :math:`\sum_t \log\pi(y_t) - \log\pi_\mathrm{ref}(y_t)`, nats. Returns (B,).

    Args:
        policy: the model that wrote the samples.
        ref_model: the reference, in general the SFT model.
        samples: B responses, drawn at temperature 1.
    """
    args = (samples.input_ids, samples.attention_mask, samples.response_length)
    with evaluating(policy, ref_model):
        k1 = kl_k1(response_logprobs(policy, *args), response_logprobs(ref_model, *args))
    return k1.masked_fill(~samples.response_mask.bool(), 0.0).sum(-1)


def evaluate(
    policy: PreTrainedModel,
    ref_model: PreTrainedModel,
    task: Task,
    reward: Reward | None = None,
    score_mean: float = 0.0,
    score_std: float = 1.0,
    number: int = SAMPLES,
    seed: int = EVALUATION_SEED,
    batch_size: int = 128,
    write: Callable[[Sequence[str], torch.Generator], Samples] | None = None,
    kl: float | None = None,
) -> Evaluation:
    """Sample from a policy and measure what the table shows.

    Args:
        policy: the language model to judge.
        ref_model: the SFT model.
        task: gives prompts, tokenizer and judge.
        reward: the training reward, for comparison with the judge.
        score_mean: of the raw reward under the SFT model.
        score_std: likewise.
        number: of samples.
        seed: of prompts and samples.
        batch_size: samples at a time.
        write: answers prompts in the policy's place, for a procedure that is more than a model, such as best-of-n.
        kl: its divergence in nats a response, which no model's log-probabilities can tell.
    """
    prompts = evaluation_prompts(task.eval_prompts, number, seed)
    generator = torch.Generator().manual_seed(seed)
    texts, responses = [], []
    kls, scores, ended, tokens = [], [], [], []
    surprise = 0.0
    for start in progress(range(0, number, batch_size), "evaluating"):
        batch = prompts[start : start + batch_size]
        if write:
            samples = write(batch, generator)
        else:
            samples = sample_texts(policy, task.tokenizer, batch, task.max_new_tokens, generator=generator)
        texts += samples.texts(task.tokenizer)
        responses += samples.responses(task.tokenizer)
        kls.append(sequence_kl(policy, ref_model, samples))
        with evaluating(ref_model):
            args = (samples.input_ids, samples.attention_mask, samples.response_length)
            logprobs = response_logprobs(ref_model, *args)
        surprise -= logprobs.masked_fill(~samples.response_mask.bool(), 0.0).sum().item()
        tokens.append(samples.response_mask.sum(-1))
        ended.append(samples.ended)
        if reward is not None:
            scores.append((reward(samples) - score_mean) / score_std)
    judged = task.judge.scores(texts)
    count = int(torch.cat(tokens).sum())
    return Evaluation(
        samples=number,
        mean_reward=torch.cat(scores).mean().item() if scores else math.nan,
        judge_score=sum(judged) / number,
        positive_rate=sum(s > 0 for s in judged) / number,
        kl=torch.cat(kls).mean().item() if kl is None else kl,
        perplexity=math.exp(surprise / count),
        distinct=len(set(responses)) / number,
        eos=torch.cat(ended).float().mean().item(),
        length=count / number,
        texts=list(zip(prompts[:10], responses[:10], judged[:10], strict=True)),
    )
