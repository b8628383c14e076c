"""An exported network, ready to be used in JAX: weights in a file, and the `config.json` beside it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import jax

from ssoup_jax import models
from ssoup_jax.errors import SettingsError, one_line
from ssoup_jax.interop import pytorch
from ssoup_jax.models import ImageShape
from ssoup_jax.models.layers import Network
from ssoup_jax.models.variables import Variables
from ssoup_jax.trees import PyTree

CONFIG = "config.json"

NETWORK = Path(__file__).with_name("torch_networks.py")
"""The networks in PyTorch; a copy goes with exported weights."""


@dataclass(frozen=True)
class Exported:
    """A network and its numbers.

    Attributes:
        model: the network.
        image_shape: height, width and channels of an image.
        variables: its parameters and BatchNorm statistics.
        mask: structure of the params; False where a weight is pruned, as far as the file says so.
    """

    model: Network
    image_shape: ImageShape
    variables: Variables
    mask: PyTree

    def logits(self, images: jax.Array) -> jax.Array:
        """Forwards normalised images float32 `[B, H, W, C]` in evaluation mode; returns float32 `[B, n_classes]`."""
        return self.model.apply(self.variables.as_flax(), images, train=False)


def load(path: str | os.PathLike) -> Exported:
    """Loads what `python -m ssoup_jax.interop export` wrote.

    Args:
        path: the file of weights; `config.json` lies beside it.

    Returns:
        The network.

    Raises:
        SettingsError: a file is missing or is not what was exported.
    """
    path = Path(os.path.expanduser(path))
    beside = path.with_name(CONFIG)
    try:
        network = json.loads(beside.read_text(encoding="utf-8"))["network"]
        arch, n_classes, image_shape = network["arch"], network["n_classes"], tuple(network["image_shape"])
        model = models.build(arch, n_classes, image_shape)
    except OSError as error:
        raise SettingsError(f"{beside}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{beside}: not of an exported network ({one_line(error)})") from None
    params, batch_stats, mask = pytorch.variables_from(pytorch.read(path), model, image_shape)
    return Exported(model, image_shape, Variables(params, {"batch_stats": batch_stats}), mask)
