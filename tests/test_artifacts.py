import importlib
import json
import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from rlhf_utils import artifacts
from rlhf_utils.artifacts import (
    cache_folder,
    clear,
    code_hash,
    ensure_writable,
    get_or_make,
    listing,
    load,
    make_key,
    save,
    source_hash,
    text_hash,
)
from rlhf_utils.errors import UserError
from rlhf_utils.ppo import PPOConfig

TENSORS = {"w": torch.arange(1000.0), "b": torch.tensor(2.0, dtype=torch.float16)}


def counted(calls, tensors=TENSORS, meta=None):
    def make():
        calls.append(1)
        return tensors, {"loss": 0.5} if meta is None else meta

    return make


# -- making, keeping, repairing


def test_an_artefact_is_made_once(tmp_path):
    calls = []
    for _ in range(3):
        tensors, meta = get_or_make("sft", "abc", counted(calls), tmp_path)
        assert meta == {"loss": 0.5}
        assert torch.equal(tensors["w"], TENSORS["w"])
        assert tensors["b"].dtype == torch.float16
    assert len(calls) == 1


def test_another_stage_or_key_is_another_artefact(tmp_path):
    calls = []
    for stage, key in (("sft", "a"), ("sft", "b"), ("ppo", "a")):
        get_or_make(stage, key, counted(calls), tmp_path)
    assert len(calls) == 3


def test_an_artefact_may_have_no_tensors(tmp_path):
    get_or_make("preferences", "k", counted([], tensors={}, meta={"records": [1, "é"]}), tmp_path)
    assert load(tmp_path / "preferences-k") == ({}, {"records": [1, "é"]})


@pytest.mark.parametrize("file", ["tensors.safetensors", "meta.json"])
@pytest.mark.parametrize("harm", ["truncate", "empty", "noise", "delete"])
def test_a_damaged_artefact_is_reported_and_made_again(tmp_path, file, harm):
    calls = []
    get_or_make("sft", "k", counted(calls), tmp_path)
    path = tmp_path / "sft-k" / file
    content = path.read_bytes()
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes({"truncate": content[: len(content) // 2], "empty": b"", "noise": b"\xff" * 99}[harm])
    with pytest.warns(UserWarning, match="damaged artefact .*made again"):
        tensors, meta = get_or_make("sft", "k", counted(calls), tmp_path)
    assert len(calls) == 2
    assert torch.equal(tensors["w"], TENSORS["w"])
    assert meta == {"loss": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_or_make("sft", "k", counted(calls), tmp_path)
    assert len(calls) == 2


def test_a_failure_while_making_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        get_or_make("sft", "k", fail, tmp_path)
    assert listing(tmp_path) == []
    get_or_make("sft", "k", counted([]), tmp_path)


def test_a_failure_while_writing_keeps_what_was_there(tmp_path):
    save(tmp_path / "a", TENSORS, {"n": 1})
    with pytest.raises(TypeError):
        save(tmp_path / "a", TENSORS, {"n": object()})
    assert load(tmp_path / "a")[1] == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def _slow_maker(root, log):
    def make():
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return {"w": torch.ones(3)}, {}

    assert torch.equal(get_or_make("sft", "k", make, root)[0]["w"], torch.ones(3))


def test_two_processes_at_once_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    args = (tmp_path / "cache", tmp_path / "log")
    workers = [context.Process(target=_slow_maker, args=args) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1


def test_the_cache_is_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_UTILS_CACHE", str(tmp_path / "here"))
    get_or_make("sft", "k", counted([]))
    assert (tmp_path / "here" / "sft-k" / "meta.json").exists()
    monkeypatch.setenv("RLHF_UTILS_CACHE", "~/x")
    assert cache_folder() == Path.home() / "x"
    monkeypatch.delenv("RLHF_UTILS_CACHE")
    assert "rlhf_utils" in str(cache_folder())


# -- listing and clearing


def test_listing_is_newest_first_with_sizes(tmp_path):
    for i, key in enumerate(("old", "new")):
        get_or_make("sft", key, counted([]), tmp_path)
        os.utime(tmp_path / f"sft-{key}", (1000 + i, 1000 + i))
    rows = listing(tmp_path)
    assert [(name, changed) for name, _, changed in rows] == [("sft-new", 1001), ("sft-old", 1000)]
    assert all(size > 4000 for _, size, _ in rows)
    assert listing(tmp_path / "missing") == []


def test_clearing_deletes_artefacts_and_nothing_else(tmp_path):
    get_or_make("sft", "k", counted([]), tmp_path)
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    (tmp_path / "photos").mkdir()
    for name in ("meta.json", "photo.png"):
        (tmp_path / "photos" / name).write_text("keep")
    assert clear(tmp_path) == 1
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*"))
    assert names == ["notes", "notes/mine.txt", "photos", "photos/meta.json", "photos/photo.png", "report.json"]
    assert clear(tmp_path) == 0
    assert clear(tmp_path / "missing") == 0


# -- keys


def test_keys_depend_on_every_ingredient_and_not_on_their_order():
    assert make_key(a=1, b=[1, "x"]) == make_key(b=[1, "x"], a=1)
    keys = {
        make_key(c=PPOConfig()),
        make_key(c=PPOConfig(seed=1)),
        make_key(c=PPOConfig(kl_target=6.0)),
        make_key(d=PPOConfig()),
        make_key(c=PPOConfig(), code="x"),
    }
    assert len(keys) == 5
    assert all(len(key) == 16 for key in keys)


def test_text_hashes_keep_order_and_boundaries():
    assert text_hash(["ab", "c"]) == text_hash(iter(["ab", "c"]))
    assert len({text_hash(t) for t in (["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""])}) == 5


CODE = '"""What it is."""\nRATE = 0.5\n"""What the rate is."""\n\n\ndef f(x):\n    """Double."""\n    return 2 * x\n'
SAME = [
    CODE.replace("Double.", "Twice."),
    CODE.replace('    """Double."""\n', "    # no docstring\n\n"),
    CODE.replace("What it is", "Else").replace("What the rate is", "Else"),
    CODE + "\n\n# a comment\n",
    CODE.replace("2 * x", "(2 * x)  # doubled"),
]
OTHER = [CODE.replace("2 * x", "3 * x"), CODE.replace("0.5", "0.6"), CODE + "\ny = 1\n", CODE.replace("(x)", "(y)")]


def hashes_of(folder, sources):
    for i, source in enumerate(sources):
        (folder / f"m{i}.py").write_text(source)
    return [source_hash(folder / f"m{i}.py") for i in range(len(sources))]


def test_comments_and_docstrings_leave_the_hash_as_it_is(tmp_path):
    assert len(set(hashes_of(tmp_path, [CODE, *SAME]))) == 1


def test_code_changes_the_hash(tmp_path):
    assert len(set(hashes_of(tmp_path, [CODE, *OTHER]))) == 1 + len(OTHER)


@pytest.fixture
def package_hash(tmp_path, monkeypatch):
    """The hash of the module ``a`` in a package of the given modules."""
    (tmp_path / "toypackage").mkdir()
    (tmp_path / "toypackage" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(artifacts, "PACKAGE", "toypackage")
    monkeypatch.setattr(artifacts, "NEUTRAL", {"toypackage.neutral"})

    def forget():
        importlib.invalidate_caches()
        for function in (source_hash, code_hash, artifacts._module_file, artifacts._imports):
            function.cache_clear()

    def compute(**modules):
        for name, source in modules.items():
            (tmp_path / "toypackage" / f"{name}.py").write_text(source)
        forget()
        return code_hash("toypackage.a")

    yield compute
    forget()
    sys.modules.pop("toypackage", None)


def test_the_hash_follows_imports(package_hash):
    a = "from toypackage.b import f\nimport math\n\n\ndef g():\n    from toypackage import c, neutral\n    return c\n"
    files = {"a": a, "b": CODE, "c": "X = 1\n", "d": "Y = 1\n", "neutral": "Z = 1\n"}
    base = package_hash(**files)
    assert package_hash(**files | {"b": SAME[0]}) == base
    assert package_hash(**files | {"d": "Y = 2\n"}) == base  # not imported
    assert package_hash(**files | {"neutral": "Z = 2\n"}) == base
    assert package_hash(**files | {"b": OTHER[0]}) != base
    assert package_hash(**files | {"c": "X = 2\n"}) != base


def test_a_stages_hash_covers_what_it_uses():
    assert {"rlhf_utils.sft", "rlhf_utils.ppo"} <= artifacts._imports("rlhf_utils.pipeline")
    assert "rlhf_utils.tensors" in artifacts._imports("rlhf_utils.ppo")
    assert code_hash("rlhf_utils.ppo") != code_hash("rlhf_utils.sft")
    assert code_hash("rlhf_utils.ppo") == code_hash("rlhf_utils.ppo")


# -- folders


def test_a_folder_is_made(tmp_path):
    assert ensure_writable(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        ensure_writable(tmp_path / "f")
    with pytest.raises(UserError, match="cannot write"):
        ensure_writable(tmp_path / "f" / "below")
    assert (tmp_path / "f").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_an_error(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write"):
        ensure_writable(tmp_path / "locked")


def test_what_is_written_is_plain_json_and_safetensors(tmp_path):
    save(tmp_path / "a", {"t": torch.ones(2, 3).t()}, {"x": 1})
    assert json.loads((tmp_path / "a" / "meta.json").read_text()) == {"has_tensors": True, "x": 1}
    assert load(tmp_path / "a")[0]["t"].shape == (3, 2)
