"""The command line: ``python -m rlhf_utils`` or ``rlhf-utils``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_utils.annotation import commands as annotation
from rlhf_utils.arguments import OneLineParser, number
from rlhf_utils.errors import UserError

if TYPE_CHECKING:  # imported where they are needed: --help and a mistyped option should answer at once
    from rlhf_utils.algorithms import PolicyConfig
    from rlhf_utils.pipeline import Chain
    from rlhf_utils.preferences import Preference
    from rlhf_utils.tasks import Task

# Written down here too, since --help must not wait for torch; a test holds it against rlhf_utils.algorithms.TITLES.
ALGORITHMS = ("ppo", "rloo", "grpo", "dpo", "best-of-n", "rejection-sft")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = OneLineParser(prog="rlhf-utils", description="Align a language model: SFT, reward model, policy.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_pipeline(commands)

    generate = commands.add_parser("generate", help="write with the policy of a finished run")
    generate.add_argument("--out", type=Path, required=True, help="folder of the run")
    generate.add_argument("--prompt", required=True, help="the opening")
    generate.add_argument("--number", type=number(int, 1, 1000), default=5, help="of samples (default 5)")
    generate.add_argument(
        "--model", choices=("policy", "sft"), default="policy", help="which stage writes (default policy)"
    )
    generate.add_argument("--max-new-tokens", type=number(int, 1), help="cap in tokens (default: the task's)")
    generate.add_argument("--temperature", type=number(float, 0.01, 100), default=1.0, help="default 1.0")
    generate.add_argument("--seed", type=number(int, 0), default=0, help="default 0")
    generate.set_defaults(run=run_generate)

    export = commands.add_parser("export", help="write the policy as a from_pretrained folder")
    export.add_argument("--out", type=Path, required=True, help="folder of the run")
    export.add_argument("--to", type=Path, required=True, help="folder to write")
    export.set_defaults(run=run_export)

    doctor = commands.add_parser("doctor", help="versions, device, threads, memory, hub, caches")
    doctor.set_defaults(run=run_doctor)

    cache = commands.add_parser("cache", help="list or clear the artefacts that lessons share")
    cache.add_argument("action", choices=("list", "clear"))
    cache.add_argument("--out", type=Path, help="folder of a run (default: the lessons' cache)")
    cache.set_defaults(run=run_cache)

    pretrain = commands.add_parser("pretrain", help="make the base model of an embedded task again, some minutes")
    pretrain.add_argument("--task", choices=("tiny", "summaries"), default="tiny", help="whose (default tiny)")
    pretrain.add_argument("--to", type=Path, required=True, help="folder to write")
    pretrain.set_defaults(run=run_pretrain)

    annotation.add_to(commands)
    return parser


def _add_pipeline(commands: argparse._SubParsersAction) -> None:
    p = commands.add_parser(
        "pipeline",
        help="run the whole chain and report",
        description="Run SFT, preferences, reward model and an algorithm that makes the policy: "
        f"{', '.join(ALGORITHMS)}. What is finished in --out is not run again.",
    )
    p.add_argument("--task", default="tiny", help="tiny, summaries, sst2 or imdb (default tiny)")
    p.add_argument("--out", type=Path, required=True, help="folder for models, records and report.json")
    p.add_argument("--seed", type=number(int, 0), default=0, help="of every stage (default 0)")
    p.add_argument("--dataset", metavar="PATH", help="folder of the data set, instead of the hub")
    p.add_argument(
        "--model", metavar="PATH|from-config", help="folder or hub name of the base model, or random weights"
    )
    p.add_argument("--tokenizer", metavar="PATH", help="folder or hub name of the tokenizer")
    p.add_argument(
        "--preferences", type=Path, metavar="FILE",
        help="comparisons to learn the reward from: records, TL;DR comparisons, hh-rlhf, or prompt, chosen, rejected",
    )  # fmt: skip
    p.add_argument("--sft-epochs", type=number(float, 0, 1000), help="passes over the texts (default: the task's)")
    p.add_argument("--sft-texts", type=number(int, 1), help="use this many texts for SFT (default: the task's)")
    p.add_argument("--pairs", type=number(int, 1), help="preference pairs (default: the task's)")
    p.add_argument(
        "--algorithm", choices=ALGORITHMS, default="ppo", help="what makes the policy (default ppo)", metavar="NAME"
    )
    p.add_argument(
        "--updates", type=number(int, 1), help="of PPO, RLOO and GRPO; rounds of rejection-sft (default: the task's)"
    )
    p.add_argument(
        "--batch-size", type=number(int, 1), help="responses an update; of dpo, pairs a step (default: the task's)"
    )
    p.add_argument("--learning-rate", type=number(float, 1e-9, 1), help="of the algorithm (default: the task's)")
    p.add_argument("--kl-coef", type=number(float, 0, 1000), help="reward that a nat of KL costs (default: the task's)")
    p.add_argument(
        "--kl-target", type=number(float, 0.01, 1000), help="of PPO, nats a response; steers --kl-coef (default: off)"
    )
    p.add_argument(
        "--responses", type=number(int, 2), metavar="N",
        help="to each prompt: of RLOO, GRPO, best-of-n and rejection-sft (default: the algorithm's)",
    )  # fmt: skip
    p.add_argument("--max-new-tokens", type=number(int, 1), help="cap on a response, in tokens (default: the task's)")
    p.add_argument("--device", help="cpu, cuda, … (default: a GPU if there is one)")
    p.add_argument("--threads", type=number(int, 1, 1024), help="of torch (default: the cores, at most 8)")
    p.add_argument(
        "--processes", type=number(int, 1), help="refuse to run unless torchrun started this many (default: any number)"
    )
    p.add_argument(
        "--shard", action="store_true", help="spread the policy's weights over the processes (models too large for one)"
    )
    p.set_defaults(run=run_pipeline)


def _changes(args: argparse.Namespace, **names: str) -> dict[str, object]:
    return {field: value for field, option in names.items() if (value := getattr(args, option)) is not None}


def _chain(options: argparse.Namespace) -> Chain:
    from rlhf_utils.pipeline import Chain, Settings, default_settings
    from rlhf_utils.preference_formats import read_comparisons
    from rlhf_utils.tasks import load_task

    records = read_comparisons(options.preferences) if options.preferences else None
    task = load_task(options.task, options.dataset, options.model, options.tokenizer)
    if options.max_new_tokens:
        task = replace(task, max_new_tokens=options.max_new_tokens, key=f"{task.key}-{options.max_new_tokens}")
    base = default_settings(task).with_seed(options.seed)
    settings = Settings(
        replace(base.sft, **_changes(options, epochs="sft_epochs", max_texts="sft_texts")),
        replace(base.preferences, **_changes(options, pairs="pairs")),
        base.reward,
        base.ppo,
    )
    if records:
        _check_judgements(records, task, settings.reward.max_tokens, options.algorithm)
    return Chain(task, settings, options.out, options.device, options.threads, records, options.shard)


def _check_judgements(records: Sequence[Preference], task: Task, max_tokens: int, algorithm: str) -> None:
    """Refuse judgements that the run wouldn't use or couldn't tell apart; warn of those that it can't.

    Raises:
        UserError: the task's reward isn't learnt from comparisons, or no pair differs in what the models read.
    """
    from rlhf_utils.preferences import chosen_rejected
    from rlhf_utils.sft import encode_texts

    if task.load_reward and algorithm != "dpo":
        raise UserError(
            f"The task {task.name} has a reward of its own, which --preferences wouldn't change.",
            "Leave it out, or choose --algorithm dpo.",
        )
    pairs = chosen_rejected(records)
    read = [encode_texts(task.tokenizer, texts, max_tokens) for texts in pairs]
    same = sum(chosen == rejected for chosen, rejected in read)
    told = f"the two texts are equal in the first {max_tokens} tokens, which are all that is read"
    if same and same == len(pairs):
        raise UserError(
            f"In each of the {same} pairs {told}.",
            f"Give shorter texts, in words that the task {task.name} knows.",
        )
    if same:
        warnings.warn(f"in {same} of {len(pairs)} pairs {told}; they teach nothing", stacklevel=1)


# Which option sets which field of an algorithm's settings. An option that is not there has no meaning for it.
_RATE_AND_PRICE = {"learning_rate": "learning_rate", "kl_coef": "kl_coef"}
_ON_POLICY = {"updates": "updates", "batch_size": "batch_size", **_RATE_AND_PRICE}
_FIELDS = {
    "ppo": {**_ON_POLICY, "kl_target": "kl_target"},
    "rloo": {**_ON_POLICY, "responses": "group_size"},
    "grpo": {**_ON_POLICY, "responses": "group_size"},
    "dpo": {"batch_size": "batch_size", **_RATE_AND_PRICE},
    "best-of-n": {"responses": "n"},
    "rejection-sft": {"updates": "rounds", "learning_rate": "learning_rate", "responses": "n"},
}
_TUNING = ("updates", "batch_size", "learning_rate", "kl_coef", "kl_target", "responses")


def _policy_config(options: argparse.Namespace, chain: Chain) -> PolicyConfig:
    """The algorithm's settings for the chain's task, changed by the options.

    Raises:
        UserError: an option has no meaning for the algorithm, or two don't go together.
    """
    from rlhf_utils.algorithms import default_config

    names = _FIELDS[options.algorithm]
    for option in _TUNING:
        if getattr(options, option) is not None and option not in names:
            users = [name for name, fields in _FIELDS.items() if option in fields]
            flag = f"--{option.replace('_', '-')}"
            raise UserError(
                f"{flag} has no meaning for the algorithm {options.algorithm}.",
                f"Leave it out, or choose --algorithm {' or '.join(users)}.",
            )
    if options.shard and options.algorithm != "ppo":
        raise UserError("--shard is built for ppo alone.", "Leave it out, or choose --algorithm ppo.")
    base = default_config(options.algorithm, chain.settings.ppo)
    changes = {names[o]: getattr(options, o) for o in _TUNING if o in names and getattr(options, o) is not None}
    if hasattr(base, "minibatch_size") and "batch_size" in changes:
        changes["minibatch_size"] = min(base.minibatch_size, changes["batch_size"])
    try:
        return replace(base, **changes)
    except ValueError as error:
        raise UserError(f"{str(error)[:1].upper()}{str(error)[1:]}.", "Change --batch-size or --responses.") from None


RUN_OPTIONS = [
    "task", "seed", "dataset", "model", "tokenizer", "preferences", "sft_epochs", "sft_texts", "pairs", "updates",
    "algorithm", "batch_size", "learning_rate", "kl_coef", "kl_target", "responses", "max_new_tokens", "device",
    "threads",
]  # fmt: skip


def run_pipeline(args: argparse.Namespace) -> int:
    """``pipeline``: run, write ``report.json`` and ``preferences.jsonl``, print the table."""
    from rlhf_utils import report
    from rlhf_utils.artifacts import ensure_writable
    from rlhf_utils.preferences import write_records
    from rlhf_utils.processes import check_size, world
    from rlhf_utils.progress import note

    start = time.monotonic()
    check_size(args.processes)
    if world().size > 1:
        note(f"{world().size} processes share every batch of PPO; the other stages run once")
    ensure_writable(args.out)
    chain = _chain(args)
    config = _policy_config(args, chain)
    options = {name: getattr(args, name) for name in RUN_OPTIONS}
    for name in ("dataset", "model", "tokenizer", "preferences"):
        if options[name] and Path(options[name]).exists():
            options[name] = str(Path(options[name]).resolve())  # `generate` may be called from another folder
    result = report.run(chain, config)
    if not world().is_main:
        return 0
    result["seconds"] = round(time.monotonic() - start, 1)
    result["options"] = options
    if not chain.task.load_reward:
        write_records(chain.preferences, args.out / "preferences.jsonl")
    (args.out / "report.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    print(report.as_text(result))
    print(f"Report: {args.out / 'report.json'}")
    return 0


def run_generate(args: argparse.Namespace) -> int:
    """``generate``: print samples, one a line."""
    from rlhf_utils.report import finished_task, read_report, write_again
    from rlhf_utils.runtime import seed_everything

    report = read_report(args.out)
    task = finished_task(report)
    words = task.tokenizer
    unknown = words.unk_token_id
    if unknown not in (None, words.eos_token_id) and unknown in words(args.prompt)["input_ids"]:
        missing = [w for w in args.prompt.split() if words.convert_tokens_to_ids(w) == unknown]
        raise UserError(f"Not in the vocabulary: {', '.join(missing)}.", "Use words of the task's language.")
    if args.max_new_tokens:
        task = replace(task, max_new_tokens=args.max_new_tokens)
    prompts, generator = [args.prompt] * args.number, seed_everything(args.seed)
    samples = write_again(args.out, report, task, args.model, prompts, args.temperature, generator)
    print("\n".join(samples.texts(words)))
    return 0


def run_export(args: argparse.Namespace) -> int:
    """``export``: a folder for ``AutoModelForCausalLM.from_pretrained``."""
    from rlhf_utils.artifacts import ensure_writable
    from rlhf_utils.report import finished_task, load_trained, read_report

    report = read_report(args.out)
    if report["algorithm"] == "best-of-n":
        raise UserError(
            "Best-of-n trains no policy that could be exported.", "Run the pipeline with --algorithm rejection-sft."
        )
    task = finished_task(report)
    policy = load_trained(task, args.out / report["artifacts"]["policy"])
    ensure_writable(args.to)
    policy.save_pretrained(args.to)
    task.tokenizer.save_pretrained(args.to)
    print(f"Written to {args.to}; AutoModelForCausalLM.from_pretrained reads it.")
    return 0


def run_doctor(args: argparse.Namespace) -> int:
    """``doctor``: what one needs to know when something doesn't work."""
    import torch

    from rlhf_utils.artifacts import cache_folder, listing
    from rlhf_utils.runtime import hub_reachable, pick_device, use_threads

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    hub = "reachable" if hub_reachable() else "not reachable: use --task tiny, or local folders for the other tasks"
    try:
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        memory = "unknown on this system"
    rows = listing()
    lines = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: installed(name) for name in ("rlhf_utils", "torch", "transformers", "datasets", "trl", "plotly")},
        "device": f"{pick_device()} ({torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'})",
        "threads": str(use_threads()),
        "memory": memory,
        "hub": hub,
        "cache": f"{cache_folder()}: {len(rows)} artefacts, {sum(size for _, size, _ in rows) / 2**20:.1f} MiB",
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here",
    }
    for name, value in lines.items():
        print(f"{name:>14}  {value}")
    return 0


def run_cache(args: argparse.Namespace) -> int:
    """``cache``: list or clear artefacts."""
    from rlhf_utils import artifacts

    root = args.out or artifacts.cache_folder()
    if args.action == "clear":
        print(f"Deleted {artifacts.clear(root)} artefacts from {root}")
        return 0
    for name, size, changed in artifacts.listing(root):
        print(f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(changed))}  {size / 2**20:8.2f} MiB  {name}")
    print(f"in {root}")
    return 0


def run_pretrain(args: argparse.Namespace) -> int:
    """``pretrain``: the recipe of a shipped base model."""
    from rlhf_utils.artifacts import ensure_writable
    from rlhf_utils.pretrain import pretrain

    print(json.dumps(pretrain(ensure_writable(args.to), args.task), indent=1))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, or 2 where the user can mend something."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except RuntimeError as error:
        from rlhf_utils.training import TrainingError

        if not isinstance(error, TrainingError):
            raise
        print(f"error: {error}", file=sys.stderr)
    return 2
