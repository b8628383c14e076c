"""Other projects' names for the layers that networks here have.

A name is looked up part by part, so that a network fits exactly if its names and shapes do, spelling aside.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_SPELLINGS = {"downsample": "shortcut", "fc": "linear"}
"""torchvision's names for a residual network's projections and last layer, and those of its descendants on CIFAR."""


def respelled(found: Mapping[str, Value], wanted: Collection[str]) -> dict[str, Value]:
    """Gives entries the names that are wanted, where one is missing and differs from one found in spelling only.

    Args:
        found: entries by name.
        wanted: the names that a network has.

    Returns:
        `found`, in its order; entries that are not wanted under any spelling keep their names.
    """
    missing = {_common(name): name for name in wanted if name not in found}
    return {name if name in wanted else missing.get(_common(name), name): value for name, value in found.items()}


def _common(name: str) -> str:
    return ".".join(_SPELLINGS.get(part, part) for part in name.split("."))
