"""What a checkpoint consists of: one file a member, written by whoever holds the member, and a record.

A file holds the leaves of its member's state by number and name, and says what they are. Checkpoints of earlier
versions hold all members as one stack of arrays instead, and are read, too.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ssoup_jax.errors import RunError, one_line
from ssoup_jax.storage import arrays, manifest
from ssoup_jax.storage.layout import STATE, member_name
from ssoup_jax.trees import PyTree, path_name

_LEAVES = "leaves"
_UNREADABLE = (SafetensorError, ValueError, KeyError, TypeError, OSError)


def on_host(tree: PyTree) -> PyTree:
    """Copies a tree to the host, whose arrays may then be donated or changed.

    Args:
        tree: arrays of any dtype but PRNG keys.

    Raises:
        TypeError: a leaf is none.
    """
    for leaf in jax.tree.leaves(tree):
        if not hasattr(leaf, "dtype") or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"a checkpoint holds plain arrays only, found {type(leaf).__name__}")
    # On a CPU `device_get` may return the device's own memory, which donation hands to the next step.
    return jax.tree.map(lambda leaf: np.array(leaf, order="C", copy=True), jax.device_get(tree))


def write(folder: Path, index: int, tree: PyTree) -> dict[str, Any]:
    """Writes a member's part, on the disk when this returns.

    Args:
        folder: the checkpoint's.
        index: the member.
        tree: its state, from `on_host`.

    Returns:
        Its entry in the manifest.

    Raises:
        OSError, SafetensorError: the disk is full, cannot be written or went away.
    """
    path, leaves = folder / member_name(index), _described(tree)
    # Named by number too, because names of any spelling could collide.
    named = {f"{number:05d}/{leaves[number][0]}": _bits(leaf) for number, leaf in enumerate(jax.tree.leaves(tree))}
    save_file(named, path, {_LEAVES: json.dumps(leaves)})
    return manifest.describe(path)


def form(folder: Path, record: dict[str, Any], m: int, forms: Sequence[PyTree]) -> int:
    """Finds the form that all members of a checkpoint have.

    Args:
        folder: the checkpoint's, found whole.
        record: its `CHECKPOINT`.
        m: the number of members that it must have.
        forms: trees of one member's arrays or shapes.

    Returns:
        Its position.

    Raises:
        Damaged: they have none of them.
    """
    if "members" not in record:
        stored, wanted = [record.get(_LEAVES)], [_described(_stacked(form, m)) for form in forms]
    elif record["members"] == m:
        stored, wanted = [_leaves(folder / member_name(index)) for index in range(m)], list(map(_described, forms))
    else:
        raise manifest.Damaged(folder, f"of {record['members']!a} members, wanted {m}")
    for position, leaves in enumerate(wanted):
        if all(found == leaves for found in stored):
            return position
    other = next(found for found in stored if found != wanted[0])
    raise manifest.Damaged(folder, f"not of this state: {_difference(other, wanted[0])}")


def read(folder: Path, record: dict[str, Any], members: Sequence[int], m: int, like: PyTree) -> dict[int, PyTree]:
    """Reads some members of a checkpoint.

    Args:
        folder: the checkpoint's, found whole.
        record: its `CHECKPOINT`.
        members: their indices.
        m: the number of all members.
        like: the form that they have, see `form`.

    Returns:
        Their states by index, NumPy arrays.

    Raises:
        RunError: one cannot be read.
    """
    try:
        if "members" not in record:
            return _from_stack(folder, members, m, like) if members else {}
        return {index: _read(folder / member_name(index), like) for index in members}
    except _UNREADABLE as error:
        raise RunError(
            f"{folder}: cannot be read ({one_line(error)}); delete the folder to go on from the one before"
        ) from None


def _bits(leaf: np.ndarray) -> np.ndarray:
    """Returns numbers of types that NumPy itself does not know, such as bfloat16, as whole numbers of the same bits."""
    return leaf.view(f"u{leaf.itemsize}") if leaf.dtype.kind == "V" else leaf


def _leaves(path: Path) -> Any:
    try:
        with safe_open(path, "numpy") as file:
            return json.loads((file.metadata() or {})[_LEAVES])
    except _UNREADABLE as error:
        raise manifest.Damaged(path.parent, f"{path.name} is no part of a checkpoint ({one_line(error)})") from None


def _read(path: Path, like: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(like)
    found = [array for _, array in sorted(load_file(path).items())]
    return jax.tree.unflatten(
        structure, [_checked(own.view(leaf.dtype), leaf) for own, leaf in zip(found, leaves, strict=True)]
    )


def _from_stack(folder: Path, members: Sequence[int], m: int, like: PyTree) -> dict[int, PyTree]:
    found = arrays.read(folder / STATE)
    leaves, structure = jax.tree.flatten(_stacked(like, m))
    # Empty leaves were not stored.
    stacks = [
        _checked(found[f"{number:05d}"], leaf) if np.prod(leaf.shape) else np.zeros(leaf.shape, leaf.dtype)
        for number, leaf in enumerate(leaves)
    ]
    return {index: jax.tree.unflatten(structure, [np.array(stack[index]) for stack in stacks]) for index in members}


def _checked(found: np.ndarray, like: Any) -> np.ndarray:
    if arrays.spec(found) != arrays.spec(like):
        raise ValueError(f"holds {arrays.spec(found)} where it says {arrays.spec(like)}")
    return found


def _stacked(like: PyTree, m: int) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((m, *leaf.shape), leaf.dtype), like)


def _described(tree: PyTree) -> list[list[str]]:
    return [[path_name(path), arrays.spec(leaf)] for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _difference(stored: Any, wanted: list[list[str]]) -> str:
    """Names the first leaf in which two states differ."""
    stored = stored if isinstance(stored, list) else []
    for index in range(max(len(stored), len(wanted))):
        found, own = (leaves[index] if index < len(leaves) else "nothing" for leaves in (stored, wanted))
        if found != own:
            return f"leaf {index} is {ascii(found)[:100]}, wanted {ascii(own)[:100]}"
    return "its leaves are in no known form"
