"""The algorithms that turn a reward or preferences into a policy, by name, each with settings that fit a task."""

from __future__ import annotations

from dataclasses import replace

from rlhf_utils.best_of_n import BestOfNConfig, RejectionConfig
from rlhf_utils.critic_free import CriticFreeConfig, variant
from rlhf_utils.dpo import DPOConfig
from rlhf_utils.ppo import PPOConfig

PolicyConfig = PPOConfig | CriticFreeConfig | DPOConfig | BestOfNConfig | RejectionConfig  #: settings of any method

TITLES = {
    "ppo": "PPO",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "dpo": "DPO",
    "best-of-n": "best of n",
    "rejection-sft": "rejection",
}
"""Each algorithm's name and the heading of its column in the report."""

MODULES = {
    PPOConfig: "rlhf_utils.ppo",
    CriticFreeConfig: "rlhf_utils.critic_free",
    DPOConfig: "rlhf_utils.dpo",
    BestOfNConfig: "rlhf_utils.best_of_n",
    RejectionConfig: "rlhf_utils.best_of_n",
}
"""Where the code of the settings' algorithm stands."""

REJECTION_SHARE = 8  #: rounds that PPO's samples are divided into


def default_config(algorithm: str, ppo: PPOConfig) -> PolicyConfig:
    """An algorithm's settings for a task, with as many samples to learn from as PPO has there.

    Args:
        algorithm: a key of :data:`TITLES`.
        ppo: PPO's settings for the task.
    """
    common = {"seed": ppo.seed, "temperature": ppo.temperature, "missing_eos_penalty": ppo.missing_eos_penalty}
    if algorithm == "ppo":
        return ppo
    if algorithm in ("rloo", "grpo"):
        names = ("updates", "batch_size", "minibatch_size", "learning_rate", "kl_coef", "score_samples")
        return variant(algorithm, **common, **{name: getattr(ppo, name) for name in names})
    if algorithm == "dpo":
        # Half of PPO's rate, as 3e-4 to 6e-4 on the tiny task: DPO's gradient isn't whitened.
        return replace(DPOConfig(), seed=ppo.seed, learning_rate=ppo.learning_rate / 2)
    if algorithm == "best-of-n":
        return BestOfNConfig(**common, score_samples=ppo.score_samples)
    base = RejectionConfig(**common, learning_rate=ppo.learning_rate, score_samples=ppo.score_samples)
    prompts = max(1, ppo.updates * ppo.batch_size // (base.rounds * base.n))
    return replace(base, prompts=prompts, batch_size=min(base.batch_size, prompts))


def name_of(config: PolicyConfig) -> str:
    """The name of the algorithm that settings belong to.

    Args:
        config: of any of the algorithms.
    """
    if isinstance(config, CriticFreeConfig):
        return "rloo" if config.advantage == "leave-one-out" else "grpo"
    return {PPOConfig: "ppo", DPOConfig: "dpo", BestOfNConfig: "best-of-n", RejectionConfig: "rejection-sft"}[
        type(config)
    ]
