"""The models in the browser: the script's arithmetic against PyTorch, with the weights that the site carries."""

from __future__ import annotations

import base64
import json
import random
import re

import numpy as np
import pytest
import torch
from site_pages import parsed
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

pytestmark = pytest.mark.browser
PAGE = "book/playground.html"
MODELS = ("sft", "ppo", "reward")
ROWS = 40
READ = """async ([name, rows, config]) => {
  const model = new rlhf.Model(config, await rlhf.weights(name));
  return rows.map(row => {
    const cache = model.empty();
    return row.map(token => {
      const hidden = model.read(token, cache);
      return name === 'reward' ? [model.score(hidden)] : [...model.logits(hidden)];
    });
  });
}"""


def weights(site, name):
    """A model's tensors from the site's own file."""
    text = (site / "_static" / "policies" / f"{name}.js").read_text(encoding="ascii")
    told, shapes, packed = re.fullmatch(r'rlhf\.receive\("(\w+)", (\[.*\]), "([\w+/=]+)"\);\n', text).groups()
    assert told == name
    numbers = np.frombuffer(base64.b64decode(packed), dtype="<f2").astype(np.float32)
    found, start = {}, 0
    for key, shape in json.loads(shapes):
        size = int(np.prod(shape))
        found[key] = torch.from_numpy(numbers[start : start + size].copy()).reshape(shape)
        start += size
    assert start == len(numbers)
    return found


@pytest.fixture(scope="module")
def facts(site):
    return json.loads(parsed(site / PAGE).find(id="rlhf-playground-facts").string)


@pytest.fixture(scope="module")
def page(browser, address):
    context = browser.new_context()
    page = context.new_page()
    page.goto(address + PAGE)
    yield page
    context.close()


def answers(name, tensors, config, rows):
    """What PyTorch makes of the same rows with the same weights."""
    shape = GPT2Config(
        vocab_size=len(tensors["wte.weight"]),
        n_positions=config["context"],
        n_embd=config["width"],
        n_layer=config["layers"],
        n_head=config["heads"],
        activation_function="gelu_pytorch_tanh",
        layer_norm_epsilon=config["epsilon"],
    )
    model = GPT2LMHeadModel(shape).eval()
    trunk = {key: value for key, value in tensors.items() if not key.startswith("head.")}
    missing, unexpected = model.transformer.load_state_dict(trunk, strict=False)
    assert not unexpected
    assert all("attn.bias" in key or "masked_bias" in key for key in missing)
    with torch.no_grad():
        hidden = [model.transformer(torch.tensor([row])).last_hidden_state[0] for row in rows]
        if name == "reward":
            return [functional.linear(h, tensors["head.weight"], tensors["head.bias"]) for h in hidden]
        return [model.lm_head(h) for h in hidden]


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_pytorch(site, facts, page, name):
    rng = random.Random(0)
    longest = facts["config"]["context"]
    rows = [rng.choices(range(len(facts["words"])), k=rng.randint(1, longest)) for _ in range(ROWS - 1)]
    rows.append(rng.choices(range(len(facts["words"])), k=longest))
    expected = answers(name, weights(site, name), facts["config"], rows)
    found = page.evaluate(READ, [name, rows, facts["config"]])
    for row, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(row), theirs, atol=1e-3, rtol=0)


def test_a_text_longer_than_the_context_is_refused(facts, page):
    read = f"async config => {{ await ({READ})(['sft', [Array(config.context + 1).fill(5)], config]); }}"
    with pytest.raises(Exception, match="48 tokens at most"):
        page.evaluate(read, facts["config"])


def test_every_16_bit_number_is_read_as_numpy_reads_it(page):
    found = page.evaluate("Array.from({length: 65536}, (_, i) => rlhf.half(i)).map(x => Number.isFinite(x) ? x : null)")
    theirs = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
    assert [x for x in found if x is not None] == theirs[np.isfinite(theirs)].tolist()
    assert sum(x is None for x in found) == (~np.isfinite(theirs)).sum()


def test_a_word_is_drawn_as_often_as_its_probability_says(page):
    count = """() => {
      const logprobs = [0.5, 0, 0.2, 0.3].map(Math.log), chance = rlhf.dice(1), found = [0, 0, 0, 0];
      for (let i = 0; i < 20000; i++) found[rlhf.draw(logprobs, chance())] += 1;
      return found;
    }"""
    found = page.evaluate(count)
    assert found[1] == 0
    for share, number in zip((0.5, 0.2, 0.3), (found[0], found[2], found[3]), strict=True):
        assert number == pytest.approx(20000 * share, abs=4 * (20000 * share * (1 - share)) ** 0.5)


def test_the_weights_are_small_enough(site):
    import gzip

    sizes = [len(gzip.compress((site / "_static" / "policies" / f"{n}.js").read_bytes(), 6)) for n in MODELS]
    assert sum(sizes) <= 4_000_000


def test_words_are_found_and_unknown_ones_named(page):
    script = """() => {
      const facts = JSON.parse(document.getElementById('rlhf-playground-facts').textContent);
      const words = new rlhf.Vocabulary(facts.words, facts.special);
      return [words.encode('The PLOT is tender.').map(i => facts.words[i]), words.unknown('the zebra <eos> is tender'),
              words.encode('zebra'), facts.special.unk];
    }"""
    known, unknown, ids, unk = page.evaluate(script)
    assert known == ["the", "plot", "is", "tender", "."]
    assert unknown == ["zebra", "<eos>"]
    assert ids == [unk]
