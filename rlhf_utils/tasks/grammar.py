"""A small grammar engine: one table of rules both writes sentences and judges them.

A rule is a pattern and a meaning. The pattern ``"{thing} starts {adj} but ends up {adj}"`` mixes words with slots; a
slot is filled by another rule or by a word class. The meaning is a function of the sentiments of the slots that have
one, in their order: ``lambda first, last: 0.3 * first + 0.7 * last``. Since the writer and the judge read the same
table, the judge knows the truth.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Meaning = float | None
"""Sentiment in [-1, 1], or None for a phrase that carries no opinion."""

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Rule:
    """One way to write a phrase.

    Attributes:
        pattern: words and ``{slots}``, separated by spaces.
        meaning: from the sentiments of the slots that carry one to the phrase's; None for a phrase without opinion.
            With exactly one such slot and no function, the phrase means what the slot means.
        weight: how often the writer picks the rule among its alternatives, relative to theirs.
        signs: whether the writer draws opinions of the "same" sign ("warm and witty") or of "opposite" signs ("dull but
            tender"); None leaves them to chance. It teaches a language model which words belong together. The judge
            reads any combination.
    """

    pattern: str
    meaning: Callable[..., float] | None = None
    weight: float = 1.0
    signs: Literal["same", "opposite"] | None = None

    @cached_property
    def symbols(self) -> tuple[tuple[str, bool], ...]:
        """The pattern as pairs: a name, and whether it is a slot."""
        return tuple((m[1], True) if (m := _SLOT.fullmatch(part)) else (part, False) for part in self.pattern.split())

    def value(self, meanings: Sequence[Meaning]) -> Meaning:
        """The phrase's sentiment, clipped to [-1, 1]."""
        opinions = [m for m in meanings if m is not None]
        if self.meaning is None:
            return opinions[0] if opinions else None
        return max(-1.0, min(1.0, self.meaning(*opinions)))


@dataclass(frozen=True)
class Parse:
    """What the parser found.

    Attributes:
        ends: for each position at which a phrase can end, its sentiment.
        furthest: how many words could be read before no rule fitted any more; a word count.
    """

    ends: Mapping[int, Meaning]
    furthest: int


@dataclass(frozen=True)
class Grammar:
    """Word classes and rules; must not be left-recursive.

    Attributes:
        classes: class name → {word: sentiment or None}.
        rules: phrase name → its alternatives.
    """

    classes: Mapping[str, Mapping[str, Meaning]]
    rules: Mapping[str, Sequence[Rule]]
    _starts: dict[str, frozenset[str]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, alternatives in self.rules.items():
            for rule in alternatives:
                slots = [s for s, is_slot in rule.symbols if is_slot]
                unknown = [s for s in slots if s not in self.classes and s not in self.rules]
                if unknown:
                    raise ValueError(f"rule {rule.pattern!r} of {name!r} uses the unknown slot {unknown[0]!r}")
                opinions = sum(self.has_opinion(s) for s in slots)
                if rule.meaning and len(inspect.signature(rule.meaning).parameters) != opinions:
                    raise ValueError(f"the meaning of {rule.pattern!r} must take {opinions} sentiments")
                if rule.meaning is None and opinions > 1:
                    raise ValueError(f"rule {rule.pattern!r} has {opinions} opinions and no meaning")

    def has_opinion(self, symbol: str) -> bool:
        """Whether phrases of this name, or words of this class, carry a sentiment."""
        if symbol in self.classes:
            return next(iter(self.classes[symbol].values())) is not None
        rule = self.rules[symbol][0]
        return rule.meaning is not None or any(self.has_opinion(s) for s, is_slot in rule.symbols if is_slot)

    @cached_property
    def words(self) -> list[str]:
        """Every word that the grammar can write, sorted."""
        literal = {s for rules in self.rules.values() for r in rules for s, is_slot in r.symbols if not is_slot}
        return sorted(literal.union(*self.classes.values()))

    @cached_property
    def opinion_words(self) -> dict[str, float]:
        """Each word that has a sentiment of its own, with it."""
        return {w: v for members in self.classes.values() for w, v in members.items() if v is not None}

    def write(self, symbol: str, rng: random.Random) -> tuple[list[str], Meaning]:
        """Draw a phrase: its words and its sentiment."""
        if symbol in self.classes:
            word = rng.choice(list(self.classes[symbol]))
            return [word], self.classes[symbol][word]
        alternatives = self.rules[symbol]
        rule = rng.choices(alternatives, [r.weight for r in alternatives])[0]
        while True:
            parts = [self.write(name, rng) if is_slot else ([name], None) for name, is_slot in rule.symbols]
            positive = {m > 0 for _, m in parts if m is not None}
            if rule.signs is None or (len(positive) == 1) == (rule.signs == "same"):
                return [w for words, _ in parts for w in words], rule.value([m for _, m in parts])

    def starts(self, symbol: str) -> frozenset[str]:
        """The words that a phrase can begin with."""
        if symbol not in self._starts:
            if symbol in self.classes:
                found = frozenset(self.classes[symbol])
            else:
                firsts = [rule.symbols[0] for rule in self.rules[symbol]]
                found = frozenset().union(*(self.starts(s) if slot else {s} for s, slot in firsts))
            self._starts[symbol] = found
        return self._starts[symbol]

    def parse(self, words: Sequence[str], symbol: str, start: int = 0) -> Parse:
        """Read a phrase that begins at ``start``; of several readings with one end the first rule's counts."""
        furthest = start
        memo: dict[tuple[str, int], dict[int, Meaning]] = {}

        def read(name: str, at: int) -> dict[int, Meaning]:
            nonlocal furthest
            if at >= len(words) or words[at] not in self.starts(name):
                return {}
            if (name, at) in memo:
                return memo[name, at]
            if name in self.classes:
                furthest = max(furthest, at + 1)
                found = {at + 1: self.classes[name][words[at]]}
            else:
                found = {}
                for rule in self.rules[name]:
                    for end, meanings in read_rule(rule, at):
                        found.setdefault(end, rule.value(meanings))
            memo[name, at] = found
            return found

        def read_rule(rule: Rule, at: int) -> list[tuple[int, tuple[Meaning, ...]]]:
            nonlocal furthest
            states: list[tuple[int, tuple[Meaning, ...]]] = [(at, ())]
            for name, is_slot in rule.symbols:
                if is_slot:
                    states = [(e, (*m, v)) for end, m in states for e, v in read(name, end).items()]
                else:
                    states = [(end + 1, m) for end, m in states if end < len(words) and words[end] == name]
                    furthest = max([furthest, *(end for end, _ in states)])
                if not states:
                    break
            return states

        return Parse(read(symbol, start), furthest)
