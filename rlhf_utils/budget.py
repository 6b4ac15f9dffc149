r"""What this book's chain takes on one device: operations, bytes, and bounds on the time. Built on ``cost_model``.

A stage is counted in tokens and passes. Three times bound it from below, and the longest counts:

.. math:: t \ge \max\Bigl(\frac{C_{op}}{u\,v_{op}},\ \frac{\text{bytes}}{v_{mem}},\ t_0\,n_{passes}\Bigr)

with the device's operations :math:`v_{op}` and bytes :math:`v_{mem}` a second, the share u of the former that is
reached, and the time :math:`t_0` to hand one pass to the device. The first two are the roofline of Williams et al.
(2009). Attention's own operations are left out: for texts of thirty tokens they are below one per cent of GPT-2's.

Nothing here is measured: the numbers are as good as the rates and shares that are put in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_utils.cost_model import Device, Network, Shares, training_bytes, weight_bytes, weight_operations

if TYPE_CHECKING:
    from rlhf_utils.pipeline import Settings

STEP_NUMBERS = 10  # numbers a parameter that an optimizer step moves


def gpt2_network(width: int, layers: int, words: int = 50_257, places: int = 1024) -> Network:
    r"""A GPT-2 in 32 bits.

    .. math:: P = (W + T)\,d + L\,(12 d^2 + 13 d) + 2 d

    Args:
        width: d, of the states.
        layers: L, blocks.
        words: W, rows of the embedding, which is the output layer too.
        places: T, longest text in tokens.
    """
    blocks = layers * (12 * width * width + 13 * width)
    return Network((words + places) * width + blocks + 2 * width, layers, width, number_bytes=4)


GPT2 = gpt2_network(width=768, layers=12)


@dataclass(frozen=True)
class Stage:
    """What a stage of the chain has to do.

    Attributes:
        trained: tokens that go forward and backward.
        read: tokens that only go forward.
        steps: optimizer steps, each a forward and a backward pass.
        passes: forward passes without gradient.
    """

    trained: float = 0.0
    read: float = 0.0
    steps: float = 0.0
    passes: float = 0.0

    def operations(self, network: Network) -> float:
        """Operations of all passes, :func:`rlhf_utils.cost_model.weight_operations`."""
        return weight_operations(network, self.read, self.trained)

    def bytes_moved(self, network: Network) -> float:
        """Bytes that have to pass between memory and arithmetic, all numbers as long as the network's.

        A pass takes each weight once. A step takes it forward and backward (2 numbers) and writes the gradient (1);
        Adam reads weight, gradient and both moments (4) and writes weight and moments (3).
        """
        return weight_bytes(network) * (STEP_NUMBERS * self.steps + self.passes)


@dataclass(frozen=True)
class Bounds:
    """Three times, in seconds, none of which a run can undercut if the assumptions hold.

    Attributes:
        arithmetic: operations over the share of the device's that is reached.
        traffic: bytes over the share of the bandwidth.
        dispatch: passes and steps times the time it takes to hand one to the device.
    """

    arithmetic: float
    traffic: float
    dispatch: float

    @property
    def seconds(self) -> float:
        """The longest of the three."""
        return max(vars(self).values())

    @property
    def limit(self) -> str:
        """Which one that is."""
        return max(vars(self), key=vars(self).__getitem__)


def chain_work(
    settings: Settings, texts: int, text_tokens: float, prompt_tokens: float, response_tokens: float
) -> dict[str, Stage]:
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
        "SFT": Stage(trained=sft_texts * text_tokens, steps=sft_texts / sft.batch_size),
        "reward model": Stage(trained=2 * pairs * text_tokens, steps=pairs / reward.batch_size),
        "sampling": Stage(read=tokens, passes=ppo.updates * response_tokens),
        # Policy and reference score minibatches, the reward model the whole batch.
        "scoring": Stage(read=3 * tokens, passes=2 * minibatches + ppo.updates),
        "update": Stage(trained=ppo.epochs * tokens, steps=ppo.epochs * minibatches),
    }


def bounds(
    stage: Stage,
    network: Network,
    device: Device,
    shares: Shares,
    step_dispatch: float = 0.0,
    pass_dispatch: float = 0.0,
) -> Bounds:
    """What bounds a stage's time from below on a device.

    Args:
        stage: tokens and passes.
        network: that is trained or read.
        device: its rates.
        shares: of the rates that are reached.
        step_dispatch: seconds to hand over the operations of one optimizer step.
        pass_dispatch: seconds to hand over those of one forward pass.
    """
    return Bounds(
        arithmetic=stage.operations(network) / (shares.operations * device.operations),
        traffic=stage.bytes_moved(network) / (shares.bandwidth * device.bandwidth),
        dispatch=stage.steps * step_dispatch + stage.passes * pass_dispatch,
    )


def ppo_memory(
    network: Network,
    settings: Settings,
    prompt_tokens: float,
    response_tokens: float,
    state_bytes: float,
    logit_bytes: float,
    separate_values: bool = False,
) -> dict[str, float]:
    """Bytes that a PPO update holds at its fullest.

    Args:
        network: the sizes of policy, reference and reward model.
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
        "trained models": training_bytes(network, trained=trained),
        "reference, reward model": 2 * weight_bytes(network),
        "states": rows * (prompt_tokens + response_tokens) * state_bytes * trained,
        "logits": rows * response_tokens * logit_bytes,
    }
