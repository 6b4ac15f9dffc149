"""A PPO update, for :mod:`test_processes`: run alone or by torchrun, it saves the policy that comes out."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_utils.generation import Samples
from rlhf_utils.ppo import PPOConfig, train_ppo
from rlhf_utils.processes import check_size, world

folder, target, expected = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sharded = sys.argv[4:] == ["shard"]
check_size(expected)
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
lengths: list[int] = []


def reward(samples: Samples) -> torch.Tensor:
    """How often a response says "a"; notes the lengths."""
    lengths.extend(samples.response_mask.sum(-1).tolist())
    wanted = tokenizer.convert_tokens_to_ids("a")
    return ((samples.input_ids == wanted) * samples.attention_mask).sum(-1).float()


config = PPOConfig(
    updates=2, batch_size=24, minibatch_size=6, epochs=2, learning_rate=5e-3, score_samples=24, kl_target=0.5, seed=3
)
prompts = ["a b", "c", "d e f", "g h", "i"]
policy, result = train_ppo(model, tokenizer, prompts, reward, 16, config, threads=1, sharded=sharded)
facts = {
    "size": world().size,
    "lengths": lengths[24:48] if world().size == 1 else lengths[24:36],
    "history": [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in result.history],
}
if world().is_main:
    save_file({n: p.detach() for n, p in policy.named_parameters()}, target / "policy.safetensors")
    (target / "facts.json").write_text(json.dumps(facts))
