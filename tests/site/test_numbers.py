"""Negative numbers begin with a minus sign; what only looks like one stays."""

from __future__ import annotations

import pytest
from docutils import nodes

from rlhf_utils.book import numbers


@pytest.mark.parametrize(
    ("text", "set_text"),
    [
        ("-0.14", "−0.14"),
        ("-.5", "−.5"),
        ("from -2 to (-1.5, -3 %)", "from −2 to (−1.5, −3 %)"),
        ("1e-05", "1e-05"),
        ("-2e-05", "−2e-05"),
        ("2026-11-22, GPT-2, 3-4, --out -x", "2026-11-22, GPT-2, 3-4, --out -x"),
        ("+0.3", "+0.3"),
    ],
)
def test_only_signs_become_a_minus(text, set_text):
    assert numbers.true_minus(text) == set_text


def test_numbers_of_a_run_and_of_tables_are_set_and_code_is_left():
    pasted = nodes.inline("", "-0.5", classes=["pasted-text"])
    cells = [nodes.entry("", nodes.paragraph("", "", inside)) for inside in (
        nodes.Text("-12%"), nodes.Text("from -1 on"), nodes.literal("", "-1"), nodes.Text("−3")
    )]  # fmt: skip
    document = nodes.container("", nodes.paragraph("", "fell by -0.5, ", pasted), *cells)
    numbers._set_signs(None, document, "page")
    assert [text.astext() for text in document.findall(nodes.Text)] == [
        *("fell by -0.5, ", "−0.5", "−12%", "from −1 on", "-1", "−3"),
    ]


def test_a_number_and_what_belongs_to_it_stay_in_one_line():
    text = numbers.kept_together("72.6 ± 1.5 % or 3 %, β = 1, x = y, and 5 %s")
    assert text.replace("\N{NO-BREAK SPACE}", "_") == "72.6_±_1.5% or 3%, β_=_1, x = y, and 5 %s"


def test_code_and_formulas_are_left_as_they_are_written():
    document = nodes.container(
        "", nodes.literal("", "1 ± 2 %"), nodes.paragraph("", "1 ± 2 %"), nodes.math("", "1 ± 2 %")
    )
    numbers._keep_together(None, document, "page")
    assert [node.astext() for node in document] == ["1 ± 2 %", "1\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}2%", "1 ± 2 %"]
