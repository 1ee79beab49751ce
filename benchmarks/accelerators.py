"""A model of the step on real accelerators, on paper: nothing is measured."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Network:
    """What the model has to know about a network and its batch."""

    parameters: float
    forward: float  # FLOPs of a forward pass of one example.
    shard_size: int


@dataclasses.dataclass(frozen=True)
class Machine:
    """One accelerator of many, and its link."""

    link: float  # Bytes per second that it sends, and receives.
    flops: float = 125e12  # Per second, that training reaches.
    memory: float = 2e12  # Bytes per second of its own memory.
    hop: float = 5e-6  # Seconds of a message of no size to a neighbour.
    # The part of the backward pass that plain training's reduction can hide
    # behind.
    overlap: float = 1.0


NETWORKS = {
    "`cnn`, 0.2 M": Network(0.19e6, 16e6, 16),
    "ResNet-50, 25.6 M": Network(25.6e6, 8.2e9, 16),
    # A transformer on 512 tokens: 2 FLOPs for each parameter and token.
    "transformer, 350 M": Network(350e6, 2 * 350e6 * 512, 4),
}
LINKS = {"3 GB/s": 3e9, "25 GB/s": 25e9, "100 GB/s": 100e9}
ACCELERATORS = (8, 64, 512)
SHARDS = 8
# Times that a shard's gradient, or a vector as long, is read or written: its
# norm 1, its product with g_v 2, adding it to the sum 3.
PASSES = 6


def all_reduce(size, accelerators, machine):
    """Returns the seconds of an all-reduce of so many bytes.

    It sends what a ring sends and waits for as many messages as a tree.
    """
    sent = 2 * (accelerators - 1) / accelerators * size
    return sent / machine.link + 2 * math.log2(accelerators) * machine.hop


def model_step(network, accelerators, machine, num_shards=SHARDS):
    """Returns the seconds of a plain step and of one of Deep Bilevel.

    `num_shards` counts the shards of each accelerator.
    """
    size = 4 * network.parameters
    examples = num_shards * network.shard_size
    # The backward pass is two thirds of it.
    compute = 3 * network.forward * examples / machine.flops
    hidden = machine.overlap * compute * 2 / 3
    reduction = all_reduce(size, accelerators, machine)
    plain = compute + max(0.0, reduction - hidden)
    vectors = num_shards * PASSES * size / machine.memory
    # The sum of |w| for the weights, those of |w| and of w^2 for the logs.
    small = 2 * all_reduce(8, accelerators, machine)
    return plain, compute + vectors + 2 * reduction + small


def model_table():
    """Returns the table of the model, a list of rows."""
    header = ["network", "link", *(f"{n} accelerators" for n in ACCELERATORS)]
    return [header] + [
        [name, link, *(_cell(network, n, Machine(rate)) for n in ACCELERATORS)]
        for name, network in NETWORKS.items()
        for link, rate in LINKS.items()
    ]


def _cell(network, accelerators, machine):
    plain, ours = model_step(network, accelerators, machine)
    before, after = (
        f"{1e3 * t:,.0f}" if t > 0.1 else f"{1e3 * t:.2g}"
        for t in (plain, ours)
    )
    return f"{before} → {after} ms, {ours / plain:.2f}"
