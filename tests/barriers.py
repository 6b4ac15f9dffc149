"""Looks with axe-core, which comes from npm, for what keeps people from using a page."""

from __future__ import annotations

from pathlib import Path

from rlhf_utils.book import vendor

VERSION = "4.14.1"  # axe-core's
FOLDER = Path(__file__).resolve().parents[1] / "_build" / "vendor"

# All rules but experimental ones and those of level AAA, which nobody asks of whole sites.
AXE = """async () => {
  const rules = {};
  for (const rule of axe.getRules()) {
    if (!rule.tags.some(tag => /experimental|deprecated|aaa$/.test(tag))) rules[rule.ruleId] = {enabled: true};
  }
  const {violations} = await axe.run(document, {rules, resultTypes: ['violations'], elementRef: false});
  return violations.flatMap(({id, help, nodes}) => nodes.slice(0, 3).map(node =>
    `${id} (${nodes.length}): ${help}: ${node.target.join(' ')} | ${node.html.slice(0, 160)}`));
}"""


def axe_script() -> str | None:
    """axe-core, or ``None`` where it can't be had."""
    path = vendor.fetched("axe-core", VERSION, "axe.min.js", FOLDER)
    return path and path.read_text(encoding="utf8")
