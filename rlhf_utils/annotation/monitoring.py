"""How a study goes: who has judged how much and how quickly, whether attention checks were passed, do people agree."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import median

import numpy as np
from sqlalchemy import func, select

from rlhf_utils.annotation.store import ATTEMPT_SECONDS, SWAPPED, Store, utc
from rlhf_utils.annotation.tables import annotators, assignments, attempts, judgements, pairs

MINUTES = 10  #: over which the pace is measured


@dataclass(frozen=True)
class Person:
    """One annotator's row."""

    name: str  #: the pseudonym
    consented: bool  #: whether the consent text was accepted
    judged: int  #: judgements of pairs, skips left out
    ties: int  #: of these, about the same
    skipped: int  #: skips
    hasty: int  #: judgements quicker than the study's limit
    median_seconds: float | None  #: of a judgement
    checks_passed: int  #: attention checks judged as they should be
    checks: int  #: attention checks judged


@dataclass(frozen=True)
class Progress:
    """The whole study."""

    judged: int  #: judgements of pairs, skips and attention checks left out
    wanted: int  #: judgements that all pairs together should get
    pairs: int  #: pairs other than attention checks
    complete: int  #: pairs with all their judgements
    on_screens: int  #: pairs that somebody has before them
    per_minute: float  #: judgements, over the last minutes
    wrong_codes: int  #: in the last minutes
    alpha: float | None  #: Krippendorff's, nominal; None while no pair was judged twice or all judgements are equal
    left_share: float | None  #: of the judgements that aren't ties, those for the left response
    people: tuple[Person, ...]  #: by pseudonym


def progress(store: Store) -> Progress:
    """Read the state of a study.

    Args:
        store: of the study.
    """
    study, now = store.study(), store.clock()
    checks = pairs.c.answer.is_not(None)
    made = select(
        judgements.c.annotator,
        judgements.c.pair_id,
        judgements.c.choice,
        judgements.c.flipped,
        judgements.c.seconds,
        judgements.c.created_at,
        pairs.c.answer,
    ).join(pairs, pairs.c.pair_id == judgements.c.pair_id)
    count = select(func.count())
    with store.database.reading() as connection:
        rows = connection.execute(made).all()
        people = connection.execute(select(annotators).order_by(annotators.c.name)).all()
        number = connection.execute(count.select_from(pairs).where(~checks)).scalar_one()
        full = count.select_from(pairs).where(~checks, pairs.c.judged >= study.judgements_wanted)
        complete = connection.execute(full).scalar_one()
        shown = connection.execute(count.where(assignments.c.expires_at > now)).scalar_one()
        wrong = connection.execute(count.where(attempts.c.at >= now - ATTEMPT_SECONDS)).scalar_one()
    ordinary = [row for row in rows if row.answer is None and row.choice != "skip"]
    since = utc(now - 60 * MINUTES)
    sides = [row.choice for row in ordinary if row.choice != "tie"]
    by_person = defaultdict(list)
    for row in rows:
        by_person[row.annotator].append(row)
    return Progress(
        judged=len(ordinary),
        wanted=number * study.judgements_wanted,
        pairs=number,
        complete=complete,
        on_screens=shown,
        per_minute=sum(row.created_at > since for row in ordinary) / MINUTES,
        wrong_codes=wrong,
        alpha=_alpha(ordinary),
        left_share=sides.count("a") / len(sides) if sides else None,
        people=tuple(_person(person, by_person[person.id], study.hasty_seconds) for person in people),
    )


def passed(choice: str, flipped: bool, answer: str) -> bool:
    """Whether an attention check was judged as it should be.

    Args:
        choice: in terms of what was seen.
        flipped: whether the sides were exchanged.
        answer: in terms of the pair as it was given.
    """
    return (SWAPPED[choice] if flipped else choice) == answer


def _person(person, rows: list, hasty_seconds: float) -> Person:  # noqa: ANN001 - rows of SQLAlchemy's
    checks = [row for row in rows if row.answer is not None]
    ordinary = [row for row in rows if row.answer is None]
    judged = [row for row in ordinary if row.choice != "skip"]
    return Person(
        name=person.name,
        consented=person.consented_at is not None,
        judged=len(judged),
        ties=sum(row.choice == "tie" for row in judged),
        skipped=len(ordinary) - len(judged),
        hasty=sum(row.seconds < hasty_seconds for row in judged),
        median_seconds=median(row.seconds for row in judged) if judged else None,
        checks_passed=sum(passed(row.choice, row.flipped, row.answer) for row in checks),
        checks=len(checks),
    )


def _alpha(rows: list) -> float | None:
    """Krippendorff's alpha over (annotator, pair): 1 = the pair's first response, −1 = its second, 0 = a tie."""
    from rlhf_utils.agreement import krippendorff_alpha  # brings torch along, for which a server shouldn't wait

    if not rows:
        return None
    people, names = ({name: i for i, name in enumerate(dict.fromkeys(row[i] for row in rows))} for i in (0, 1))
    table = np.full((len(people), len(names)), np.nan)
    for row in rows:
        value = {"a": 1.0, "b": -1.0, "tie": 0.0}[row.choice]
        table[people[row.annotator], names[row.pair_id]] = 0.0 - value if row.flipped else value
    try:
        alpha = krippendorff_alpha(table)
    except ValueError:  # no pair was judged twice
        return None
    return None if math.isnan(alpha) else alpha
