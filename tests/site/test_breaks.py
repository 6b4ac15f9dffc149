"""Long names in tables break behind an underscore, a dot or a slash, and stay the same names."""

from __future__ import annotations

from docutils import nodes

from rlhf_utils.book import breaks


def pieces(code: nodes.literal) -> list[str]:
    return [child.astext() for child in code.children if isinstance(child, nodes.Text)]


def test_names_in_cells_get_places_to_break_and_others_none():
    names = [nodes.literal("", text) for text in ("rlhf_utils.ppo", "runs/a", "_own", "0.5", "kl-coef", "a._b")]
    outside = nodes.literal("", "rlhf_utils.ppo")
    cells = [nodes.entry("", nodes.paragraph("", "", name)) for name in names]
    breaks._add_places(None, nodes.container("", nodes.paragraph("", "", outside), *cells), "page")
    assert [pieces(name) for name in names] == [
        *(["rlhf_", "utils.", "ppo"], ["runs/", "a"], ["_own"], ["0.5"], ["kl-coef"], ["a.", "_b"]),
    ]
    assert names[0].astext() == "rlhf_utils.ppo"
    assert pieces(outside) == ["rlhf_utils.ppo"]


def test_a_cell_with_a_sentence_is_marked():
    cells = [nodes.entry("", nodes.paragraph("", text)) for text in ("0.5", "more than thirty signs make a sentence")]
    breaks._add_places(None, nodes.container("", *cells), "page")
    assert [cell["classes"] for cell in cells] == [[], ["rlhf-sentence"]]
