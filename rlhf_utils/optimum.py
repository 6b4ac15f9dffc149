r"""How far a policy is from the best that its objective allows.

For one prompt, PPO with a KL penalty maximises :math:`J(\pi) = \mathbb{E}_\pi[r] - \beta\,\mathrm{KL}(\pi\,\|\,
\pi_\mathrm{ref})`. The maximum is known: :math:`\pi^*(y) \propto \pi_\mathrm{ref}(y)\,e^{r(y)/\beta}` with the value
:math:`J^* = \beta \log \mathbb{E}_{\pi_\mathrm{ref}}[e^{r/\beta}]`, and for any policy :math:`J^* - J(\pi) =
\beta\,\mathrm{KL}(\pi\,\|\,\pi^*)` (Korbak et al. 2022, arXiv 2205.11275). So a trained policy can be held against the
best one, and not only against its own beginning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_utils.evaluation import sequence_kl
from rlhf_utils.generation import sample_texts
from rlhf_utils.ppo import PPOConfig, ScoreScale
from rlhf_utils.progress import progress
from rlhf_utils.reward import Reward
from rlhf_utils.rollout import penalise_missing_eos

ENOUGH_SAMPLES = 200  #: effective ones, for each prompt
LARGEST_WEIGHT = 0.05


@dataclass(frozen=True)
class Optimum:
    r"""An estimate of :math:`J^*` for one prompt, in the unit of the scores.

    Attributes:
        value: the estimate. Its expectation lies below :math:`J^*` (Jensen), which flatters a policy held against it.
        standard_error: by the delta method.
        effective_samples: :math:`(\sum w)^2 / \sum w^2`, from 1 to the number of samples.
        largest_weight: the largest share of one sample in the sum of weights.
    """

    value: float
    standard_error: float
    effective_samples: float
    largest_weight: float

    @property
    def estimable(self) -> bool:
        """Whether enough samples carry the estimate; if not, the sum hangs on a few lucky ones."""
        return self.effective_samples >= ENOUGH_SAMPLES and self.largest_weight <= LARGEST_WEIGHT


def estimate_optimum(scores: Tensor, kl_coef: float, log_ratios: Tensor | None = None) -> Optimum:
    r"""Estimate :math:`J^*` of one prompt.

    .. math:: \hat J^* = \beta \log \frac{1}{N} \sum_i w_i, \qquad
              w_i = e^{r(y_i)/\beta}\,\frac{\pi_\mathrm{ref}(y_i)}{\pi(y_i)}, \quad y_i \sim \pi

    Args:
        scores: rewards of the N samples, (N,).
        kl_coef: β, above 0.
        log_ratios: :math:`\log\pi(y_i) - \log\pi_\mathrm{ref}(y_i)` of whole responses, (N,); None if the reference
            itself wrote them.

    Raises:
        ValueError: there are fewer than two samples, or β is not positive.
    """
    if len(scores) < 2 or kl_coef <= 0:
        raise ValueError("an estimate of the optimum takes two samples and a positive kl_coef")
    log_weights = scores.double() / kl_coef
    if log_ratios is not None:
        log_weights = log_weights - log_ratios.double()
    number = len(scores)
    log_sum = log_weights.logsumexp(0)
    shares = (log_weights - log_sum).exp()  # sum to 1
    # Var(log mean w) ≈ Var(w) / (N · mean(w)²); the share of a sample is w / (N · mean(w)).
    relative_variance = (number * shares).var() / number
    return Optimum(
        value=kl_coef * (log_sum.item() - math.log(number)),
        standard_error=kl_coef * math.sqrt(relative_variance.item()),
        effective_samples=1 / shares.square().sum().item(),
        largest_weight=shares.max().item(),
    )


@dataclass(frozen=True)
class Draws:
    """What is known of N samples for one prompt. Scores stay raw, so that any scale, penalty and β can follow.

    Attributes:
        prompt: the prompt.
        raw: rewards, (N,).
        ended: whether there was an EOS, (N,).
        log_ratios: of whole responses, policy to reference, nats, (N,); 0 if the reference wrote them.
    """

    prompt: str
    raw: Tensor
    ended: Tensor
    log_ratios: Tensor

    def scores(self, scale: ScoreScale, config: PPOConfig) -> Tensor:
        """Scores as PPO sees them, the penalty for a missing EOS included, (N,).

        Args:
            scale: mean and deviation of the raw scores under the SFT model.
            config: gives the penalty for a missing EOS.
        """
        return penalise_missing_eos((self.raw - scale.mean) / scale.std, self.ended, config.missing_eos_penalty)

    def __add__(self, other: Draws) -> Draws:
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("raw", "ended", "log_ratios"))
        return Draws(self.prompt, *(torch.cat(pair) for pair in pairs))


def draw(
    policy: PreTrainedModel,
    ref_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    number: int,
    reward: Reward,
    max_new_tokens: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    batch_size: int = 512,
) -> Draws:
    """Sample a policy for one prompt and note what the optimum needs.

    Args:
        policy: the model that writes.
        ref_model: the SFT model; may be the policy itself, and then all log-ratios are 0.
        tokenizer: with distinct PAD and EOS.
        prompt: the one opening.
        number: N, of samples.
        reward: scores finished samples.
        max_new_tokens: cap on a response's length.
        generator: source of randomness.
        temperature: of sampling; log-ratios are right at 1 alone.
        batch_size: samples at a time.
    """
    raw, ended, ratios = [], [], []
    for start in range(0, number, batch_size):
        prompts = [prompt] * min(batch_size, number - start)
        samples = sample_texts(policy, tokenizer, prompts, max_new_tokens, temperature, generator)
        raw.append(reward(samples))
        ended.append(samples.ended)
        same = policy is ref_model
        ratios.append(torch.zeros_like(raw[-1]) if same else sequence_kl(policy, ref_model, samples))
    return Draws(prompt, torch.cat(raw).cpu(), torch.cat(ended).cpu(), torch.cat(ratios).cpu())


def draw_reference(
    ref_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    reward: Reward,
    scale: ScoreScale,
    config: PPOConfig,
    max_new_tokens: int,
    generator: torch.Generator,
    first: int = 4096,
    most: int = 65_536,
) -> list[Draws]:
    """Samples of the reference for each prompt, doubled until enough of them carry the estimate, or there are ``most``.

    They serve every policy that is held against this reference, and every β down to the one in ``config``.

    Args:
        ref_model: the SFT model.
        tokenizer: with distinct PAD and EOS.
        prompts: openings, one :class:`Draws` each.
        reward: what PPO maximises.
        scale: from :class:`~rlhf_utils.ppo.PPOResult`.
        config: gives β, temperature and the penalty for a missing EOS.
        max_new_tokens: cap on a response's length.
        generator: source of randomness.
        first: samples of a prompt to begin with.
        most: samples of a prompt at which to stop doubling.
    """
    found = []
    for prompt in progress(prompts, "samples of the reference"):
        args = (reward, max_new_tokens, generator, config.temperature)
        draws = draw(ref_model, ref_model, tokenizer, prompt, first, *args)
        while len(draws.raw) < most and not estimate_optimum(draws.scores(scale, config), config.kl_coef).estimable:
            draws = draws + draw(ref_model, ref_model, tokenizer, prompt, len(draws.raw), *args)
        found.append(draws)
    return found


@dataclass(frozen=True)
class PromptGap:
    """One prompt's figures, in the unit of the scores; KL in nats.

    Attributes:
        prompt: the prompt.
        j_ref: :math:`J` of the reference: its mean score.
        j: of the policy: mean score less β times its KL.
        kl: of the policy from the reference.
        optimum: from samples of the reference.
        check: the same from samples of the policy.
    """

    prompt: str
    j_ref: float
    j: float
    kl: float
    optimum: Optimum
    check: Optimum


def share_of_optimum(gaps: Sequence[PromptGap]) -> float:
    r"""What the policy has reached of what there is to reach, :math:`(J - J_\mathrm{ref}) / (J^* - J_\mathrm{ref})`.

    Numerator and denominator are means over prompts. A constant added to the reward changes neither, which is not so
    with :math:`J / J^*`.

    Args:
        gaps: from :func:`measure_gaps`, one a prompt.

    Returns:
        0 for the reference, 1 for the optimum; below 0 for a policy that is worse than the reference.
    """
    gained = sum(g.j - g.j_ref for g in gaps)
    return gained / sum(g.optimum.value - g.j_ref for g in gaps)


def share_interval(gaps: Sequence[PromptGap], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of :func:`share_of_optimum`: prompts drawn again with replacement.

    Args:
        gaps: from :func:`measure_gaps`, one a prompt.
        draws: of as many prompts as there are.
        seed: of the draws.

    Returns:
        Lower and upper end.
    """
    table = torch.tensor([[g.j - g.j_ref, g.optimum.value - g.j_ref] for g in gaps], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(gaps), (draws, len(gaps)), generator=generator)
    gained, possible = table[rows].sum(1).unbind(-1)
    low, high = (gained / possible).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def kl_from_optimum(gaps: Sequence[PromptGap], kl_coef: float) -> float:
    r"""Mean over prompts of :math:`(J^* - J)/\beta = \mathrm{KL}(\pi\,\|\,\pi^*)`, nats a response.

    Args:
        gaps: from :func:`measure_gaps`, one a prompt.
        kl_coef: the β with which they were measured.
    """
    return sum(g.optimum.value - g.j for g in gaps) / len(gaps) / kl_coef


def measure_gaps(
    policy: PreTrainedModel,
    ref_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reference: Sequence[Draws],
    reward: Reward,
    scale: ScoreScale,
    config: PPOConfig,
    max_new_tokens: int,
    generator: torch.Generator,
    samples: int = 1024,
) -> list[PromptGap]:
    """Hold a policy against the optimum, prompt by prompt, on fresh samples.

    Args:
        policy: what PPO trained.
        ref_model: the SFT model.
        tokenizer: with distinct PAD and EOS.
        reference: from :func:`draw_reference`.
        reward: what PPO maximised.
        scale: from :class:`~rlhf_utils.ppo.PPOResult`.
        config: gives β, temperature and the penalty for a missing EOS.
        max_new_tokens: as in training.
        generator: source of randomness.
        samples: of the policy, for each prompt.
    """
    gaps = []
    for draws in progress(reference, "distance to the optimum"):
        args = (reward, max_new_tokens, generator, config.temperature)
        ours = draw(policy, ref_model, tokenizer, draws.prompt, samples, *args)
        scores, ref_scores = (d.scores(scale, config) for d in (ours, draws))
        kl = ours.log_ratios.mean().item()
        gaps.append(
            PromptGap(
                prompt=draws.prompt,
                j_ref=ref_scores.mean().item(),
                j=scores.mean().item() - config.kl_coef * kl,
                kl=kl,
                optimum=estimate_optimum(ref_scores, config.kl_coef),
                check=estimate_optimum(scores, config.kl_coef, ours.log_ratios),
            )
        )
    return gaps
