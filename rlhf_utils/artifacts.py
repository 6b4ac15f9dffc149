"""Where the result of each stage is kept, so that any lesson can be opened first and trains only what is missing.

An artefact is a folder that holds ``tensors.safetensors``, ``meta.json`` or both. Its name carries a key: a hash of
the stage's configuration, of its inputs' keys and of the code that makes it. The code enters as its syntax tree
without docstrings, so a reworded comment doesn't void an hour of training, and a changed formula does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_utils.errors import UserError
from rlhf_utils.progress import note

PACKAGE = "rlhf_utils"
# Modules that don't change what a stage computes: commands of another kind, how arguments are read, where results lie,
# how progress looks, what an error says, how many processes share the work.
_NEUTRAL = ("annotation.commands", "arguments", "artifacts", "errors", "experiments", "processes", "progress")
NEUTRAL = {f"{PACKAGE}.{name}" for name in _NEUTRAL}


def cache_folder() -> Path:
    """The folder that holds all artefacts: ``RLHF_UTILS_CACHE``, else the platform's user cache."""
    chosen = os.environ.get("RLHF_UTILS_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path(PACKAGE)


def _without_docstrings(tree: ast.AST) -> ast.AST:
    """Drop docstrings, and the strings that document a variable behind its assignment."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(statement: ast.AST) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@cache
def source_hash(path: Path) -> str:
    """Hash of a file: of its syntax tree without docstrings for Python, else of its bytes."""
    content = path.read_bytes()
    if path.suffix == ".py":
        content = ast.dump(_without_docstrings(ast.parse(content))).encode()
    return hashlib.sha256(content).hexdigest()


@cache
def _module_file(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec and spec.origin else None


@cache
def _imports(name: str) -> frozenset[str]:
    """The package's own modules that a module imports, at its top or inside its functions."""
    path = _module_file(name)
    if path is None:
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            if node.module.startswith(PACKAGE):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {n for n in found if n.split(".")[0] == PACKAGE}
    return frozenset(n for n in ours if n != PACKAGE and importlib.util.find_spec(n.rpartition(".")[0]) and _exists(n))


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False  # a function or class, not a module


@cache
def code_hash(*modules: str) -> str:
    """Hash of modules of this package and of all that they import from it, as 16 hex digits.

    Args:
        modules: full names, such as ``"rlhf_utils.sft"``.
    """
    seen: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        if name not in seen and name not in NEUTRAL:
            seen.add(name)
            queue.extend(_imports(name))
    lines = [f"{name} {source_hash(path)}" for name in sorted(seen) if (path := _module_file(name))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def make_key(**parts: object) -> str:
    """Sixteen hex digits for a stage's ingredients: dataclasses, strings, numbers, lists and dictionaries of them."""
    plain = {k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for k, v in parts.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def text_hash(texts: Iterable[str]) -> str:
    """Hash of a sequence of texts, as 16 hex digits; their order and boundaries count."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:16]


def ensure_writable(folder: Path) -> Path:
    """Make a folder and check that files can be made in it.

    Raises:
        UserError: it is a file, or may not be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder.", "Give another path, or move that file away.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, NotADirectoryError) as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror or error}).", "Give a folder that you may write to."
        ) from None
    return folder


def save(folder: Path, tensors: dict[str, Tensor] | None = None, meta: dict[str, Any] | None = None) -> None:
    """Write an artefact under a temporary name and rename it, so that a reader never meets half of one."""
    ensure_writable(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        if tensors is not None:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
                temporary / "tensors.safetensors",
            )
        content = {"has_tensors": tensors is not None, **(meta or {})}
        (temporary / "meta.json").write_text(json.dumps(content, indent=1), encoding="utf8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read an artefact: its tensors (empty if it has none) and its ``meta``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf8"))
        return (load_file(folder / "tensors.safetensors") if meta.pop("has_tensors") else {}), meta
    except (json.JSONDecodeError, SafetensorError, UnicodeDecodeError, KeyError, OSError) as error:
        if isinstance(error, FileNotFoundError) and not folder.exists():
            raise
        raise ValueError(f"damaged artefact {folder}: {error}") from error


def is_kept(stage: str, key: str, root: Path | None = None) -> bool:
    """Whether an artefact can be read from the cache."""
    try:
        load((root or cache_folder()) / f"{stage}-{key}")
    except (FileNotFoundError, ValueError):
        return False
    return True


def get_or_make(
    stage: str,
    key: str,
    make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]],
    root: Path | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An artefact from the cache, made first if it is missing or damaged.

    Args:
        stage: what it is, such as ``"sft"``; the first part of the folder's name.
        key: from :func:`make_key`; the second part.
        make: computes tensors and meta. It runs under a file lock, since two builds may want the same artefact.
        root: the folder that holds the artefacts; :func:`cache_folder` unless given.

    Raises:
        UserError: the folder cannot be written to.
    """
    root = ensure_writable(root or cache_folder())
    folder = root / f"{stage}-{key}"
    with FileLock(root / f".{folder.name}.lock"):
        try:
            found = load(folder)
            note(f"{stage}: taken from {folder}")
            return found
        except FileNotFoundError:
            pass
        except ValueError as error:
            warnings.warn(f"{error}. It is made again.", stacklevel=2)
        start = time.monotonic()
        save(folder, *make())
        note(f"{stage}: made in {time.monotonic() - start:.0f} s")
        return load(folder)


def _is_artefact(folder: Path) -> bool:
    if not (folder / "meta.json").exists():
        return False
    return {p.name for p in folder.iterdir()} <= {"meta.json", "tensors.safetensors"}  # else it is somebody else's


def listing(root: Path | None = None) -> list[tuple[str, int, float]]:
    """All artefacts: name, size in bytes, time of last change (seconds since the epoch), newest first."""
    root = root or cache_folder()
    folders = [f for f in root.iterdir() if _is_artefact(f)] if root.is_dir() else []
    rows = [(f.name, sum(p.stat().st_size for p in f.iterdir()), f.stat().st_mtime) for f in folders]
    return sorted(rows, key=lambda row: -row[2])


def clear(root: Path | None = None) -> int:
    """Delete all artefacts, and nothing else in the folder; returns how many there were."""
    root = root or cache_folder()
    rows = listing(root)
    for name, _, _ in rows:
        shutil.rmtree(root / name)
    for lock in root.glob(".*.lock") if root.is_dir() else ():
        lock.unlink(missing_ok=True)
    return len(rows)
