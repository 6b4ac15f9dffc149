"""The glossary holds every term that a chapter defines in bold, in order, with links that lead to its definition.

A chapter that defines a new term fails :func:`test_every_term_of_a_chapter_is_in_the_glossary`, whose message holds an
entry to fill in. Bold that defines nothing, and isn't a heading in front of a paragraph, belongs into ``NO_TERMS``.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from myst_parser.mdit_to_docutils.base import default_slugify

from rlhf_utils.book.languages import LANGUAGES, language_nodes

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = sorted(path.stem for path in BOOK.glob("[0-9][0-9]_*.md"))
LETTER = re.compile(r"^## ([^\n]+)\n\n```\{glossary\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Bold → the glossary's word for it, where a chapter's sentence needs another form.
FORMS = {
    "*n*-step": "n-step",
    "normalises": "normalise",
    "paired": "paired comparison",
    "gold questions": "gold question",
    "no dropout": "dropout",
    "data parallel": "data parallel training",
    "sharded": "sharded training",
    "jailbreaks": "jailbreak",
    # Names of which the chapter also gives the abbreviation.
    "dpo": "direct preference optimisation",
    "ipo": "identity preference optimisation",
}
# Entries whose section explains the thing in other words.
EXPLAINED_OTHERWISE = {"adaptive KL controller", "off-policy", "minibatch"}
# Bold that defines nothing.
NO_TERMS = {
    "05_preference_data": {"estimating reliabilities"},  # in front of a paragraph about it
    "09_details_and_debugging": {
        # In front of a paragraph or a list's item.
        "the reward model reads the cut text",
        "the price in the reward, per token",
        "the curves",
        "the samples",
        "numbers worked by hand",
        "nan under the mask",
        # Causes in the decision table.
        "the mask counts padding",
        "logits off by one",
        "samples are sharper than the policy",
        "texts aren't cut at eos",
        "scores aren't normalised",
        "old log-probabilities aren't old",
        "the reference is the policy",
        "kl with the wrong sign",
        "the sign of the advantages or of the loss",
        "the score doesn't reach a token that counts",
        "scores belong to other rows",
        "returns are made after whitening",
        "the price isn't charged",
    },
    "12_best_of_n": {"at equal kl", "at equal training compute", "at equal quality"},  # in front of a paragraph
    "17_trl": {"configuration", "dataset"},  # in a list of what a trainer is given
    "18_gpt2": {"1024 places"},  # in front of a paragraph about it
    "20_chatgpt": {"1.3-billion", "175-billion"},  # two figures that are often run together
}


def without_code(text: str) -> str:
    """A page without code and formulas, in which two stars mean something else."""
    for rule in (r"^(`{3,})(?!\{(?:admonition|note|table))[^\n]*\n.*?^\1`*$", r"^\$\$.*?^\$\$", r"`[^`\n]*`"):
        text = re.sub(rule, "", text, flags=re.MULTILINE | re.DOTALL)
    return text


def bold(text: str) -> list[str]:
    """What stands in bold, in small letters; without headings in front of a paragraph, which end like a sentence."""
    found = re.findall(r"\*\*(?=\S)((?:[^*]|\*(?!\*))+?)\*\*(?!\*)", without_code(text).replace("***", "**"))
    terms = [" ".join(term.split()).lower() for term in found]
    return [term for term in terms if not term.endswith((".", "?", '."')) and term]


def terms_of(chapter: str) -> set[str]:
    """The glossary's words for what a chapter defines."""
    found = set(bold((BOOK / f"{chapter}.md").read_text(encoding="utf8"))) - NO_TERMS.get(chapter, set())
    return {FORMS.get(term, FORMS.get(f"*{term}", term)) for term in found}


def glossary() -> str:
    return (BOOK / "glossary.md").read_text(encoding="utf8")


@functools.cache
def entries() -> dict[str, str]:
    """Term → what stands under it."""
    found = {}
    for _, group in LETTER.findall(glossary()):
        for entry in re.split(r"\n\n(?=\S)", group.strip()):
            term, _, text = entry.partition("\n")
            found[term] = text
    return found


def sort_key(term: str) -> str:
    return re.sub(r"[^\w ]", "", re.sub("[-–]", " ", term)).lower()


@functools.cache
def sections(page: Path) -> dict[str, str]:
    """Anchor of each heading of a page → the text up to the next heading of any level."""
    text = re.sub(r"^(`{3,})[^\n]*\n.*?^\1`*$", "", page.read_text(encoding="utf8"), flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^#{1,4} (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        default_slugify(re.sub(r"[*$`]", "", title)): body for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


SKELETON = """{term}
  WHAT IT IS, in a sentence or two. [Chapter {number}]({chapter}.md#SECTION).
  Elsewhere: NAMES IN TRL, CLEANRL AND PAPERS, or leave this line out.

  {{fr}}`…` {{it}}`…` {{ru}}`…`
"""


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_term_of_a_chapter_is_in_the_glossary(chapter):
    known = {term.lower() for term in entries()}
    missing = sorted(terms_of(chapter) - known)
    wanted = "\n".join(SKELETON.format(term=term, number=int(chapter[:2]), chapter=chapter) for term in missing)
    assert not missing, f"Put into book/glossary.md, each at its place, or into NO_TERMS:\n\n{wanted}"


def test_the_exceptions_are_needed():
    for chapter, phrases in NO_TERMS.items():
        assert phrases <= set(bold((BOOK / f"{chapter}.md").read_text(encoding="utf8"))), chapter


def test_entries_are_sorted_and_stand_under_their_letter():
    groups = LETTER.findall(glossary())
    terms = list(entries())
    assert terms == sorted(terms, key=sort_key)
    assert len(terms) == len({term.lower() for term in terms})
    for letter, group in groups:
        starts = {sort_key(entry)[0].upper() for entry in re.findall(r"^(\S.*)$", group, re.MULTILINE)}
        assert starts == {letter}
    assert re.findall(r"\[(\w)\]\(#(\w)\)", glossary()) == [(letter, letter.lower()) for letter, _ in groups]


@pytest.mark.parametrize("term", entries())
def test_an_entry_is_whole(term):
    text = entries()[term]
    assert all(line.startswith("  ") or not line for line in text.splitlines()), "indent by two"
    definition, _, languages = text.strip().rpartition("\n\n")
    words = re.findall(r"\{(\w+)\}`([^`]+)`", languages)
    assert [code for code, word in words if word.strip("= ")] == list(LANGUAGES)
    russian = dict(words)["ru"]
    assert re.search(r"[А-яё]", russian) or russian.startswith("="), "neither Cyrillic nor marked as English"
    meaning = re.sub(r"\[[^\]]*\]\([^)]*\)", "", definition.split("\n  Elsewhere:")[0])
    assert 3 <= len(meaning.split()) <= 60


@pytest.mark.parametrize("term", entries())
def test_its_links_lead_to_where_it_is_explained(term):
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", entries()[term])
    assert links
    forms = {term.lower(), *(form.strip("*") for form, word in FORMS.items() if word == term)}
    for page, anchor in links:
        path = (BOOK / page).resolve()
        assert path.is_file()
        text = sections(path)[anchor] if anchor else path.read_text(encoding="utf8")
        said = " ".join(text.replace("*", "").split()).lower()
        assert any(re.sub(r"s$", "", form) in said for form in forms) or term in EXPLAINED_OTHERWISE


def test_a_term_says_its_language_and_what_of_it_is_english():
    node = language_nodes("it", "regola del tre (=reward_hacking)")
    name, _, term = node.children
    assert (name.astext(), name["explanation"]) == ("it", "Italian")
    assert term["classes"] == ["language-it"]  # of which docutils makes lang="it"
    assert term.astext() == "regola del tre (reward hacking)"
    assert term.children[1]["classes"] == ["language-en"]
