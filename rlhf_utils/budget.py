r"""What a run of the chain costs, by arithmetic: operations, bytes, and a bound on the time from a machine's peaks.

A token that is trained goes forward and backward and costs six operations a parameter, one that is only read costs two:

.. math:: C = N\,(6\,n_\text{trained} + 2\,n_\text{read})

Kaplan et al. (2020), arXiv 2001.08361, section 2.1. Attention's own share, :math:`4 d t` a layer for the token at place
t, is left out; for texts of thirty tokens it is below one per cent of GPT-2's.

Nothing here is measured: the numbers are as good as the peaks and shares that are put in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_utils.pipeline import Settings

TRAINED, READ = 6, 2  # operations a token and parameter
TRAINED_BYTES, READ_BYTES = 40, 4  # that a pass moves for each parameter


@dataclass(frozen=True)
class Shape:
    """What decides a GPT-2's number of parameters.

    Attributes:
        width: d, of the states.
        layers: number of blocks.
        words: rows of the embedding, which is the output layer too.
        places: longest text in tokens.
    """

    width: int
    layers: int
    words: int
    places: int

    @property
    def parameters(self) -> int:
        """:math:`(V + P)\\,d + L\\,(12 d^2 + 13 d) + 2 d`."""
        d = self.width
        return (self.words + self.places) * d + self.layers * (12 * d * d + 13 * d) + 2 * d


GPT2 = Shape(width=768, layers=12, words=50_257, places=1024)


@dataclass(frozen=True)
class Machine:
    """What a datasheet promises.

    Attributes:
        name: for tables.
        peak: operations a second, in the precision that is used.
        bandwidth: bytes a second between the memory and the processor.
        memory: bytes.
    """

    name: str
    peak: float
    bandwidth: float
    memory: float


@dataclass(frozen=True)
class Work:
    """What a stage has to do.

    Attributes:
        trained: tokens that go forward and backward.
        read: tokens that only go forward.
        training_passes: optimizer steps.
        reading_passes: forward passes without gradient.
    """

    trained: float = 0.0
    read: float = 0.0
    training_passes: float = 0.0
    reading_passes: float = 0.0

    def operations(self, parameters: int) -> float:
        """Multiplications and additions of all passes, for a model with so many parameters."""
        return parameters * (TRAINED * self.trained + READ * self.read)

    def bytes_moved(self, parameters: int) -> float:
        """Bytes of 32-bit weights, gradients and moments that have to pass through the processor.

        Reading takes the weights once. Training takes them forward and backward (8), writes the gradient (4), and Adam
        reads weight, gradient and both moments (16) and writes weight and moments (12).
        """
        return parameters * (TRAINED_BYTES * self.training_passes + READ_BYTES * self.reading_passes)


@dataclass(frozen=True)
class Bounds:
    """Three times, in seconds, none of which a run can undercut if the assumptions hold.

    Attributes:
        products: operations over the share of the peak that is assumed.
        traffic: bytes over the bandwidth.
        dispatch: passes times the time it takes to hand one to the device.
    """

    products: float
    traffic: float
    dispatch: float

    @property
    def seconds(self) -> float:
        """The largest of the three."""
        return max(self.products, self.traffic, self.dispatch)

    @property
    def limit(self) -> str:
        """Which one that is."""
        return max(("products", "traffic", "dispatch"), key=lambda name: getattr(self, name))


def chain_work(
    settings: Settings, texts: int, text_tokens: float, prompt_tokens: float, response_tokens: float
) -> dict[str, Work]:
    """Tokens and passes of a chain whose preferences come from labels, by stage; measurements on the way don't count.

    Args:
        settings: of the stages.
        texts: that SFT learns from.
        text_tokens: mean number of a text's tokens, EOS included.
        prompt_tokens: mean number of a prompt's tokens.
        response_tokens: mean number of a response's tokens; the cap gives an upper bound.
    """
    sft, reward, ppo = settings.sft, settings.reward, settings.ppo
    sft_texts = sft.epochs * texts
    pairs = reward.epochs * settings.preferences.pairs
    episodes = ppo.updates * ppo.batch_size
    tokens = episodes * (prompt_tokens + response_tokens)
    minibatches = ppo.updates * (ppo.batch_size // ppo.minibatch_size)
    return {
        "SFT": Work(trained=sft_texts * text_tokens, training_passes=sft_texts / sft.batch_size),
        "reward model": Work(trained=2 * pairs * text_tokens, training_passes=pairs / reward.batch_size),
        "sampling": Work(read=tokens, reading_passes=ppo.updates * response_tokens),
        # Policy and reference score minibatches, the reward model the whole batch.
        "scoring": Work(read=3 * tokens, reading_passes=2 * minibatches + ppo.updates),
        "update": Work(trained=ppo.epochs * tokens, training_passes=ppo.epochs * minibatches),
    }


def bounds(
    work: Work,
    parameters: int,
    machine: Machine,
    utilisation: float,
    training_dispatch: float = 0.0,
    reading_dispatch: float = 0.0,
) -> Bounds:
    """What bounds a stage's time from below on a machine.

    Args:
        work: of the stage.
        parameters: of the model.
        machine: its peaks.
        utilisation: share of the peak that matrix products reach, in (0, 1].
        training_dispatch: seconds to hand over the operations of one optimizer step.
        reading_dispatch: seconds to hand over those of one forward pass.

    Raises:
        ValueError: the share isn't in (0, 1].
    """
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation is {utilisation}; a share of the peak lies above 0 and is at most 1")
    return Bounds(
        products=work.operations(parameters) / (utilisation * machine.peak),
        traffic=work.bytes_moved(parameters) / machine.bandwidth,
        dispatch=work.training_passes * training_dispatch + work.reading_passes * reading_dispatch,
    )


def ppo_memory(
    shape: Shape,
    settings: Settings,
    prompt_tokens: float,
    response_tokens: float,
    state_bytes: float,
    logit_bytes: float,
    separate_values: bool = False,
) -> dict[str, float]:
    """Bytes that a PPO update holds at its fullest, in 32-bit numbers.

    Args:
        shape: of policy, reference and reward model.
        settings: of the stages.
        prompt_tokens: of a prompt.
        response_tokens: of a response.
        state_bytes: that the blocks keep of each token for the backward pass.
        logit_bytes: that the output layer and the losses keep of each response token.
        separate_values: whether the value model is one of its own.
    """
    rows = settings.ppo.minibatch_size
    trained = 2 if separate_values else 1
    return {
        "trained models": 16.0 * trained * shape.parameters,
        "reference, reward model": 8.0 * shape.parameters,
        "states": rows * (prompt_tokens + response_tokens) * state_bytes * trained,
        "logits": rows * response_tokens * logit_bytes,
    }
