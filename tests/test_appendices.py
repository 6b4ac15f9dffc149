"""What the appendices say of the package is so: defaults on the cheat sheet, messages in the troubleshooting page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_glossary import sections

from rlhf_utils.critic_free import CriticFreeConfig
from rlhf_utils.dpo import DPOConfig
from rlhf_utils.errors import UserError
from rlhf_utils.generation import encode_prompts
from rlhf_utils.ppo import PPOConfig
from rlhf_utils.preferences import read_records
from rlhf_utils.reward import train_reward_model
from rlhf_utils.tasks import load_task
from rlhf_utils.tasks.base import check_tokenizer

ROOT = Path(__file__).parents[1]
SHEET = (ROOT / "book" / "cheat_sheet.md").read_text(encoding="utf8")
TROUBLE = (ROOT / "book" / "troubleshooting.md").read_text(encoding="utf8")
PARTS = ["Cause", "Check", "Fix", "See"]


def defaults() -> dict[str, str]:
    """The first two cells of the table of default numbers."""
    table = SHEET.split("| Setting | Here |")[1].split(":::")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", table, re.MULTILINE)
    return dict(rows[1:])


@pytest.mark.parametrize(("name", "value"), defaults().items())
def test_default_numbers_are_the_packages(name, value):
    setting = re.search(r"`(\w+)`", name)[1]
    config = DPOConfig() if name.startswith("DPO") else PPOConfig()
    config = CriticFreeConfig() if setting == "group_size" else config
    assert float(value) == float(getattr(config, setting))


def entries() -> dict[str, str]:
    """Symptom → its paragraph."""
    text = TROUBLE.split("\n## Installation\n")[1]
    return dict(re.findall(r"^(\S.*)\n: (.+(?:\n  .+)*)$", text, re.MULTILINE))


@pytest.mark.parametrize("symptom", entries())
def test_each_symptom_has_cause_check_fix_and_place(symptom):
    lines = [line.strip().removesuffix("\\").rstrip() for line in entries()[symptom].splitlines()]
    assert [re.match(r"\*?(\w+):?\*? ", line)[1] for line in lines] == PARTS


PAGES = ["cheat_sheet", "errata", "troubleshooting"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_sections_that_are_there(page):
    text = (ROOT / "book" / f"{page}.md").read_text(encoding="utf8")
    for target, anchor in re.findall(r"\]\(([\w./]*)(?:#([\w-]+))?\)", text):
        path = (ROOT / "book" / (target or f"{page}.md")).resolve()
        assert path.is_file(), target
        assert not anchor or anchor in sections(path), f"{target}#{anchor}"


def test_there_are_enough_of_them_and_none_twice():
    symptoms = re.findall(r"^(\S.*)\n: \*Cause", TROUBLE, re.MULTILINE)
    assert len(symptoms) == len(set(symptoms)) == len(entries()) > 60


def test_what_needs_a_gpu_is_marked():
    untried = [name for name, text in entries().items() if "**not tried here" in text.lower()]
    assert {"`CUDA out of memory`", "`Expected all tensors to be on the same device`"} <= set(untried)


def record(**changes: str) -> str:
    fields = dict.fromkeys(("pair_id", "prompt", "response_a", "response_b", "annotator", "created_at", "source"), "x")
    return json.dumps({**fields, "seconds": 1.0, "choice": "a", **changes})


@pytest.fixture(scope="module")
def tokenizer():
    return load_task("tiny").tokenizer


class TestMessages:
    """Each message that the page quotes from the package is the one that comes."""

    def quoted(self, message: str) -> bool:
        """Whether the page quotes it, … standing for what varies."""
        shapes = [re.escape(q).replace("…", ".*") for q in re.findall(r"`([^`\n]+)`", TROUBLE)]
        return any(len(shape) > 8 and re.search(shape, message) for shape in shapes)

    def test_a_prompt_that_is_too_long(self, tokenizer):
        with pytest.raises(UserError) as told:
            encode_prompts(tokenizer, ["the " * 40], 48, 20)
        assert self.quoted(str(told.value))

    @pytest.mark.parametrize("line", ["{oops", record(choice="A"), '{"pair_id": "x"}'])
    def test_a_record_that_is_none(self, line, tmp_path):
        path = tmp_path / "my.jsonl"
        path.write_text(f"{record()}\n{record()}\n{line}\n", encoding="utf8")
        with pytest.raises(UserError) as told:
            read_records(path)
        assert "my.jsonl, line 3" in str(told.value)
        assert self.quoted(str(told.value))

    def test_pad_and_eos_as_one_token(self):
        class OneToken:
            eos_token_id = pad_token_id = 0

        with pytest.raises(UserError) as told:
            check_tokenizer(OneToken())
        assert self.quoted(str(told.value))

    def test_no_pair(self):
        with pytest.raises(UserError) as told:
            train_reward_model(*[None] * 2, [], None)
        assert self.quoted(str(told.value))

    def test_another_message_is_not_quoted(self):
        assert not self.quoted("Nobody has ever seen this message.")
