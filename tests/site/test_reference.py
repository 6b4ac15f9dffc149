"""The reference: every module and setting is in it, with mathematics that is drawn and names that lead somewhere."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from site_pages import SITE
from small_books import ROOT, run_build

from rlhf_utils.book import reference

PAGES = sorted((ROOT / "book" / "api").glob("*.md"))
DIRECTIVE = re.compile(r"^## `([\w.]+)`\n\n```\{api\} (\S+)$", re.MULTILINE)


def test_each_module_is_described_once_under_its_name():
    found = [pair for page in PAGES for pair in DIRECTIVE.findall(page.read_text(encoding="utf8"))]
    assert [heading for heading, module in found if heading != module] == []
    directives = sum(page.read_text(encoding="utf8").count("{api} ") for page in PAGES)
    assert directives == len(found), "an {api} directive without its heading"
    times = Counter(module for _, module in found)
    missing = set(reference.modules()) - {"rlhf_utils"} - set(times)
    assert not missing, f"say on a page of book/api what is in {', '.join(sorted(missing))}"
    assert [module for module in times if module not in reference.modules()] == []
    assert [module for module, count in times.items() if count > 1] == []


def test_modules_are_found_without_importing_them(tmp_path):
    for name in ("__init__.py", "__main__.py", "one.py", "_own.py", "part/__init__.py", "part/two.py", "data.txt"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text('"""Says: this. And that."""\nShort = list[int]\nx = 1 | 2\n')
    assert reference.modules(tmp_path / "p") == ["p", "p.one", "p.part", "p.part.two"]
    assert reference.first_sentence("p.part", tmp_path / "p") == "Says: this."
    assert reference.aliases(tmp_path / "p")["Short"] == "p.part.two.Short"
    assert "x" not in reference.aliases(tmp_path / "p")


def undocumented_fields(path: Path) -> list[str]:
    """Fields of public dataclasses that neither the class's docstring nor a comment ``#:`` describes."""
    text = path.read_text(encoding="utf8")
    lines, found = text.splitlines(), []
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        told = ast.get_docstring(node) or ""
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_"):
                noted = "#:" in lines[field.end_lineno - 1] or lines[field.lineno - 2].strip().startswith("#:")
                if not noted and not re.search(rf"^\s+{field.target.id}(?: \(.*\))?:", told, re.MULTILINE):
                    found.append(f"{path.stem}.{node.name}.{field.target.id}")
    return found


@pytest.mark.parametrize("module", sorted(reference.PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_every_field_says_what_it_is(module):
    assert undocumented_fields(module) == []


@pytest.fixture(scope="module")
def small(built):
    """Parses a page of the fixture book."""
    root, result = built
    assert result.returncode == 0, result.stdout + result.stderr
    return lambda name: BeautifulSoup((root / "_build/html" / name).read_text(encoding="utf8"), "html.parser")


def test_docstrings_become_a_page(small):
    page = small("book/reference.html")
    whiten = page.find(id="rlhf_utils.tensors.whiten")
    assert "whiten" in whiten.get_text()
    assert "rlhf_utils" not in whiten.get_text()  # the heading says it
    assert whiten.parent.find("math", attrs={"display": "block"}) is not None
    # Types are short, sentences whole, settings listed with default and comment, aliases named.
    assert "torch." not in page.find(id="rlhf_utils.tensors.left_pad").get_text()
    assert page.find(id="rlhf_utils.preferences.PreferenceConfig").get_text().strip().startswith("class")
    field = page.find(id="rlhf_utils.preferences.PreferenceConfig.temperature")
    assert "= 0.15" in " ".join(field.get_text().split())
    assert field.parent.dd.get_text().strip().startswith("of their noise: a gap")
    assert page.find(id="rlhf_utils.preferences.sample_pairs") is None
    assert page.find(id="rlhf_utils.preferences.UserError") is None  # is described where it is defined
    raised = page.find(id="rlhf_utils.preferences.read_records").parent.find("a", string="UserError")
    assert raised["href"] == "#rlhf_utils.errors.UserError"


def test_what_docutils_asks_of_a_directive_stays_away(site):
    page = _parse(site / "book" / "api" / "machinery.html")
    members = {element["id"].rpartition(".")[2] for element in page.select("dt.sig[id*='Directive.']")}
    assert "run" in members
    assert not members & {"option_spec", "required_arguments", "optional_arguments", "has_content"}


def test_the_index_lists_what_pages_describe(small):
    links = small("book/reference.html").find("section").select("ul a.reference.internal[href*='module-']")
    assert [a.get_text() for a in links] == [f"rlhf_utils.{name}" for name in ("tensors", "preferences", "errors")]
    assert [a["href"] for a in links] == [f"#module-rlhf_utils.{name}" for name in ("tensors", "preferences", "errors")]


def test_names_of_code_lead_to_the_reference(small):
    links = {a.get_text(): a["href"] for a in small("book/status.html").select("a.rlhf-api")}
    assert links == {
        "tensors.whiten": "reference.html#rlhf_utils.tensors.whiten",
        "rlhf_utils.tensors.masked_mean(mask)": "reference.html#rlhf_utils.tensors.masked_mean",
        "preferences.Preference.choice": "reference.html#rlhf_utils.preferences.Preference",
    }


def test_a_name_that_nothing_has_fails_the_build(small_book):
    (small_book / "lessons" / "02_api.md").write_text("# API\n\n```{eval-rst}\nSee :func:`nosuchthing`.\n```\n")
    (small_book / "_toc.yml").write_text(
        "format: jb-book\nroot: lessons/01_figures\nchapters:\n  - file: lessons/02_api\n"
    )
    result = run_build(small_book)
    assert result.returncode != 0
    assert "nosuchthing" in result.stdout


def built_pages() -> list[Path]:
    return sorted((SITE / "book" / "api").glob("*.html"))


def test_the_book_describes_all_modules(site):
    anchors = {e["id"] for page in built_pages() for e in _parse(page).select("[id^='module-rlhf_utils']")}
    assert anchors == {f"module-{name}" for name in reference.modules() if name != "rlhf_utils"}


@pytest.mark.parametrize("page", built_pages(), ids=lambda page: page.stem)
def test_docstrings_are_written_out(page, site):
    soup = _parse(page)
    ids = [element["id"] for element in soup.select("dt.sig[id]")]
    assert [name for name in ids if any(part.startswith("_") for part in name.split(".")[1:])] == []
    for element in soup.select("article :is(pre, code, math, script, dt.sig)"):
        element.decompose()
    text = soup.article.get_text(" ")
    left = re.findall(r":(?:math|func|class|mod|data|meth):|``|\.\. math|\\[a-z]+\{|~collections|_NestedSequence", text)
    assert left == []


def _parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf8"), "html.parser")
