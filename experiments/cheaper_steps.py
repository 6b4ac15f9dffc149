"""What one optimizer step costs when less than everything is trained: bytes, and processor time on one thread.

A policy alone, without values. Two models: the tiny one, with a minibatch of its own samples; and one of GPT-2's size
with random weights, which learns nothing, with four rows of 48 tokens. Times are processor time, not the clock's, since
other processes may share the core, and each part's fastest of some steps, since those slow it down as well.

Run by ``make experiments``; ``python experiments/cheaper_steps.py --show`` prints the table again.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from rlhf_utils import experiments
from rlhf_utils.adapters import SavedTensors, memory, prepare
from rlhf_utils.experiments import Experiment, Row
from rlhf_utils.generation import sample_texts
from rlhf_utils.models import response_logprobs
from rlhf_utils.pipeline import load_chain
from rlhf_utils.training import make_optimizer

WAYS = {
    "tiny": ("everything", "body", "top", "norms", "lora-1", "lora-4", "lora-16"),
    "gpt2": ("everything", "body", "top", "norms", "lora-4"),
}
STEPS = {"tiny": 60, "gpt2": 6}
GPT2_ROWS, GPT2_TOKENS = 4, 48
TINY_ROWS = 64


def inputs(name: str) -> tuple[PreTrainedModel, Tensor, Tensor, int]:
    """A model, token ids, their mask and the length of the responses."""
    torch.manual_seed(0)
    if name == "gpt2":
        ids = torch.randint(GPT2Config().vocab_size, (GPT2_ROWS, GPT2_TOKENS))
        return GPT2LMHeadModel(GPT2Config()).eval(), ids, torch.ones_like(ids), GPT2_TOKENS // 2
    chain = load_chain("tiny", 0)
    task, generator = chain.task, torch.Generator().manual_seed(0)
    prompts = task.train_prompts[:TINY_ROWS]
    drawn = sample_texts(chain.sft_model, task.tokenizer, prompts, task.max_new_tokens, generator=generator)
    return chain.sft_model, drawn.input_ids, drawn.attention_mask, drawn.response_length


def compute(row: Row) -> Row:
    """Some steps of one way."""
    model, *batch = inputs(row["model"])
    model = prepare(model, row["way"])
    optimizer, _ = make_optimizer(model, 1e-6, 100)
    parts: dict[str, list[float]] = {"forward_seconds": [], "backward_seconds": [], "step_seconds": []}
    for _ in range(STEPS[row["model"]]):
        clock = [time.process_time()]
        loss = -response_logprobs(model, *batch).mean()
        clock.append(time.process_time())
        loss.backward()
        clock.append(time.process_time())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.append(time.process_time())
        for values, start, end in zip(parts.values(), clock, clock[1:], strict=False):
            values.append(end - start)
    saved, counted = SavedTensors(), memory(model)
    with saved.count(model):
        kept = response_logprobs(model, *batch)
    del kept
    sizes = {"trainable": counted.trainable, "bytes": counted.total, "kept_bytes": saved.bytes}
    return sizes | {name: min(values) for name, values in parts.items()}


EXPERIMENT = Experiment(
    "cheaper_steps",
    [{"model": model, "way": way} for model, ways in WAYS.items() for way in ways],
    compute,
    ["rlhf_utils.adapters", "rlhf_utils.generation", "rlhf_utils.models", "rlhf_utils.pipeline", "rlhf_utils.training"],
)


def table(rows: list[Row]) -> str:
    """A line a way."""
    lines = ["| model | way | trained | MB | MB kept | forward | backward | step |", "|" + "---|" * 8]
    for row in rows:
        sizes = [f"{row[name] / 1e6:.1f}" for name in ("bytes", "kept_bytes")]
        times = [f"{row[f'{name}_seconds']:.4f}" for name in ("forward", "backward", "step")]
        lines.append(f"| {' | '.join([row['model'], row['way'], str(row['trainable']), *sizes, *times])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the kept results instead of computing them")
    parser.add_argument("--workers", type=int, help="rows at a time; as many as there are cores unless given")
    arguments = parser.parse_args()
    if not arguments.show:
        experiments.run(EXPERIMENT, arguments.workers)
    print(table(experiments.read(EXPERIMENT.name)[1]))
