"""The part for teachers: what it names exists, its times add up, and slides take from the book what the book has."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from myst_parser.mdit_to_docutils.base import default_slugify

from rlhf_utils.book import slides
from rlhf_utils.cli import build_parser
from rlhf_utils.errors import UserError

ROOT = Path(__file__).parents[1]
TEACH = ROOT / "book" / "teach"
PAGES = sorted(path.stem for path in TEACH.glob("*.md"))
INCLUDED = ROOT / "course" / "capstone.md"
DECKS = slides.decks(ROOT)
FIELDS = ["What has to stay", "Time", "Show live", "Discuss", "They tend to think"]


def text_of(page: str) -> str:
    return (TEACH / f"{page}.md").read_text(encoding="utf8")


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    section = re.split(rf"^## {re.escape(heading)}\n", text, flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()[2:]]


def without_code(text: str) -> str:
    return re.sub(r"^ *(`{3,}).*?^ *\1", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as the site makes them, and its labels."""
    text = without_code(path.read_text(encoding="utf8"))
    plain = (re.sub(r"[*`]|\{[\w-]+\}|\$[^$]*\$", "", title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    slugs = {default_slugify(title) for title in plain}
    known = (ROOT / "book" / "anchors.txt").read_text(encoding="utf8")
    page = path.relative_to(ROOT).with_suffix("").as_posix()
    noted = re.search(rf"^{re.escape(page)}: (.*)$", known, re.MULTILINE)
    return slugs | set(noted[1].split() if noted else []) | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def minutes_of_assignments() -> dict[int, int]:
    """Minutes of each assignment's tasks and questions, by its number."""
    paths = sorted((ROOT / "course" / "assignments").glob("[0-9]*.md"))
    return {
        int(path.stem[:2]): sum(map(int, re.findall(r"^:minutes: (\d+)$", path.read_text("utf8"), re.MULTILINE)))
        for path in paths
    }


# ---- the guide ----


def test_each_chapter_has_its_entry():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    chapters = [name for name in files if re.match(r"book/\d\d_", name)]
    entries = re.split(r"^## (\d+) .*\n", text_of("chapters"), flags=re.MULTILINE)[1:]
    assert [int(number) for number in entries[::2]] == [int(name[5:7]) for name in chapters]
    for name, entry in zip(chapters, entries[1::2], strict=True):
        assert f"[Chapter](../{name.removeprefix('book/')}.md)" in entry
        assert re.findall(r"^([^\n:]+)\n: \S", entry, re.MULTILINE) == FIELDS, name
        assert re.search(r"^: lecture \d+ minutes", entry, re.MULTILINE), name
        live = entry.split("\nShow live\n")[1].split("\nDiscuss\n")[0]
        assert re.search(r"\]\(\.\./", live), f"{name}: nothing to open"


def test_the_part_is_in_the_table_of_contents_and_behind_the_third_door():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    (part,) = (part for part in toc["parts"] if part["caption"] == "For teachers")
    assert sorted(entry["file"] for entry in part["chapters"]) == [f"book/teach/{page}" for page in PAGES]
    door = (ROOT / "book" / "intro.md").read_text(encoding="utf8").split("**Teaching.**")[1].split("\n## ")[0]
    assert "(teach/guide.md)" in door


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        file, _, anchor = target.partition("#")
        if ":" in target or (not anchor and not file.endswith(".md")):
            continue
        path = (TEACH / file).resolve() if file else TEACH / f"{page}.md"
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target
    lessons = "".join(path.read_text(encoding="utf8") for path in (ROOT / "lessons").glob("*.md"))
    for label in re.findall(r"\{ref\}`([\w-]+)`", text_of(page)):
        assert f":label: {label}\n" in lessons, label


@pytest.mark.parametrize("page", [*PAGES, INCLUDED])
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf8") if isinstance(page, Path) else text_of(page)
    named = re.findall(r"`((?:course|rlhf_utils|book|lessons|experiments)/[\w./*]+|[\w.]+\.txt)`", text)
    made = {"consent.txt"}
    missing = [name for name in named if name not in made and not list(ROOT.glob(name))]
    assert missing == []


def commands(text: str) -> list[str]:
    """Lines of code blocks that give a command of the book or the kit, joined where they go on."""
    blocks = re.findall(r"^ *(`{3,})([^\n]*)\n(.*?)^ *\1$", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(body for _, info, body in blocks if not info).replace("\\\n", " ").splitlines()
    found = [line for line in lines if re.search(r"\bmake \w|-m (rlhf_utils|course\.kit)\b", line)]
    return found + re.findall(r"`((?:make|annotate) [a-z][\w .-]*)`", text)


ALL_COMMANDS = sorted(
    {c for page in PAGES for c in commands(text_of(page))}
    | {c for deck in DECKS for slide in deck.slides for c in commands(slide.body)}
)


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    words = shlex.split(command.split(" > ")[0])
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf8")
        (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
        assert words[1] in phony.split()
        return
    if "course.kit" in words:
        from course.kit.__main__ import parser

        understands = parser()
        words = words[words.index("course.kit") + 1 :]
    else:
        understands = build_parser()
        words = words if words[0] == "annotate" else words[words.index("rlhf_utils") + 1 :]
    if words[-1:] == ["import"]:  # named in a sentence, without its file
        words.append("FILE")

    def refuse(self, message):
        raise AssertionError(message)

    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)
    monkeypatch.setattr(type(understands), "error", refuse)
    understands.parse_args(words)


def test_enough_commands_are_tested():
    assert sum("annotate" in command for command in ALL_COMMANDS) >= 7
    assert sum("course.kit" in command for command in ALL_COMMANDS) >= 5


# ---- times ----


def test_the_lecture_adds_up():
    *parts, total = rows(text_of("syllabi"), "One lecture")
    (deck,) = (deck for deck in DECKS if deck.name == "lecture")
    place = 1
    for name, span, minutes in parts:
        first, last = map(int, re.findall(r"\d+", span))
        assert first == place, name
        spoken = [told(slide) for slide in deck.slides[max(0, first - 2) : last - 1]]
        assert sum(spoken) == int(minutes), name
        place = last + 1
    assert place == len(deck.slides) + 2
    assert sum(int(part[2]) for part in parts) == int(total[2]) == deck.minutes


@pytest.mark.parametrize(("heading", "hours"), [("Four weeks", 28), ("A term", 100)])
def test_weeks_add_up(heading, hours):
    *weeks, total = rows(text_of("syllabi"), heading)
    own = minutes_of_assignments()
    for week in weeks:
        homework = week[5]
        named = [own[int(number)] for number in re.findall(r"assignment (\d)", homework)]
        assert sum(named) + sum(map(int, re.findall(r"\((\d+)\)", homework))) == int(week[6]), week
    for column in (2, 3, 4, 6):
        assert sum(int(week[column]) for week in weeks) == int(total[column])
    everything = sum(int(total[column]) for column in (2, 3, 4, 6))
    assert round(everything / 60) == hours
    assert f"That is {hours} hours" in text_of("syllabi")


def test_minutes_of_assignments_are_their_sources():
    told_minutes = {int(row[0]): int(row[3]) for row in rows(text_of("running"), "Assignments and marks")}
    assert told_minutes == minutes_of_assignments()
    for row in rows(text_of("running"), "Assignments and marks"):
        (path,) = (ROOT / "course" / "assignments").glob(f"0{row[0]}_*.md")
        head = yaml.safe_load(path.read_text(encoding="utf8").split("---")[1])
        assert (row[1], row[2]) == (head["title"], ", ".join(map(str, head["chapters"])))


def test_the_capstone_adds_up():
    text = INCLUDED.read_text(encoding="utf8")
    *milestones, total = rows(text, "Milestones")
    assert sum(int(row[2]) for row in milestones) == int(total[2])
    weeks = {row[0]: row[5] for row in rows(text_of("syllabi"), "A term")}
    planned = [int(re.search(r"capstone: [^(;]*\((\d+)\)", weeks[row[0]])[1]) for row in milestones]
    assert planned == [60 * int(row[2]) for row in milestones]
    *marks, points = rows(text, "Marks")
    assert sum(int(row[2]) for row in marks) == int(points[2]) == 100


def test_the_class_experiment_adds_up():
    text = text_of("class_annotation")
    for people, each, k, pairs, judgements in rows(text, "How many"):
        whole = int(judgements.replace(",", ""))
        assert int(people) * int(each) == whole
        assert int(k) * int(pairs.replace(",", "")) == whole
    *steps, total = rows(text, "In the class")
    assert sum(int(row[0]) for row in steps) == int(total[0])
    for pairs, error in ((50, "0.065"), (100, "0.046"), (400, "0.023")):
        assert f"{math.sqrt(0.7 * 0.3 / pairs):.3f}" == error
        assert error in text
    # Ten checks, by coin, of which eight have to be passed.
    chance = sum(math.comb(10, passed) for passed in (8, 9, 10)) / 2**10
    assert f"{chance:.1%}" in text


# ---- the placement test ----


def answers() -> dict[int, str]:
    return {int(row[0]): row[1] for row in rows(text_of("placement"), "Answers, and what to do about each")}


def test_there_is_an_answer_to_each_question():
    questions = text_of("placement").split("## The questions")[1].split("\n## ")[0]
    asked = [int(number) for number in re.findall(r"^(\d+)\. ", questions, re.MULTILINE)]
    assert asked == list(answers()) == list(range(1, 11))


def test_answers_with_numbers_are_right():
    given = {number: text.replace("−", "-") for number, text in answers().items()}
    assert given[1].startswith(f"{6 * math.log(0.5):.3f},")
    for shift in (0.0, 5.0):
        shares = torch.softmax(torch.tensor([shift, shift + math.log(3)]), 0)
        assert given[2].startswith(f"({shares[0]:.2f}, {shares[1]:.2f})")
    mean = 0.25 * 4
    variance = 0.25 * (4 - mean) ** 2 + 0.75 * mean**2
    assert given[3] == f"{mean:g}; {variance:g}; {math.sqrt(variance / 100):.3f}"
    z = torch.tensor(0.0, requires_grad=True)
    (-torch.nn.functional.logsigmoid(z)).backward()
    assert given[4] == f"{z.grad.item():g}"
    a, b = torch.tensor(1.0, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    ((2 * a + b) ** 2).backward()
    assert given[5] == f"({a.grad.item():g}, {b.grad.item():g})"
    assert given[6] == f"{0.1 * 0.9 / (0.1 * 0.9 + 0.9 * 0.1):g}"
    product = torch.zeros(32, 10, 64) @ torch.zeros(64, 5)
    assert given[7] == f"{tuple(product.shape)}; {product.sum(-1).numel()}"


@pytest.mark.parametrize("number", [8, 10])
def test_answers_to_code_are_what_it_prints(number, capsys):
    question = re.split(rf"^{number}\. ", text_of("placement"), flags=re.MULTILINE)[1]
    code = re.search(r"```python\n(.*?)```", question, re.DOTALL)[1]
    exec(re.sub(r"^ {3,4}", "", code, flags=re.MULTILINE), {"torch": torch})
    assert answers()[number].startswith(f"`{capsys.readouterr().out.strip()}`")


# ---- slides ----


def told(slide: slides.Slide) -> int:
    """Minutes that the notes say a slide takes."""
    found = re.match(r"(\d+) minutes?\b", slide.notes)
    assert found, f"the notes of {slide.title!r} don't begin with minutes"
    return int(found[1])


@pytest.mark.parametrize("deck", DECKS, ids=lambda deck: deck.name)
class TestDeck:
    def test_it_takes_from_the_book_what_the_book_has(self, deck):
        found = slides.wanted([deck])
        assert set(found["equation"]) <= set(slides.equations(ROOT))
        assert set(found["diagram"]) <= set(slides.drawings(ROOT))
        for name in found["number"]:
            assert slides.number(name)
        for name in found["figure"]:
            lesson, _, begins = name.partition(": ")
            assert begins
            assert (ROOT / "lessons" / f"{lesson}.md").is_file()

    def test_its_minutes_fit(self, deck):
        assert 0.9 * deck.minutes <= sum(map(told, deck.slides)) <= deck.minutes

    def test_it_is_named_in_the_guide(self, deck):
        named = {row[0].strip("`"): row[2] for row in rows(text_of("guide"), "Slides")}
        assert named[deck.name] == str(deck.minutes)


def test_there_is_a_deck_for_the_lecture_and_for_each_week():
    assert [deck.name for deck in DECKS] == ["lecture", "week_1", "week_2", "week_3", "week_4"]
    assert len(DECKS[0].slides) >= 24


def write(path: Path, body: str) -> Path:
    path.write_text(f"---\ntitle: T\nminutes: 5\nabout: For a test.\n---\n{body}", encoding="utf8")
    return path


def test_a_deck_is_read_into_slides_with_notes(tmp_path):
    one = "## One\nText $x$.\n\n```{equation} eq-a\n```\n\n:::{notes}\nSay {number}`08_ppo::n:.1f`.\n:::\n\n"
    body = one + "## Two\n:::{notes}\nNothing.\n:::\n"
    deck = slides.read(write(tmp_path / "try.md", body))
    assert (deck.name, deck.title, deck.minutes, deck.about) == ("try", "T", 5, "For a test.")
    assert [slide.title for slide in deck.slides] == ["One", "Two"]
    assert deck.slides[1].notes == "Nothing."
    assert slides.wanted([deck]) == {"equation": ["eq-a"], "diagram": [], "figure": [], "number": ["08_ppo::n:.1f"]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("## One\nText.\n", "doesn't end in notes"),
        ("## One\n:::{notes}\nA.\n:::\nmore\n", "doesn't end in notes"),
    ],
)
def test_a_slide_without_notes_is_refused(text, told, tmp_path):
    with pytest.raises(UserError, match=told):
        slides.read(write(tmp_path / "try.md", text))


def test_a_deck_without_a_head_is_refused(tmp_path):
    path = tmp_path / "try.md"
    path.write_text("## One\n", encoding="utf8")
    with pytest.raises(UserError, match="no whole head"):
        slides.read(path)


def test_numbers_are_those_of_the_committed_run():
    from rlhf_utils.experiments import read

    row = next(row for row in read("seeds_08_ppo")[1] if row["seed"] == 0)
    assert slides.number("08_ppo::ppo_ppo_kl:.2f") == f"{row['ppo_ppo_kl']:.2f}"
    assert slides.number("04_sft::sft_positive_model:.0%") == f"{read('seeds_04_sft')[1][0]['sft_positive_model']:.0%}"
    assert slides.number("14_dpo::dpo_live_chosen:.1f").startswith("\N{MINUS SIGN}")
    for wrong in ("08_ppo::nothing:.1f", "08_ppo ppo_ppo_kl", "08_nothing::a:.1f"):
        with pytest.raises(UserError):
            slides.number(wrong)


def test_a_deck_becomes_one_document_that_needs_nothing_else(tmp_path):
    from rlhf_utils.book.citing import work
    from rlhf_utils.book.decks import Picture, Writer

    body = """## The clip at $\\epsilon = 0.2$
{number}`08_ppo::ppo_ppo_kl:.2f` nats, and `<b>`.

```{equation} eq-ppo-clip
```

:::{diagram} 08_update
:::

:::{figure} 08_ppo: Six curves
:::

:::{notes}
2 minutes.
:::
"""
    pictures = {"08_ppo: Six curves": Picture("Six <curves>", "<svg>light</svg>", "<svg>dark</svg>")}
    made = Writer(ROOT, pictures, work(ROOT), "Version 1").deck(slides.read(write(tmp_path / "try.md", body)))
    assert made.count('<section class="slide') == 2
    assert "data-theme" in made
    assert made.count("<math ") == 2
    assert (
        r"\mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon)\, \hat A_t \bigr)\end{aligned}" in made
    )  # without its mark
    assert f'role="img" aria-label="{slides.drawings(ROOT)["08_update"]}"' in made
    assert made.count('alt="Six &lt;curves&gt;"') == 2
    assert slides.number("08_ppo::ppo_ppo_kl:.2f") + " nats, and <code>&lt;b&gt;</code>" in made
    assert "<summary>Notes</summary>" in made
    assert re.findall(r"(?:src|href)=\"(?!data:)|url\((?!\"data:|#)|https?://(?!www\.w3\.org/)", made) == []


@pytest.mark.parametrize(
    ("line", "what"), [("```{equation} eq-none\n```", "eq-none"), (":::{diagram} none\n:::", "none")]
)
def test_what_the_book_does_not_have_is_named(line, what, tmp_path):
    from rlhf_utils.book.citing import work
    from rlhf_utils.book.decks import Writer

    deck = slides.read(write(tmp_path / "try.md", f"## One\n{line}\n\n:::{{notes}}\nA.\n:::\n"))
    with pytest.raises(UserError, match=what):
        Writer(ROOT, {}, work(ROOT), "Version 1").deck(deck)
