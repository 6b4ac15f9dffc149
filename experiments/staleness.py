"""PPO on samples that are some updates old: ratio, clipping, proxy and gold against the delay.

Whole chains of the tiny task, one a seed. The writer of the samples lags behind the learner by 0 to 16 updates of 128
responses, and three ways to learn from old samples are compared at the longest delays. All have the same number of
updates, so a delay shows its cost for learning; the time that it saves on several machines is the matter of
``rlhf_utils.cost_model``.

Run by ``make experiments``; ``python experiments/staleness.py --show`` prints the table again.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from dataclasses import replace

import torch

from rlhf_utils import experiments
from rlhf_utils.asynchronous import train_delayed
from rlhf_utils.evaluation import EVALUATION_SEED, evaluate
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.pipeline import load_chain

SEEDS = (0, 1, 2)
DELAYS = (0, 1, 2, 4, 8, 16)
OTHER_CLIPS = ("learner", "both")
LONG = (4, 16)  # delays at which the other ways are run as well
UPDATES, BATCH = 48, 128
EVALUATIONS = 2  # sets of 512 samples
NAMES = ("score", "kl", "outside", "ratio_change", "effective", "clip_fraction", "entropy")


def all_rows() -> list[Row]:
    """Each delay with each seed, and the other ways at long delays."""
    ways = [(delay, "writer") for delay in DELAYS] + [(delay, clip) for clip in OTHER_CLIPS for delay in LONG]
    return [{"delay": delay, "clip": clip, "seed": seed} for seed in SEEDS for delay, clip in ways]


def compute(row: Row) -> Row:
    """Train with a delay and measure the policy."""
    chain = load_chain("tiny", row["seed"])
    task = chain.task
    config = replace(chain.settings.ppo, updates=UPDATES, batch_size=BATCH)
    args = (chain.sft_model, task.tokenizer, task.train_prompts, chain.reward, task.max_new_tokens, config)
    policy, result = train_delayed(*args, delay=row["delay"], clip=row["clip"], threads=1)
    found = [
        evaluate(
            policy.lm,
            chain.sft_model,
            task,
            chain.reward,
            result.scale.mean,
            result.scale.std,
            seed=EVALUATION_SEED + i,
        )
        for i in range(EVALUATIONS)
    ]
    return {
        "gold": statistics.fmean(f.judge_score for f in found),
        "positive": statistics.fmean(f.positive_rate for f in found),
        "proxy": statistics.fmean(f.mean_reward for f in found),
        "final_kl": statistics.fmean(f.kl for f in found),
        "kl_coef": config.kl_coef,
        "history": {name: [round(step[name], 5) for step in result.history] for name in NAMES},
    }


EXPERIMENT = Experiment(
    "staleness", all_rows(), compute, ("rlhf_utils.pipeline", "rlhf_utils.asynchronous", "rlhf_utils.evaluation")
)


def table(rows: list[Row]) -> str:
    """Means over the seeds."""
    groups: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["delay"], row["clip"]].append(row)
    lines = ["| delay | clip about | outside | effective | gold | proxy | KL | gold by seed |", "|---" * 8 + "|"]
    for (delay, clip), found in sorted(groups.items(), key=lambda item: (item[0][1] != "writer", item[0][1], item[0])):
        late = [statistics.fmean(statistics.fmean(r["history"][n][-UPDATES // 2 :]) for r in found) for n in NAMES[2:5]]
        means = [statistics.fmean(r[n] for r in found) for n in ("gold", "proxy", "final_kl")]
        by_seed = ", ".join(f"{r['gold']:.2f}" for r in found)
        cells = (f"{late[0]:.3f}", f"{late[2]:.3f}", *(f"{m:.3f}" for m in means))
        lines.append(f"| {delay} | {clip} | {' | '.join(cells)} | {by_seed} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    parser.add_argument("--workers", type=int, help="rows at a time; as many as there are cores unless given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.show:
        experiments.run(EXPERIMENT, arguments.workers)
    print(table(experiments.read(EXPERIMENT.name)[1]))
