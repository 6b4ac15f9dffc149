"""PPO side by side: ours, TRL 1.12.0's PPOTrainer and a loop that samples one prompt at a time.

Each contender is a process; they take turns, one update at a time, on the same model, prompts, batch and number of
optimizer steps, so that a slow minute of the machine strikes all of them. ``make bench`` runs it on the CPU. On a GPU::

    python benchmarks/bench.py --device cuda --models gpt2-size --batch-size 256 --minibatch-size 64 --max-new-tokens 48
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from operations import product_rate, update_operations
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rlhf_utils.tasks import load_task

HERE = Path(__file__).parent
PYTHON_112 = HERE.parent / ".venv-trl112" / "bin" / "python"
Facts = dict[str, float]
disable_progress_bar()


@dataclass(frozen=True)
class Contender:
    """One way to do the same work."""

    name: str
    script: str
    python: str = sys.executable
    value_model: str = "shared"


PPO = [
    Contender("ours", "ours_ppo.py"),
    Contender("ours, separate value model", "ours_ppo.py", value_model="separate"),
    Contender("TRL 1.12 PPOTrainer", "trl_ppo.py", python=str(PYTHON_112)),
    Contender("one prompt at a time", "one_at_a_time.py"),
]


def make_model(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The tiny task's base model, or random weights of a size.

    Random weights almost never write EOS, so that every response runs to the cap.
    """
    if name == "tiny":
        return load_task("tiny").load_base_model()
    torch.manual_seed(0)
    width, layers, heads, words = {
        "random-0.5m": (128, 2, 4, len(tokenizer)),
        "random-5m": (256, 6, 8, len(tokenizer)),
        "random-30m": (512, 9, 8, len(tokenizer)),
        "gpt2-size": (768, 12, 12, 50_257),
    }[name]
    config = GPT2Config(
        vocab_size=words,
        n_positions=128,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPT2LMHeadModel(config)


@contextmanager
def contender_process(contender: Contender, folder: Path, threads: int) -> Iterator[subprocess.Popen[str]]:
    """A contender that waits for the word to begin."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with open(folder / "errors.txt", "w") as errors:
        process = subprocess.Popen(
            [contender.python, str(HERE / "contenders" / contender.script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def listen(process: subprocess.Popen[str], folder: Path) -> Facts:
    """The next thing that a contender says.

    Raises:
        SystemExit: it died; its last words are shown.
    """
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise SystemExit(f"A contender stopped early:\n{(folder / 'errors.txt').read_text()[-2000:]}")
    return json.loads(line)


def take_turns(
    contenders: Sequence[Contender],
    work: dict[str, object],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rounds: int,
    bar: bool = True,
) -> tuple[dict[str, list[Facts]], list[float]]:
    """Facts of every round of every contender, and the machine's rate of matrix products in each round.

    The first round of each is a warm-up and isn't kept.
    """
    facts: dict[str, list[Facts]] = {c.name: [] for c in contenders}
    rates: list[float] = []
    with ExitStack() as stack:
        racing = []
        for contender in contenders:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
            mine = work | {"value_model": contender.value_model, "rounds": rounds}
            (folder / "work.json").write_text(json.dumps(mine))
            process = stack.enter_context(contender_process(contender, folder, int(work["threads"])))
            listen(process, folder)
            racing.append((contender, process, folder))
        for number in tqdm(range(rounds + 1), "rounds", disable=not bar):
            for contender, process, folder in racing:
                process.stdin.write("go\n")
                process.stdin.flush()
                result = listen(process, folder)
                listen(process, folder) if number < rounds else None
                if number:
                    facts[contender.name].append(result)
            rates.append(product_rate(device=str(work["device"])))
    return facts, rates


def processor() -> str:
    """The processor's name, as far as the system tells."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> str:
    """What ran, for the head of a results file."""
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("torch", "transformers", "trl"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor()}, {cores} cores, Python {platform.python_version()}, {versions}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def update_shares(
    model: PreTrainedModel, work: dict[str, object], rows: Sequence[Facts], rates: Sequence[float]
) -> list:
    """Operations of our update by formula, over its time and the machine's rate of matrix products, in each round."""
    sizes = (model.config.hidden_size, model.config.num_hidden_layers, model.config.vocab_size)
    return [
        update_operations(*sizes, row["lengths"], row["tokens"], int(work["epochs"])) / row["update"] / rate
        for row, rate in zip(rows, rates, strict=True)
    ]


def ppo_table(model_name: str, work: dict[str, object], rounds: int, contenders: Sequence[Contender]) -> str:
    """Run the PPO comparison and write it as text."""
    task = load_task("tiny")
    model = make_model(model_name, task.tokenizer)
    facts, rates = take_turns(contenders, work, model, task.tokenizer, rounds)
    ours, batch = facts[contenders[0].name], int(work["batch_size"])
    memory = "gpu_mib" if work["device"] != "cpu" else "peak_mib"
    lines = [
        f"Model {model_name}: {model.num_parameters():,} parameters; batch {batch}, "
        f"minibatch {work['minibatch_size']}, {work['epochs']} epochs; at most {work['max_new_tokens']} new tokens, "
        f"{statistics.mean(row['tokens'] for row in ours) / batch:.1f} on average; {work['threads']} thread(s); "
        f"{rounds} rounds.",
        "",
        "| | episodes/s | tokens/s | sampling (s) | scoring (s) | update (s) | peak MiB | its time / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for contender in contenders:
        rows = facts[contender.name]
        ratios = [theirs["seconds"] / mine["seconds"] for theirs, mine in zip(rows, ours, strict=True)]
        cells = [
            contender.name,
            f"{statistics.median(batch / row['seconds'] for row in rows):.0f}",
            f"{statistics.median(row['tokens'] / row['seconds'] for row in rows):.0f}",
            *(f"{statistics.median(row[part] for row in rows):.3f}" for part in ("sampling", "scoring", "update")),
            f"{max(row[memory] for row in rows):.0f}",
            "1" if rows is ours else spread(ratios),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    shares = update_shares(model, work, ours, rates[1:])
    lines += [
        "",
        f"Our update ran at {spread(shares)} of the machine's rate of matrix products, "
        f"{statistics.median(rates) / 1e9:.0f} GFLOP/s.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "random-0.5m"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--minibatch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", help="names of contenders")
    parser.add_argument("--keep", type=Path, help="file for the result")
    args = parser.parse_args()
    if not PYTHON_112.exists():
        raise SystemExit("error: the environment with TRL 1.12.0 is missing. Run `make parity`, which makes it.")
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    pool = load_task("tiny").train_prompts
    chosen = torch.randint(len(pool), (args.batch_size * (args.rounds + 1),), generator=generator).tolist()
    work = {
        "prompts": [pool[i] for i in chosen],
        "batch_size": args.batch_size,
        "minibatch_size": args.minibatch_size,
        "epochs": args.epochs,
        "max_new_tokens": args.max_new_tokens,
        "learning_rate": 1e-6,  # so small that the responses' lengths stay the same from round to round
        "threads": args.threads,
        "device": args.device,
    }
    contenders = [c for c in PPO if not args.only or c.name in args.only]
    tables = [ppo_table(name, work, args.rounds, contenders) for name in args.models]
    text = "\n\n".join([machine(), *tables]) + "\n"
    print(text)
    if args.keep:
        args.keep.write_text(text)


if __name__ == "__main__":
    main()
