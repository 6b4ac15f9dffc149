"""PPO that trains less than everything: quality against trainable parameters, memory and time.

Whole chains of the tiny task, one a seed; the same number of updates for each way of
training, each with the learning rate that was best on a seed that isn't reported here (``cheaper_rates.py``). Bytes of
weights, gradients and Adam's moments are counted from shapes, for policy, reference, value function and reward model
together; what autograd keeps for the backward pass of one minibatch is counted as it is kept. Where everything was
trained, the change of each matrix is also cut to a low rank afterwards, and the policy measured again.

What a single step costs is the matter of ``cheaper_steps.py``.

Run by ``make experiments``; ``python experiments/cheaper_training.py --show`` prints the table again.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections import defaultdict

import torch
from transformers import PreTrainedModel

from rlhf_utils import experiments
from rlhf_utils.adapters import Memory, SavedTensors, memory, prepare, share_frozen
from rlhf_utils.evaluation import EVALUATION_SEED, evaluate
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.generation import sample_texts
from rlhf_utils.models import PolicyWithValueHead
from rlhf_utils.pipeline import Chain, load_chain
from rlhf_utils.ppo import PPOConfig, PPOResult, ScoreScale, start_policy, train_ppo

# The best on seed 5 by `cheaper_rates.py`; what is alike has its family's rate.
RATES = {
    "everything": 6e-4,
    "body": 6e-4,
    "top": 2.4e-3,
    "norms": 3.84e-2,
    "lora-1": 1.92e-2,
    "lora-4": 1.92e-2,
    "lora-16": 1.92e-2,
}
SEPARATE = ("everything",)  # also with a value model of its own
SEEDS = (0, 1, 2)
UPDATES = 24
BATCH = 128
EVALUATIONS = 2  # sets of 512 samples
CUTS = (0, 1, 4, 16)  # ranks to which the change of the whole is cut; at 0 the matrices are put back


def all_rows() -> list[Row]:
    """Each way with each seed."""
    ways = [(way, "shared") for way in RATES] + [(way, "separate") for way in SEPARATE]
    return [
        {"kind": "ppo", "way": way, "values": values, "rate": RATES[way], "seed": seed}
        for seed in SEEDS
        for way, values in ways
    ]


def counted(found: Memory) -> Row:
    """Counted bytes as a row has them."""
    return {
        "trainable": found.trainable,
        "weight_bytes": found.weights,
        "gradient_bytes": found.gradients,
        "moment_bytes": found.moments,
        "bytes": found.total,
    }


def kept_bytes(policy: PolicyWithValueHead, chain: Chain, rows: int) -> int:
    """What autograd keeps for the backward pass of a minibatch of samples."""
    task, prompts = chain.task, chain.task.train_prompts[:rows]
    generator = torch.Generator().manual_seed(0)
    samples = sample_texts(chain.sft_model, task.tokenizer, prompts, task.max_new_tokens, generator=generator)
    saved = SavedTensors()
    with saved.count(policy):
        out = policy(samples.input_ids, samples.attention_mask, samples.response_length)
    del out
    return saved.bytes


def quality(model: PreTrainedModel, chain: Chain, scale: ScoreScale, config: PPOConfig, sets: int) -> Row:
    """Scores of a policy, means over sets of samples; J holds the price of a missing EOS."""
    args = (model, chain.sft_model, chain.task, chain.reward, scale.mean, scale.std)
    found = [evaluate(*args, seed=EVALUATION_SEED + i) for i in range(sets)]
    mean = {name: statistics.fmean(f.numbers()[name] for f in found) for name in found[0].numbers()}
    j = mean["mean_reward"] - config.kl_coef * mean["kl"] - config.missing_eos_penalty * (1 - mean["eos"])
    return {
        "gold": mean["judge_score"],
        "positive": mean["positive_rate"],
        "reward": mean["mean_reward"],
        "kl": mean["kl"],
        "j": j,
        "distinct": mean["distinct"],
    }


def cut(model: PreTrainedModel, reference: PreTrainedModel, rank: int) -> tuple[PreTrainedModel, float]:
    """A policy whose matrices in the blocks changed by this rank at most; the share of squared change that is left."""
    ours, theirs, left = copy.deepcopy(model), dict(reference.named_parameters()), []
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if ".h." in name and parameter.ndim == 2:
                u, s, v = torch.linalg.svd(parameter - theirs[name], full_matrices=False)
                parameter.copy_(theirs[name] + u[:, :rank] * s[:rank] @ v[:rank])
                left.append((s[:rank].square().sum() / s.square().sum()).item())
    return ours, statistics.fmean(left)


def compute(row: Row) -> Row:
    """Train one policy and measure it."""
    chain = load_chain("tiny", row["seed"])
    chain.threads = 1
    task, values = chain.task, row["values"]
    config = PPOConfig(
        updates=UPDATES, batch_size=BATCH, learning_rate=row["rate"], value_model=values, seed=row["seed"]
    )
    start = prepare(chain.sft_model, row["way"], row["seed"])
    first = start_policy(start, values, None, ScoreScale(0.0, 1.0))
    saved = kept_bytes(first, chain, config.minibatch_size)
    reference = copy.deepcopy(start).requires_grad_(False)
    apart = memory(reference, first, chain.reward_model.requires_grad_(False)).total

    def share(update: int, policy: PolicyWithValueHead, metrics: dict[str, float]) -> None:
        share_frozen(policy.lm, start)
        if policy.value_trunk is not None:
            share_frozen(policy.value_trunk, start.base_model)

    args = (task.tokenizer, task.train_prompts, chain.reward, task.max_new_tokens, config)
    # The reference trains nothing: it is the start, whose adapters stay at zero.
    policy, result = train_ppo(start, *args, threads=1, on_update=share)
    start.requires_grad_(False)
    found = counted(memory(start, policy, chain.reward_model)) | {"apart_bytes": apart, "kept_bytes": saved}
    found |= quality(policy.lm, chain, result.scale, config, EVALUATIONS) | times(result)
    found["explained_variance"] = statistics.fmean(h["explained_variance"] for h in result.history[-8:])
    if row["way"] == "everything" and values == "shared":
        for rank in CUTS:
            thin, left = cut(policy.lm, chain.sft_model, rank)
            found |= {f"cut_{rank}_left": left}
            found |= {f"cut_{rank}_{k}": v for k, v in quality(thin, chain, result.scale, config, 1).items()}
        sft = quality(chain.sft_model, chain, result.scale, config, EVALUATIONS)
        found |= {f"sft_{name}": value for name, value in sft.items()}
    return found


def times(result: PPOResult) -> Row:
    """Median seconds of the parts of an update."""
    parts = ("sampling_seconds", "scoring_seconds", "update_seconds")
    return {part: statistics.median(row[part] for row in result.history) for part in parts}


EXPERIMENT = Experiment(
    "cheaper_training",
    all_rows(),
    compute,
    ["rlhf_utils.adapters", "rlhf_utils.evaluation", "rlhf_utils.pipeline", "rlhf_utils.ppo"],
)


def table(rows: list[Row]) -> str:
    """Means over seeds, a line a way."""
    ways: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        ways[row["way"], row["values"]].append(row)
    base = ways["everything", "shared"]
    lines = [
        "| way | values | trained | MB | MB kept | gold | gold − everything | KL | J |",
        "|" + "---|" * 9,
    ]
    for (way, values), found in ways.items():
        gaps = [r["gold"] - b["gold"] for r, b in zip(found, base, strict=True)]
        mean = {n: statistics.fmean(r[n] for r in found) for n in ("gold", "kl", "j")}
        error = statistics.stdev(gaps) / len(gaps) ** 0.5
        sizes = [f"{found[0]['trainable']}", f"{found[0]['bytes'] / 1e6:.2f}", f"{found[0]['kept_bytes'] / 1e6:.1f}"]
        cells = [way, values, *sizes, f"{mean['gold']:.3f}"]
        cells += [f"{statistics.fmean(gaps):+.3f} ± {error:.3f}", f"{mean['kl']:.2f}", f"{mean['j']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for rank in CUTS:
        cuts = [(r[f"cut_{rank}_left"], r[f"cut_{rank}_gold"], r[f"cut_{rank}_j"]) for r in base]
        lines.append(f"cut to {rank}: left, gold, J {[round(statistics.fmean(c), 3) for c in zip(*cuts, strict=True)]}")
    lines.append(f"SFT: gold {statistics.fmean(r['sft_gold'] for r in base):.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    parser.add_argument("--workers", type=int, help="rows at a time; as many as there are cores unless given")
    arguments = parser.parse_args()
    if not arguments.show:
        experiments.run(EXPERIMENT, arguments.workers)
    print(table(experiments.read(EXPERIMENT.name)[1]))
