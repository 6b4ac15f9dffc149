"""How the cost of a PPO update grows: with the batch, the response's length and the model's size.

Ours alone, on one thread, at random weights, so that every response runs to the cap. Each point is a process of its
own, which keeps the peaks of memory apart. ``make bench`` runs it; the figure in the book draws what it kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from bench import PPO, make_model, processor, take_turns
from operations import update_operations
from tqdm.auto import tqdm

from rlhf_utils.tasks import load_task

BASE = {"model": "random-0.5m", "batch_size": 64, "max_new_tokens": 16}
POINTS = [
    *({"axis": "batch", **BASE, "batch_size": n} for n in (16, 32, 64, 128, 256)),
    *({"axis": "length", **BASE, "max_new_tokens": n} for n in (8, 16, 32, 64)),
    *(
        {"axis": "model", **BASE, "model": name, "batch_size": 16}
        for name in ("random-0.5m", "random-5m", "random-30m", "gpt2-size")
    ),
]
MINIBATCH, EPOCHS = 16, 1


def measure(point: dict[str, object], rounds: int, threads: int) -> dict[str, object]:
    """Medians of a point's rounds, and the update's operations by formula."""
    task = load_task("tiny")
    model = make_model(str(point["model"]), task.tokenizer)
    work = {
        "prompts": task.train_prompts[:256],
        "batch_size": point["batch_size"],
        "minibatch_size": MINIBATCH,
        "epochs": EPOCHS,
        "max_new_tokens": point["max_new_tokens"],
        "learning_rate": 1e-6,
        "threads": threads,
        "device": "cpu",
    }
    facts, rates = take_turns(PPO[:1], work, model, task.tokenizer, rounds, bar=False)
    rows = facts[PPO[0].name]
    config = model.config
    sizes = (config.hidden_size, config.num_hidden_layers, config.vocab_size)
    parts = {part: statistics.median(row[part] for row in rows) for part in ("sampling", "scoring", "update")}
    return {
        **point,
        "parameters": model.num_parameters(),
        **{name: round(value, 4) for name, value in parts.items()},
        "peak_mib": round(max(row["peak_mib"] for row in rows)),
        "operations": statistics.median(
            update_operations(*sizes, row["lengths"], row["tokens"], EPOCHS) for row in rows
        ),
        "product_rate": round(statistics.median(rates)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="file for the result, JSON lines")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = {"processor": processor(), "threads": args.threads, "minibatch_size": MINIBATCH, "epochs": EPOCHS}
    lines = [json.dumps(about)]
    for point in tqdm(POINTS, "points"):
        lines.append(json.dumps(measure(point, args.rounds, args.threads)))
    print("\n".join(lines))
    if args.keep:
        args.keep.write_text("\n".join(lines) + "\n")
