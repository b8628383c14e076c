"""What a compiled program says of itself: copies of the data, exchanges between devices, and the time that follows."""

import math
import re
from typing import Any, NamedTuple

_TYPED = re.compile(r"(\w+)\[([\d,]*)\]")
_OPERATION = re.compile(r"\s*(?:ROOT )?%?\S+ = (\(.*?\)|\S+) ([\w-]+)\(")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}

SMALL_SECONDS = 12e-6
"""Assumed, of an all-reduce of a few numbers among two neighbours; it grows by 0.05 sqrt(devices - 1)."""


class Chip(NamedTuple):
    """A chip's published figures.

    Attributes:
        flops: bfloat16 operations a second.
        bandwidth: bytes of memory traffic a second.
        memory: bytes.
        link: bytes a second that a link to a neighbour takes one way.
    """

    flops: float
    bandwidth: float
    memory: float
    link: float


CHIPS = {
    "v4": Chip(275e12, 1.2e12, 32e9, 45e9),
    "v5e": Chip(197e12, 0.82e12, 16e9, 45e9),
    "v5p": Chip(459e12, 2.77e12, 95e9, 90e9),
    "v6e": Chip(918e12, 1.64e12, 32e9, 90e9),
}


class Collective(NamedTuple):
    """One exchange between devices.

    Attributes:
        kind: such as `'all-reduce'`.
        n_bytes: of its result on each device.
        in_step: whether every training step makes it; otherwise a dispatch does, once.
    """

    kind: str
    n_bytes: int
    in_step: bool


def copies(text: str, size: int) -> list[str]:
    """Finds the operations whose result has as many elements as all images, parameters left out.

    Args:
        text: a compiled program.
        size: elements of all images.
    """
    found = []
    for line in text.splitlines():
        match = _OPERATION.match(line)
        if match is None or match[2] in ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "conditional"):
            continue
        for dtype, shape in _TYPED.findall(match[1]):
            if math.prod(map(int, filter(None, shape.split(",")))) >= size:
                found.append(f"{match[2]} {dtype}[{shape}]")
    return found


def collectives(text: str, step: str = "jit(step)") -> list[Collective]:
    """Finds what devices tell one another.

    Args:
        text: a compiled program.
        step: stands in the name of whatever belongs to a step.
    """
    found = []
    for line in text.splitlines():
        match = _OPERATION.match(line)
        # What is begun and ended apart is counted where it begins.
        kind = match and match[2].removesuffix("-start")
        if kind in _COLLECTIVES:
            n_bytes = sum(
                _BYTES[dtype] * math.prod(map(int, filter(None, shape.split(","))))
                for dtype, shape in _TYPED.findall(match[1])
            )
            found.append(Collective(kind, n_bytes, step in line))
    return found


def compute_seconds(flops: float, bytes_moved: float, chip: Chip) -> float:
    """Estimates seconds: operations or traffic at the chip's published rates, whichever is more."""
    return max(flops / chip.flops, bytes_moved / chip.bandwidth)


def exchange_seconds(exchanges: list[Collective], n_devices: int, chip: Chip) -> float:
    """Estimates seconds of all-reduces one after another, in a ring of one link each way.

    Args:
        exchanges: what is exchanged.
        n_devices: among how many neighbours.
        chip: theirs.
    """
    latency = SMALL_SECONDS * (1 + 0.05 * math.sqrt(n_devices - 1))
    share = 2 * (n_devices - 1) / n_devices
    return sum(latency + share * one.n_bytes / chip.link for one in exchanges)


def efficiency(alone: dict[str, Any], row: dict[str, Any], members: int) -> float:
    """Returns what part of many chips' time is the work that one chip would do.

    Args:
        alone: of one chip, its `step_seconds` for a single member.
        row: of `chips`, its `step_seconds` for all members.
        members: how many.
    """
    return members * alone["step_seconds"] / (row["chips"] * row["step_seconds"])
