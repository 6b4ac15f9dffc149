"""What the page of explorable figures shows: policies at several prices, one update token by token, a training run.

The tiny task, one chain. A row of the kind ``price`` trains PPO with one β and keeps what the policy writes for eight
held-out openings, with reward, gold score and KL of each text; the SFT model stands beside them. The row ``training``
keeps what the policy writes for the same openings with the same dice before training and after every fourth update. The
row ``update`` takes a policy in the middle of its training through one more update and keeps, for some responses, every
quantity of every token.

Run by ``make experiments``; ``python experiments/explorables.py --show`` prints the averages again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from rlhf_utils import experiments
from rlhf_utils.evaluation import evaluation_prompts, sequence_kl
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.generation import sample_texts
from rlhf_utils.pipeline import Chain, load_chain
from rlhf_utils.ppo import (
    PPOConfig,
    advantages_and_returns,
    draw_prompts,
    gae,
    token_rewards,
    train_ppo,
    update_policy,
)
from rlhf_utils.rollout import penalise_missing_eos, score_rollout
from rlhf_utils.runtime import evaluating
from rlhf_utils.training import make_optimizer

SEED = 0
BETAS = (1.0, 0.4, 0.15, 0.05, 0.0)  # 0.15 is the default
OPENINGS = 8
EACH = 32  # texts for each of them
EVERY = 4  # updates between two looks at the policy
HALF_WAY = 16  # updates before the one that is taken apart
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


def arguments(chain: Chain, config: PPOConfig) -> tuple:  # noqa: ANN201
    """What training takes besides the number of threads."""
    return chain.sft_model, chain.task.tokenizer, chain.task.train_prompts, chain.reward, chain.task.max_new_tokens, config


def written(model: PreTrainedModel, chain: Chain, each: int) -> Row:
    """Texts for the openings by the same dice, with reward, gold score and KL of each."""
    task = chain.task
    prompts = evaluation_prompts(task.eval_prompts, OPENINGS, SEED)
    generator = torch.Generator().manual_seed(DICE)
    samples = sample_texts(model, task.tokenizer, prompts * each, task.max_new_tokens, generator=generator)
    rewards = (chain.reward(samples) - chain.scale.mean) / chain.scale.std
    return {
        "prompts": prompts,
        "responses": [text.strip() for text in samples.responses(task.tokenizer)],
        "ended": samples.ended.tolist(),
        "reward": [short(x) for x in rewards.tolist()],
        "gold": [short(x) for x in task.judge.scores(samples.texts(task.tokenizer))],
        "sample_kl": [short(x) for x in sequence_kl(model, chain.sft_model, samples).tolist()],
    }


def price(chain: Chain, beta: float | None) -> Row:
    """A policy at a price, and what it writes; None = the SFT model."""
    model = chain.sft_model
    if beta is not None:
        config = replace(chain.settings.ppo, kl_coef=beta)
        model = train_ppo(*arguments(chain, config), threads=1)[0].lm
    found = chain.evaluate(model)
    averages = {"mean_reward": found.mean_reward, "judge_score": found.judge_score, "kl": found.kl}
    return {name: short(value) for name, value in averages.items()} | written(model, chain, EACH)


def training(chain: Chain) -> Row:
    """What the policy writes as training goes on, with score and KL of every update."""
    looks = [written(chain.sft_model, chain, 1) | {"updates": 0}]

    def look(update: int, policy, _: dict[str, float]) -> None:  # noqa: ANN001
        if (update + 1) % EVERY == 0:
            looks.append(written(policy.lm, chain, 1) | {"updates": update + 1})

    _, result = train_ppo(*arguments(chain, chain.settings.ppo), threads=1, on_update=look)
    history = {name: [short(row[name]) for row in result.history] for name in ("score", "kl", "entropy", "clip_fraction")}
    return {"looks": looks, **history}


def update(chain: Chain) -> Row:
    """One update of PPO, and all that it computes for some responses."""
    task, config = chain.task, replace(chain.settings.ppo, updates=HALF_WAY)
    policy, result = train_ppo(*arguments(chain, config), threads=1)
    generator = torch.Generator().manual_seed(DICE)
    prompts = draw_prompts(task.train_prompts, config.batch_size, generator)
    samples = sample_texts(policy.lm, task.tokenizer, prompts, task.max_new_tokens, generator=generator)
    scores = (chain.reward(samples) - result.scale.mean) / result.scale.std
    scores = penalise_missing_eos(scores, samples.ended, config.missing_eos_penalty)
    rollout = score_rollout(policy, chain.sft_model, samples, scores, config.minibatch_size)
    mask = rollout.response_mask
    rewards = token_rewards(scores, rollout.old_logprobs, rollout.ref_logprobs, mask, config.kl_coef)
    plain, _ = gae(rewards, rollout.values, mask, config.gamma, config.gae_lambda)
    advantages, returns = advantages_and_returns(rollout, config.kl_coef, config)
    steps = config.epochs * (config.batch_size // config.minibatch_size)
    optimizer, _ = make_optimizer(policy, config.learning_rate, steps, eps=config.adam_eps)
    update_policy(policy, optimizer, rollout, advantages, returns, config, generator)
    with evaluating(policy):
        new, values, _ = policy(samples.input_ids, samples.attention_mask, samples.response_length)
    ratio = (new - rollout.old_logprobs).exp()
    silent = torch.where(advantages > 0, ratio > 1 + config.clip_range, ratio < 1 - config.clip_range)
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
        "silent": silent.float(),
        "new_values": values,
    }
    chosen = pick(scores, silent & mask.bool())
    rows = []
    for i in chosen:
        real = mask[i].bool()
        ids = samples.input_ids[i, -samples.response_length :][real]
        rows.append(
            {
                "prompt": prompts[i],
                "tokens": task.tokenizer.convert_ids_to_tokens(ids.tolist()),
                "score": short(scores[i].item()),
                **{name: [short(x) for x in column[i][real].tolist()] for name, column in columns.items()},
            }
        )
    settings = {
        name: getattr(config, name) for name in ("kl_coef", "gamma", "gae_lambda", "clip_range", "batch_size", "minibatch_size", "epochs")
    }
    return {"responses": rows, "config": settings, "silent_share": short(silent[mask.bool()].float().mean().item())}


def pick(scores: torch.Tensor, silent: torch.Tensor) -> list[int]:
    """Rows to show: the best and the worst score, the median, and the one with most tokens that the clip has silenced."""
    order = scores.argsort().tolist()
    chosen = [order[-1], order[len(order) // 2], order[0]]
    for row in silent.sum(-1).argsort(descending=True).tolist():
        if row not in chosen:
            return [*chosen, row][:SHOWN]
    raise AssertionError("a batch has more responses than are shown")


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
            lines.append(f"| {name} | {row['mean_reward']:.2f} | {row['judge_score']:.2f} | {row['kl']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    if not parser.parse_args().show:
        experiments.run(EXPERIMENT)
    print(table(experiments.read(EXPERIMENT.name)[1]))
