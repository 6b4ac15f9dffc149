"""The world of the task ``summaries``: short reports of what people did, some of it marked as important.

A report is a row of facts and a closing line that says nothing about anybody: ``notably anna lost keys . later ben sold
boats . elsewhere cara found drums . it rained .`` The first word of a fact says whether it is important. No
person, deed or thing occurs twice in a report, so what somebody did is never in doubt. A summary is a row of claims:
``anna lost keys and ben sold boats .``
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

PERSONS = ("anna", "ben", "cara", "david", "emma", "felix", "greta", "henry", "irene", "jonas", "karla", "leon")
DEEDS = ("lost", "found", "sold", "bought", "broke", "painted", "hid", "cleaned")
THINGS = ("keys", "boats", "drums", "coins", "books", "roses", "apples", "bikes", "hats", "maps", "rings", "lamps")
IMPORTANT = ("notably", "importantly", "remarkably")
MINOR = ("later", "meanwhile", "elsewhere", "besides")
CLOSINGS = ("it rained .", "nothing else happened .", "the end .")
SEPARATOR = "tl;dr"
AND, STOP = "and", "."
FACTS = (3, 4)  #: in a report

Claim = tuple[str, str, str]
"""Who did what to which thing."""


@dataclass(frozen=True)
class Fact:
    """One sentence of a report.

    Attributes:
        marker: its first word, which says whether it is important.
        claim: what it says.
    """

    marker: str
    claim: Claim

    @property
    def important(self) -> bool:
        """Whether a summary has to tell it."""
        return self.marker in IMPORTANT


@dataclass(frozen=True)
class Report:
    """What is to be summarised.

    Attributes:
        facts: in the order in which they are told.
        closing: the line behind them.
    """

    facts: tuple[Fact, ...]
    closing: str

    @property
    def text(self) -> str:
        """The whole report."""
        return " ".join([*(f"{f.marker} {' '.join(f.claim)} {STOP}" for f in self.facts), self.closing])

    @property
    def prompt(self) -> str:
        """The report with the separator behind it: what a summary continues."""
        return f"{self.text} {SEPARATOR}"


def words() -> list[str]:
    """Every word of the world, sorted."""
    closing = " ".join(CLOSINGS).split()
    return sorted({*PERSONS, *DEEDS, *THINGS, *IMPORTANT, *MINOR, *closing, SEPARATOR, AND, STOP})


def write_report(rng: random.Random) -> Report:
    """Draw a report with one or two important facts, all its persons, deeds and things distinct."""
    number = rng.choice(FACTS)
    important = set(rng.sample(range(number), rng.choice((1, 2))))
    claims = zip(rng.sample(PERSONS, number), rng.sample(DEEDS, number), rng.sample(THINGS, number), strict=True)
    facts = (Fact(rng.choice(IMPORTANT if i in important else MINOR), claim) for i, claim in enumerate(claims))
    return Report(tuple(facts), rng.choice(CLOSINGS))


def sentence(claims: Sequence[Claim]) -> str:
    """The claims as a summary: ``anna lost keys and ben sold boats .``"""
    return f"{f' {AND} '.join(' '.join(claim) for claim in claims)} {STOP}"


def spoil(claim: Claim, report: Report, rng: random.Random, places: Sequence[int] = (1, 2)) -> Claim:
    """The claim with one word made wrong: mixed up with another fact of the report, or taken from outside of it."""
    place = rng.choice(list(places))
    told = [f.claim[place] for f in report.facts]
    others = told if rng.random() < 0.5 else [w for w in (PERSONS, DEEDS, THINGS)[place] if w not in told]
    wrong = rng.choice([w for w in others if w != claim[place]])
    return (*claim[:place], wrong, *claim[place + 1 :])


def careless_summary(report: Report, rng: random.Random, mistakes: float = 0.3) -> list[Claim]:
    """What a hasty writer makes of a report: one to three claims, some wrong, important facts somewhat more often.

    Args:
        report: what is summarised.
        rng: of the choices.
        mistakes: chance that a claim has a wrong word.
    """
    number = rng.choices((1, 2, 3), (0.4, 0.45, 0.15))[0]
    left, chosen = list(report.facts), []
    while len(chosen) < number:
        fact = rng.choices(left, [2 if f.important else 1 for f in left])[0]
        left.remove(fact)
        chosen.append(spoil(fact.claim, report, rng) if rng.random() < mistakes else fact.claim)
    return chosen


@dataclass(frozen=True)
class Grades:
    """How good claims about a report are.

    Attributes:
        faithfulness: share of what the claims say that the report says too; 0 without any claim.
        coverage: share of what the report's important facts say that the claims tell.
    """

    faithfulness: float
    coverage: float


def agreement(claim: Claim, fact: Claim) -> float:
    """Share of deed and thing in which two claims about the same person agree; 0 if they are about two persons."""
    return (claim[0] == fact[0]) * ((claim[1] == fact[1]) + (claim[2] == fact[2])) / 2


def grade(facts: Sequence[Fact], claims: Sequence[Claim]) -> Grades:
    r"""Grade claims against facts.

    With the agreement :math:`a(c, f) \in \{0, \frac12, 1\}` of a claim and a fact, the claims C, the facts F and the
    important ones :math:`F^*`,

    .. math:: \text{faithfulness} = \frac{1}{|C|}\sum_{c \in C} \max_{f \in F} a(c, f), \qquad
              \text{coverage} = \frac{1}{|F^*|}\sum_{f \in F^*} \max_{c \in C} a(c, f)

    Args:
        facts: of the report.
        claims: of the summary.
    """
    important = [f for f in facts if f.important]
    right = [max((agreement(c, f.claim) for f in facts), default=0.0) for c in claims]
    told = [max((agreement(c, f.claim) for c in claims), default=0.0) for f in important]
    return Grades(sum(right) / max(1, len(right)), sum(told) / max(1, len(told)))
