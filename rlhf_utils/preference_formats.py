"""Public data sets of comparisons as preference records, from the hub or from files; the form is told by its fields.

=================== ========================================================== =====================================
form                fields of a row                                            where it occurs
=================== ========================================================== =====================================
this book's         those of :class:`~rlhf_utils.preferences.Preference`       ``--preferences``, the annotation tool
TL;DR comparisons   ``info``, ``summaries`` (two), ``choice`` (0 or 1)         ``openai/summarize_from_feedback``
whole dialogues     ``chosen``, ``rejected``, equal up to the last answer      ``Anthropic/hh-rlhf``
TRL's               ``prompt``, ``chosen``, ``rejected``, texts or messages    most newer sets
=================== ========================================================== =====================================
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlhf_utils.errors import UserError
from rlhf_utils.preferences import Preference, pair_id, read_records

ANSWER = "\n\nAssistant:"
TLDR_PROMPT = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"  #: Stiennon et al. (2020)
NEWS_PROMPT = "Article:\n{article}\n\nTL;DR:"  #: their second data set has articles in place of posts
UNKNOWN_TIME = "1970-01-01T00:00:00Z"
FORMS = (
    "A row has prompt, chosen, rejected; or chosen, rejected with a shared beginning; or info, summaries, choice; "
    "or the fields of this book's records."
)
# Where a data set's rows lie, for names whose default isn't what one wants. The first is a script on its main branch,
# which the library no longer runs, and the hub keeps its rows as parquet on another.
HUB: dict[str, dict[str, str]] = {
    "openai/summarize_from_feedback": {"data_dir": "comparisons", "revision": "refs/convert/parquet"},
}
_OWN = {f.name for f in fields(Preference)}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_ROLES = {"user": "Human", "assistant": "Assistant", "system": "System"}


def from_tldr(row: Mapping[str, Any]) -> Preference:
    """A row of the TL;DR comparisons (Stiennon et al. 2020): a post and two summaries.

    The prompt is what their models read, without the cut to 512 tokens.

    Raises:
        ValueError: a field is missing or has no meaning.
    """
    info, summaries, choice = row["info"], row["summaries"], row["choice"]
    if len(summaries) != 2 or choice not in (0, 1):
        raise ValueError(f"there are {len(summaries)} summaries and choice is {choice!r}; it takes 2, and 0 or 1")
    prompt = NEWS_PROMPT if info.get("article") else TLDR_PROMPT
    prompt = prompt.format_map({"subreddit": "", "title": "", "post": "", **info})
    a, b = (f" {summary['text'].strip()}" for summary in summaries)
    source = f"TL;DR comparisons, {row.get('batch') or 'unknown batch'}"
    return _record(prompt, a, b, "ab"[choice], str(row.get("worker") or "unknown"), source)


def from_dialogues(row: Mapping[str, Any]) -> Preference:
    """A row of two whole texts, as in ``Anthropic/hh-rlhf``: what they share up to the last answer is the prompt.

    Where no answer is marked, the prompt is what they share up to the last space.

    Raises:
        ValueError: the texts share no beginning.
    """
    chosen, rejected = (_as_text(row[name]) for name in ("chosen", "rejected"))
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    shared = chosen[:same]
    cut = shared.rfind(ANSWER) + len(ANSWER) if ANSWER in shared else max(shared.rfind(" "), 0)
    if not cut:
        raise ValueError("chosen and rejected share no beginning that could be the prompt")
    return _ordered(chosen[:cut], chosen[cut:], rejected[cut:], "dialogues")


def from_trl(row: Mapping[str, Any]) -> Preference:
    """A row with a prompt of its own: plain texts, or lists of messages with ``role`` and ``content``.

    Raises:
        ValueError: a field is neither text nor messages.
    """
    prompt = row["prompt"]
    if isinstance(prompt, str) and isinstance(row["chosen"], list):
        if row["chosen"][0]["role"] != "assistant":
            return from_dialogues(row)  # the messages hold the whole conversation, the prompt once more included
        prompt = [{"role": "user", "content": prompt}]
    chosen, rejected = (_as_text(row[name]) for name in ("chosen", "rejected"))
    if isinstance(prompt, list):
        return _ordered(
            _as_text(prompt) + ANSWER, chosen.removeprefix(ANSWER), rejected.removeprefix(ANSWER), "messages"
        )
    return _ordered(_as_text(prompt), chosen, rejected, "prompt, chosen, rejected")


def from_row(row: object) -> Preference:
    """A row of any public form.

    Raises:
        ValueError: no form has these fields, or one of them has no meaning.
    """
    if not isinstance(row, Mapping):
        raise ValueError("not an object")
    try:
        if row.keys() >= {"info", "summaries", "choice"}:
            return from_tldr(row)
        if row.keys() >= {"prompt", "chosen", "rejected"}:
            return from_trl(row)
        if row.keys() >= {"chosen", "rejected"}:
            return from_dialogues(row)
    except KeyError as error:
        raise ValueError(f"the field {error} is missing") from None
    except (AttributeError, TypeError, IndexError):
        raise ValueError("a field isn't what its name promises") from None
    raise ValueError(f"unknown fields {', '.join(sorted(map(str, row))[:8]) or '(none)'}")


def _record(prompt: str, a: str, b: str, choice: str, annotator: str, source: str) -> Preference:
    choice = "tie" if a == b else choice  # equal texts say nothing about the order
    return Preference(pair_id(prompt, a, b), prompt, a, b, choice, annotator, 0.0, UNKNOWN_TIME, source)


def _ordered(prompt: str, chosen: str, rejected: str, source: str) -> Preference:
    """A record of a chosen and a rejected response; the pair's hash decides which of them stands first."""
    if int(pair_id(prompt, chosen, rejected), 16) % 2:
        return _record(prompt, rejected, chosen, "b", "unknown", source)
    return _record(prompt, chosen, rejected, "a", "unknown", source)


def _as_text(value: object) -> str:
    """A text as it is; messages as a dialogue in the form of ``Anthropic/hh-rlhf``."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        return "".join(f"\n\n{_ROLES[message['role']]}: {message['content']}" for message in value)
    raise ValueError("prompt, chosen and rejected must be texts or lists of messages")


def read_comparisons(source: str | Path, split: str = "train", limit: int | None = None) -> list[Preference]:
    """Read comparisons from a file, a folder or the hub.

    Args:
        source: JSON lines (``.jsonl``, ``.json``, also ``.gz``), a folder of them, or a name on the hub such as
            ``openai/summarize_from_feedback`` or ``Anthropic/hh-rlhf``.
        split: of a data set on the hub.
        limit: read at most so many rows.

    Returns:
        One record a row. Rows whose two texts are equal come as ties, which training leaves out.

    Raises:
        UserError: nothing is there, the hub can't be reached, or a row can't be read (its file and line are named).
    """
    path = Path(source)
    if path.is_dir():
        names = sorted(p for p in path.rglob("*") if re.search(r"\.jsonl?(\.gz)?$", p.name))
        if not names:
            raise UserError(f"{path} holds no file of comparisons.", "Put JSON lines into it: *.jsonl or *.jsonl.gz.")
        rows = (row for name in names for row in _lines(name))
    elif path.is_file():
        if _is_own(path):
            return read_records(path)[:limit]
        rows = _lines(path)
    elif _HUB_NAME.fullmatch(str(source)):
        rows = ((f"{source}, row {i}", row) for i, row in enumerate(_hub_rows(str(source), split), 1))
    else:
        raise UserError(
            f"{source} is not a file.", "Give a file of comparisons, one JSON object a line, or a data set's name."
        )
    records = []
    for place, row in rows:
        if limit is not None and len(records) == limit:
            break
        try:
            own = isinstance(row, Mapping) and row.keys() >= _OWN
            records.append(Preference(**{name: row[name] for name in _OWN}) if own else from_row(row))
        except ValueError as error:
            raise UserError(f"{place}: {error}.", FORMS) from None
    if not records:
        raise UserError(f"{source} holds no preference.", "Give at least one pair.")
    return records


def _open(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}).", "Give JSON lines in UTF-8.") from None


def _lines(path: Path) -> Iterator[tuple[str, object]]:
    """Each line's place and JSON; empty lines are skipped."""
    for number, line in enumerate(_open(path), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except json.JSONDecodeError:
                raise UserError(f"{path}, line {number}: not JSON.", "Each line must be one JSON object.") from None


def _is_own(path: Path) -> bool:
    """Whether a file is to be read as this book's records: its first line has one of their fields, or is no JSON."""
    if path.suffix == ".gz":
        return False
    first = next((line for line in _open(path) if line.strip()), "")
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        return True  # whose reader says what is wrong
    return isinstance(row, dict) and bool(row.keys() & {"pair_id", "response_a", "response_b"})


def _hub_rows(name: str, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    from rlhf_utils.progress import bars_shown
    from rlhf_utils.runtime import hub_reachable

    if not bars_shown():
        datasets.disable_progress_bars()
    try:
        if not hub_reachable():
            datasets.config.HF_HUB_OFFLINE = True  # take what an earlier run has cached, and ask nobody
        return datasets.load_dataset(name, split=split, **HUB.get(name, {}))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"{name} is not a file, and could not be fetched from the hub ({reason}).",
            "Give a file of comparisons, one JSON object a line.",
        ) from None
