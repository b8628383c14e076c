"""Which networks have the tensors of a state dict, judged by names and shapes; nothing is computed."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.interop.spellings import respelled
from ssoup_jax.interop.state_dict import entries
from ssoup_jax.models import ImageShape

Shapes = Mapping[str, tuple[int, ...]]

# Only networks without global pooling have tensors that depend on the image's size.
_SIDES = (32, 28, 8, 64, 96, 128, 224)
_ANY_IMAGE = (32, 32, 3)


class Fit(NamedTuple):
    """A network that has exactly the tensors in question."""

    arch: str
    n_classes: int
    image_shape: ImageShape

    def __str__(self) -> str:
        return f"{self.arch} with {self.n_classes} classes on {'x'.join(map(str, self.image_shape))} images"


def find(shapes: Shapes, image_shape: ImageShape | None = None) -> Fit | None:
    """Finds the network that has these tensors.

    Args:
        shapes: of every tensor of a state dict by name, BatchNorm's counters left out.
        image_shape: tried before the usual image shapes.

    Returns:
        The network, its number of classes and the first image shape that fits; None if there is no such network.
    """
    for arch in _candidates(shapes):
        wanted = network_shapes(arch, 1, _ANY_IMAGE)
        # Names tell apart all networks but those that differ in width only, of which there is one candidate.
        found = respelled(shapes, wanted or ())
        if wanted is not None and wanted.keys() == found.keys():
            names = list(wanted)
            stem, head = found[names[0]], found[names[-1]]
            usual = [(side, side, channels) for side in _SIDES for channels in (3, 1)]
            tried = [image_shape, *usual] if image_shape else usual
            if len(stem) == 4:
                tried = list(dict.fromkeys((height, width, stem[1]) for height, width, _ in tried))
            fitting = (s for s in tried if head and network_shapes(arch, head[0], s) == found)
            return next((Fit(arch, head[0], s) for s in fitting), None)
    return None


def _candidates(shapes: Shapes) -> Iterator[str]:
    blocks = sum(bool(re.fullmatch(r"layer1\.\d+\.conv1\.weight", name)) for name in shapes)
    width = max(1, (shapes.get("conv1.weight") or (16,))[0] // 16)
    if blocks:
        yield f"ResNet{6 * blocks + 2}" + (f"x{width}" if width > 1 else "")
    yield from models.ARCHS


def network_shapes(arch: str, n_classes: int, image_shape: ImageShape) -> dict[str, tuple[int, ...]] | None:
    """Returns the shapes of a network's tensors by name, without counters; None if it does not take such images."""
    try:
        model = models.build(arch, n_classes, image_shape)
    except SettingsError:
        return None
    return {entry.name: entry.shape for entry in entries(model, image_shape) if entry.collection}
