"""How near PPO comes to the best policy of its objective, and what each of its settings is worth.

The tiny task, whole chains: each seed has its own SFT model, reward model and policy. J* is estimated for 16 prompts
that nothing was trained on. ``RECIPE`` is the best setting found; each variant changes one thing about it and sees as
many episodes. The command line's default, which was tuned for another purpose, stands beside it.

Run by ``make experiments``; ``python experiments/distance_to_optimum.py --show`` prints the table again.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch

from rlhf_utils import experiments
from rlhf_utils.artifacts import get_or_make, make_key
from rlhf_utils.evaluation import evaluation_prompts
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.optimum import Draws, draw_reference, kl_from_optimum, measure_gaps, share_interval, share_of_optimum
from rlhf_utils.pipeline import Chain, load_chain
from rlhf_utils.ppo import PPOConfig, ScoreScale, train_ppo

PROMPTS = 16
BETAS = (0.1, 0.3)
# The value model starts as the reward model, and each batch is used once.
RECIPE: dict[str, Any] = {
    "updates": 150,
    "batch_size": 256,
    "minibatch_size": 64,
    "epochs": 1,
    "learning_rate": 1e-3,
    "value_model": "reward",
    "vf_coef": 0.5,
    "max_grad_norm": 5.0,
}
# With another number of epochs or another minibatch, the rate is left alone: one change at a time.
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "values from the policy's trunk": {"value_model": "shared", "vf_coef": 0.05, "max_grad_norm": 1.0},
    "value model from SFT": {"value_model": "separate"},
    "two epochs": {"epochs": 2},
    "λ = 1": {"gae_lambda": 1.0},
    "no whitening": {"whiten_advantages": False},
    "ratio not clipped": {"clip_range": 1e9},
    "value not clipped": {"value_clip_range": 1e9},
    "half the rate": {"learning_rate": 5e-4},
    "1.5 times the rate": {"learning_rate": 1.5e-3},
    "β falls from 1": {"kl_coef_start": 1.0},
    "batch 512": {"batch_size": 512, "updates": 75},
}
SEEDS = 5
ABLATION_SEEDS = 3
ABLATION_BETA = 0.3


def all_rows() -> list[Row]:
    """The recipe at both β; the default and every variant at one."""
    rows = [{"variant": "recipe", "kl_coef": beta, "seed": seed} for beta in BETAS for seed in range(SEEDS)]
    others = ["default", *(name for name in VARIANTS if name != "recipe")]
    return rows + [
        {"variant": name, "kl_coef": ABLATION_BETA, "seed": seed} for seed in range(ABLATION_SEEDS) for name in others
    ]


def config_of(row: Row) -> PPOConfig:
    """PPO's settings of a row."""
    base = PPOConfig(seed=row["seed"], kl_coef=row["kl_coef"])
    return base if row["variant"] == "default" else replace(base, **(RECIPE | VARIANTS[row["variant"]]))


def reference_draws(chain: Chain, scale: ScoreScale) -> list[Draws]:
    """Samples of the chain's SFT model, enough for the smallest β; kept beside its other artefacts."""
    prompts = evaluation_prompts(chain.task.eval_prompts, PROMPTS)
    config = PPOConfig(kl_coef=min(BETAS))

    def make() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        draws = draw_reference(
            chain.sft_model,
            chain.task.tokenizer,
            prompts,
            chain.reward,
            scale,
            config,
            chain.task.max_new_tokens,
            torch.Generator().manual_seed(1),
        )
        named = {f"{i}.{part}": getattr(d, part) for i, d in enumerate(draws) for part in ("raw", "ended")}
        return named, {}

    key = make_key(reward=chain.reward_key, prompts=prompts, config=config)
    kept, _ = get_or_make("reference-draws", key, make)
    return [
        Draws(p, kept[f"{i}.raw"], kept[f"{i}.ended"], torch.zeros_like(kept[f"{i}.raw"]))
        for i, p in enumerate(prompts)
    ]


def compute(row: Row) -> Row:
    """Train one policy and hold it against the optimum."""
    chain, config = load_chain("tiny", row["seed"]), config_of(row)
    chain.threads, task = 1, chain.task
    common = (task.train_prompts, chain.reward, task.max_new_tokens, config)
    policy, result = train_ppo(chain.sft_model, task.tokenizer, *common, threads=1, reward_model=chain.reward_model)
    args = (chain.reward, result.scale, config, task.max_new_tokens, torch.Generator().manual_seed(2))
    gaps = measure_gaps(policy.lm, chain.sft_model, task.tokenizer, reference_draws(chain, result.scale), *args)
    low, high = share_interval(gaps)
    parts = ("sampling_seconds", "scoring_seconds", "update_seconds")
    return {
        "share": share_of_optimum(gaps),
        "share_low": low,
        "share_high": high,
        "kl_from_optimum": kl_from_optimum(gaps, config.kl_coef),
        "kl": statistics.mean(g.kl for g in gaps),
        "j": statistics.mean(g.j for g in gaps),
        "j_ref": statistics.mean(g.j_ref for g in gaps),
        "j_optimum": statistics.mean(g.optimum.value for g in gaps),
        "j_optimum_error": statistics.mean(g.optimum.standard_error**2 for g in gaps) ** 0.5 / len(gaps) ** 0.5,
        "j_optimum_check": statistics.mean(g.check.value for g in gaps),
        "fewest_effective_samples": min(g.optimum.effective_samples for g in gaps),
        "largest_weight": max(g.optimum.largest_weight for g in gaps),
        "estimable": all(g.optimum.estimable for g in gaps),
        "explained_variance": statistics.mean(m["explained_variance"] for m in result.history[-10:]),
        "ppo_seconds": round(sum(m[part] for m in result.history for part in parts), 1),
    }


EXPERIMENT = Experiment(
    "distance_to_optimum", all_rows(), compute, ("rlhf_utils.pipeline", "rlhf_utils.optimum", "rlhf_utils.ppo")
)


def table(rows: list[Row]) -> str:
    """Mean and standard deviation over the seeds, best first within each β."""
    groups: dict[tuple[float, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["kl_coef"], row["variant"]].append(row)
    lines = [
        "| β | variant | seeds | share of the optimum | KL from the optimum | KL | explained variance |",
        "|---|---|---|---|---|---|---|",
    ]
    for (beta, name), found in sorted(
        groups.items(), key=lambda g: (g[0][0], -statistics.mean(r["share"] for r in g[1]))
    ):
        shares = [r["share"] for r in found]
        means = [statistics.mean(r[k] for r in found) for k in ("kl_from_optimum", "kl", "explained_variance")]
        cells = [f"{beta}", name, f"{len(found)}", f"{statistics.mean(shares):.3f} ± {statistics.stdev(shares):.3f}"]
        lines.append(f"| {' | '.join([*cells, *(f'{m:.2f}' for m in means)])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    if not parser.parse_args().show:
        experiments.run(EXPERIMENT)
    print(table(experiments.read(EXPERIMENT.name)[1]))
