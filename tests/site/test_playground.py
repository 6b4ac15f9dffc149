"""The playground, driven by keyboard and mouse; what it shows is worked out anew with PyTorch."""

from __future__ import annotations

import json
import re

import pytest
import torch
from site_pages import parsed
from test_policies import PAGE, answers, weights

pytestmark = pytest.mark.browser
WORDS = """text => {
  const facts = JSON.parse(document.getElementById('rlhf-playground-facts').textContent);
  return new rlhf.Vocabulary(facts.words, facts.special).encode(text);
}"""


@pytest.fixture(scope="module")
def facts(site):
    return json.loads(parsed(site / PAGE).find(id="rlhf-playground-facts").string)


@pytest.fixture
def page(browser, address):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.goto(address + PAGE)
    yield page
    assert page.troubles == []
    context.close()


@pytest.fixture
def started(page):
    """The playground with its models at hand."""
    page.get_by_role("button", name="Fetch the two policies").click()
    page.get_by_role("button", name="Write to the end").wait_for()
    return page


def written(page) -> list[str]:
    """The response's tokens as shown."""
    return page.locator(".rlhf-playground .rlhf-token").all_inner_texts()


def numbers(page) -> tuple[float, float]:
    """Reward and KL of the text as shown."""
    told = page.locator(".rlhf-playground .rlhf-numbers").first.inner_text().replace("−", "-")
    found = re.search(r"reward (-?[\d.]+).*KL (-?[\d.]+) nats", told)
    return float(found[1]), float(found[2])


def slide(page, key: str, times: int = 1) -> None:
    page.get_by_role("slider").focus()
    for _ in range(times):
        page.keyboard.press(key)


def test_the_weights_come_on_a_click_and_the_keyboard_is_enough(page):
    fetched = []
    page.on("request", lambda request: fetched.append(request.url) if "/policies/" in request.url else None)
    page.get_by_role("button", name="Fetch the two policies").focus()
    assert fetched == []
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Write to the end").wait_for()
    assert sorted(url.rsplit("/", 1)[1] for url in fetched) == ["ppo.js", "reward.js", "sft.js"]
    page.keyboard.press("Enter")  # the focus stands on "Write to the end"
    assert written(page)
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Next token"
    page.keyboard.press("Space")
    assert len(written(page)) == 1  # the text had ended, so a new one has begun


def test_tokens_appear_one_after_the_other(browser, address, site):
    context = browser.new_context(reduced_motion="no-preference")
    page = context.new_page()
    page.goto(address + PAGE)
    page.get_by_role("button", name="Fetch the two policies").click()
    page.get_by_role("button", name="Write to the end").wait_for()
    page.evaluate("""() => { window.seen = new Set();
      const text = document.querySelector('.rlhf-playground .rlhf-text');
      const count = () => seen.add(text.querySelectorAll('.rlhf-token').length);
      new MutationObserver(count).observe(text, {childList: true}); }""")
    page.get_by_role("button", name="Write to the end").click()
    page.wait_for_function("document.querySelector('.rlhf-playground .rlhf-text').ariaBusy === 'false'")
    assert set(range(1, len(written(page)) + 1)) <= set(page.evaluate("[...seen]"))
    context.close()


@pytest.mark.parametrize("share", [0.0, 0.45, 1.0])
def test_probabilities_reward_and_kl_are_those_of_pytorch(started, site, facts, share):
    page, config = started, facts["config"]
    slide(page, "ArrowRight", round(share / 0.05))
    assert f"λ = {share:.2f}" in page.locator(".rlhf-slider-value").inner_text()
    page.get_by_role("button", name="Write to the end").click()
    prompt = page.evaluate(WORDS, page.get_by_role("combobox", name="Opening").input_value())
    tokens = [facts["special"]["eos"] if t == "∎" else facts["words"].index(t) for t in written(page)]
    sft, ppo = (answers(name, weights(site, name), config, [prompt + tokens])[0] for name in ("sft", "ppo"))
    mixed = ((1 - share) * sft + share * ppo).log_softmax(-1)
    sft, ppo = sft.log_softmax(-1), ppo.log_softmax(-1)
    places = slice(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    kl = (mixed.exp() * (mixed - sft)).sum(-1)[places].sum().item()
    score = answers("reward", weights(site, "reward"), config, [prompt + tokens])[0][-1].item()
    reward = (score - facts["scale"]["mean"]) / facts["scale"]["std"]
    assert numbers(page) == pytest.approx((reward, kl), abs=0.006)
    page.get_by_text("Each token of the response").click()
    rows = page.locator(".rlhf-playground details tr").filter(has=page.locator("td")).all()[: len(tokens)]
    for at, (row, token) in enumerate(zip(rows, tokens, strict=True), len(prompt) - 1):
        shown = row.locator("td").all_inner_texts()[:3]
        for text, logprobs in zip(shown, (sft, mixed, ppo), strict=True):
            share_of = 100 * logprobs[at, token].exp().item()
            assert (
                (share_of < 0.05)
                if text.startswith("<")
                else float(text.removesuffix("%")) == pytest.approx(share_of, abs=0.06)
            )


def test_the_slider_keeps_the_dice_and_moves_everything(started):
    page = started
    page.get_by_role("button", name="Write to the end").click()
    first, told = written(page), page.get_by_role("slider").get_attribute("aria-valuetext")
    assert numbers(page)[1] == 0  # SFT's own text
    slide(page, "End")
    assert page.get_by_role("slider").get_attribute("aria-valuetext") != told
    assert numbers(page)[1] > 0
    place = page.locator(".rlhf-mark").get_attribute("x1")
    box = page.get_by_role("slider").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator(".rlhf-mark").get_attribute("x1") != place
    slide(page, "Home")
    assert written(page) == first


def test_other_dice_and_another_opening_give_another_text(started):
    page = started
    page.get_by_role("button", name="Write to the end").click()
    texts = {tuple(written(page))}
    for _ in range(4):
        page.get_by_role("button", name="Throw new dice").click()
        texts.add(tuple(written(page)))
    assert len(texts) >= 4
    opening = page.get_by_role("combobox", name="Opening").input_value()
    page.get_by_role("button", name="Another opening").click()
    assert page.get_by_role("combobox", name="Opening").input_value() != opening
    assert written(page) == []


def test_what_cannot_be_read_is_said(started, facts):
    page = started
    opening = page.get_by_role("combobox", name="Opening")
    say = page.locator(".rlhf-playground .rlhf-note")
    opening.fill("the zebra film")
    assert "zebra" in say.inner_text()
    assert page.get_by_role("button", name="Next token").is_enabled()
    opening.fill("  ")
    assert say.inner_text() == "Type at least one word."
    assert page.get_by_role("button", name="Next token").is_disabled()
    opening.fill("film " * facts["config"]["context"])
    assert "words at most" in say.inner_text()
    assert page.get_by_role("button", name="Write to the end").is_disabled()
    opening.fill("<b>film</b>")
    assert page.locator(".rlhf-playground .rlhf-text b").count() == 0


def test_averages_of_an_opening(started):
    page = started
    page.get_by_role("button", name="Average over 24 texts").click()
    told = page.locator(".rlhf-playground").get_by_text("24 of 24 texts")
    told.wait_for()
    assert "KL 0.00 ± 0.00" in told.inner_text()  # λ is 0: the SFT model's own texts


def test_the_averages_move_with_the_slider_as_the_build_measured_them(started, facts):
    page = started
    for key, point in (("Home", facts["curve"][0]), ("End", facts["curve"][-1])):
        slide(page, key)
        told = page.get_by_text("On average over held-out openings").inner_text().replace("−", "-")
        found = [float(x) for x in re.findall(r"-?\d+\.\d+", told)]
        assert found == pytest.approx([point["reward"], point["gold"], point["kl"]], abs=0.0051)


def test_the_reward_model_reads_any_text(page, site, facts):
    page.get_by_role("button", name="Fetch the reward model").click()
    rows = page.locator(".rlhf-scoring tbody tr")
    rows.first.wait_for()
    text = "The film is moving, but the zebra is dull."
    page.get_by_role("textbox", name="A text of your own").fill(text)
    page.locator(".rlhf-scoring .rlhf-note").filter(has_text="zebra").wait_for()
    ids = page.evaluate(WORDS, text)
    assert rows.count() == len(ids)
    ends = [[*ids[: i + 1], facts["special"]["eos"]] for i in range(len(ids))]
    scores = [answers("reward", weights(site, "reward"), facts["config"], [row])[0][-1].item() for row in ends]
    theirs = [(score - facts["scale"]["mean"]) / facts["scale"]["std"] for score in scores]
    found = [float(row.locator("td").first.inner_text().replace("−", "-")) for row in rows.all()]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(theirs), atol=0.006, rtol=0)
    page.get_by_role("textbox", name="A text of your own").fill("")
    assert page.locator(".rlhf-scoring .rlhf-note").inner_text() == "Type at least one word."


def test_weights_that_do_not_come_are_asked_for_again(page):
    page.route("**/policies/ppo.js", lambda route: route.abort())
    page.get_by_role("button", name="Fetch the two policies").click()
    page.get_by_text("could not be loaded").wait_for()
    page.unroute("**/policies/ppo.js")
    page.get_by_role("button", name="Fetch the two policies").click()
    page.get_by_role("button", name="Write to the end").wait_for()
