"""The loop of the public notebooks: one prompt at a time through ``generate``, then PPO on padded rows.

The KV cache is on. Scoring and update run on whole padded rows and read all logits, as the notebooks' libraries do; the
losses are ours, so that only the handling of the batch differs.
"""

import copy
import itertools
import time

from turns import Turns

turns = Turns()

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_utils.models import RewardModel
from rlhf_utils.ppo import PPOConfig, gae, minibatches, policy_loss, token_rewards, value_loss
from rlhf_utils.tensors import left_pad, position_ids, right_pad, token_logprobs, whiten

work, device = turns.work, torch.device(turns.work["device"])
torch.set_num_threads(work["threads"])
tokenizer = AutoTokenizer.from_pretrained(turns.folder / "model")
reference = AutoModelForCausalLM.from_pretrained(turns.folder / "model").to(device).eval()
policy = copy.deepcopy(reference)
head = torch.nn.Linear(policy.config.hidden_size, 1).to(device)
reward_model = RewardModel(reference).to(device).eval()
parameters = [*policy.parameters(), *head.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=work["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)
config, shuffle = PPOConfig(), torch.Generator().manual_seed(0)
torch.manual_seed(0)


def padded_pass(model, ids, mask):
    """Log-probabilities of all tokens but the first, and the last hidden states, at every position."""
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False, output_hidden_states=True
    )
    return token_logprobs(out.logits[:, :-1], ids[:, 1:]), out.hidden_states[-1]


def collect(prompts):
    """Sample one by one, then pad."""
    asked, answers = [], []
    with torch.no_grad():
        for prompt in prompts:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(device)
            out = policy.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=work["max_new_tokens"],
                do_sample=True,
                top_k=0,
                top_p=1.0,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            asked.append(ids[0].tolist())
            answers.append(out[0, ids.shape[1] :].tolist())
    left, right = left_pad(asked, tokenizer.pad_token_id), right_pad(answers, tokenizer.pad_token_id)
    ids, mask = (torch.cat(pair, -1).to(device) for pair in zip(left, right, strict=True))
    return ids, mask, right[1].to(device)


turns.wait()
for number in range(work["rounds"] + 1):
    clock = [time.perf_counter()]
    start = number * work["batch_size"]
    prompts = [work["prompts"][i % len(work["prompts"])] for i in range(start, start + work["batch_size"])]
    ids, mask, response_mask = collect(prompts)
    length = response_mask.shape[1]
    clock.append(time.perf_counter())
    with torch.no_grad():
        old, states = padded_pass(policy, ids, mask)
        old, old_values = old[:, -length:], head(states[:, -length - 1 : -1]).squeeze(-1)
        ref = padded_pass(reference, ids, mask)[0][:, -length:]
        rewards = token_rewards(reward_model(ids, mask), old, ref, response_mask, config.kl_coef)
        advantages, returns = gae(rewards, old_values, response_mask)
        advantages = whiten(advantages, response_mask)
    clock.append(time.perf_counter())
    for rows in minibatches(len(ids), work["minibatch_size"], work["epochs"], shuffle):
        logprobs, states = padded_pass(policy, ids[rows], mask[rows])
        values = head(states[:, -length - 1 : -1]).squeeze(-1)
        keep = response_mask[rows]
        pg_loss, _ = policy_loss(logprobs[:, -length:], old[rows], advantages[rows], keep, config.clip_range)
        vf_loss = value_loss(values, old_values[rows], returns[rows], keep, config.clip_range)
        optimizer.zero_grad()
        (pg_loss + config.vf_coef * vf_loss).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
    clock.append(time.perf_counter())
    sampling, scoring, update = (b - a for a, b in itertools.pairwise(clock))
    turns.report(
        seconds=clock[-1] - clock[0],
        tokens=int(response_mask.sum()),
        sampling=sampling,
        scoring=scoring,
        update=update,
        gpu_mib=torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0,
    )
    turns.wait()
