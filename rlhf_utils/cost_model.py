r"""What a PPO update costs, from sizes: operations, bytes, seconds, money. (``budget``: this book's chain on a device.)

Nothing here is measured. A stage takes the longer of two times, that of its arithmetic and that of its memory traffic
(Williams et al. 2009), each at a share of the device's best rate that the caller chooses. Rates, shares and prices are
inputs, and so the results are as good as they are. Left out: activations' memory, the optimizer's own pass over the
weights, start-up, idle time while the longest response is finished, and devices that fail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

HOUR = 3600.0
FORWARD, BACKWARD = 2, 4  # operations for each weight and token: a product and a sum, and both again for two gradients


@dataclass(frozen=True)
class Network:
    """Sizes of a transformer.

    Attributes:
        parameters: P, how many numbers it has.
        layers: L, its blocks.
        width: d, numbers of a token's state.
        kv_width: numbers of a token's key, and of its value, in each block; d unless heads share them.
        number_bytes: bytes of a weight when it is read, and of a number in the cache.
    """

    parameters: float
    layers: int
    width: int
    kv_width: int | None = None
    number_bytes: int = 2


@dataclass(frozen=True)
class Device:
    """A processor with its memory, at its best, as a data sheet has it.

    Attributes:
        operations: v_op, floating-point operations a second, in the precision that is used.
        bandwidth: v_mem, bytes a second between memory and arithmetic.
        memory: bytes.
        link: bytes a second that it can send to the others; 0 if there are none.
        price: of an hour, in any currency.
    """

    operations: float
    bandwidth: float
    memory: float
    link: float = 0.0
    price: float = 0.0


@dataclass(frozen=True)
class Work:
    """One PPO update.

    Attributes:
        prompt: tokens of a prompt.
        response: tokens of a response.
        batch: episodes.
        epochs: passes over the batch.
        steps: optimizer steps in all.
        scored_by: forward passes over each finished text: policy, reference and reward model make 3.
        trained: networks that are trained: 1, or 2 with a value model of its own.
    """

    prompt: int
    response: int
    batch: int
    epochs: int = 1
    steps: int = 1
    scored_by: int = 3
    trained: int = 1

    @property
    def length(self) -> int:
        """Tokens of a whole text."""
        return self.prompt + self.response


@dataclass(frozen=True)
class Shares:
    """Which part of a device's best rates a program reaches, its utilisation; ValueError unless in (0, 1].

    Attributes:
        operations: u, of the arithmetic.
        bandwidth: of the memory's.
        link: of the network's.
    """

    operations: float = 1.0
    bandwidth: float = 1.0
    link: float = 1.0

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 < share <= 1:
                raise ValueError(f"{name} is {share}; a share of the best rate lies above 0 and is at most 1")


@dataclass(frozen=True)
class Seconds:
    """Time of one update, by stage.

    Attributes:
        sampling: to write the responses.
        scoring: to read them.
        update: arithmetic of the optimizer steps.
        communication: gradients and weights on their way.
    """

    sampling: float
    scoring: float
    update: float
    communication: float

    @property
    def total(self) -> float:
        """One stage after the other."""
        return self.sampling + self.scoring + self.update + self.communication


def weight_operations(network: Network, read: float = 0.0, trained: float = 0.0) -> float:
    r"""Operations on the weights, for tokens that only go forward and for tokens that go forward and backward.

    .. math:: C_{op} = P\,(6\,n_{trained} + 2\,n_{read})

    Kaplan et al. (2020), arXiv 2001.08361, section 2.1. Attention adds to it in :func:`forward_operations`.
    """
    return network.parameters * ((FORWARD + BACKWARD) * trained + FORWARD * read)


def forward_operations(network: Network, tokens: int) -> float:
    r"""Operations of one forward pass over a text, with a cache or without.

    .. math:: 2 P n + 4 L d\, n (n + 1) / 2

    Attention adds 4 d a block for each pair of a token with one up to it.
    """
    return weight_operations(network, read=tokens) + 2 * network.layers * network.width * tokens * (tokens + 1)


def episode_operations(network: Network, work: Work) -> dict[str, float]:
    """Operations that one episode costs in each stage; a backward pass costs two forward passes."""
    one = forward_operations(network, work.length)
    return {"sampling": one, "scoring": work.scored_by * one, "update": 3 * work.trained * work.epochs * one}


def weight_bytes(network: Network) -> float:
    """Bytes of the weights as they are read."""
    return network.number_bytes * network.parameters


def cache_bytes(network: Network, tokens: float) -> float:
    """Bytes of the keys and values of one text's tokens: two numbers of the kv width in each block."""
    return 2 * network.layers * (network.kv_width or network.width) * network.number_bytes * tokens


def training_bytes(network: Network, processes: int = 1, sharded: bool = False, trained: int = 1) -> float:
    """Bytes in each process of what is trained: 16 for each parameter, as weight, gradient and Adam's state.

    In 32 bits: 4 each for weight, gradient and two moments. In mixed precision: 2 and 2, and 12 for a 32-bit copy and
    the moments (Rajbhandari et al. 2020). A sharded process keeps its part.
    """
    return 16 * trained * network.parameters / (processes if sharded else 1)


def token_seconds(
    network: Network, device: Device, sequences: float, context: float, shares: Shares = Shares()
) -> tuple[float, float]:
    """Seconds to write one more token of each of several texts: by arithmetic, and by memory traffic.

    The weights are read once for all the texts, each text's cache once. The longer of the two times is what it takes.

    Args:
        sequences: texts that are written at the same time.
        context: tokens of each up to here.
    """
    each = weight_operations(network, read=1) + 4 * network.layers * network.width * context
    traffic = weight_bytes(network) + sequences * cache_bytes(network, context)
    return (
        sequences * each / (device.operations * shares.operations),
        traffic / (device.bandwidth * shares.bandwidth),
    )


def balanced_sequences(network: Network, device: Device, shares: Shares = Shares()) -> float:
    """Texts at the same time from which arithmetic takes longer than reading the weights; the cache left aside."""
    ratio = device.operations * shares.operations / (device.bandwidth * shares.bandwidth)
    return ratio * network.number_bytes / FORWARD


def together(device: Device, number: int) -> Device:
    """Several devices that hold one network between them and work as one: the best that tensor parallelism can do."""
    best = {name: number * getattr(device, name) for name in ("operations", "bandwidth", "memory")}
    return replace(device, **best)


def devices_for_a_copy(network: Network, device: Device, room: float = 0.5) -> int:
    """Devices that hold one copy of the weights in a share ``room`` of their memory: a power of 2."""
    return 2 ** max(0, math.ceil(math.log2(weight_bytes(network) / (room * device.memory))))


def sequences_that_fit(network: Network, device: Device, length: int) -> int:
    """Texts whose cache fits beside the weights.

    Raises:
        ValueError: not even one does.
    """
    fit = int((device.memory - weight_bytes(network)) // cache_bytes(network, length))
    if fit < 1:
        raise ValueError("the weights and the cache of one text don't fit into the memory")
    return fit


def sampling_seconds(
    network: Network, device: Device, work: Work, sequences: float, shares: Shares = Shares()
) -> float:
    """Seconds in which one device, or several :func:`together`, write responses.

    The prompt is read in one pass, limited by arithmetic. Each response token takes :func:`token_seconds` at the mean
    context. Where the cache of all ``sequences`` doesn't fit, they are written in equal waves, one after the other.
    """
    waves = math.ceil(sequences / sequences_that_fit(network, device, work.length))
    prompt = sequences * forward_operations(network, work.prompt) / (device.operations * shares.operations)
    token = max(token_seconds(network, device, sequences / waves, work.prompt + work.response / 2, shares))
    return prompt + waves * work.response * token


def all_reduce_bytes(size: float, processes: int) -> float:
    """Bytes that each process sends to add up a tensor over all, in a ring: 2 (n - 1) / n of it (Patarasuk, Yuan)."""
    return 2 * (processes - 1) / processes * size


def all_gather_bytes(size: float, processes: int) -> float:
    """Bytes that each process sends until all have the parts of all: (n - 1) / n of the whole."""
    return (processes - 1) / processes * size


def step_bytes(network: Network, processes: int, sharded: bool = False, trained: int = 1) -> float:
    """Bytes that each process sends in an optimizer step.

    Copies add up their gradients. Sharded processes gather the weights for the forward pass, gather them again for the
    backward pass, and scatter the sums: half as much again (Rajbhandari et al. 2020).
    """
    size = trained * weight_bytes(network)
    return 3 * all_gather_bytes(size, processes) if sharded else all_reduce_bytes(size, processes)


def update_seconds(
    network: Network, device: Device, work: Work, devices: int, shares: Shares = Shares(), sharded: bool = True
) -> Seconds:
    """One update in which all devices write, then all score, then all learn; nothing overlaps.

    Raises:
        ValueError: the network needs more devices for a copy than there are.
    """
    group = devices_for_a_copy(network, device)
    if group > devices:
        raise ValueError(f"a copy of the weights needs {group} devices, there are {devices}")
    parts = episode_operations(network, work)
    rate = devices * device.operations * shares.operations
    sent = work.steps * step_bytes(network, devices, sharded, work.trained) if devices > 1 else 0.0
    if sharded and devices > 1:  # whoever writes needs whole weights: each group gathers them once an update
        sent += all_gather_bytes(weight_bytes(network), devices)
    return Seconds(
        sampling_seconds(network, together(device, group), work, work.batch * group / devices, shares),
        work.batch * parts["scoring"] / rate,
        work.batch * parts["update"] / rate,
        sent / (device.link * shares.link),
    )


def split_seconds(
    network: Network, device: Device, work: Work, devices: int, writers: int, shares: Shares = Shares()
) -> tuple[float, float]:
    """One update where some devices only write and the others score and learn, at the same time.

    Returns:
        Seconds of the writers, who then wait for the new weights, and of the others. An update takes the longer time if
        the samples may be one update old, and the sum if they may not. ValueError if a side has no room for a copy.
    """
    group = devices_for_a_copy(network, device)
    if min(writers, devices - writers) < group:
        raise ValueError(f"each side needs at least {group} devices")
    copies = writers // group
    new_weights = weight_bytes(network) / (device.link * shares.link)
    writing = sampling_seconds(network, together(device, group), work, work.batch / copies, shares) + new_weights
    rest = update_seconds(network, device, work, devices - writers, shares)
    return writing, rest.scoring + rest.update + rest.communication


def price(seconds: float, devices: int, device: Device) -> float:
    """What the devices cost for a time, used or idle."""
    return seconds / HOUR * devices * device.price
