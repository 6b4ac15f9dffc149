"""The playground: policies that the build has trained, written for the reader's browser.

``{playground}`` and ``{scoring}`` mark the places where ``playground.js`` puts its controls. With the first of them the
page gets what is small (vocabulary, openings, what slider positions give on average); the weights become one script for
each model in ``_static/policies``, which the page fetches on a click. ``{annotator}`` marks the place of
``annotator.js``, where the reader judges pairs that the SFT model has written.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from rlhf_utils.book.figures import script_json

if TYPE_CHECKING:
    import torch
    from sphinx.application import Sphinx
    from torch import Tensor, nn

    from rlhf_utils.pipeline import Chain

LOGGER = logging.getLogger(__name__)
FOLDER = Path("_static") / "policies"
SCRIPTS = {
    "playground": ("alive.js", "policies.js", "playground.js"),
    "scoring": ("alive.js", "policies.js", "playground.js"),
    "annotator": ("alive.js", "annotator.js"),
}
#: λ of the mixture at which the build measures reward and KL
SHARES = tuple(i / 10 for i in range(11))
SAMPLES = 256  #: for each of them
OPENINGS = 24  #: prompts that no training step has seen, for the reader to pick from
PAIRS = 60  #: for the reader to judge
HELD_OUT = 300  #: pairs on which the reader's model is compared with the gold judge


class PlaygroundNode(nodes.General, nodes.Element):
    """Stands where the controls will: attribute ``part``, what to build there."""


class PlaygroundDirective(SphinxDirective):
    """``{playground}``: write with the policies. ``{scoring}``: the reward model reads any text, word by word.

    ``{annotator}``: judge pairs.
    """

    def run(self) -> list[nodes.Node]:
        """A place to be filled by the script."""
        node = PlaygroundNode(part=self.name)
        # What other formats and the search index get.
        node += nodes.paragraph(text="This part of the page is alive in the book's web edition only.")
        return [node]


# ---- weights


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a GPT-2 or of a reward model with such a trunk, under the names of the trunk; tied ones once."""
    found = {}
    for name, tensor in model.named_parameters():
        found[name.removeprefix("transformer.").removeprefix("trunk.")] = tensor.detach()
    return found


def weights_script(name: str, tensors: dict[str, Tensor]) -> str:
    """A script that hands a model's weights to the page, as 16-bit numbers (IEEE 754 binary16, little-endian)."""
    shapes = [[key, list(tensor.shape)] for key, tensor in tensors.items()]
    numbers = b"".join(t.cpu().half().contiguous().numpy().astype("<f2").tobytes() for t in tensors.values())
    packed = base64.b64encode(numbers).decode()
    return f'rlhf.receive({json.dumps(name)}, {json.dumps(shapes, separators=(",", ":"))}, "{packed}");\n'


def models_of(chain: Chain) -> dict[str, nn.Module]:
    """The three models that the page runs, by name."""
    return {"sft": chain.sft_model, "ppo": chain.policy, "reward": chain.reward_model}


def scripts(chain: Chain) -> dict[str, str]:
    """The scripts of the weights, by model."""
    return {name: weights_script(name, weights_of(model)) for name, model in models_of(chain).items()}


def rounded(model: nn.Module) -> nn.Module:
    """A copy whose weights have been rounded to 16 bits, as the page reads them; it computes in 32."""
    import copy

    import torch

    twin = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in twin.parameters():
            tensor.copy_(tensor.half().float())
    return twin


# ---- what the page knows


def _error(values: list[float]) -> float:
    return stdev(values) / math.sqrt(len(values))


def measure(chain: Chain, share: float, seed: int = 0) -> dict[str, float]:
    """Reward, gold score and KL of a mixture on held-out prompts, with standard errors."""
    import torch

    from rlhf_utils.evaluation import evaluation_prompts
    from rlhf_utils.realignment import sample_mixture

    task, generator = chain.task, torch.Generator().manual_seed(seed)
    prompts = evaluation_prompts(task.eval_prompts, SAMPLES, seed)
    samples, kl = sample_mixture(
        chain.sft_model, chain.policy, task.tokenizer, prompts, task.max_new_tokens, share, generator
    )
    reward = ((chain.reward(samples) - chain.scale.mean) / chain.scale.std).tolist()
    gold = task.judge.scores(samples.texts(task.tokenizer))
    return {
        "share": share,
        **{"reward": fmean(reward), "reward_error": _error(reward)},
        **{"gold": fmean(gold), "gold_error": _error(gold)},
        **{"kl": kl.mean().item(), "kl_error": _error(kl.tolist())},
    }


def facts(chain: Chain) -> dict[str, Any]:
    """All that the page needs besides the weights."""
    from rlhf_utils.artifacts import code_hash, get_or_make, make_key

    task, words = chain.task, chain.task.tokenizer

    def make() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {}, {"curve": [measure(chain, share) for share in SHARES]}

    key = make_key(
        policy=chain.ppo_key, shares=SHARES, number=SAMPLES, code=code_hash("rlhf_utils.realignment", __name__)
    )  # fmt: skip
    config = chain.sft_model.config
    return {
        "config": {
            "layers": config.n_layer,
            "heads": config.n_head,
            "width": config.n_embd,
            "context": config.n_positions,
            "epsilon": config.layer_norm_epsilon,
        },
        "words": words.convert_ids_to_tokens(list(range(config.vocab_size))),
        "special": {"pad": words.pad_token_id, "eos": words.eos_token_id, "unk": words.unk_token_id},
        "openings": sorted(set(task.eval_prompts))[:: max(1, len(set(task.eval_prompts)) // OPENINGS)][:OPENINGS],
        "limit": task.max_new_tokens,
        "scale": {"mean": chain.scale.mean, "std": chain.scale.std},
        **get_or_make("playground", key, make, chain.root)[1],
    }


def annotator_facts(chain: Chain) -> dict[str, Any]:
    """Pairs for the reader to judge, with the gold judge's better one, and held-out pairs as (better, worse) texts.

    Both are the chain's own. A pair is left out if its texts are alike, if one was cut, or if the judge sees a tie.
    """
    judge, end = chain.task.judge, chain.task.max_new_tokens
    pairs = []
    for record in chain.preferences:
        responses = (record.response_a, record.response_b)
        if len(pairs) == PAIRS:
            break
        if responses[0] == responses[1] or any(len(text.split()) >= end for text in responses):
            continue
        gold = judge.scores([record.prompt + text for text in responses])
        if gold[0] != gold[1]:
            better = int(gold[1] > gold[0])
            pairs.append({"id": record.pair_id, "prompt": record.prompt, "responses": responses, "better": better})
    return {"pairs": pairs, "heldOut": chain.held_out_pairs[:HELD_OUT]}


# ---- the page


def _chain(app: Sphinx) -> Chain:
    """The chain whose stages the lessons have made."""
    if not hasattr(app, "rlhf_chain"):
        from rlhf_utils.pipeline import load_chain

        app.rlhf_chain = load_chain("tiny")  # type: ignore[attr-defined]
    return app.rlhf_chain  # type: ignore[attr-defined]


def _ready(app: Sphinx) -> dict[str, Any]:
    """Facts and weights of the playground, made once a build."""
    if not hasattr(app, "rlhf_playground"):
        chain = _chain(app)
        texts = scripts(chain)
        sizes = {name: len(gzip.compress(text.encode(), 6)) for name, text in texts.items()}
        app.rlhf_playground = {"scripts": texts, "facts": {**facts(chain), "sizes": sizes}}  # type: ignore[attr-defined]
    return app.rlhf_playground  # type: ignore[attr-defined]


_NAMES = {"playground": "Playground", "scoring": "Scores of a text of your own", "annotator": "Be the annotator"}


def _visit_html(translator: Any, node: PlaygroundNode) -> None:  # noqa: ANN401
    part = node["part"]
    label = html.escape(_NAMES[part])
    translator.body.append(
        f'<section class="rlhf-alive rlhf-{part}" data-part="{part}" aria-label="{label}">'
        '<noscript><p class="rlhf-noscript">This needs JavaScript: the models run in your browser.</p></noscript>'
    )
    app, page = translator.builder.app, translator.builder.current_docname
    name = "annotator" if part == "annotator" else "playground"
    told = app.__dict__.setdefault("rlhf_alive_pages", set())
    if (page, name) not in told:
        told.add((page, name))
        found = annotator_facts(_chain(app)) if name == "annotator" else _ready(app)["facts"]
        data = script_json(json.dumps(found, ensure_ascii=False))
        translator.body.append(f'<script type="application/json" id="rlhf-{name}-facts">{data}</script>')
    translator.body.append("</section>\n")
    raise nodes.SkipNode


def _pass(translator: nodes.NodeVisitor, node: nodes.Element) -> None:
    """Other formats write the paragraph inside."""


def _add_scripts(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    parts = [node["part"] for node in doctree.findall(PlaygroundNode)] if doctree is not None else []
    for script in dict.fromkeys(script for part in parts for script in SCRIPTS[part]):
        app.add_js_file(script, loading_method="defer")


def _write_weights(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and hasattr(app, "rlhf_playground"):
        folder = Path(app.outdir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in app.rlhf_playground["scripts"].items():
            (folder / f"{name}.js").write_text(text, encoding="ascii")


def register(app: Sphinx) -> None:
    """Register the directives and the export with Sphinx."""
    others = dict.fromkeys(("latex", "text", "man", "texinfo"), (_pass, _pass))
    app.add_node(PlaygroundNode, html=(_visit_html, None), **others)
    for name in _NAMES:
        app.add_directive(name, PlaygroundDirective)
    app.connect("html-page-context", _add_scripts)
    app.connect("build-finished", _write_weights)
