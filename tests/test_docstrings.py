"""Docstrings of the algorithms say what each argument is: its shape, its unit, what a mask's 1 means."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rlhf_utils"
ALGORITHMS = (
    *("tensors", "sft", "preferences", "reward", "rollout", "ppo", "critic_free", "dpo", "preference_losses"),
    *("best_of_n", "optimum", "frontier", "evaluation", "winrates", "diversity", "overoptimisation", "models"),
    *("generation", "asynchronous", "divergences", "training", "enumeration", "algorithms", "adapters", "reliability"),
)


def functions(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Public functions and methods of public classes, by name."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if isinstance(node, ast.ClassDef):
                yield from functions(node.body, f"{node.name}.")
            else:
                yield inside + node.name, node


def untold(node: ast.FunctionDef) -> list[str]:
    """Arguments that a function's docstring doesn't mention."""
    told = ast.get_docstring(node) or ""
    known = node.args
    names = [a.arg for a in (*known.posonlyargs, *known.args, *known.kwonlyargs, known.vararg, known.kwarg) if a]
    return [name for name in names if name not in ("self", "cls") and not re.search(rf"\b{name}\b", told)]


@pytest.mark.parametrize("module", ALGORITHMS)
def test_each_argument_of_an_algorithm_is_described(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf8"))
    found = {name: untold(node) for name, node in functions(tree.body)}
    assert {name: names for name, names in found.items() if names} == {}


def test_an_argument_that_is_not_mentioned_is_found():
    function = 'def f(self, x, *y, z=0, **more): "Of x; z is no zip."'
    text = f"class A:\n    {function}\n    def _g(self, w): ..."
    assert {name: untold(node) for name, node in functions(ast.parse(text).body)} == {"A.f": ["y", "more"]}
