"""Models as arrays by the names of their parameters, `params/Dense_0/kernel`: the form for networks of one's own.

It is what `flax.traverse_util.flatten_dict(variables, sep="/")` makes of Flax's variables, in their own layout.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from ssoup_jax.errors import SettingsError
from ssoup_jax.interop import files
from ssoup_jax.models.variables import Variables


def write(path: str | os.PathLike, variables: Variables, classes: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Writes a model's parameters and BatchNorm statistics.

    Args:
        path: ends in `.safetensors`. A reader finds the whole file or none.
        variables: one model's.
        classes: names of the classes, see `files.save`; None: they have none.

    Returns:
        What was written, by name.

    Raises:
        SettingsError: the file cannot be written, or is of another kind.
    """
    path = Path(os.path.expanduser(path))
    if path.suffix.lower() != ".safetensors":
        raise SettingsError(
            f"{path}: found suffix {path.suffix!r}; PyTorch knows no network of one's own: allowed: .safetensors, with "
            "the network's own names"
        )
    found = flatten_dict(variables.as_flax(), sep="/")
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in found.items()}
    files.save(path, arrays, classes)
    return arrays
