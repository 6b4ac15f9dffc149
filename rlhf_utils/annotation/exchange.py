"""Judgements in the forms of other tools, in both directions.

============== =========================================================== ==========================================
form           what it is                                                  read and written as
============== =========================================================== ==========================================
records        this book's preference records; also what the site's        JSON lines, or a JSON list; other public
               annotator page downloads                                    forms are read too
datasets       the same fields as a data set of Hugging Face ``datasets``  a folder (``save_to_disk``) or ``.parquet``
label-studio   tasks of Label Studio's pairwise template                   a JSON list of tasks with annotations
argilla        records of Argilla 2                                        a JSON list as ``records.to_json`` writes
============== =========================================================== ==========================================

Reading reports what is wrong with one row by its number, and goes on with the next. Ties, seconds, annotators and which
response stood on the left survive each form; the functions say what doesn't.

Label Studio and Argilla aren't installed here. The forms are those that their documentation and source give: Label
Studio's `task format <https://labelstud.io/guide/task_format>`_, `template
<https://labelstud.io/templates/pairwise_comparison>`_ and `Pairwise tag <https://labelstud.io/tags/pairwise>`_ (an
object ``{"selected": "left"}``, or no result if nothing is selected); Argilla's ``Record.to_dict`` and
`responses <https://docs.argilla.io/latest/reference/argilla/records/responses>`_.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rlhf_utils.annotation.records import Pair, as_record
from rlhf_utils.errors import UserError
from rlhf_utils.preference_formats import UNKNOWN_TIME, from_row
from rlhf_utils.preferences import Preference, pair_id, write_records

Form = Literal["records", "datasets", "label-studio", "argilla"]
FILE_BYTES = 256 * 2**20  #: larger files aren't read

#: What to know before another tool reads what was written.
HINTS: dict[Form, str] = {
    "label-studio": "Its labelling configuration: rlhf_utils.annotation.exchange.LABEL_STUDIO_CONFIG",
    "argilla": "The data set's settings: rlhf_utils.annotation.exchange.ARGILLA_SETTINGS",
}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """What a file gave."""

    form: Form  #: that it has
    records: tuple[tuple[int, Preference], ...]  #: number of the row, from 1, and a judgement
    problems: tuple[tuple[int, str], ...]  #: number of the row, and what is wrong with it
    unit: str  #: what a row is called: ``line`` or ``row``


def read(path: Path, form: Form | None = None) -> Rows:
    """Read judgements of any form.

    Args:
        path: a file, or a folder that ``Dataset.save_to_disk`` wrote.
        form: which one; without it, the fields tell.

    Raises:
        UserError: the file can't be read or is too large, or its form is unknown.
    """
    if path.is_dir() or path.suffix == ".parquet":
        if form not in (None, "datasets"):
            raise UserError(f"{path} is not a file of the form {form}.", "Give a JSON file, or --format datasets.")
        rows: Iterable[tuple[int, object]] = enumerate(_dataset_rows(path), 1)
        return _judgements("datasets", rows, lambda row: [_own(row)], "row")
    text = _text(path)
    is_list = text.lstrip().startswith("[")
    rows = list(_list_rows(text, path) if is_list else _line_rows(text))
    if form == "datasets":
        raise UserError(f"{path} is no data set on the disk.", "Give a folder of save_to_disk or a .parquet file.")
    form = form or guess([row for _, row in rows])
    readers: dict[Form, Callable[[object], Iterable[Preference | ValueError]]] = {
        "records": lambda row: [_own(row)],
        "label-studio": from_label_studio,
        "argilla": from_argilla,
    }
    return _judgements(form, rows, readers[form], "row" if is_list else "line")


def guess(rows: Sequence[object]) -> Form:
    """The form of a JSON file by its rows' fields: that of the first row which is an object.

    Args:
        rows: as they come from the file.
    """
    first = next((row for row in rows if isinstance(row, Mapping)), {})
    if "data" in first and isinstance(first["data"], Mapping):
        return "label-studio"
    return "argilla" if isinstance(first.get("fields"), Mapping) else "records"


def write(records: Sequence[Preference], path: Path, form: Form, unjudged: Iterable[Pair] = ()) -> None:
    """Write judgements.

    Args:
        records: in their order.
        path: of a file, which is replaced; ``datasets`` also takes a folder that isn't there yet.
        form: which one.
        unjudged: pairs to be judged elsewhere; only ``label-studio`` and ``argilla`` have a place for them.

    Raises:
        UserError: the path can't be written to, or the form has no place for pairs without judgements.
    """
    unjudged = list(unjudged)
    if unjudged and form not in ("label-studio", "argilla"):
        raise UserError(f"The form {form} holds judgements alone.", "Leave --unjudged out.")
    try:
        if form == "records":
            write_records(records, path)
        elif form == "datasets":
            _write_dataset(records, path)
        else:
            rows = (to_label_studio if form == "label-studio" else to_argilla)(records, unjudged)
            path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf8")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}).", "Give another --to.") from None


# -- rows of files


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise UserError(f"{path} has {size // 2**20} MiB.", f"At most {FILE_BYTES // 2**20} are read; split it.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}).", "Give a JSON file in UTF-8.") from None


def _line_rows(text: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                yield number, ValueError("not JSON")


def _list_rows(text: str, path: Path) -> Iterator[tuple[int, object]]:
    try:
        return enumerate(json.loads(text), 1)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}).", "Export it again; or give JSON lines.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply.", "Export it again.") from None


def _dataset_rows(path: Path) -> Iterator[object]:
    """Rows of a data set on the disk, all of its splits one after the other."""
    import pyarrow.parquet
    from datasets import DatasetDict, load_from_disk

    try:
        if path.suffix == ".parquet" and path.is_file():
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
            return
        found = load_from_disk(str(path))
        for split in found.values() if isinstance(found, DatasetDict) else [found]:
            yield from split
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"{path} is no data set ({reason}).", "Give a folder of save_to_disk or a .parquet.") from None


def _judgements(
    form: Form,
    rows: Iterable[tuple[int, object]],
    reader: Callable[[object], Iterable[Preference | ValueError]],
    unit: str,
) -> Rows:
    records, problems = [], []
    for number, row in rows:
        if isinstance(row, ValueError):
            problems.append((number, str(row)))
            continue
        for found in reader(row):
            if isinstance(found, ValueError):
                problems.append((number, str(found)))
            else:
                records.append((number, found))
    return Rows(form, tuple(records), tuple(problems), unit)


def _checked(make: Callable[[], object]) -> Preference | ValueError:
    """A judgement whose texts and numbers the store takes, or the error that says what is wrong with it."""
    try:
        made = make()
        return as_record(asdict(made) if isinstance(made, Preference) else made)
    except ValueError as error:
        return error


# -- this book's records, in JSON lines and as a data set


_FIELDS = {field.name for field in fields(Preference)}


def _own(row: object) -> Preference | ValueError:
    """A row of the book's fields, or of another public form, which the field ``chosen`` or ``summaries`` tells."""

    def make() -> object:
        is_public = isinstance(row, Mapping) and row.keys() & {"chosen", "summaries"}
        return from_row(row) if is_public else row

    return _checked(make)


def to_dataset(records: Sequence[Preference]) -> Any:  # noqa: ANN401
    """Records as a ``datasets.Dataset`` with the same columns; nothing is lost.

    Args:
        records: one row each, in their order.
    """
    from datasets import Dataset, Features, Value

    kinds = Features({f.name: Value("float64" if f.name == "seconds" else "string") for f in fields(Preference)})
    return Dataset.from_dict({name: [getattr(r, name) for r in records] for name in kinds}, features=kinds)


def from_dataset(dataset: Iterable[Row]) -> tuple[list[Preference], list[str]]:
    """Rows of a ``datasets.Dataset``, or of anything that gives mappings.

    Args:
        dataset: with the book's columns, or with ``prompt``, ``chosen`` and ``rejected``.

    Returns:
        The records, and for each row that gives none, its number from 1 and why.
    """
    found = _judgements("datasets", enumerate(dataset, 1), lambda row: [_own(row)], "row")
    return [record for _, record in found.records], [f"row {number}: {why}" for number, why in found.problems]


def _write_dataset(records: Sequence[Preference], path: Path) -> None:
    from datasets import disable_progress_bars

    from rlhf_utils.progress import bars_shown

    if not bars_shown():
        disable_progress_bars()
    if path.suffix == ".parquet":
        to_dataset(records).to_parquet(str(path))
    elif path.exists() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{path} is there already.", "Give a folder that isn't, or a name that ends in .parquet.")
    else:
        to_dataset(records).save_to_disk(str(path))


# -- Label Studio

#: The labelling configuration of its pairwise template, with a tie beside it and the prompt above.
LABEL_STUDIO_CONFIG = """<View>
  <Header value="Which text is better?"/>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="pw" toName="text1,text2"/>
  <View style="display: flex; gap: 1em">
    <Text name="text1" value="$text1"/>
    <Text name="text2" value="$text2"/>
  </View>
  <Choices name="tie" toName="prompt" choice="single">
    <Choice value="about the same"/>
  </Choices>
</View>
"""
_TIE = "about the same"
# Names of the two texts' fields that templates and tutorials use, with those of the prompt.
_SIDES = (("text1", "text2"), ("response_a", "response_b"), ("answer1", "answer2"), ("left", "right"))
_PROMPTS = ("prompt", "instruction", "question")


def to_label_studio(records: Sequence[Preference], unjudged: Iterable[Pair] = ()) -> list[dict[str, Any]]:
    """Tasks for :data:`LABEL_STUDIO_CONFIG`, with the judgements as annotations.

    Label Studio shows a task's texts on the same sides to everybody, so a pair that was seen in both orders becomes two
    tasks. It knows annotators as numbers of its own; the pseudonym, the time and the source stand in the result's
    ``meta``, from where :func:`from_label_studio` takes them. What Label Studio makes of ``meta`` and ``created_at``
    when it imports the file hasn't been tried; if it drops them, names become ``label-studio-<number>``.

    Args:
        records: judgements.
        unjudged: pairs that become tasks without annotations.
    """
    tasks: dict[tuple[str, str, str], dict[str, Any]] = {}

    def task(prompt: str, left: str, right: str) -> dict[str, Any]:
        data = {"pair_id": pair_id(prompt, left, right), "prompt": prompt, "text1": left, "text2": right}
        new = {"id": len(tasks) + 1, "data": data, "annotations": [], "predictions": []}
        return tasks.setdefault((prompt, left, right), new)

    for r in records:
        if r.choice == "tie":
            result = {"from_name": "tie", "to_name": "prompt", "type": "choices", "value": {"choices": [_TIE]}}
        else:
            value = {"selected": "left" if r.choice == "a" else "right"}
            result = {"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": value}
        known = {"annotator": r.annotator, "created_at": r.created_at, "source": r.source, "pair_id": r.pair_id}
        task(r.prompt, r.response_a, r.response_b)["annotations"].append(
            {
                "result": [{"id": uuid.uuid4().hex[:10], **result, "meta": known}],
                "was_cancelled": False,
                "ground_truth": False,
                "created_at": r.created_at,
                "lead_time": r.seconds,
            }
        )
    for pair in unjudged:
        task(pair.prompt, pair.response_a, pair.response_b)
    return list(tasks.values())


def from_label_studio(task: object) -> list[Preference | ValueError]:
    """Judgements of a task of Label Studio's JSON export; not of its JSON-MIN, which leaves the annotators' times out.

    An annotation with nothing selected and no tie is reported. Skipped ones (``was_cancelled``) are passed over. A
    ``completed_by`` that holds a name or an address of a person is taken for its number alone.

    Args:
        task: an object with ``data`` and ``annotations``.
    """
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
        return [ValueError("not a task of Label Studio: it has no data")]
    annotations = task.get("annotations", [])
    if not isinstance(annotations, list):
        return [ValueError("annotations is not a list")]
    return [
        _checked(lambda annotation=annotation: _from_annotation(task["data"], annotation))
        for annotation in annotations
        if not (isinstance(annotation, Mapping) and annotation.get("was_cancelled"))
    ]


def _from_annotation(data: Row, annotation: object) -> dict[str, Any]:
    sides = next(((left, right) for left, right in _SIDES if left in data and right in data), None)
    if sides is None:
        raise ValueError("data has no text1 and text2")
    if not isinstance(annotation, Mapping) or not isinstance(annotation.get("result"), list):
        raise ValueError("an annotation has no list of results")
    results = [result for result in annotation["result"] if isinstance(result, Mapping)]
    said = [(result, choice) for result in results if (choice := _choice(result))]
    if len(said) != 1:
        raise ValueError(f"an annotation has {len(said)} choices; it needs one of left, right and {_TIE}")
    result, choice = said[0]
    known = result.get("meta") if isinstance(result.get("meta"), Mapping) else {}
    prompt = next((data[name] for name in _PROMPTS if name in data), "")
    texts = [prompt, data[sides[0]], data[sides[1]]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text of data is not a text")
    return {
        "pair_id": known.get("pair_id", pair_id(*texts)),
        **dict(zip(("prompt", "response_a", "response_b"), texts, strict=True)),
        "choice": choice,
        "annotator": known.get("annotator", _annotator(annotation.get("completed_by"))),
        "seconds": annotation.get("lead_time") or 0.0,
        "created_at": known.get("created_at", annotation.get("created_at") or UNKNOWN_TIME),
        "source": known.get("source", "Label Studio"),
    }


def _choice(result: Row) -> str | None:
    value = result.get("value")
    if not isinstance(value, Mapping):
        return None
    if result.get("type") == "pairwise":
        return {"left": "a", "right": "b"}.get(value.get("selected"))
    tie = result.get("type") == "choices" and result.get("from_name") == "tie" and value.get("choices")
    return "tie" if tie else None


def _annotator(completed_by: object) -> str:
    """A pseudonym: Label Studio gives a number, or an object with number, address and name."""
    number = completed_by.get("id") if isinstance(completed_by, Mapping) else completed_by
    return f"label-studio-{number}" if isinstance(number, int) else "label-studio"


# -- Argilla

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "rlhf_utils.annotation")
_RESPONSES = ("response_a", "response_b")
_QUESTION = "preference"
#: How the dataset for :func:`to_argilla`'s records is set up, as Python.
ARGILLA_SETTINGS = """rg.Settings(
    fields=[rg.TextField(name="prompt"), rg.TextField(name="response_a"), rg.TextField(name="response_b")],
    questions=[rg.LabelQuestion(name="preference", labels=["response_a", "response_b", "tie"])],
    allow_extra_metadata=True,
)"""


def to_argilla(records: Sequence[Preference], unjudged: Iterable[Pair] = ()) -> list[dict[str, Any]]:
    """Records for a dataset with :data:`ARGILLA_SETTINGS`, in the form of ``dataset.records.to_json``.

    The question is one of labels and not of ranks: Argilla 2 gives a ranking back as an order without ranks, in which a
    tie can't be told. A judgement is a record of its own, since metadata belong to records: pseudonym, seconds, time
    and source are there, and the response carries a UUID made from the pseudonym. Argilla takes responses from users
    whom it knows, so import such a file without its responses, or make those users first.

    Args:
        records: judgements.
        unjudged: pairs that become records without responses.
    """
    rows = []
    for number, r in enumerate(records):
        answer = {"a": "response_a", "b": "response_b", "tie": "tie"}[r.choice]
        user = str(uuid.uuid5(_NAMESPACE, r.annotator))
        known = {name: getattr(r, name) for name in ("pair_id", "annotator", "seconds", "created_at", "source")}
        row = _argilla_row(f"{r.pair_id}-{number}", r.prompt, r.response_a, r.response_b)
        rows.append(row | {"metadata": known, "responses": {_QUESTION: [{"value": answer, "user_id": user}]}})
    rows += [_argilla_row(pair.pair_id, pair.prompt, pair.response_a, pair.response_b) for pair in unjudged]
    return rows


def _argilla_row(name: str, prompt: str, a: str, b: str) -> dict[str, Any]:
    return {
        "id": name,
        "fields": {"prompt": prompt, "response_a": a, "response_b": b},
        "metadata": {},
        "suggestions": {},
        "responses": {},
        "vectors": {},
        "_server_id": None,
    }


def from_argilla(row: object) -> list[Preference | ValueError]:
    """Judgements of a record that Argilla 2 wrote: of :data:`ARGILLA_SETTINGS`, or of a ranking of two texts.

    Two fields whose names are a question's answers are the responses, in the order of the record's fields; the prompt
    is ``prompt`` or ``instruction``. Only the first place of a ranking counts. Without our metadata, a user's UUID is
    the pseudonym, and the seconds, which Argilla doesn't measure, are 0.

    Args:
        row: an object with ``fields`` and ``responses``.
    """
    if not isinstance(row, Mapping) or not isinstance(row.get("fields"), Mapping):
        return [ValueError("not a record of Argilla: it has no fields")]
    responses = row.get("responses") or {}
    if not isinstance(responses, Mapping) or not all(isinstance(given, list) for given in responses.values()):
        return [ValueError("responses is not an object of lists")]
    return [
        _checked(lambda given=given: _from_response(row, given)) for answers in responses.values() for given in answers
    ]


def _from_response(row: Row, given: object) -> dict[str, Any]:
    texts, known = row["fields"], row.get("metadata") or {}
    if not isinstance(given, Mapping) or not isinstance(known, Mapping):
        raise ValueError("a response or the metadata is not an object")
    prompt_name = next((name for name in _PROMPTS if name in texts), None)
    sides = [name for name in texts if name != prompt_name]
    if all(name in texts for name in _RESPONSES):
        sides = list(_RESPONSES)  # a data set may have put its fields into another order
    if len(sides) != 2:
        raise ValueError(f"there are {len(sides)} fields beside the prompt; a pair has two")
    value = given.get("value")
    answer = value[0] if isinstance(value, list) and value else value
    answer = answer.get("value") if isinstance(answer, Mapping) else answer
    if answer not in (*sides, "tie"):
        raise ValueError(f"the response {str(answer)[:40]!r} names neither {sides[0]} nor {sides[1]} nor a tie")
    wording = [texts.get(prompt_name, "") if prompt_name else "", *(texts[name] for name in sides)]
    if not all(isinstance(text, str) for text in wording):
        raise ValueError("a field is not a text")
    user = str(given.get("user_id") or "unknown")
    ours = known.get("annotator")
    mine = isinstance(ours, str) and user == str(uuid.uuid5(_NAMESPACE, ours))
    return {
        "pair_id": known.get("pair_id", pair_id(*wording)),
        **dict(zip(("prompt", "response_a", "response_b"), wording, strict=True)),
        "choice": "tie" if answer == "tie" else "ab"[sides.index(answer)],
        "annotator": ours if mine else f"argilla-{user}",
        "seconds": known.get("seconds", 0.0) if mine else 0.0,
        "created_at": known.get("created_at", UNKNOWN_TIME) if mine else UNKNOWN_TIME,
        "source": known.get("source", "Argilla") if mine else "Argilla",
    }
