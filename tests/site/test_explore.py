"""The explorable figures, driven by keyboard and mouse, held against sums over the kept results."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from math import exp, isclose
from statistics import fmean

import numpy as np
import pytest

from rlhf_utils import experiments

pytestmark = pytest.mark.browser
PAGE = "book/explore.html"
ROWS = experiments.read("explorables")[1]
PRICES = [row for row in ROWS if row["kind"] == "price"]
TRAINING = next(row for row in ROWS if row["kind"] == "training")
UPDATE = next(row for row in ROWS if row["kind"] == "update")
PLACES = {"prices": len(PRICES), "training": len(TRAINING["looks"])}


@pytest.fixture
def page(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.goto(address + PAGE)
    yield page
    context.close()


def part(page, name):
    return page.locator(f'.rlhf-explorable[data-part="{name}"]')


def number(text):
    return float(text.replace("−", "-"))


def numbers(text):
    return [number(found) for found in re.findall(r"[−-]?\d+\.\d+", text)]


def shown(box):
    """The texts that are visible, one a line."""
    return [" ".join(text.split()) for text in box.locator(".rlhf-texts .rlhf-now").all_inner_texts()]


# ---- the sliders


@pytest.mark.parametrize("position", range(len(PRICES)))
def test_a_price_shows_its_policys_averages_histograms_and_texts(page, position):
    box, row = part(page, "prices"), PRICES[position]
    slider = box.get_by_role("slider")
    slider.focus()
    for _ in range(position):
        page.keyboard.press("ArrowRight")
    output = box.locator("output").inner_text()
    assert output == slider.get_attribute("aria-valuetext")
    assert output.startswith("SFT model:" if row["kl_coef"] is None else f"β = {row['kl_coef']:g}:")
    reward, gold, kl = numbers(output.split(":")[1])
    assert (reward, gold) == pytest.approx((fmean(row["reward"]), fmean(row["gold"])), abs=0.006)
    assert kl == pytest.approx(fmean(row["kl"]), abs=0.06)
    for name, text in zip(("reward", "gold", "kl"), box.locator("svg[aria-label^=Histogram]").all(), strict=True):
        said = numbers(text.get_attribute("aria-label").split("mean")[1])
        assert said[0] == pytest.approx(fmean(row[name]), abs=0.006)
        assert said[3:5] == pytest.approx([min(row[name]), max(row[name])], abs=0.006)
    for i, text in enumerate(shown(box)):
        assert text.startswith(f"{row['prompts'][i]} {row['responses'][i]} reward")
        told = numbers(text.rpartition("reward")[2])
        assert told == pytest.approx([row["reward"][i], row["gold"][i], row["kl"][i]], abs=0.06)


def test_the_bars_count_the_texts(page):
    box = part(page, "prices")
    box.get_by_role("slider").focus()
    for name, index in (("reward", 0), ("gold", 1)):
        every = [value for row in PRICES for value in row[name]]
        edge = {"reward": 2, "gold": 1}[name]
        bins = np.linspace(min(-edge, *every), max(edge, *every), 25)
        page.keyboard.press("Home")
        for row in PRICES:
            heights = (
                box.locator("svg[aria-label^=Histogram]")
                .nth(index)
                .locator("rect")
                .evaluate_all("bars => bars.map(bar => Number(bar.getAttribute('height')))")
            )
            expected = np.histogram(row[name], bins)[0]
            # A value that lies on an edge up to its rounding may be counted on either side.
            assert np.abs(np.array(heights) / sum(heights) * len(row[name]) - expected).max() <= 2.01
            page.keyboard.press("ArrowRight")


def test_the_frontier_has_a_point_for_each_policy(page):
    points = (
        part(page, "prices")
        .locator("svg")
        .first.locator("circle")
        .evaluate_all("discs => discs.map(disc => ['cx', 'cy', 'r'].map(key => Number(disc.getAttribute(key))))")
    )
    small = np.array([(x, y) for x, y, r in points if r < 5])
    roots = np.sqrt([max(0.0, fmean(row["kl"])) for row in PRICES])
    rewards = [fmean(row["reward"]) for row in PRICES]
    for found, expected in ((small[:, 0], roots), (small[:, 1], rewards)):
        line = np.polyfit(expected, found, 1)
        np.testing.assert_allclose(np.polyval(line, expected), found, atol=0.2)
    assert len([1 for *_, r in points if r > 5]) == 1


def test_the_mouse_moves_the_slider_and_other_openings_come_on_a_click(page):
    box = part(page, "prices")
    slider = box.get_by_role("slider")
    size = slider.bounding_box()
    slider.click(position={"x": size["width"] - 3, "y": size["height"] / 2})
    assert "β = 0:" in box.locator("output").inner_text()
    box.get_by_role("button", name="Other openings").click()
    row, many = PRICES[-1], len(shown(box))
    assert [text.split(" reward ")[0] for text in shown(box)] == [
        f"{row['prompts'][i]} {row['responses'][i]}" for i in range(many, 2 * many)
    ]
    for _ in range(len(row["prompts"]) // many - 2):
        box.get_by_role("button", name="Other openings").click()
    assert f"to {len(row['prompts'])} of" in box.inner_text()
    box.get_by_role("button", name="Other openings").click()
    assert "Texts 1 to" in box.inner_text()


def test_training_is_scrubbed_and_new_words_are_underlined(page):
    box, looks = part(page, "training"), TRAINING["looks"]
    box.get_by_role("slider").focus()
    page.keyboard.press("Home")
    prompts = PRICES[0]["prompts"]
    for i, look in enumerate(looks):
        output = box.locator("output").inner_text()
        assert f"After {look['updates']} of {looks[-1]['updates']} updates" in output
        assert numbers(output) == pytest.approx([look["reward"], look["gold"], look["kl"]], abs=0.006)
        for drawing in box.get_by_role("img").all():
            assert f"Marked: {look['updates']} updates" in drawing.get_attribute("aria-label")
        assert shown(box) == [f"{p} {r}" for p, r in zip(prompts, look["responses"], strict=False)]
        if i:
            for place, before, after in zip(
                box.locator(".rlhf-now").all(), looks[i - 1]["responses"], look["responses"], strict=True
            ):
                old, new = before.split(), after.split()
                added = place.locator("u").all_inner_texts()
                rest = list(new)
                for word in added:
                    rest.remove(word)
                # What isn't underlined was there before, and at least as much as difflib's matching blocks find.
                blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
                assert len(rest) >= sum(block.size for block in blocks)
                assert all(rest.count(word) <= old.count(word) for word in rest)
        page.keyboard.press("ArrowRight")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_moves_while_a_slider_does(browser, address, width):
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(address + PAGE)
    for name, places in PLACES.items():
        box = part(page, name)
        box.get_by_role("slider").focus()
        page.keyboard.press("Home")
        heights = []
        for _ in range(places):
            heights.append(box.bounding_box()["height"])
            page.keyboard.press("ArrowRight")
        assert len(set(heights)) == 1
    box = part(page, "update")
    box.locator("td[tabindex='0']").focus()
    heights = set()
    for key in ["ArrowUp"] * 3 + ["ArrowDown"] * 13 + ["ArrowRight"] * 17 + ["ArrowUp"] * 13:
        page.keyboard.press(key)
        heights.add(box.bounding_box()["height"])
    assert len(heights) == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


# ---- one update


def columns(response):
    """All that the grid shows of a response, computed here from what was kept of it."""
    config, whitening = UPDATE["config"], UPDATE["whitening"]
    β, γ, λ, ε = (config[key] for key in ("kl_coef", "gamma", "gae_lambda", "clip_range"))
    old, ref, new, values = (response[key] for key in ("logprobs", "ref_logprobs", "new_logprobs", "values"))
    k1 = [a - b for a, b in zip(old, ref, strict=True)]
    rewards = [-β * k for k in k1]
    rewards[-1] += response["score"]
    deltas = [r + γ * v_next - v for r, v, v_next in zip(rewards, values, [*values[1:], 0.0], strict=True)]
    advantages = []
    for δ in reversed(deltas):
        advantages.insert(0, δ + γ * λ * (advantages[0] if advantages else 0.0))
    whitened = [(a - whitening["mean"]) / whitening["deviation"] for a in advantages]
    ratio = [exp(a - b) for a, b in zip(new, old, strict=True)]
    clip = [min(1 + ε, max(1 - ε, ρ)) for ρ in ratio]
    return {
        "log πold": old,
        "log πref": ref,
        "k1": k1,
        "reward r": rewards,
        "value V": values,
        "TD error δ": deltas,
        "advantage Â": advantages,
        "return G": [a + v for a, v in zip(advantages, values, strict=True)],
        "Â, whitened": whitened,
        "log π, after": new,
        "ratio ρ": ratio,
        "gain": [min(ρ * a, c * a) for ρ, c, a in zip(ratio, clip, whitened, strict=True)],
        # The sign of the advantage says where the ratio may not go any further.
        "clipped": [ρ > 1 + ε if a > 0 else ρ < 1 - ε for ρ, a in zip(ratio, whitened, strict=True)],
    }


@pytest.mark.parametrize("which", range(len(UPDATE["responses"])))
def test_every_number_of_an_update_is_the_one_computed_here(page, which):
    box, response = part(page, "update"), UPDATE["responses"][which]
    box.get_by_role("combobox").select_option(str(which))
    rows = [row.split("\t") for row in box.locator("tbody tr").all_inner_texts()]
    expected = columns(response)
    assert [row[0].replace("\n", "") for row in rows] == list(expected)
    for name, *cells in rows:
        wanted = expected[name.replace("\n", "")]
        if name == "clipped":
            assert [cell == "clipped" for cell in cells] == wanted
        else:
            assert [number(cell) for cell in cells] == pytest.approx(wanted, abs=0.004)
    # Summed up, the tokens' rewards are the score less β times the response's KL.
    rewards, k1 = ([number(cell) for cell in rows[i][1:]] for i in (3, 2))
    assert sum(rewards) == pytest.approx(response["score"] - UPDATE["config"]["kl_coef"] * sum(k1), abs=0.02)
    header = [text.split()[1:] for text in box.locator("thead th").all_inner_texts()[1:]]
    assert [" ".join(words) for words in header] == [t.replace("<eos>", "end of text") for t in response["tokens"]]


def test_formulas_are_filled_with_the_numbers_of_the_cells_that_are_marked(page):
    box = part(page, "update")
    names = list(columns(UPDATE["responses"][0]))
    box.locator("tbody td").first.click()
    length = len(UPDATE["responses"][0]["tokens"])
    constants = {0.15, 1.0, 0.95, *UPDATE["whitening"].values(), UPDATE["responses"][0]["score"]}
    for token in range(length):
        for name in names:
            cell = box.locator("td[aria-selected]")
            assert page.evaluate("document.activeElement.ariaSelected") == "true"
            heading = box.get_by_role("status").inner_text()
            assert heading.startswith(f"Token {token + 1} of {length}, ")
            if name == "clipped":
                verdict = box.locator(".rlhf-formula").inner_text()
                assert ("no gradient" in verdict) == (cell.inner_text() == "clipped")
            else:
                lines = [numbers(text) for text in box.locator(".rlhf-formula math").all_text_contents()]
                value = number(cell.inner_text())
                assert lines[-1] == [value]
                assert f" is {cell.inner_text()}" in heading
                used = [number(text) for text in box.locator("td.rlhf-used").all_inner_texts()]
                filled = [abs(x) for x in lines[-2]] if len(lines) > 1 and used else []
                assert all(any(isclose(abs(x), y, abs_tol=1e-9) for y in filled) for x in used), (name, used, lines)
                known = {round(abs(x), 3) for x in constants} | {0.0} | {abs(x) for x in used}
                if name not in ("gain", *names[:2], "log π, after"):
                    assert all(any(isclose(x, y, abs_tol=1e-3) for y in known) for x in filled), (name, lines)
            page.keyboard.press("ArrowDown")
        for _ in names:
            page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowRight")


def test_keys_buttons_and_the_mouse_move_through_an_update(page):
    box = part(page, "update")
    heading = box.get_by_role("status")
    box.locator("tbody td").first.click()
    page.keyboard.press("End")
    last = len(UPDATE["responses"][0]["tokens"])
    assert heading.inner_text().startswith(f"Token {last} of {last}")
    page.keyboard.press("Home")
    box.get_by_role("button", name="Token →").click()
    assert heading.inner_text().startswith("Token 2 of")
    box.get_by_role("button", name="Number ↓").click()
    assert "log π ref" in heading.inner_text()
    box.get_by_role("button", name="← Token").click()
    box.get_by_role("button", name="↑ Number").click()
    kept = heading.inner_text()
    assert kept.startswith("Token 1 of")
    assert "log π old" in kept
    # The mouse looks at another number without taking the reader's place away.
    box.locator("tbody tr").nth(4).locator("td").nth(1).hover()
    assert "Token 2 of" in heading.inner_text()
    assert "value V" in heading.inner_text()
    assert box.locator(".rlhf-here").inner_text() == UPDATE["responses"][0]["tokens"][1]
    assert "value V of each token" in " ".join(box.locator("svg").get_attribute("aria-label").split(", as bars")[:1])
    page.mouse.move(5, 5)
    assert heading.inner_text() == kept


# ---- without what others have


def test_the_page_works_from_the_disk(browser, site):
    context = browser.new_context(offline=True)
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto((site / PAGE).as_uri())
    assert len(page.locator(".rlhf-explorable svg").all()) == 7
    assert not errors
    context.close()


def test_without_a_script_the_page_says_so(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + PAGE)
    told = page.locator(".rlhf-noscript").all_inner_texts()
    assert told == ["This figure needs JavaScript: it is drawn in your browser."] * 3
    context.close()


def test_the_data_are_tables_behind_a_click(page):
    for name, title, places in (("prices", "The averages", len(PRICES)), ("training", "The looks", PLACES["training"])):
        box = part(page, name)
        table = box.locator("details table")
        assert not table.is_visible()
        box.get_by_text(f"{title} as a table").click()
        assert table.locator("tbody tr").count() == places
        last = numbers(table.locator("tbody tr").last.inner_text())
        row = (
            {key: fmean(PRICES[-1][key]) for key in ("reward", "gold", "kl")}
            if name == "prices"
            else TRAINING["looks"][-1]
        )
        found = last[::2] if name == "prices" else last
        assert found == pytest.approx([row["reward"], row["gold"], row["kl"]], abs=0.001)
