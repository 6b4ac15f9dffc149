"""How gold rises and falls while the proxy rises: comparisons × size of the reward model × price, PPO and best-of-n.

The tiny task, a whole chain for each seed. The reward models learn from the first 150 or 600 of the chain's 8000
comparisons, or from all, and have two blocks (the SFT model's trunk) or only the first of them. Rows of the kind
``ppo`` train a policy against one of them and take snapshots along the way; the snapshot with the highest gold is then
measured once more, beside the first and the last, on fresh samples, so that the choice doesn't flatter it. Rows of the
kind ``ensemble`` do the same with the mean or the lowest score of four reward models that saw the same 150 comparisons.
Rows of the kind ``bon`` reweight one pool of samples of the SFT model, which gives best-of-n for every n.

Run by ``make experiments``; ``python experiments/overoptimisation.py --show`` prints the table again.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_utils import experiments
from rlhf_utils.best_of_n import best_of_n_shares, kl_best_of_n, kl_bound
from rlhf_utils.evaluation import evaluation_prompts, sequence_kl
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.generation import Samples, sample_texts
from rlhf_utils.models import RewardModel
from rlhf_utils.overoptimisation import (
    cut_reward_model,
    ensemble_reward,
    lost_share,
    lost_share_error,
    member_scores,
    stop_by_labels,
)
from rlhf_utils.pipeline import Chain, load_chain
from rlhf_utils.ppo import PolicyWithValueHead, PPOConfig, ScoreScale, measure_scale, train_ppo
from rlhf_utils.preferences import chosen_rejected
from rlhf_utils.reward import Reward, RewardConfig, model_reward, pair_accuracy, train_reward_model
from rlhf_utils.rollout import penalise_missing_eos
from rlhf_utils.runtime import seed_everything

SEEDS = (0, 1, 2)
ALL_PAIRS = 8000
PAIRS = (150, 600, ALL_PAIRS)
BLOCKS = (2, 1)
BETAS = (0.02, 0.15)
MEMBERS = 4
FEW = {"epochs": 4, "batch_size": 15}  # how the reward model learns from 150 or 600 comparisons
PPO = {"updates": 28, "batch_size": 128, "minibatch_size": 32, "final_rate": 1.0}
SNAPSHOTS = (2, 4, 6, 8, 11, 14, 18, 23, 28)  # after so many updates
LABELS = (1, 2, 4, 8, 16, 32, 64, 128)  # gold labels a snapshot
REPEATS = 200
SAMPLES, FRESH = 256, 1024
POOL_PROMPTS, POOL = 8, 4096
NUMBERS = tuple(2**i for i in range(11))  # n of best-of-n
SHOWN = 12


def all_rows() -> list[Row]:
    """The grid, few comparisons first; then ensembles; then best-of-n."""
    names = ("kind", "pairs", "blocks", "kl_coef", "seed")
    # One block at the low price only, where the reward model matters most.
    cells = [(2, k) for k in BETAS] + [(1, BETAS[0])]
    grid = [("ppo", p, b, k, s) for p in PAIRS for b, k in cells for s in SEEDS]
    grid += [(f"ensemble-{how}", PAIRS[0], 2, BETAS[0], s) for how in ("mean", "worst") for s in SEEDS]
    grid += [("bon", p, b, None, s) for s in SEEDS for p in PAIRS for b in BLOCKS]
    return [dict(zip(names, row, strict=True)) for row in grid]


@lru_cache(maxsize=1)
def chain_of(seed: int) -> Chain:
    """The chain of a seed, on one thread."""
    chain = load_chain("tiny", seed)
    chain.threads = 1
    return chain


@lru_cache
def reward_model(seed: int, pairs: int, blocks: int, member: int = 0) -> RewardModel:
    """A reward model; members of an ensemble differ in their head's start and in the order of the same comparisons."""
    chain = chain_of(seed)
    if pairs == ALL_PAIRS and blocks == BLOCKS[0] and member == 0:
        return chain.reward_model
    own = RewardConfig(seed=seed) if pairs == ALL_PAIRS else RewardConfig(seed=seed + 100 * member, **FEW)
    seed_everything(own.seed)
    model = cut_reward_model(chain.sft_model, blocks)
    train_reward_model(model, chain.task.tokenizer, chosen_rejected(chain.preferences)[:pairs], own, 1)
    return model


@lru_cache
def scale_of(seed: int, pairs: int, blocks: int, member: int) -> ScoreScale:
    """A member's mean and deviation on samples of the SFT model."""
    chain, reward = chain_of(seed), model_reward(reward_model(seed, pairs, blocks, member))
    args = (chain.sft_model, chain.task.tokenizer, chain.task.train_prompts, reward, chain.task.max_new_tokens)
    return measure_scale(*args, PPOConfig(seed=seed, **PPO), torch.Generator().manual_seed(seed))


def draw(model: PreTrainedModel, chain: Chain, number: int, seed: int) -> Samples:
    """Samples for held-out prompts."""
    prompts, generator = evaluation_prompts(chain.task.eval_prompts, number), torch.Generator().manual_seed(seed)
    return sample_texts(model, chain.task.tokenizer, prompts, chain.task.max_new_tokens, generator=generator)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error."""
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def measure(
    model: PreTrainedModel, chain: Chain, reward: Reward, number: int, seed: int
) -> tuple[Row, Tensor, Samples]:
    """A policy on fresh samples for held-out prompts: numbers, gold scores and the samples themselves."""
    samples = draw(model, chain, number, seed)
    texts, responses = samples.texts(chain.task.tokenizer), samples.responses(chain.task.tokenizer)
    verdicts = [chain.task.judge.verdict(text) for text in texts]
    gold, raw = torch.tensor([v.score for v in verdicts]), reward(samples)
    kl = sequence_kl(model, chain.sft_model, samples)
    row: Row = {"proxy": mean_and_error(raw), "gold": mean_and_error(gold), "kl": mean_and_error(kl)}
    for name in ("sentiment", "grammatical", "repetition", "run_on"):
        row[name] = statistics.fmean(getattr(v, name) for v in verdicts)
    row |= {"ended": samples.ended.float().mean().item(), "distinct": len(set(responses)) / number}
    row["length"] = samples.response_mask.sum(-1).float().mean().item()
    return row, gold, samples


def exploits(samples: Samples, reward: Reward, chain: Chain) -> list[Row]:
    """The texts that the proxy likes best among those that gold rejects, with the judge's verdict in its parts."""
    found: dict[str, float] = {}
    for text, score in zip(samples.texts(chain.task.tokenizer), reward(samples).tolist(), strict=True):
        found[text] = score
    rows = []
    for text in sorted(found, key=found.__getitem__, reverse=True):
        verdict = chain.task.judge.verdict(text)
        if verdict.score <= 0 and len(rows) < SHOWN:
            rows.append({"text": text, "proxy": found[text], "gold": verdict.score, **vars(verdict)})
    return rows


def in_deviations(row: Row, scale: ScoreScale) -> Row:
    """The same with the proxy as PPO sees it."""
    mean, error = row["proxy"]
    return row | {"proxy": ((mean - scale.mean) / scale.std, error / scale.std)}


def ppo_row(row: Row) -> Row:
    """Train a policy with snapshots on the way, and measure start, peak and end once more."""
    seed, pairs, blocks = row["seed"], row["pairs"], row["blocks"]
    chain, first = chain_of(seed), reward_model(seed, pairs, blocks)
    reward: Reward = model_reward(first)
    members, scales = [], []
    if pairs == PAIRS[0] and blocks == BLOCKS[0]:
        members = [model_reward(reward_model(seed, pairs, blocks, m)) for m in range(MEMBERS)]
        scales = [scale_of(seed, pairs, blocks, m) for m in range(MEMBERS)]
    if row["kind"] != "ppo":
        reward = ensemble_reward(members, scales, row["kind"].removeprefix("ensemble-"))
    curve, labels, states = [], [], []

    def note(done: int, model: PreTrainedModel) -> None:
        found, gold, samples = measure(model, chain, reward, SAMPLES, 7000 + done)
        if members:
            found["disagreement"] = member_scores(members, scales, samples).std(0).mean().item()
        curve.append({"update": done, **found})
        labels.append(gold)
        states.append(copy.deepcopy(model.state_dict()))

    def on_update(update: int, policy: PolicyWithValueHead, metrics: dict[str, float]) -> None:
        if update + 1 in SNAPSHOTS:
            note(update + 1, policy.lm)

    note(0, chain.sft_model)
    config = PPOConfig(seed=seed, kl_coef=row["kl_coef"], **PPO)
    args = (chain.sft_model, chain.task.tokenizer, chain.task.train_prompts, reward, chain.task.max_new_tokens)
    policy, result = train_ppo(*args, config, threads=1, on_update=on_update)
    golds = torch.stack(labels)  # (snapshots, SAMPLES)
    best = int(golds.mean(1).argmax())
    fresh = {}
    for i, (name, place) in enumerate((("start", 0), ("peak", best), ("end", len(states) - 1))):
        policy.lm.load_state_dict(states[place])
        number = FRESH if members else FRESH // 2
        fresh[name], _, samples = measure(policy.lm, chain, reward, number, 8000 + i)
        fresh[name] = in_deviations(fresh[name], result.scale) | {"update": curve[place]["update"]}
    means = [fresh[name]["gold"] for name in ("start", "peak", "end")]
    gained = means[1][0] > means[0][0]
    generator = torch.Generator().manual_seed(seed)
    texts = exploits(samples, reward, chain)
    return {
        "pair_accuracy": pair_accuracy(first, chain.task.tokenizer, chain.held_out_pairs),
        "parameters": sum(p.numel() for p in first.parameters()),
        "curve": [in_deviations(point, result.scale) for point in curve],
        "fresh": fresh,
        "lost": lost_share(*(m for m, _ in means)) if gained else None,
        "lost_error": lost_share_error(*means) if gained else None,
        "by_labels": {str(n): stop_by_labels(golds, n, REPEATS, generator) for n in LABELS},
        "exploits": [t | {"proxy": (t["proxy"] - result.scale.mean) / result.scale.std} for t in texts],
    }


@lru_cache(maxsize=1)
def pool_of(seed: int) -> list[tuple[Samples, Tensor]]:
    """Samples of the SFT model with their gold scores, a pool for each of a few held-out prompts."""
    chain, generator, known, pool = chain_of(seed), torch.Generator().manual_seed(9000 + seed), {}, []
    for prompt in evaluation_prompts(chain.task.eval_prompts, POOL_PROMPTS):
        task = chain.task
        samples = sample_texts(
            chain.sft_model, task.tokenizer, [prompt] * POOL, task.max_new_tokens, generator=generator
        )
        texts = samples.texts(task.tokenizer)
        for text in set(texts) - set(known):
            known[text] = task.judge.verdict(text).score
        pool.append((samples, torch.tensor([known[text] for text in texts], dtype=torch.float64)))
    return pool


def across(values: Sequence[float]) -> tuple[float, float]:
    """Mean over prompts and its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def bon_row(row: Row) -> Row:
    """Best-of-n for every n, from the pool; a response without EOS loses a deviation, as in PPO."""
    seed, pairs, blocks = row["seed"], row["pairs"], row["blocks"]
    reward, scale = model_reward(reward_model(seed, pairs, blocks)), scale_of(seed, pairs, blocks, 0)
    penalty = PPOConfig().missing_eos_penalty
    scored = []
    for samples, gold in pool_of(seed):
        proxy = penalise_missing_eos((reward(samples) - scale.mean) / scale.std, samples.ended, penalty)
        # Equal texts in batches of different width differ in the last digits: they shall count as ties.
        scored.append(((proxy * 1e4).round().double() / 1e4, gold))
    curve = []
    for n in NUMBERS:
        shares = [best_of_n_shares(proxy, n) for proxy, _ in scored]
        found = [(w @ proxy, w @ gold) for w, (proxy, gold) in zip(shares, scored, strict=True)]
        gains = [(w @ gold - gold.mean()).item() for w, (_, gold) in zip(shares, scored, strict=True)]
        curve.append(
            {
                "n": n,
                "proxy": across([p.item() for p, _ in found]),
                "gold": across([g.item() for _, g in found]),
                "gain": across(gains),
                "kl": statistics.fmean(kl_best_of_n(proxy, n) for proxy, _ in scored),
                "kl_bound": kl_bound(n),
            }
        )
    return {"pair_accuracy": None, "curve": curve}


def compute(row: Row) -> Row:
    """One policy, or best-of-n with one reward model."""
    return bon_row(row) if row["kind"] == "bon" else ppo_row(row)


EXPERIMENT = Experiment(
    "overoptimisation",
    all_rows(),
    compute,
    ("rlhf_utils.pipeline", "rlhf_utils.overoptimisation", "rlhf_utils.ppo", "rlhf_utils.best_of_n"),
)


def table(rows: list[Row]) -> str:
    """Means over the seeds: gold at the start, at the peak and at the end, and the share that is lost."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["kind"] != "bon":
            groups[row["kind"], row["pairs"], row["blocks"], row["kl_coef"]].append(row)
    names = ("kind", "pairs", "blocks", "β", "accuracy", "start", "peak", "end", "KL at peak", "at end", "proxy at end")
    lines = [f"| {' | '.join(names)} | lost, by seed |", "|---" * (len(names) + 1) + "|"]
    for (kind, pairs, blocks, beta), found in groups.items():
        gold = [statistics.fmean(r["fresh"][w]["gold"][0] for r in found) for w in ("start", "peak", "end")]
        kl = [statistics.fmean(r["fresh"][w]["kl"][0] for r in found) for w in ("peak", "end")]
        proxy = statistics.fmean(r["fresh"]["end"]["proxy"][0] for r in found)
        accuracy = statistics.fmean(r["pair_accuracy"] for r in found)
        lost = ", ".join("—" if r["lost"] is None else f"{r['lost']:.0%} ± {r['lost_error']:.0%}" for r in found)
        cells = [kind, str(pairs), str(blocks), str(beta), *(f"{v:.2f}" for v in (accuracy, *gold, *kl, proxy)), lost]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    parser.add_argument("--workers", type=int, help="rows at a time; as many as there are cores unless given")
    arguments = parser.parse_args()
    if not arguments.show:
        experiments.run(EXPERIMENT, arguments.workers)
    print(table(experiments.read(EXPERIMENT.name)[1]))
