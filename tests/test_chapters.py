"""Each chapter has all parts that a reader finds in the others."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from rlhf_utils.book.notebooks import citations

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("[0-2][0-9]_*.md"))
LAST_SECTIONS = ["Key equations", "Check yourself", "Exercises", "Further reading"]
LEVELS = ("minute", "minutes", "hour", "evening", "afternoon", "day")


def text_of(chapter: str) -> str:
    return (ROOT / "book" / f"{chapter}.md").read_text(encoding="utf8")


def lesson_of(chapter: str) -> Path:
    found = re.search(r"^:lesson: (\S+)$", text_of(chapter), re.MULTILINE)
    assert found, "no lesson in the box at the chapter's head"
    return (ROOT / "book" / f"{found[1]}.md").resolve()


def sections(text: str) -> dict[str, str]:
    """Title of each section of the second level → its text."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def quizzes(text: str) -> list[str]:
    return re.findall(r"^:{3,}\{quiz\}\n(.*?)^:{3,}$", text, re.MULTILINE | re.DOTALL)


def exercises(lesson: str) -> dict[str, str]:
    """Label of each exercise → its text, solution included."""
    parts = re.split(r"^```\{exercise-start\}", lesson, flags=re.MULTILINE)[1:]
    return {re.search(r":label: (\S+)", part)[1]: part for part in parts}


def test_no_chapter_is_missing():
    assert [chapter[:2] for chapter in CHAPTERS] == [f"{number:02}" for number in range(1, 22)]


@pytest.mark.parametrize("chapter", CHAPTERS)
class TestChapter:
    def test_it_begins_with_a_question_and_objectives(self, chapter):
        head = text_of(chapter).split("\n## ")[0]
        assert re.search(r"^\*[^*]+\?", head, re.MULTILINE), "no question in italics"
        objectives = re.search(r"^After .*you can:?\n+((?:[-*] .*\n(?:  .*\n)*)+)", head, re.MULTILINE)
        assert objectives
        assert 4 <= len(re.findall(r"^[-*] ", objectives[1], re.MULTILINE)) <= 6
        assert re.search(r":{3,}\{at-a-glance\}\n:prerequisites: \S", head)

    def test_it_ends_with_the_same_sections(self, chapter):
        assert list(sections(text_of(chapter)))[-4:] == LAST_SECTIONS

    def test_it_is_as_long_as_a_sitting_allows(self, chapter):
        text = text_of(chapter).split("## Key equations")[0]
        for rule in (r"^\$\$.*?^\$\$.*?$", r"^:{3,}.*?^:{3,}$", r"\$[^$]*\$"):  # formulas and boxes
            text = re.sub(rule, "", text, flags=re.MULTILINE | re.DOTALL)
        assert 1500 <= len(text.split()) <= 3500

    def test_chapter_and_lesson_name_each_other(self, chapter):
        assert f"../book/{chapter}.md" in lesson_of(chapter).read_text(encoding="utf8")

    def test_key_equations_are_the_chapters(self, chapter):
        text = text_of(chapter)
        named = re.findall(r"\{eq\}`([\w-]+)`", sections(text)["Key equations"])
        assert named
        assert set(named) <= set(re.findall(r"^(?:\$\$ \(|:label: )([\w-]+)\)?$", text, re.MULTILINE))

    def test_numbers_from_its_lesson_say_how_they_are_written(self, chapter):
        # Without a format the role takes the key for one, and finds nothing.
        assert re.findall(r"\{glue:text\}`[^`]*::\w+`", text_of(chapter)) == []

    def test_its_quiz_has_some_questions_and_no_pattern(self, chapter):
        found = quizzes(text_of(chapter))
        assert 4 <= len(found) <= 8
        places = []
        for quiz in found:
            verdicts = re.findall(r"^  (Right|Wrong)\.", quiz, re.MULTILINE)
            assert 3 <= len(verdicts) <= 5, quiz
            places.append(verdicts.index("Right"))
        assert len(set(places)) > 1

    def test_its_exercises_are_graded_hinted_and_solved(self, chapter):
        lesson = lesson_of(chapter).read_text(encoding="utf8")
        found = exercises(lesson)
        assert 4 <= len(found) <= 8
        listed = sections(text_of(chapter))["Exercises"]
        for label, text in found.items():
            assert label in listed, "the chapter doesn't name it"
            assert any(level in text.splitlines()[0].lower() for level in LEVELS), "no level in its title"
            assert f"```{{solution-start}} {label}" in text
            before, after = text.split("```{solution-start}")
            assert re.search(r":{3,}\{admonition\} Hint\n:class: dropdown", before), "no hint before the solution"
            assert ":tags: [solution]" in after, "its solution isn't run"

    def test_its_lesson_shows_other_seeds(self, chapter):
        lesson = lesson_of(chapter)
        assert f'show_seeds("{lesson.stem}"' in lesson.read_text(encoding="utf8").replace("\n", "").replace("    ", "")

    def test_its_further_reading_is_annotated(self, chapter):
        entries = re.findall(r"^- .*(?:\n  .*)*", sections(text_of(chapter))["Further reading"], re.MULTILINE)
        assert len(entries) >= 3
        assert all("{cite:" in entry and len(entry.split()) > 6 for entry in entries)


def test_every_page_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf8")
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "lessons").glob("*.md")]
    missing = [path.stem for path in pages if f"/{path.stem}\n" not in toc + "\n"]
    assert missing == []


def test_commands_name_the_environment_that_the_set_up_made():
    pages = [ROOT / "README.md", *(ROOT / "book").glob("*.md"), *(ROOT / "lessons").glob("*.md")]
    bare = re.compile(r"(?<![\w/\\])(?:python -m (?:rlhf_utils|pip)|torchrun --|hf download|jupyter lab\b)")
    found = {path.name: bare.findall(path.read_text(encoding="utf8")) for path in pages}
    assert {name: commands for name, commands in found.items() if commands} == {}


def test_no_two_works_are_cited_alike():
    cited = Counter(citations(ROOT).values())  # authors and year, which may end in a letter
    assert [who for who, times in cited.items() if times > 1] == []
