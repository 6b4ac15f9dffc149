"""Long names break behind an underscore, a dot or a slash, and stay the same names."""

from __future__ import annotations

from docutils import nodes

from rlhf_utils.book import breaks


def pieces(code: nodes.literal) -> list[str]:
    return [child.astext() for child in code.children if not isinstance(child, breaks.BreakPlace)]


def test_names_get_places_to_break():
    names = [nodes.literal("", text) for text in ("rlhf_utils.ppo", "runs/a", "_own", "0.5", "kl-coef", "a._b")]
    breaks._add_places(None, nodes.container("", *names), "page")
    assert [pieces(name) for name in names] == [
        *(["rlhf_", "utils.", "ppo"], ["runs/", "a"], ["_own"], ["0.5"], ["kl-coef"], ["a.", "_b"]),
    ]
    assert names[0].astext() == "rlhf_utils.ppo"


def test_options_stay_whole():
    code = nodes.literal("", "--cpu --num_processes 2 -x kl-coef")
    breaks._add_places(None, nodes.container("", code), "page")
    assert code.astext() == "--cpu --num_processes 2 -x kl-coef"
    assert [child.astext() for child in code.findall(nodes.inline)] == ["--cpu", "--num_processes", "-x"]


def test_a_cell_with_a_sentence_is_marked():
    cells = [
        nodes.entry("", nodes.paragraph("", text))
        for text in ("none", "−0.1 ± 0.2", "more than thirty signs make a sentence")
    ]
    cells.append(nodes.entry("", nodes.paragraph("", "", nodes.math("", r"\\mathbb{E}_{x \\sim \\pi}[ r(x) ]"))))
    breaks._add_places(None, nodes.container("", *cells), "page")
    assert [cell["classes"] for cell in cells] == [[], ["text-nowrap"], ["rlhf-sentence"], []]
