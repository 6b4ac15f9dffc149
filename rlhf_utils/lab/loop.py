"""PPO in separate steps, so that one of them can be swapped: the healthy loop of the laboratory of broken runs.

The loop is :func:`rlhf_utils.ppo.train_ppo` cut into methods, each a call of the package's own function; a test holds
the two equal to the last digit. ``rlhf_utils.lab.faults`` overrides the methods one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_utils.evaluation import evaluate
from rlhf_utils.generation import Samples, sample_texts
from rlhf_utils.pipeline import Chain
from rlhf_utils.ppo import (
    PPOConfig,
    draw_prompts,
    gae,
    measure_scale,
    minibatches,
    policy_loss,
    rollout_metrics,
    start_policy,
    token_rewards,
    value_loss,
)
from rlhf_utils.progress import progress
from rlhf_utils.rollout import Rollout, penalise_missing_eos, score_rollout
from rlhf_utils.runtime import seed_everything, use_threads
from rlhf_utils.tensors import whiten
from rlhf_utils.training import TrainingError, check_finite, make_optimizer

METRICS = (
    "score",
    "kl",
    "entropy",
    "surprise_gap",
    "first_log_ratio",
    "clip_fraction",
    "explained_variance",
    "value_loss",
    "length",
    "ended",
    "grad_norm",
)
# Short runs of the tiny task: twelve seconds of one thread.
LAB_CONFIG = PPOConfig(
    updates=30, batch_size=128, minibatch_size=32, learning_rate=1e-3, kl_coef=0.1, vf_coef=0.5, max_grad_norm=5.0
)
EVALUATED = 256  #: samples of the evaluation at the end
SHOWN = 4  #: samples of a batch that are kept


@dataclass(frozen=True)
class Run:
    """What a run leaves behind.

    Attributes:
        curves: metric → one number an update, as the loop itself logs it.
        final: an honest evaluation of the policy at the end, whatever the loop logs: ``positive_rate`` by the judge,
            ``distinct`` share of responses, ``kl`` from the SFT model in nats a response, ``eos``, ``length``.
        first: samples of the first batch as (prompt, response, score that the loop gave, judge's score).
        last: the same of the last batch.
    """

    curves: dict[str, list[float]]
    final: dict[str, float]
    first: list[tuple[str, str, float, float]]
    last: list[tuple[str, str, float, float]]


class Loop:
    """A healthy run of PPO; each step is a method of its own.

    Args:
        chain: gives the SFT model, the reward and the prompts; nothing in it is changed.
        config: PPO's settings; one process, a fixed KL coefficient and the values on the policy's own states.
    """

    def __init__(self, chain: Chain, config: PPOConfig) -> None:
        use_threads(chain.threads)
        self.chain, self.config, self.task = chain, config, chain.task
        self.generator = seed_everything(config.seed)
        common = (self.task.train_prompts, chain.reward, self.task.max_new_tokens, config, self.generator)
        self.scale = measure_scale(chain.sft_model, self.task.tokenizer, *common)
        self.policy = start_policy(chain.sft_model, "shared", None, self.scale).to(chain.device)
        self.reference = chain.sft_model
        steps = config.updates * config.epochs * (config.batch_size // config.minibatch_size)
        self.optimizer, self.schedule = make_optimizer(
            self.policy, config.learning_rate, steps, eps=config.adam_eps, final_rate=config.final_rate
        )

    # -- before the update

    def sample(self, prompts: Sequence[str]) -> Samples:
        """Responses of the policy, from its whole distribution."""
        task, config = self.task, self.config
        args = (prompts, task.max_new_tokens, config.temperature, self.generator)
        return sample_texts(self.policy.lm, task.tokenizer, *args)

    def raw_scores(self, samples: Samples) -> Tensor:
        """The reward model's scores, (B,)."""
        return self.chain.reward(samples)

    def score(self, samples: Samples) -> Tensor:
        """Scores normalised on samples of the SFT model, less the penalty where there is no EOS, (B,)."""
        scores = (self.raw_scores(samples) - self.scale.mean) / self.scale.std
        return penalise_missing_eos(scores, samples.ended, self.config.missing_eos_penalty)

    def collect(self, samples: Samples, scores: Tensor) -> Rollout:
        """What the policy and the reference think of each token."""
        args = (samples, scores, self.config.minibatch_size, self.config.temperature)
        return score_rollout(self.policy, self.reference, *args)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Each token's reward, (B, R)."""
        args = (rollout.old_logprobs, rollout.ref_logprobs, rollout.response_mask, self.config.kl_coef)
        return token_rewards(rollout.scores, *args)

    def credit(self, rollout: Rollout, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages, whitened, and returns, taken before, both (B, R)."""
        mask = rollout.response_mask
        advantages, returns = gae(rewards, rollout.values, mask, self.config.gamma, self.config.gae_lambda)
        return (whiten(advantages, mask) if self.config.whiten_advantages else advantages), returns

    def metrics(self, rollout: Rollout, returns: Tensor) -> dict[str, float]:
        """What the loop logs of a batch before it learns from it."""
        return rollout_metrics(rollout, returns)

    # -- the update

    def forward(self, samples: Samples, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of some rows under the policy as it is now, (b, R), with gradient."""
        self.policy.eval()
        ids, mask = samples.input_ids[rows], samples.attention_mask[rows]
        logprobs, values, _ = self.policy(ids, mask, samples.response_length, self.config.temperature)
        return logprobs, values

    def old_logprobs(self, rollout: Rollout, rows: Tensor, logprobs: Tensor) -> Tensor:
        """What the ratio's denominator is made of, (b, R); ``logprobs`` are those of the policy as it is now."""
        return rollout.old_logprobs[rows]

    def extra_loss(self, rollout: Rollout, rows: Tensor, logprobs: Tensor) -> Tensor | float:
        """A further term of the loss; none in the healthy loop."""
        return 0.0

    def update(self, rollout: Rollout, advantages: Tensor, returns: Tensor) -> dict[str, float]:
        """Several epochs of minibatches over one batch; means over the steps."""
        config, logs, changes = self.config, [], []
        for rows in minibatches(len(rollout.scores), config.minibatch_size, config.epochs, self.generator):
            mask = rollout.response_mask[rows]
            logprobs, values = self.forward(rollout.samples, rows)
            old = self.old_logprobs(rollout, rows, logprobs)
            pg_loss, clipped = policy_loss(logprobs, old, advantages[rows], mask, config.clip_range)
            vf_loss = value_loss(values, rollout.values[rows], returns[rows], mask, config.value_clip_range)
            loss = pg_loss + config.vf_coef * vf_loss + self.extra_loss(rollout, rows, logprobs)
            check_finite(loss, "PPO", len(logs))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm)
            check_finite(norm, "PPO", len(logs))
            self.optimizer.step()
            logs.append(torch.stack([clipped, vf_loss, norm]).detach())
            changes.append((logprobs - old).detach().masked_fill(~mask.bool(), 0.0).abs().max())
        for _ in logs:  # the rate falls between updates only, as in train_ppo
            self.schedule.step()
        means = dict(zip(("clip_fraction", "value_loss", "grad_norm"), torch.stack(logs).mean(0).tolist(), strict=True))
        return means | {"first_log_ratio": changes[0].item()}

    # -- all of it

    def step(self) -> tuple[dict[str, float], Rollout]:
        """One update: metrics, and the batch that it learnt from."""
        samples = self.sample(draw_prompts(self.task.train_prompts, self.config.batch_size, self.generator))
        rollout = self.collect(samples, self.score(samples))
        advantages, returns = self.credit(rollout, self.rewards(rollout))
        metrics = self.metrics(rollout, returns)
        return metrics | self.update(rollout, advantages, returns), rollout

    def run(self, updates: int | None = None) -> Run:
        """All updates, or only the first ones, and an honest look at the end.

        A loss that is not finite ends the run early.
        """
        curves: dict[str, list[float]] = {name: [] for name in METRICS}
        first = last = []
        for update in progress(range(updates or self.config.updates), "PPO"):
            try:
                metrics, rollout = self.step()
            except TrainingError:
                break
            for name in METRICS:
                curves[name].append(metrics[name])
            last = self.table(rollout)
            first = first if update else last
        return Run(curves, self.evaluate(), first, last)

    def table(self, rollout: Rollout) -> list[tuple[str, str, float, float]]:
        """The first samples of a batch: prompt, response, score by the loop, score by the judge."""
        tokenizer, samples = self.task.tokenizer, rollout.samples
        responses = samples.responses(tokenizer)[:SHOWN]
        texts = samples.texts(tokenizer)[:SHOWN]
        prompts = [text[: len(text) - len(r)] for text, r in zip(texts, responses, strict=True)]
        judged = self.task.judge.scores(texts)
        return list(zip(prompts, responses, rollout.scores[:SHOWN].tolist(), judged, strict=True))

    def evaluate(self) -> dict[str, float]:
        """The policy on prompts that it was not trained on, by the package's evaluation and nothing of this loop."""
        args = (self.policy.lm, self.chain.sft_model, self.task, self.chain.reward, self.scale.mean, self.scale.std)
        found = evaluate(*args, number=EVALUATED).numbers()
        return {name: found[name] for name in ("positive_rate", "distinct", "kl", "mean_reward", "eos", "length")}
