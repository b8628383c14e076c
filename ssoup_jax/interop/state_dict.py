"""Parameters and BatchNorm statistics as a PyTorch state dict of NumPy arrays, and back; needs no PyTorch.

Names follow by rule: `layer1_0/conv1/kernel` is `layer1.0.conv1.weight`. So do layouts: a convolution kernel HWIO is
OIHW there, a linear kernel is its transpose. Networks flatten images channels first, so no layer needs a permutation.
"""

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ssoup_jax.errors import SettingsError
from ssoup_jax.models import ImageShape
from ssoup_jax.models.layers import Network
from ssoup_jax.trees import PyTree

COUNTER = "num_batches_tracked"
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}


class Entry(NamedTuple):
    """One tensor of a state dict and where it lives here."""

    name: str
    shape: tuple[int, ...]
    """In PyTorch's layout."""
    collection: str | None
    """`'params'` or `'batch_stats'`; None for BatchNorm's counter of batches, which has no counterpart."""
    path: tuple[str, ...]


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """Returns a kernel, or a mask of one, in PyTorch's layout; vectors stay as they are."""
    return np.ascontiguousarray(np.transpose(array, _TO_TORCH.get(array.ndim)))


def from_torch_layout(array: np.ndarray) -> np.ndarray:
    """Inverts `to_torch_layout`."""
    return np.ascontiguousarray(np.transpose(array, _FROM_TORCH.get(array.ndim)))


def torch_name(path: tuple[str, ...]) -> str:
    """Spells the path of a leaf of `params` or `batch_stats` as PyTorch does."""
    *modules, leaf = path
    return ".".join([*(re.sub(r"_(\d+)$", r".\1", module) for module in modules), _LEAVES[leaf]])


@functools.cache
def entries(model: Network, image_shape: ImageShape) -> tuple[Entry, ...]:
    """Lists the tensors of a network's state dict in PyTorch's order.

    Args:
        model: what `models.build` returned.
        image_shape: height, width and channels of an image.

    Returns:
        One entry for each tensor, BatchNorm's counters included.
    """
    listed = []

    def trace(key: jax.Array) -> None:
        # Only inside the trace do the dicts still have the order in which the layers came into being, which is
        # PyTorch's; JAX sorts the keys of any dict that leaves a transformation, rematerialised blocks included.
        images = jnp.zeros((1, *image_shape), jnp.float32)
        variables = model.clone(remat=False, dtype=jnp.float32).init(key, images, train=False)
        stats = flatten_dict(variables.get("batch_stats", {}))
        for path, leaf in flatten_dict(variables["params"]).items():
            listed.append(_entry("params", path, leaf.shape))
            module = path[:-1]
            if path[-1] == "bias" and (*module, "mean") in stats:
                listed.extend(_entry("batch_stats", (*module, s), leaf.shape) for s in ("mean", "var"))
                listed.append(Entry(listed[-1].name.replace("running_var", COUNTER), (), None, ()))

    jax.eval_shape(trace, jax.random.key(0))
    return tuple(listed)


def _entry(collection: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Entry:
    order = _TO_TORCH.get(len(shape), range(len(shape)))
    return Entry(torch_name(path), tuple(shape[axis] for axis in order), collection, path)


def from_state_dict(model: Network, image_shape: ImageShape, state: Mapping[str, np.ndarray]) -> tuple[PyTree, PyTree]:
    """Reads a PyTorch state dict.

    Args:
        model: what `models.build` returned.
        image_shape: height, width and channels of an image.
        state: arrays by name, in any order. Counters of batches are not needed and not looked at.

    Returns:
        `(params, batch_stats)` in float32; `batch_stats` is `{}` for a network without BatchNorm.

    Raises:
        SettingsError: names are missing or superfluous, or a tensor has another shape than the network's.
    """
    expected = entries(model, image_shape)
    _check_names([e.name for e in expected if e.collection], [name for name in state if not name.endswith(COUNTER)])
    collections: dict[str, dict] = {"params": {}, "batch_stats": {}}
    for entry in expected:
        if entry.collection is None:
            continue
        array = np.asarray(state[entry.name])
        if array.shape != entry.shape:
            raise SettingsError(
                f"state dict: {entry.name} has shape {array.shape}, {type(model).__name__} wants {entry.shape}"
            )
        collections[entry.collection][entry.path] = jnp.asarray(from_torch_layout(array), jnp.float32)
    return unflatten_dict(collections["params"]), unflatten_dict(collections["batch_stats"])


def _check_names(wanted: list[str], found: list[str]) -> None:
    missing = [name for name in wanted if name not in set(found)]
    superfluous = [name for name in found if name not in set(wanted)]
    parts = [
        f"{len(names)} {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for what, names in (("missing", missing), ("superfluous", superfluous))
        if names
    ]
    if parts:
        raise SettingsError(f"state dict: names do not match the network: {', '.join(parts)}")


def to_state_dict(
    model: Network, image_shape: ImageShape, params: PyTree, batch_stats: PyTree
) -> dict[str, np.ndarray]:
    """Writes a PyTorch state dict; `from_state_dict` gives the same bits back.

    Args:
        model: what `models.build` returned.
        image_shape: height, width and channels of an image.
        params: parameters of one network, not of a stack.
        batch_stats: its BatchNorm statistics; `{}` if it has none.

    Returns:
        Arrays by name in PyTorch's order and layout; counters of batches are int64 zeros.

    Raises:
        SettingsError: the trees are not this network's.
    """
    flat = {"params": flatten_dict(params), "batch_stats": flatten_dict(batch_stats)}
    expected = entries(model, image_shape)
    given = [torch_name(path) for tree in flat.values() for path in tree]
    _check_names([e.name for e in expected if e.collection], given)
    state = {}
    for entry in expected:
        if entry.collection is None:
            state[entry.name] = np.zeros((), np.int64)
            continue
        array = to_torch_layout(np.asarray(flat[entry.collection][entry.path]))
        if array.shape != entry.shape:
            raise SettingsError(
                f"parameters: {entry.name} has shape {array.shape}, {type(model).__name__} wants {entry.shape}"
            )
        state[entry.name] = array
    return state
