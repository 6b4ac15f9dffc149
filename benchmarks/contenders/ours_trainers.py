"""Ours: SFT, reward model or DPO; a round is one call of the function that lessons and command line call.

The time covers all that the function does: tokenising, and for DPO the reference's pass over the pairs.
"""

import copy
import resource
import statistics
import time

from turns import Turns

turns = Turns()

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_utils.dpo import DPOConfig, train_dpo
from rlhf_utils.models import RewardModel
from rlhf_utils.reward import RewardConfig, train_reward_model
from rlhf_utils.sft import SFTConfig, train_sft

work, threads = turns.work, turns.work["threads"]
tokenizer = AutoTokenizer.from_pretrained(turns.folder / "model")
base = AutoModelForCausalLM.from_pretrained(turns.folder / "model")
settings = {"epochs": 1, "batch_size": work["batch_size"], "learning_rate": work["learning_rate"], "warmup": 0.0}


def sft(seed):
    model, texts, config = copy.deepcopy(base), work["texts"], SFTConfig(seed=seed, **settings)
    return lambda: train_sft(model, tokenizer, texts, texts[:1], config, threads)


def reward(seed):
    torch.manual_seed(seed)
    model, config = RewardModel(base), RewardConfig(seed=seed, **settings)
    pairs = [(p["prompt"] + p["chosen"], p["prompt"] + p["rejected"]) for p in work["pairs"]]
    return lambda: train_reward_model(model, tokenizer, pairs, config, threads)


def dpo(seed):
    model, config = copy.deepcopy(base), DPOConfig(kl_coef=work["kl_coef"], seed=seed, **settings)
    return lambda: train_dpo(model, base, tokenizer, work["pairs"], config, threads)


prepare = {"sft": sft, "reward": reward, "dpo": dpo}[work["trainer"]]
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
turns.wait()
for number in range(work["rounds"] + 1):
    train = prepare(seed=number)
    start = time.perf_counter()
    losses = train().losses
    seconds = time.perf_counter() - start
    turns.report(seconds=seconds, startup=0.0, steps=len(losses), loss=statistics.mean(losses), loaded_mib=loaded)
    turns.wait()
