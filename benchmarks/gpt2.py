"""GPT-2's shape on one thread: how fast its tokens are trained, read and sampled, and what a backward pass keeps.

Run by hand, since it wants 5 GB and some minutes; the weights are random, so nothing is downloaded. What counts is the
processor's own time and not the clock's, so that other programs spoil it little. The lesson on GPT-2 computes from the
kept file what a whole run would take::

    python benchmarks/gpt2.py --keep benchmarks/results/gpt2.jsonl --dataset my-sst2 --tokenizer my-gpt2

With the two folders it counts the tokens of the real rows, too; with ``--count`` nothing else, and the file keeps its
other lines.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from bench import processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_utils import ppo
from rlhf_utils.adapters import SavedTensors
from rlhf_utils.budget import GPT2, Stage
from rlhf_utils.cost_model import Network
from rlhf_utils.generation import sample
from rlhf_utils.models import PolicyWithValueHead, RewardModel, response_hidden
from rlhf_utils.ppo import PPOConfig, train_ppo
from rlhf_utils.reward import model_reward
from rlhf_utils.runtime import evaluating
from rlhf_utils.sft import SFTConfig, batch_loss
from rlhf_utils.training import make_optimizer

PROMPT, RESPONSE, BATCH, TEXT = 4, 24, 8, 16
WORDS = GPT2Config().vocab_size
Row = dict[str, object]


def words() -> PreTrainedTokenizerFast:
    """A tokenizer of as many words as GPT-2 has, with a PAD on top."""
    names = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(WORDS - 2))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def make_model(width: int, heads: int) -> GPT2LMHeadModel:
    """GPT-2's twelve blocks at random initialisation, without dropout."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS + 1 if width == GPT2.width else 16,
        n_embd=width,
        n_head=heads,
        n_layer=GPT2.layers,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config)


def sft_row(model: GPT2LMHeadModel, steps: int) -> Row:
    """Optimizer steps of SFT; the first, which makes room for the moments, doesn't count."""
    optimizer, _ = make_optimizer(model, 1e-6, steps + 1)
    tokens = torch.randint(3, WORDS, (BATCH, TEXT)).tolist()
    seconds = []
    for _ in range(steps + 1):
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        batch_loss(model, tokens, 0).backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    # A row's last token predicts nothing and isn't read.
    stage = Stage(trained=BATCH * (TEXT - 1), steps=1)
    return row("sft", statistics.median(seconds[1:]), stage, model)


def row(part: str, seconds: float, stage: Stage, model: GPT2LMHeadModel) -> Row:
    """One measurement: processor seconds, operations by formula, and their quotient."""
    network = Network(model.num_parameters(), model.config.n_layer, model.config.n_embd, number_bytes=4)
    operations = stage.operations(network)
    return {"part": part, "seconds": round(seconds, 3), "operations": operations, "rate": round(operations / seconds)}


def ppo_rows(model: GPT2LMHeadModel, updates: int) -> list[Row]:
    """The three parts of a PPO update; the first update doesn't count."""
    tokenizer = words()
    config = PPOConfig(
        updates=updates + 1,
        batch_size=BATCH,
        minibatch_size=BATCH,
        epochs=1,
        learning_rate=1e-7,
        score_samples=BATCH,
        missing_eos_penalty=0.0,
    )
    prompts = [" ".join(f"w{i + k}" for k in range(PROMPT)) for i in range(64)]
    ppo.time = SimpleNamespace(perf_counter=time.process_time)  # train_ppo's own clock
    _, result = train_ppo(model, tokenizer, prompts, model_reward(RewardModel(model)), RESPONSE, config, threads=1)
    history = result.history[1:]
    tokens = BATCH * (PROMPT + statistics.mean(h["length"] for h in history))
    stages = {
        "sampling": Stage(read=tokens),
        "scoring": Stage(read=3 * tokens),
        "update": Stage(trained=tokens),
    }
    return [row(p, statistics.median(h[f"{p}_seconds"] for h in history), s, model) for p, s in stages.items()]


def kept_row(model: GPT2LMHeadModel) -> Row:
    """Bytes that the backward pass of PPO keeps: of each token in the blocks, of each response token behind them."""
    ids = torch.randint(3, WORDS, (2, PROMPT + RESPONSE))
    mask = torch.ones_like(ids)
    policy = PolicyWithValueHead(model)
    states, everything = SavedTensors(), SavedTensors()
    with states.count(policy):
        hidden = response_hidden(model.base_model, ids, mask, RESPONSE)
    with everything.count(policy):
        logprobs, values, _ = policy(ids, mask, RESPONSE)
        loss = ppo.policy_loss(logprobs, logprobs.detach(), torch.ones_like(logprobs), mask[:, PROMPT:], 0.2)[0]
        loss = loss + values.mean()
    del hidden, loss
    behind = everything.bytes - states.bytes
    return {
        "part": "kept",
        "state_bytes": round(states.bytes / ids.numel()),
        "logit_bytes": round(behind / (2 * RESPONSE)),
    }


def dispatch_row(repetitions: int) -> Row:
    """Seconds to hand over GPT-2's operations: the same twelve blocks, so narrow that the products take no time.

    A GPU's host does the same handing over, so this is a stand-in for what no GPU can hide.
    """
    model = make_model(width=12, heads=12)
    optimizer, _ = make_optimizer(model, 1e-6, repetitions)
    prompt, mask = torch.ones(1, 1, dtype=torch.long) * 3, torch.ones(1, 1, dtype=torch.long)
    reading, training = [], []
    for _ in range(repetitions):
        start = time.process_time()
        with evaluating(model):
            passes = sample(model, prompt, mask, RESPONSE, eos_id=-1, pad_id=0).response_length
        reading.append((time.process_time() - start) / passes)
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        batch_loss(model, [[3, 4, 5, 6]], 0).backward()
        optimizer.step()
        training.append(time.process_time() - start)
    return {
        "part": "dispatch",
        "reading_seconds": round(statistics.median(reading), 5),
        "training_seconds": round(statistics.median(training), 5),
    }


def share_inside(rows: list[str], others: list[str], number: int = 1500) -> float:
    """Share of some rows, drawn at random, that stand word for word within one of the others."""
    whole = "\n".join(f" {text} " for text in others)
    return statistics.fmean(f" {text} " in whole for text in random.Random(0).sample(rows, number))


def token_row(dataset: str, tokenizer: str) -> Row:
    """How long the real rows are in GPT-2's tokens, and how much of ours the judge's half knows."""
    from rlhf_utils.tasks import sst2

    read = sst2.load_tokenizer(tokenizer, None)
    texts = [r.text for r in sst2.read_rows(dataset, *sst2.DATASET, text_column="sentence")["train"]]
    ours = [t for t in texts if sst2.side(t, 2) == 0]
    train, held_out = sst2.word_prompts(ours)

    def count(of: list[str], end: int = 0) -> list[int]:
        return [len(ids) + end for ids in read(of)["input_ids"]]

    rests = []
    for text in ours:
        split = text.split()
        length = sst2.PROMPT_WORDS[sst2.side(text, len(sst2.PROMPT_WORDS))]
        if len(split) > length + 2:
            rests.append(" " + " ".join(split[length:]))
    lengths, rest = count(ours, 1), count(rests, 1)
    cut = SFTConfig().max_tokens
    return {
        "part": "tokens",
        "texts": len(texts),
        "ours": len(ours),
        "prompts": len(train),
        "held_out_prompts": len(held_out),
        "text_tokens": round(statistics.fmean(min(n, cut) for n in lengths), 3),
        "words": round(statistics.fmean(len(t.split()) for t in ours), 3),
        "prompt_tokens": round(statistics.fmean(count(train)), 3),
        "rest_tokens": round(statistics.fmean(rest), 3),
        "rest_beyond_cap": round(statistics.fmean(n > sst2.MAX_NEW_TOKENS for n in rest), 4),
        "cut_texts": round(statistics.fmean(n > cut for n in lengths), 5),
        "inside_others": round(share_inside(ours, [t for t in texts if sst2.side(t, 2) == 1]), 4),
        "tokens_used": len({i for ids in read(texts)["input_ids"] for i in ids}),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2, help="of each kind that count")
    parser.add_argument("--dataset", help="folder of SST-2")
    parser.add_argument("--tokenizer", help="folder of GPT-2's tokenizer")
    parser.add_argument("--keep", type=Path, help="file for the result, JSON lines")
    parser.add_argument("--count", action="store_true", help="only count the real rows anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.count:
        found = [json.loads(line) for line in args.keep.read_text().splitlines()]
        counted = token_row(args.dataset, args.tokenizer)
        found = [counted if r.get("part") == "tokens" else r for r in found]
        args.keep.write_text("".join(json.dumps(r) + "\n" for r in found))
        raise SystemExit
    rows: list[Row] = [{"processor": processor(), "threads": 1, "batch": BATCH, "prompt": PROMPT, "response": RESPONSE}]
    rows.append(dispatch_row(5))
    if args.dataset and args.tokenizer:
        rows.append(token_row(args.dataset, args.tokenizer))
    gpt2 = make_model(GPT2.width, 12)
    rows += [kept_row(gpt2), *ppo_rows(gpt2, args.steps), sft_row(gpt2, args.steps)]
    rows.append({"part": "peak", "mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)})
    text = "".join(json.dumps(r) + "\n" for r in rows)
    print(text, end="")
    if args.keep:
        args.keep.write_text(text)
