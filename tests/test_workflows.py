"""The workflows: actions pinned, few permissions, commands that exist, and clean by actionlint."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WRITING = {  # what a job may do besides reading
    ("publish", "pages"): {"pages": "write", "id-token": "write"},
    ("publish", "notebooks"): {"contents": "write"},
    ("publish", "release"): {"contents": "write"},
    ("weekly", "report"): {"issues": "write"},
}


def load(path):
    # YAML 1.1 reads the key `on` as a truth value.
    return {"on" if key is True else key: value for key, value in yaml.safe_load(path.read_text()).items()}


def steps(path):
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def test_the_four_are_there():
    assert [path.stem for path in WORKFLOWS] == ["links", "publish", "test", "weekly"]
    assert set(load(WORKFLOWS[1])["on"]) == {"push"}
    assert set(load(WORKFLOWS[1])["on"]["push"]) == {"tags"}
    assert "schedule" in load(WORKFLOWS[0])["on"]
    assert "schedule" in load(WORKFLOWS[3])["on"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_few_may_write(path):
    lines = re.findall(r"uses: (.*)", path.read_text())
    assert lines or path.stem == "links"
    for line in lines:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    workflow = load(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    assert workflow["concurrency"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 120
        allowed = WRITING.get((path.stem, name))
        assert job.get("permissions", {"contents": "read"}) == (allowed or {"contents": "read"}), name
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_has_one_pin():
    pins = {}
    for path in WORKFLOWS:
        for action, pin in re.findall(r"uses: (actions/[\w-]+)@(.*)", path.read_text()):
            pins.setdefault(action, set()).add(pin)
    assert all(len(found) == 1 for found in pins.values()), pins


def test_each_target_of_make_exists():
    targets = set()
    for line in (ROOT / "Makefile").read_text().splitlines():
        if match := re.match(r"([\w -]+):(?!=)", line):
            targets |= set(match[1].split())
    for path in WORKFLOWS:
        for step in steps(path):
            for words in re.findall(r"^\s*make (.*)$", step.get("run", ""), re.MULTILINE):
                assert set(words.split()) <= targets, words


def test_torch_has_one_version():
    pinned = re.search(r"^torch==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[1]
    for path in WORKFLOWS:
        for version in re.findall(r"torch==([\d.]+\d)", path.read_text()):
            assert pinned.startswith(version)


def test_actionlint_finds_nothing():
    program = shutil.which("actionlint", path=str(Path(sys.executable).parent)) or shutil.which("actionlint")
    assert program, "actionlint isn't installed: it comes with the requirements"
    ran = subprocess.run([program, *map(str, WORKFLOWS)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
