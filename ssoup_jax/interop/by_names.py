"""Models as arrays by the names of their parameters, `params/Dense_0/kernel`: the form for networks of one's own.

It is what `flax.traverse_util.flatten_dict(variables, sep="/")` makes of Flax's variables, in their own layout.
"""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from ssoup_jax.errors import SettingsError, one_line
from ssoup_jax.interop import files
from ssoup_jax.interop.pytorch import Checkpoint
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.masks import is_kernel
from ssoup_jax.trees import PyTree, digest, first_difference, named_leaves

_PARAMS, _STATISTICS = "params", "batch_stats"


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
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in named_leaves(variables.as_flax()).items()}
    files.save(path, arrays, classes)
    return arrays


def read(path: str | os.PathLike) -> Checkpoint:
    """Reads a model as `write` writes it, or from a folder of Orbax's.

    Args:
        path: a file of safetensors (or PyTorch), or the folder of an Orbax checkpoint of one tree; a `~` is the home
            directory. Names may have dots in the place of slashes, and leave out `params/` where all are parameters.

    Returns:
        The checkpoint: float32 by names that begin with `params/` or `batch_stats/`, and no masks.

    Raises:
        SettingsError: one line that names the file and what is wrong.
    """
    path = Path(os.path.expanduser(path))
    arrays, sha256 = _from_orbax(path) if path.is_dir() else files.load(path)
    if not any("/" in name for name in arrays):
        arrays = {name.replace(".", "/"): array for name, array in arrays.items()}
    if not any(name.startswith(f"{_PARAMS}/") for name in arrays):
        bare = {name: name if name.startswith(f"{_STATISTICS}/") else f"{_PARAMS}/{name}" for name in arrays}
        arrays = {bare[name]: array for name, array in arrays.items()}
    state = {name: array for name, array in arrays.items() if name.partition("/")[0] in (_PARAMS, _STATISTICS)}
    for name, array in state.items():
        if array.dtype != np.float32:
            raise SettingsError(f"{path}: {name} has dtype {array.dtype}; allowed: floating point")
        if wrong := np.sum(~np.isfinite(array)):
            raise SettingsError(f"{path}: {name}: {wrong} of {array.size} values are not finite float32 numbers")
    left_out = dict.fromkeys(name.partition("/")[0] for name in arrays if name not in state)
    return Checkpoint(path, sha256, state, None, tuple(left_out))


def variables_from(checkpoint: Checkpoint, like: Variables) -> tuple[PyTree, PyTree, PyTree]:
    """Turns a checkpoint into a network's variables.

    Args:
        checkpoint: what `read` returned.
        like: shapes of the network's variables.

    Returns:
        `(params, batch_stats, mask)` as `pytorch.variables_from` returns them.

    Raises:
        SettingsError: the checkpoint is another network's, with the first name at which they differ.
    """
    wanted = {name: leaf for name, leaf in named_leaves(like.as_flax()).items() if leaf is not None}
    if difference := first_difference(checkpoint.state, wanted):
        raise SettingsError(f"{checkpoint.path}: does not fit: {difference}")
    tree = unflatten_dict({tuple(name.split("/")): array for name, array in checkpoint.state.items()})

    def mask(path: tuple, leaf: np.ndarray) -> np.ndarray | None:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        kept = (checkpoint.masks or {}).get(f"{_PARAMS}/{name}")
        return None if not is_kernel(name) else np.ones(leaf.shape, bool) if kept is None else kept

    return tree[_PARAMS], tree.get(_STATISTICS, {}), jax.tree_util.tree_map_with_path(mask, tree[_PARAMS])


def picked(params: PyTree, names: Collection[str]) -> dict[str, np.ndarray]:
    """Returns parameters of those path names, `'Dense_0/kernel'`, by the names of a checkpoint."""
    return {f"{_PARAMS}/{name}": np.asarray(leaf) for name, leaf in named_leaves(params).items() if name in names}


def _from_orbax(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """Reads all arrays of a tree, floating point as float32, and hashes them."""
    from orbax.checkpoint import v1 as ocp  # takes a second

    try:
        # Onto the host, whatever devices wrote it.
        shapes = ocp.metadata(folder.absolute()).metadata
        like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf, shapes)
        tree = ocp.load(folder.absolute(), like)
    except Exception as error:  # Orbax has as many as it has storage formats
        raise SettingsError(f"{folder}: no checkpoint of Orbax that can be read ({one_line(error)})") from None
    found = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items() if leaf is not None}
    if all(name.endswith("/value") for name in found):  # the state of an NNX model
        found = {name.removesuffix("/value"): leaf for name, leaf in found.items()}
    floats = {name: jax.numpy.issubdtype(leaf.dtype, np.floating) for name, leaf in found.items()}
    return {name: leaf.astype(np.float32) if floats[name] else leaf for name, leaf in found.items()}, digest(tree)
