"""PyTorch checkpoints as parameters, BatchNorm statistics and mask, and back.

A pruned tensor may be stored as `torch.nn.utils.prune` stores it: `X_orig` and `X_mask` in the place of `X`.
"""

import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ssoup_jax.errors import SettingsError
from ssoup_jax.interop import files, fits, wrappings
from ssoup_jax.interop.spellings import respelled
from ssoup_jax.interop.state_dict import (
    COUNTER,
    Entry,
    entries,
    from_state_dict,
    from_torch_layout,
    to_state_dict,
    to_torch_layout,
)
from ssoup_jax.models import ImageShape
from ssoup_jax.models.layers import Network
from ssoup_jax.pruning.masks import is_kernel
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, checked, in PyTorch's names and layout.

    Attributes:
        path: the file.
        sha256: of its bytes.
        state: float32 tensors by name, +0.0 wherever a mask is False; and BatchNorm's counters of batches.
        masks: bool arrays by the name of the tensor they belong to; None if the file has none.
        left_out: names of what the file has beside the network, as far as somebody may miss it.
    """

    path: Path
    sha256: str
    state: dict[str, np.ndarray]
    masks: dict[str, np.ndarray] | None
    left_out: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The state without the counters."""
        return {name: array for name, array in self.state.items() if not name.endswith(COUNTER)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, counters left out."""
        return {name: array.shape for name, array in self.tensors.items()}


def read(path: str | os.PathLike) -> Checkpoint:
    """Reads a checkpoint; nothing in it is ever executed.

    Args:
        path: a file of PyTorch (which must be installed) or safetensors, whatever it is called; a `~` is the home
            directory. A state dict, plain or with what people put around it, see `wrappings`.

    Returns:
        The checkpoint; floating point of any width is float32.

    Raises:
        SettingsError: one line that names the file, the tensor where there is one, and what is wrong.
    """
    path = Path(os.path.expanduser(path))
    arrays, sha256 = files.load(path)
    try:
        arrays, left_out = wrappings.plain_names(arrays)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    state: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name.endswith("_mask"):
            masks[name.removesuffix("_mask")] = _checked_mask(path, name, array)
            continue
        base = name.removesuffix("_orig")
        if name != base and base in arrays:
            raise SettingsError(f"{path}: has both {base} and {name}; a tensor is stored plain or pruned")
        if name != base and f"{base}_mask" not in arrays:
            raise SettingsError(f"{path}: {name} comes without {base}_mask")
        state[base] = _checked_weight(path, name, array)
    for name, mask in masks.items():
        if name not in state:
            raise SettingsError(f"{path}: {name}_mask comes without {name}_orig")
        # PyTorch keeps the pruned weights' old values in X_orig; X itself must be what its mask says.
        _check_agree(path, name, state[name], mask, zeros=name in arrays)
        state[name] = np.where(mask, state[name], np.float32(0))
    return Checkpoint(path, sha256, state, masks or None, tuple(left_out))


def variables_from(checkpoint: Checkpoint, model: Network, image_shape: ImageShape) -> tuple[PyTree, PyTree, PyTree]:
    """Turns a checkpoint into a network's variables.

    Args:
        checkpoint: what `read` returned.
        model: what `models.build` returned.
        image_shape: height, width and channels of an image.

    Returns:
        `(params, batch_stats, mask)`: float32, float32 (`{}` without BatchNorm) and a mask that is True wherever the
        file has none.

    Raises:
        SettingsError: the checkpoint is another network's; says which tensor shows it and whose it is. Or it masks
            what is never pruned here.
    """
    expected = entries(model, image_shape)
    shapes = {entry.name: entry.shape for entry in expected if entry.collection}
    misfit = _first_misfit(shapes, respelled(checkpoint.shapes, shapes))
    if misfit:
        wanted = fits.find(shapes, image_shape) or type(model).__name__
        fitting = fits.find(checkpoint.shapes, image_shape)
        raise SettingsError(
            f"{checkpoint.path}: does not fit {wanted}: {misfit}; it fits {fitting or 'no model known here'}"
        )
    masks = respelled(checkpoint.masks or {}, shapes)
    leaves = {}
    for entry in expected:
        mask = masks.get(entry.name, np.ones(entry.shape, bool))
        prunable = _is_prunable(entry)
        if entry.collection == "params":
            leaves[entry.path] = jnp.asarray(from_torch_layout(mask)) if prunable else None
        if not mask.all() and not prunable:
            raise SettingsError(
                f"{checkpoint.path}: {entry.name}_mask prunes {np.sum(~mask)} values; "
                f"only weights of convolutions and linear layers can be pruned"
            )
    state = respelled(checkpoint.tensors, shapes)
    return *from_state_dict(model, image_shape, state), unflatten_dict(leaves)


def picked(model: Network, image_shape: ImageShape, params: PyTree, names: Collection[str]) -> dict[str, np.ndarray]:
    """Returns parameters of those path names, `'fc/kernel'`, by PyTorch's names and in its layout."""
    flat = {"/".join(path): leaf for path, leaf in flatten_dict(params).items()}
    paths = {entry.name: "/".join(entry.path) for entry in entries(model, image_shape) if entry.collection == "params"}
    return {name: to_torch_layout(np.asarray(flat[path])) for name, path in paths.items() if path in names}


def respelled_for(model: Network, image_shape: ImageShape, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gives tensors the names that a network has for them, see `spellings`."""
    return respelled(found, [entry.name for entry in entries(model, image_shape)])


def write(
    path: str | os.PathLike,
    model: Network,
    image_shape: ImageShape,
    params: PyTree,
    batch_stats: PyTree,
    mask: PyTree | None = None,
    *,
    pruned: bool,
    classes: Sequence[str] | None = None,
) -> None:
    """Writes a state dict for PyTorch; `read` and `variables_from` give the same bits back.

    Args:
        path: ends in `.pt` or `.pth` (PyTorch must be installed) or `.safetensors`. A reader finds the whole file or
            none.
        model: what `models.build` returned.
        image_shape: height, width and channels of an image.
        params: parameters of one network, zero where `mask` is False.
        batch_stats: its BatchNorm statistics; `{}` if it has none.
        mask: structure of `params`, a bool array for every prunable weight; None: nothing is pruned.
        pruned: True: every prunable weight as `_orig` and `_mask`, which fit a network that `torch.nn.utils.prune` was
            applied to; False: plain.
        classes: names of the classes, see `files.save`; None: they have none.

    Raises:
        SettingsError: the trees are not this network's, a pruned weight is not zero, or the file cannot be written.
    """
    path = Path(os.path.expanduser(path))
    state = to_state_dict(model, image_shape, params, batch_stats)
    given = None if mask is None else flatten_dict(mask)
    masks = {}
    for entry in entries(model, image_shape):
        if _is_prunable(entry):
            kept = np.ones(entry.shape, bool) if given is None else to_torch_layout(np.asarray(given[entry.path]))
            _check_agree(path, entry.name, state[entry.name], kept, zeros=True)
            masks[entry.name] = kept
    files.save(path, _as_pairs(state, masks) if pruned else state, classes)


def _is_prunable(entry: Entry) -> bool:
    return is_kernel("/".join(entry.path))


def _as_pairs(state: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Orders each layer's tensors as `torch.nn.utils.prune` leaves them: bias, weight_orig, weight_mask."""
    pairs = {}
    for _, names in itertools.groupby(state, lambda name: name.rpartition(".")[0]):
        for name in sorted(names, key=masks.__contains__):
            if name in masks:
                pairs |= {f"{name}_orig": state[name], f"{name}_mask": masks[name].astype(np.float32)}
            else:
                pairs[name] = state[name]
    return pairs


def _checked_weight(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if name.endswith(COUNTER):
        return array
    if array.dtype != np.float32:
        raise SettingsError(f"{path}: {name} has dtype {array.dtype}; allowed: floating point")
    wrong = np.sum(~np.isfinite(array))
    if wrong:
        raise SettingsError(f"{path}: {name}: {wrong} of {array.size} values are not finite float32 numbers")
    return array


def _checked_mask(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    kept = array == 1
    wrong = np.sum(~kept & (array != 0))
    if wrong:
        raise SettingsError(f"{path}: {name}: {wrong} of {array.size} values are neither 0 nor 1")
    return kept


def _check_agree(path: Path, name: str, weight: np.ndarray, mask: np.ndarray, zeros: bool) -> None:
    if weight.shape != mask.shape:
        raise SettingsError(f"{path}: {name} has shape {weight.shape}, its mask {mask.shape}")
    stray = np.count_nonzero(weight[~mask])
    if zeros and stray:
        raise SettingsError(f"{path}: {name}: {stray} weights are not zero where the mask is")


def _first_misfit(wanted: Mapping[str, tuple], found: Mapping[str, tuple]) -> str | None:
    for name, shape in wanted.items():
        if name not in found:
            first = max(found, key=lambda name: len(found[name]) > 1)
            return f"{name} of shape {shape} is missing, its first weight is {first} of shape {found[first]}"
        if found[name] != shape:
            return f"{name} has shape {found[name]}, wanted {shape}"
    extra = [name for name in found if name not in wanted]
    return f"{extra[0]} of shape {found[extra[0]]} has no place in it" if extra else None
