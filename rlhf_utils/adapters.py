r"""Training less than everything: frozen weights, low-rank adapters (LoRA), and what a training run keeps in memory.

Every training loop of the package asks for the parameters that require a gradient and leaves the others as they are. So
a model is made cheaper to train before it is handed over:

- :func:`freeze` leaves only a part of the weights trainable.
- :func:`add_lora` freezes all of them and puts a trainable product of two thin matrices beside some, with ``peft``.

Adapters are put *into* the model; it isn't wrapped. It keeps its class, its ``base_model`` and its output layer, and
that is why sampling, the pass without padding (:mod:`rlhf_utils.unpadded`) and all losses work as before.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf_utils.errors import UserError

ALPHA = 4  #: of adapters that are asked for by name
Part = Literal["everything", "body", "top", "norms"]  #: which weights learn; see :func:`part_of`


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of a language model's blocks: its longest list of modules."""
    return max((m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)), key=len)


def part_of(model: PreTrainedModel, part: Part, layers: int = 1) -> list[nn.Parameter]:
    """The parameters of a part of a language model.

    Args:
        model: a causal language model without adapters.
        part: ``everything``; ``body``: all but the embeddings, with which the output layer shares its weights in GPT-2;
            ``top``: the last blocks and what stands behind them, but for the output layer; ``norms``: vectors, which
            is to say biases and the scales of layer norms (BitFit, Ben Zaken et al. 2022, trains the biases alone).
        layers: how many blocks ``top`` has.

    Raises:
        ValueError: there is no such part, or there are fewer blocks.
    """
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    body = [p for p in model.base_model.parameters() if id(p) not in embedded]
    if part == "everything":
        return list(model.parameters())
    if part == "body":
        return body
    if part == "norms":
        return [p for p in model.parameters() if p.ndim < 2]
    if part != "top":
        raise ValueError(f"no part {part!r}: choose everything, body, top or norms")
    blocks = blocks_of(model)
    if not 1 <= layers <= len(blocks):
        raise ValueError(f"the model has {len(blocks)} blocks, so layers can't be {layers}")
    below = {id(p) for block in blocks[:-layers] for p in block.parameters()}
    return [p for p in body if id(p) not in below]


def freeze(model: PreTrainedModel, part: Part, layers: int = 1) -> PreTrainedModel:
    """Leave only a part of a model trainable, in place; returns the model. The arguments are :func:`part_of`'s.

    Args:
        model: a language model.
        part: which of its weights go on learning.
        layers: how many of the last blocks ``top`` has.
    """
    kept = {id(p) for p in part_of(model, part, layers)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kept)
    return model


def add_lora(
    model: PreTrainedModel,
    r: int,
    alpha: float | None = None,
    targets: Sequence[str] | Literal["all-linear"] = "all-linear",
    seed: int = 0,
) -> PreTrainedModel:
    r"""Freeze a model and give some of its linear layers a trainable low-rank part, in place; returns the model.

    .. math:: y = (W + \frac{\alpha}{r} B A)\,x

    W is :math:`m \times n`, A is :math:`r \times n` and starts at random, B is :math:`m \times r` and starts at 0, so
    that the model computes at first exactly what it did before. Hu et al. (2022), arXiv 2106.09685.

    Args:
        model: a causal language model without adapters.
        r: rank.
        alpha: :math:`\alpha`; r unless given, which makes the factor 1.
        targets: names of layers as ``peft`` understands them, such as ``["c_attn"]``; all linear layers but the output
            layer unless given.
        seed: of A.

    Raises:
        UserError: ``peft`` is not installed.
        ValueError: the model has adapters already.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("LoRA needs the package peft.", "Install it: pip install peft") from None
    if lora_layers(model):
        raise ValueError("the model has adapters already; merge them, or begin with a model without")
    linear = {n.rpartition(".")[2]: m for n, m in model.base_model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    config = LoraConfig(
        r=r,
        lora_alpha=r if alpha is None else alpha,
        target_modules=sorted(linear) if targets == "all-linear" else list(targets),
        # GPT-2 keeps its matrices the other way round; peft would see that itself, and warn.
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in linear.values()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return inject_adapter_in_model(config, model)


def lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have an adapter, by name.

    Args:
        model: with adapters or without; then there are none.
    """
    return {name: m for name, m in model.named_modules() if hasattr(m, "lora_A") and hasattr(m, "merge")}


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Switch a model's adapters off inside the block: it is the reference there, without a second copy of it."""
    layers = lora_layers(model).values()
    trainable = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, was in trainable:  # peft's switch sets these as well
            parameter.requires_grad_(was)


def merge_lora(model: PreTrainedModel) -> PreTrainedModel:
    """Add each product to its matrix and take the adapters out, in place: a plain model that computes the same.

    All its weights are trainable again. "The same" is up to rounding: :math:`Wx + BAx` isn't :math:`(W + BA)x` to the
    last digit.
    """
    for name, layer in lora_layers(model).items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model.requires_grad_(True)


def share_frozen(model: nn.Module, original: nn.Module) -> None:
    """Let a copy of a model use the original's memory for all that neither of them trains, in place.

    What isn't trained never differs, so a policy and its reference need it once. Only the values are shared: the
    parameters stay objects of their own.

    Raises:
        ValueError: a weight that isn't trained differs, so that the model is no copy.
    """
    theirs = dict(original.named_parameters())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and name in theirs:
            if not torch.equal(parameter, theirs[name]):
                raise ValueError(f"{name} isn't trained and differs from the original's")
            parameter.data = theirs[name].data


@dataclass(frozen=True)
class Memory:
    """What training keeps between two steps, in bytes; activations come on top.

    Attributes:
        trainable: number of parameters that are trained (not bytes).
        weights: all parameters, the frozen ones included; what several models share counts once.
        gradients: one number for each trained one.
        moments: Adam's two for each trained one.
    """

    trainable: int
    weights: int
    gradients: int
    moments: int

    @property
    def total(self) -> int:
        """Sum of the three in bytes."""
        return self.weights + self.gradients + self.moments


def memory(*models: nn.Module) -> Memory:
    """Count what training needs for these models at once, from their shapes and from what requires a gradient."""
    parameters = [p for model in models for p in model.parameters()]
    stored = {p.data_ptr(): p.numel() * p.element_size() for p in parameters}
    trained = {p.data_ptr(): p for p in parameters if p.requires_grad}.values()
    gradients = sum(p.numel() * p.element_size() for p in trained)
    return Memory(sum(p.numel() for p in trained), sum(stored.values()), gradients, 2 * gradients)


class SavedTensors:
    """Tensors that autograd keeps for the backward pass, without the model's own weights."""

    def __init__(self) -> None:
        self._stored: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """How many bytes they have; views of the same memory count once."""
        return sum(self._stored.values())

    @contextlib.contextmanager
    def count(self, *models: nn.Module) -> Iterator[SavedTensors]:
        """Count what is kept for the backward pass inside the block. The models' weights don't count."""
        weights = {p.untyped_storage().data_ptr() for model in models for p in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                self._stored[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield self


def prepare(model: PreTrainedModel, way: str, seed: int = 0) -> PreTrainedModel:
    r"""A copy of a model that is made cheaper to train by name.

    Args:
        model: a causal language model without adapters; it is left as it is.
        way: a part that :func:`freeze` knows, or ``lora-16`` for adapters of rank 16 in all linear layers. Their
            :math:`\alpha` is 4 whatever the rank, so that one learning rate suits all ranks about equally.
        seed: of the adapters.
    """
    ours = copy.deepcopy(model)
    name, _, rank = way.partition("-")
    return add_lora(ours, int(rank), ALPHA, seed=seed) if name == "lora" else freeze(ours, name)
