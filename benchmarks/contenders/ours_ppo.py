"""Ours: the function that lessons and command line call, with a wait after each update."""

from turns import Turns

turns = Turns()

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_utils.generation import Samples
from rlhf_utils.models import PolicyWithValueHead, RewardModel
from rlhf_utils.ppo import PPOConfig, train_ppo
from rlhf_utils.reward import model_reward

work, device = turns.work, torch.device(turns.work["device"])
tokenizer = AutoTokenizer.from_pretrained(turns.folder / "model")
model = AutoModelForCausalLM.from_pretrained(turns.folder / "model").to(device)
score = model_reward(RewardModel(model).to(device))
seen: dict[str, torch.Tensor] = {}


def reward(samples: Samples) -> torch.Tensor:
    """The reward model; notes the lengths on the way, for the count of operations."""
    seen["lengths"] = samples.attention_mask.sum(-1)
    seen["responses"] = samples.response_mask.sum(-1)
    return score(samples)


def on_update(number: int, policy: PolicyWithValueHead, metrics: dict[str, float]) -> None:
    """Report the update that ended, and wait."""
    seconds = {part: metrics[f"{part}_seconds"] for part in ("sampling", "scoring", "update")}
    gpu = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    turns.report(
        seconds=sum(seconds.values()),
        tokens=int(seen["responses"].sum()),
        lengths=(seen["lengths"] - 1).tolist(),  # a row's last token predicts nothing and is not read
        gpu_mib=gpu,
        **seconds,
    )
    turns.wait()


config = PPOConfig(
    updates=work["rounds"] + 1,
    batch_size=work["batch_size"],
    minibatch_size=work["minibatch_size"],
    epochs=work["epochs"],
    learning_rate=work["learning_rate"],
    value_model=work["value_model"],
)
turns.wait()
train_ppo(
    model, tokenizer, work["prompts"], reward, work["max_new_tokens"], config, work["threads"], on_update=on_update
)
