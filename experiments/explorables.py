"""What the page of explorable figures shows: policies at several prices, one update token by token, a training run.

The tiny task, one chain. Each policy writes for the same 256 held-out openings with the same dice, one stream of random
numbers a text, so that two policies' texts differ only where the policies do. A row of the kind ``price`` trains PPO
with one β and keeps each text with reward, gold score and KL; the SFT model stands beside them. The row ``training``
follows the run at the default β: averages over the same texts after some of its updates, and the first few of them.
The row ``update`` is one update of that run, with every quantity of every token for some of its responses.

Run by ``make experiments``; ``python experiments/explorables.py --show`` prints the averages again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_utils import experiments
from rlhf_utils.evaluation import evaluation_prompts, sequence_kl
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.generation import Samples, sample_texts
from rlhf_utils.models import PolicyWithValueHead
from rlhf_utils.pipeline import Chain, load_chain
from rlhf_utils.ppo import (
    PPOConfig,
    advantages_and_returns,
    draw_prompts,
    gae,
    measure_scale,
    start_policy,
    token_rewards,
    train_ppo,
    update_policy,
)
from rlhf_utils.rollout import Rollout, penalise_missing_eos, score_rollout
from rlhf_utils.runtime import evaluating, seed_everything, use_threads
from rlhf_utils.tensors import masked_mean
from rlhf_utils.training import make_optimizer

SEED = 0
BETAS = (1.0, 0.4, 0.15, 0.05, 0.02, 0.01, 0.0)  # 0.15 is the default
OPENINGS = 256
FOLLOWED = 8  # of them, whose texts the row of the training keeps
LOOKS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)  # updates after which the policy writes
APART = 4  # the update that is taken apart, counted from 1
SHOWN = 4  # responses of it
DICE = 11
DIGITS = 5


def short(value: float) -> float:
    """To five significant digits."""
    return float(f"{value:.{DIGITS}g}")


def chain_of() -> Chain:
    """The book's own chain, on one thread."""
    chain = load_chain("tiny", SEED)
    chain.threads = 1
    return chain


def arguments(chain: Chain, config: PPOConfig) -> tuple:
    """What training takes besides the number of threads."""
    return (
        chain.sft_model,
        chain.task.tokenizer,
        chain.task.train_prompts,
        chain.reward,
        chain.task.max_new_tokens,
        config,
    )


def written(model: PreTrainedModel, chain: Chain) -> Row:
    """Texts for the openings by the same dice, with reward, gold score and KL of each."""
    task = chain.task
    prompts = evaluation_prompts(task.eval_prompts, OPENINGS)
    generator = torch.Generator().manual_seed(DICE)
    samples = sample_texts(model, task.tokenizer, prompts, task.max_new_tokens, generator=generator)
    rewards = (chain.reward(samples) - chain.scale.mean) / chain.scale.std
    return {
        "prompts": prompts,
        "responses": [text.strip() for text in samples.responses(task.tokenizer)],
        "reward": [short(x) for x in rewards.tolist()],
        "gold": [short(x) for x in task.judge.scores(samples.texts(task.tokenizer))],
        "kl": [short(x) for x in sequence_kl(model, chain.sft_model, samples).tolist()],
    }


def price(chain: Chain, beta: float | None) -> Row:
    """What a policy at a price writes; None = the SFT model."""
    if beta is None:
        return written(chain.sft_model, chain)
    config = replace(chain.settings.ppo, kl_coef=beta)
    return written(train_ppo(*arguments(chain, config), threads=1)[0].lm, chain)


def training(chain: Chain) -> Row:
    """What the policy writes as training goes on, with score, KL and clip fraction of every update's batch."""
    looks = []

    def look(updates: int, model: PreTrainedModel) -> None:
        found = written(model, chain)
        averages = {name: short(fmean(found[name])) for name in ("reward", "gold", "kl")}
        looks.append({"updates": updates, **averages, "responses": found["responses"][:FOLLOWED]})

    def on_update(update: int, policy: PolicyWithValueHead, _: dict[str, float]) -> None:
        if update + 1 in LOOKS:
            look(update + 1, policy.lm)

    look(0, chain.sft_model)
    _, result = train_ppo(*arguments(chain, chain.settings.ppo), threads=1, on_update=on_update)
    batches = {name: [short(row[name]) for row in result.history] for name in ("score", "kl", "clip_fraction")}
    return {"looks": looks, "batches": batches}


def update(chain: Chain) -> Row:
    """One update of the training, and all that it computes for some responses.

    The loop is that of ``train_ppo``, with each quantity at hand.
    """
    model, tokenizer, prompts, reward, limit, config = arguments(chain, chain.settings.ppo)
    use_threads(1)
    generator = seed_everything(config.seed)
    scale = measure_scale(model, tokenizer, prompts, reward, limit, config, generator)
    policy = start_policy(model, config.value_model, None, scale)
    steps = config.epochs * (config.batch_size // config.minibatch_size)
    optimizer, schedule = make_optimizer(
        policy, config.learning_rate, config.updates * steps, eps=config.adam_eps, final_rate=config.final_rate
    )
    for _ in range(APART):
        chosen = draw_prompts(prompts, config.batch_size, generator)
        samples = sample_texts(policy.lm, tokenizer, chosen, limit, config.temperature, generator)
        scores = (reward(samples) - scale.mean) / scale.std
        scores = penalise_missing_eos(scores, samples.ended, config.missing_eos_penalty)
        rollout = score_rollout(policy, model, samples, scores, config.minibatch_size, config.temperature)
        advantages, returns = advantages_and_returns(rollout, config.kl_coef, config)
        metrics = update_policy(policy, optimizer, rollout, advantages, returns, config, generator)
        for _ in range(steps):
            schedule.step()
    return taken_apart(chain, chosen, policy, samples, rollout, advantages, returns) | {
        "batch": {"score": short(scores.mean().item()), "clip_fraction": short(metrics["clip_fraction"])}
    }


def taken_apart(
    chain: Chain,
    prompts: list[str],
    policy: PolicyWithValueHead,
    samples: Samples,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
) -> Row:
    """Every quantity of every token of some responses; ``policy`` is the one after the update."""
    config, mask = chain.settings.ppo, rollout.response_mask
    rewards = token_rewards(rollout.scores, rollout.old_logprobs, rollout.ref_logprobs, mask, config.kl_coef)
    plain, _ = gae(rewards, rollout.values, mask, config.gamma, config.gae_lambda)
    with evaluating(policy):
        new, _, _ = policy(samples.input_ids, samples.attention_mask, samples.response_length)
    ratio = (new - rollout.old_logprobs).exp()
    # Where the clipped branch of the loss is the smaller one, no gradient comes from the token.
    clipped = torch.where(advantages > 0, ratio > 1 + config.clip_range, ratio < 1 - config.clip_range) & mask.bool()
    columns = {
        "logprobs": rollout.old_logprobs,
        "ref_logprobs": rollout.ref_logprobs,
        "rewards": rewards,
        "values": rollout.values,
        "raw_advantages": plain,
        "advantages": advantages,
        "returns": returns,
        "new_logprobs": new,
        "ratio": ratio,
    }
    responses = []
    for i in pick(rollout.scores, clipped):
        real = mask[i].bool()
        ids = samples.input_ids[i, -samples.response_length :][real].tolist()
        responses.append(
            {
                "prompt": prompts[i],
                "tokens": chain.task.tokenizer.convert_ids_to_tokens(ids),
                "score": short(rollout.scores[i].item()),
                **{name: [short(x) for x in column[i][real].tolist()] for name, column in columns.items()},
                "clipped": clipped[i][real].tolist(),
            }
        )
    mean = masked_mean(plain, mask)
    whitening = {"mean": mean.item(), "deviation": masked_mean((plain - mean) ** 2, mask).sqrt().item()}
    settings = {name: getattr(config, name) for name in ("kl_coef", "gamma", "gae_lambda", "clip_range")}
    return {
        "update": APART,
        "config": settings,
        "whitening": {name: short(x) for name, x in whitening.items()},
        "clipped_share": short(clipped.sum().item() / mask.sum().item()),
        "responses": responses,
    }


def pick(scores: Tensor, clipped: Tensor) -> list[int]:
    """Rows to show: the best score, the median, the worst, and of the others those with most clipped tokens."""
    order = scores.argsort().tolist()
    chosen = [order[-1], order[len(order) // 2], order[0]]
    others = [row for row in clipped.sum(-1).argsort(descending=True, stable=True).tolist() if row not in chosen]
    return [*chosen, *others][:SHOWN]


def compute(row: Row) -> Row:
    """A row of any kind."""
    chain = chain_of()
    if row["kind"] == "price":
        return price(chain, row["kl_coef"])
    return training(chain) if row["kind"] == "training" else update(chain)


ROWS = [{"kind": "price", "kl_coef": beta} for beta in (None, *BETAS)]
ROWS += [{"kind": kind, "kl_coef": None} for kind in ("training", "update")]
EXPERIMENT = Experiment("explorables", ROWS, compute, ("rlhf_utils.pipeline", "rlhf_utils.ppo"))


def table(rows: list[Row]) -> str:
    """Averages at each price."""
    lines = ["| β | reward | gold | KL |", "|---|---|---|---|"]
    for row in rows:
        if row["kind"] == "price":
            name = "SFT" if row["kl_coef"] is None else row["kl_coef"]
            lines.append(
                f"| {name} | " + " | ".join(f"{fmean(row[key]):.2f}" for key in ("reward", "gold", "kl")) + " |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    if not parser.parse_args().show:
        experiments.run(EXPERIMENT)
    print(table(experiments.read(EXPERIMENT.name)[1]))
