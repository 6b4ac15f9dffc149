import random

import pytest

from rlhf_utils.tasks.grammar import Grammar, Rule

CLASSES = {
    "noun": {"plot": None, "cast": None},
    "adj": {"good": 1.0, "warm": 0.5, "bad": -1.0, "dull": -0.5},
}
RULES = {
    "thing": [Rule("the {noun}"), Rule("it")],
    "opinion": [Rule("{adj}"), Rule("not {adj}", lambda a: -0.5 * a)],
    "sentence": [
        Rule("{thing} is {opinion} ."),
        Rule("{thing} is {adj} but {adj} .", lambda a, b: 0.25 * a + 0.75 * b, 2.0, signs="opposite"),
        Rule("{adj} and {adj} .", lambda a, b: a + b, signs="same"),
    ],
    "fact": [Rule("the {noun} and the {noun} .")],
}


@pytest.fixture(scope="module")
def grammar():
    return Grammar(CLASSES, RULES)


@pytest.mark.parametrize(
    ("sentence", "meaning"),
    [
        ("it is warm .", 0.5),
        ("the plot is not bad .", 0.5),
        ("the cast is good but dull .", 0.25 - 0.375),
        ("the cast is dull but warm .", -0.125 + 0.375),
        ("it is good but warm .", 0.25 + 0.375),  # the writer draws opposite signs, the reader reads any
        ("good and good .", 1.0),  # clipped
    ],
)
def test_meanings_are_those_of_the_rules(grammar, sentence, meaning):
    words = sentence.split()
    assert grammar.parse(words, "sentence").ends == {len(words): meaning}


def test_what_the_writer_means_the_reader_reads(grammar):
    rng = random.Random(0)
    for _ in range(500):
        words, meaning = grammar.write("sentence", rng)
        assert grammar.parse(words, "sentence").ends[len(words)] == meaning


def test_a_broken_sentence_has_no_end_but_a_furthest_word(grammar):
    for sentence, furthest in (("the plot is", 3), ("the plot sings", 2), ("is it good", 0), ("it is not .", 3)):
        parse = grammar.parse(sentence.split(), "sentence")
        assert parse.ends == {}
        assert parse.furthest == furthest, sentence


def test_reading_may_start_inside(grammar):
    words = ["it", "is", "good", ".", "it", "is", "bad", "."]
    assert grammar.parse(words, "sentence").ends == {4: 1.0}
    assert grammar.parse(words, "sentence", 4).ends == {8: -1.0}


def test_phrases_without_opinion_mean_none(grammar):
    assert grammar.parse(["the", "plot", "and", "the", "cast", "."], "fact").ends == {6: None}
    assert not grammar.has_opinion("fact")
    assert grammar.has_opinion("sentence")


def test_signs_are_kept_in_writing(grammar):
    rng = random.Random(1)
    for _ in range(300):
        words, _ = grammar.write("sentence", rng)
        values = [grammar.opinion_words[w] for w in words if w in grammar.opinion_words]
        if "but" in words:
            assert values[0] * values[1] < 0
        if "and" in words:
            assert values[0] * values[1] > 0


def test_rules_are_drawn_by_weight(grammar):
    rng = random.Random(2)
    buts = sum("but" in grammar.write("sentence", rng)[0] for _ in range(4000))
    assert buts / 4000 == pytest.approx(2 / 4, abs=0.03)  # four standard errors


def test_words_and_first_words(grammar):
    assert grammar.words == sorted(
        ["plot", "cast", "good", "warm", "bad", "dull", "the", "it", "not", "is", ".", "but", "and"]
    )
    assert grammar.opinion_words == CLASSES["adj"]
    assert grammar.starts("sentence") == {"the", "it", "good", "warm", "bad", "dull"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("{nothing} ."), "unknown slot 'nothing'"),
        (Rule("{adj} .", lambda a, b: a), "must take 1 sentiments"),
        (Rule("{adj} {adj} ."), "2 opinions and no meaning"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        Grammar(CLASSES, {"s": [rule]})
