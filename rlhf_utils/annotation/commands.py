"""``python -m rlhf_utils annotate …``: make a study, invite people, serve it, and get the judgements out.

Only the parser is made when this module is loaded. What a command needs is imported when it runs, and one line says so
if the extra ``[annotate]`` isn't installed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_utils.arguments import number
from rlhf_utils.errors import UserError

if TYPE_CHECKING:
    from rlhf_utils.annotation.store import Store

NEEDS = {"sqlalchemy", "alembic", "mako", "starlette", "uvicorn", "jinja2", "anyio"}  #: modules that the extra brings
STAFF_CODE = "RLHF_UTILS_STAFF_CODE"  #: the variable that may hold the staff's code
STAFF_CODE_LENGTH = 12  #: of a code that is given, at least; letters and digits count
FORMS = ("records", "datasets", "label-studio", "argilla")  #: see rlhf_utils.annotation.exchange
SHOWN_PROBLEMS = 20  #: lines of a file that are named; the rest is counted
INSTRUCTIONS = "Which of the two would you rather read? Go by your own taste. If you can't tell, say so."
CONSENT = """You will see pairs of texts that a program wrote, and say of each pair which text you prefer.

What is kept: your judgements, how long each took and when it was made, under a pseudonym that was given to you. Your \
name, your address and your device are not kept.

What it is for: a reward model is trained on the judgements of all, and you may see what it learnt. The judgements may \
be shown and passed on, under the pseudonyms.

It is up to you whether you take part. You may skip any pair and stop at any time. Whoever runs this study can delete \
all that you judged: tell them your pseudonym."""


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add ``annotate`` and its subcommands to a parser.

    Args:
        commands: where subcommands go.
    """
    annotate = commands.add_parser("annotate", help="collect judgements of a class: a store and a small web app")
    actions = annotate.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=help)
        parser.add_argument(
            "--store", default="study.db", metavar="FILE|URL",
            help="a SQLite file (default study.db), or a SQLAlchemy URL such as postgresql://user@host/name",
        )  # fmt: skip
        parser.set_defaults(run=lambda args: _with_extra(run, args))
        return parser

    new = add("new", run_new, "make a study from a file of pairs")
    new.add_argument(
        "--pairs", type=Path, required=True, metavar="FILE",
        help="JSON lines: prompt, response_a, response_b, perhaps answer (a, b or tie: an attention check)",
    )  # fmt: skip
    new.add_argument("--title", default="Which text is better?", help="stands above every page")
    new.add_argument("--instructions", type=Path, metavar="FILE", help="text beside each pair (default: go by taste)")
    new.add_argument("--consent", type=Path, metavar="FILE", help="text to accept first (default: a plain one)")
    new.add_argument("--judgements", type=number(int, 1, 1000), default=3, help="of each pair (default 3)")
    new.add_argument(
        "--pairs-each", type=number(int, 0), default=0, metavar="N", help="for each annotator (default: all there are)"
    )
    new.add_argument(
        "--check-every", type=number(int, 0), default=0, metavar="N",
        help="one pair in N is an attention check (default: none)",
    )  # fmt: skip
    new.add_argument(
        "--hasty-seconds",
        type=number(float, 0, 3600),
        default=1.0,
        help="quicker ones are counted as hasty (default 1)",
    )
    new.add_argument(
        "--wait-minutes", type=number(float, 1, 1440), default=15.0,
        help="how long a pair that somebody left waits before another gets it (default 15)",
    )  # fmt: skip

    invite = add("invite", run_invite, "print invitation codes as CSV, once")
    invite.add_argument("--number", type=number(int, 1, 1000), required=True, help="of annotators")
    invite.add_argument("--prefix", default="annotator", help="of their pseudonyms (default annotator)")

    serve = add("serve", run_serve, "start the web app")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1, this machine)")
    serve.add_argument("--port", type=number(int, 0, 65535), default=8000, help="default 8000; 0 takes a free one")

    add("status", run_status, "print progress and agreement")

    export = add("export", run_export, "write the judgements, as preference records or for another tool")
    export.add_argument("--to", type=Path, required=True, metavar="FILE", help="file to write; - prints records")
    export.add_argument(
        "--format", choices=FORMS, default="records",
        help="records (default); datasets: a folder or .parquet; or JSON for Label Studio or Argilla",
    )  # fmt: skip
    export.add_argument(
        "--unjudged", action="store_true", help="label-studio and argilla: with the pairs that nobody has judged"
    )
    export.add_argument("--checks", action="store_true", help="with those of attention checks")

    bring = add("import", run_import, "add judgements from a file")
    bring.add_argument("file", type=Path, metavar="FILE", help="JSON, JSON lines, .parquet, or a folder of a data set")
    bring.add_argument("--format", choices=FORMS, help="of the file (default: its fields tell)")

    forget = add("forget", run_forget, "delete all rows of an annotator")
    forget.add_argument("name", help="the pseudonym")

    add("migrate", run_migrate, "bring a store's tables to the newest form (every command does so)")

    sample = actions.add_parser("sample", help="write pairs that a run's SFT model made up")
    sample.add_argument("--run", type=Path, required=True, dest="folder", metavar="FOLDER", help="--out of a pipeline")
    sample.add_argument("--pairs", type=number(int, 1, 100_000), default=100, metavar="N", help="default 100")
    sample.add_argument("--to", type=Path, required=True, metavar="FILE", help="file to write")
    sample.add_argument("--seed", type=number(int, 0), default=0, help="default 0")
    sample.set_defaults(run=run_sample)


def _with_extra(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    from importlib.util import find_spec

    missing = sorted(name for name in NEEDS if find_spec(name) is None)
    if missing:
        raise UserError(
            f"The annotation tool needs {', '.join(missing)}.", 'Install them: pip install "rlhf_utils[annotate]"'
        )
    from rlhf_utils.annotation.database import StoreError

    try:
        return run(args)
    except StoreError as error:
        raise UserError(str(error), "Make room or start the database, then give the command again.") from None


def _open(args: argparse.Namespace) -> Store:
    from rlhf_utils.annotation.store import Store

    return Store(args.store)


def _text(path: Path | None, default: str) -> str:
    if path is None:
        return default
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}).", "Give a text file in UTF-8.") from None


def _tell_problems(problems: Sequence[str], path: Path) -> None:
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"{path}, {problem}", file=sys.stderr)
    if len(problems) > SHOWN_PROBLEMS:
        print(f"… and {len(problems) - SHOWN_PROBLEMS} more lines", file=sys.stderr)


def _count(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def run_new(args: argparse.Namespace) -> int:
    """``new``: make a store, put pairs into it."""
    from rlhf_utils.annotation.records import add_pairs, read_pairs
    from rlhf_utils.annotation.store import Store, Study

    pairs, problems = read_pairs(args.pairs)
    _tell_problems(problems, args.pairs)
    if not pairs:
        raise UserError(f"{args.pairs} gives no pair.", "A line has prompt, response_a and response_b.")
    try:
        study = Study(
            title=args.title,
            instructions=_text(args.instructions, INSTRUCTIONS),
            consent=_text(args.consent, CONSENT),
            judgements_wanted=args.judgements,
            pairs_each=args.pairs_each,
            check_every=args.check_every,
            hasty_seconds=args.hasty_seconds,
            reservation_seconds=60 * args.wait_minutes,
        )
    except ValueError as error:
        raise UserError(f"The study can't be made: {error}.", "Change that option or file.") from None
    checks = sum(pair.answer is not None for pair in pairs)
    if args.check_every and not checks:
        raise UserError("--check-every needs attention checks.", "Give some pairs an answer: a, b or tie.")
    store = Store.create(args.store, study)
    add_pairs(store, pairs)
    print(
        f"{store.database.name}: {_count(len(pairs), 'pair')}, of which {_count(checks, 'attention check')}; "
        f"{_count(len(problems), 'line')} left out. Each pair is judged by {args.judgements}."
    )
    if checks and not args.check_every:
        print("Attention checks are shown only with --check-every.", file=sys.stderr)
    return 0


def run_invite(args: argparse.Namespace) -> int:
    """``invite``: CSV on standard output."""
    from rlhf_utils.annotation.tables import NAME_LENGTH

    if not args.prefix.strip() or len(args.prefix) > NAME_LENGTH - 8 or not args.prefix.isprintable():
        raise UserError("--prefix isn't a name.", f"Give 1 to {NAME_LENGTH - 8} signs.")
    invited = _open(args).invite(args.number, args.prefix)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["name", "code"])
    rows.writerows(invited)
    print("These codes are shown once; the store keeps hashes of them.", file=sys.stderr)
    return 0


def run_serve(args: argparse.Namespace) -> int:
    """``serve``: until it is stopped."""
    import uvicorn

    from rlhf_utils.annotation import codes
    from rlhf_utils.annotation.web import CODE_LENGTH, create_app

    given = os.environ.get(STAFF_CODE)
    if given is not None:
        counted = sum(map(str.isalnum, given))  # a code is the same whatever stands between these
        if counted < STAFF_CODE_LENGTH or len(given) > CODE_LENGTH:
            raise UserError(
                f"{STAFF_CODE} is too short or too long.",
                f"Give at least {STAFF_CODE_LENGTH} letters and digits, and at most {CODE_LENGTH} signs; or unset it.",
            )
    staff_code = given or codes.new_code()
    store = _open(args)
    listener = _listen(args.host, args.port)
    host = f"[{args.host}]" if ":" in args.host else args.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    print(f"{store.study().title}\nAnnotators: {address}/\nStaff:      {address}/staff")
    print(f"Staff's code: {'as ' + STAFF_CODE + ' says' if given else staff_code}", flush=True)
    if not _is_loopback(args.host):
        print(
            "warning: codes and judgements can be read on their way. Put a reverse proxy with TLS (Caddy, nginx) "
            "before this server, on the same machine and with --host 127.0.0.1, unless you trust the whole network.",
            file=sys.stderr,
        )
    config = uvicorn.Config(
        create_app(store, staff_code),
        access_log=False,  # which would keep addresses
        log_level="warning",
        server_header=False,
        proxy_headers=True,  # believed from this machine alone
        timeout_graceful_shutdown=5,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        store.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Can't listen at {host}, port {port} ({reason}).", "Give another --host or --port.") from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run_status(args: argparse.Namespace) -> int:
    """``status``: the staff's page as text."""
    from rlhf_utils.annotation.monitoring import progress

    store = _open(args)
    study, now = store.study(), progress(store)
    print(f"{study.title} ({'open' if study.is_open else 'closed'})")
    print(f"{now.judged} of {now.wanted} judgements; {now.complete} of {now.pairs} pairs have all of them")
    print(f"{now.per_minute:.1f} judgements a minute over ten minutes; {now.on_screens} pairs on a screen")
    print(f"Krippendorff's alpha: {'not yet' if now.alpha is None else format(now.alpha, '.2f')}")
    left = (
        "not yet" if now.left_share is None else f"{now.left_share:.0%}, ties left out; the sides are drawn at random"
    )
    print(f"Left chosen: {left}")
    names = ["name", "consent", "judged", "ties", "skipped", "hasty", "median s", "checks"]
    rows = [
        [
            person.name,
            "yes" if person.consented else "no",
            *map(str, (person.judged, person.ties, person.skipped, person.hasty)),
            "–" if person.median_seconds is None else f"{person.median_seconds:.1f}",
            f"{person.checks_passed} of {person.checks}",
        ]
        for person in now.people
    ]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for row in [names, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def run_export(args: argparse.Namespace) -> int:
    """``export``: one record a line, or another form."""
    from rlhf_utils.annotation import exchange
    from rlhf_utils.annotation.records import export_records, unjudged_pairs

    if str(args.to) == "-" and args.format != "records":
        raise UserError(f"The form {args.format} can't be printed.", "Give --to a file.")
    store = _open(args)
    records = export_records(store, args.checks)
    if str(args.to) == "-":
        for record in records:
            print(json.dumps(asdict(record), ensure_ascii=False))
        return 0
    unjudged = unjudged_pairs(store) if args.unjudged else []
    exchange.write(records, args.to, args.format, unjudged)
    more = f" and {_count(len(unjudged), 'pair')} without any" if args.unjudged else ""
    print(f"{_count(len(records), 'judgement')}{more} written to {args.to}")
    if hint := exchange.HINTS.get(args.format):
        print(hint, file=sys.stderr)
    return 0


def run_import(args: argparse.Namespace) -> int:
    """``import``: what can be read is added, the rest is named."""
    from rlhf_utils.annotation import exchange
    from rlhf_utils.annotation.records import import_records

    found = exchange.read(args.file, args.format)
    rows = [row for row, _ in found.records]
    done = import_records(_open(args), [record for _, record in found.records])
    twice = [(rows[place], "this annotator has judged this pair before") for place in done.duplicates]
    problems = sorted([*found.problems, *twice], key=lambda problem: problem[0])
    _tell_problems([f"{found.unit} {row}: {why}" for row, why in problems], args.file)
    print(
        f"{_count(done.judgements, 'judgement')} added, with {_count(done.pairs, 'new pair')} and "
        f"{_count(done.annotators, 'new annotator')}; {_count(len(twice), 'duplicate')} and "
        f"{_count(len(found.problems), f'malformed {found.unit}')} left out."
    )
    return 0


def run_forget(args: argparse.Namespace) -> int:
    """``forget``: a person's rows."""
    gone = _open(args).delete_annotator(args.name)
    print(f"{args.name} is deleted, with {_count(gone, 'judgement')}. Files that were exported before are not changed.")
    return 0


def run_migrate(args: argparse.Namespace) -> int:
    """``migrate``: what opening a store does anyway."""
    from rlhf_utils.annotation.database import Database

    database = Database(args.store)
    before, after = database.migrated
    print(f"{database.name}: " + (f"is at revision {after}" if before == after else f"from {before} to {after}"))
    return 0


def run_sample(args: argparse.Namespace) -> int:
    """``sample``: prompts and pairs of responses, one a line."""
    from dataclasses import replace

    from rlhf_utils.preferences import sample_pairs
    from rlhf_utils.report import finished_task, load_trained, read_report
    from rlhf_utils.runtime import seed_everything

    report = read_report(args.folder)
    task = finished_task(report)
    if report["options"].get("max_new_tokens"):
        task = replace(task, max_new_tokens=report["options"]["max_new_tokens"])
    model = load_trained(task, args.folder / report["artifacts"]["sft"])
    pairs = sample_pairs(model, task, task.train_prompts, args.pairs, seed_everything(args.seed))
    rows = [{"prompt": prompt, "response_a": a, "response_b": b} for prompt, a, b in pairs]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        args.to.write_text(text, encoding="utf8")
    except OSError as error:
        raise UserError(f"{args.to} can't be written ({error.strerror}).", "Give another --to.") from None
    print(f"{_count(len(rows), 'pair')} written to {args.to}")
    return 0
