"""Lighthouse on a page of each kind, as it is by default: a phone with a slow connection."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from site_pages import SITE
from small_books import ROOT

from rlhf_utils.book import vendor

pytestmark = [pytest.mark.browser, pytest.mark.lighthouse]
VERSION = "13.5.0"
FOLDER = ROOT / "_build" / "node"
SCRIPT = FOLDER / "node_modules" / "lighthouse" / "cli" / "index.js"
CATEGORIES = ("performance", "accessibility", "best-practices", "seo")
LEAST = 95
# Another program on the same cores costs points for speed.
TRIES = 3
PAGES = {
    "landing": "book/intro.html",
    "chapter": "book/08_ppo.html",
    "lesson": "lessons/08_ppo.html",
    "reference": "book/api/algorithms.html",
    "playground": "book/playground.html",
    "search": "search.html",
}
TABLE = SITE.parent / "lighthouse.tsv"


@pytest.fixture(scope="session")
def lighthouse(chromium):
    """Gives the report on an address; Lighthouse is installed from npm into ``_build/node``."""
    npm, node = vendor.npm(), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no npm")
    package = FOLDER / "node_modules" / "lighthouse" / "package.json"
    if not package.exists() or json.loads(package.read_text(encoding="utf8"))["version"] != VERSION:
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", str(FOLDER), f"lighthouse@{VERSION}", "--no-save", "--no-package-lock"]
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved=true"]
        if subprocess.run([*command, *quiet], capture_output=True, timeout=400).returncode:
            pytest.skip("Lighthouse can't be installed: npm reaches no registry")

    def report(address: str) -> dict:
        flags = "--chrome-flags=--headless=new --no-sandbox --disable-gpu"
        command = [node, str(SCRIPT), address, "--quiet", "--output=json", flags]
        command.append(f"--only-categories={','.join(CATEGORIES)}")
        environment = {**os.environ, "CHROME_PATH": chromium}
        result = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=True)
        return json.loads(result.stdout)

    return report


@pytest.fixture(scope="module")
def table():
    """The lines of a table of scores, written at the end to ``_build/lighthouse.tsv``."""
    rows: list[str] = []
    yield rows
    if rows:
        TABLE.write_text("\n".join(["\t".join(("page", *CATEGORIES)), *rows]) + "\n", encoding="utf8")


@pytest.mark.parametrize("kind", PAGES)
def test_scores(kind, lighthouse, address, site, table):
    name = PAGES[kind]
    if not (site / name).exists():
        pytest.skip(f"this site has no {name}")
    best, lost = {}, {}
    for _ in range(TRIES):
        report = lighthouse(address + name)
        for key in CATEGORIES:
            category = report["categories"][key]
            best[key] = max(best.get(key, 0), round(100 * (category["score"] or 0)))
            ids = [row["id"] for row in category["auditRefs"] if row["weight"]]
            audits = [report["audits"][each] for each in ids]
            lost[key] = [f"{it['title']}: {it.get('displayValue', it['score'])}" for it in audits if it["score"] != 1]
        if min(best.values()) >= LEAST:
            break
    table.append("\t".join([name, *(str(best[key]) for key in CATEGORIES)]))
    assert {key: (score, lost[key]) for key, score in best.items() if score < LEAST} == {}
