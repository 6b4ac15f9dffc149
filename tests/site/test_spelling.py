"""The pages' spelling: an American dictionary, the rules that lead from British spelling to it, and our own words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup, Tag
from hunspell import Hunspell
from site_pages import page_names

WORDS = Path(__file__).with_name("words.txt")
# What isn't prose: code and its output, formulas, names in references, the theme's own buttons, other languages.
NO_PROSE = (
    "pre, code, math, script, style, noscript, .headerlink, .citation, a.reference.internal[href*=bibliography], "
    ".rlhf-language"
)
# In the reference: signatures, and names and types in the lists of arguments.
NO_PROSE += ", dt.sig, dl.py .field-list strong, dl.py .field-list em"
WORD = re.compile(r"[A-Za-zÀ-ÿ]+(?:['’][A-Za-zÀ-ÿ]+)*")
# British to American; a word is right if one of these leads to a word of the dictionary.
BRITISH = [
    (r"our", "or"),
    (r"is(e|ed|er|ers|es|ing|able|ation|ations)$", r"iz\1"),
    (r"ys(e|ed|er|ers|es|ing)$", r"yz\1"),
    (r"ll(ed|er|ers|ing|ings)$", r"l\1"),
    (r"re(s|d)?$", r"er\1"),
    (r"c(e|es)$", r"s\1"),
    (r"ogue(s?)$", r"og\1"),
]


@pytest.fixture(scope="module")
def dictionary():
    return Hunspell("en_US")


def own_words() -> list[str]:
    return WORDS.read_text(encoding="utf8").split()


def misspelt(text: str, dictionary: Hunspell, own: set[str]) -> list[str]:
    """Words of a text that neither the dictionary knows nor we do; abbreviations in capitals are let through."""
    found = []
    for word in WORD.findall(text):
        word = word.replace("’", "'").removesuffix("'s")
        variants = {word, *(re.sub(rule, to, word) for rule, to in BRITISH)}
        known = word in own or word.lower() in own or any(map(dictionary.spell, variants))
        if len(word) > 1 and not word.isupper() and not known:
            found.append(word)
    return found


def prose(soup: BeautifulSoup) -> str:
    """What a page says, text alternatives included."""
    article = soup.find("article")
    if article is None:
        return ""
    article = BeautifulSoup(str(article), "html.parser")
    labels = [element["aria-label"] for element in article.select(".rlhf-plot, svg[role=img]")]
    for element in article.select(NO_PROSE):
        if isinstance(element, Tag):
            element.decompose()
    # A word and the mark-up after it are two words; a word that is half bold is rare.
    return " ".join([article.get_text(" "), *labels])


@pytest.mark.parametrize("name", [name for name in page_names() if not name.startswith(("genindex", "search"))])
def test_spelling(name, site, soup, dictionary):
    assert sorted(set(misspelt(prose(soup(name)), dictionary, set(own_words())))) == []


def test_the_word_list_is_in_order():
    words = own_words()
    assert words == sorted(set(words), key=lambda word: (word.lower(), word))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The colour of modelling and normalisation, analysed; a centre's labelled defence.", []),
        ("It recieves a rewad that isn’t normalizedd.", ["recieves", "rewad", "normalizedd"]),
        ("KL and EOS, x; Bradleys logit", ["Bradleys", "logit"]),
        ("Bradley's logits", ["logits"]),
    ],
)
def test_misspelt_words_are_found(text, found, dictionary):
    assert misspelt(text, dictionary, {"bradley"}) == found
