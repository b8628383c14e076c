"""What a finished stage leaves behind, and how it is stored."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssoup_jax.errors import RunError
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning import masks
from ssoup_jax.storage.store import Store
from ssoup_jax.trees import PyTree

HOW_IT_CAME_ABOUT = frozenset(
    {
        *("seconds", "images_per_second", "execution", "provenance"),
        # What the experiment that made it called its members, and where a file lay that it was taken from.
        *("split_val", "ingredients", "called", "labels", "scores", "soup", "weights", "file", "notes"),
    }
)
"""The entries of a record, at any depth, in which equal artifacts may differ."""


@dataclass(frozen=True)
class Artifact:
    """What a finished stage leaves behind.

    Attributes:
        variables: the model's parameters and BatchNorm statistics.
        mask: structure and shapes of the params; False where a weight is pruned, None where none ever is.
        record: everything else, JSON-ready: metrics, sparsity, cost, training history.
    """

    variables: Variables
    mask: PyTree
    record: dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """The artifact of a finished stage, read when it is wanted.

    Attributes:
        store: where it is.
        name: its name.
        like: shapes and dtypes of its arrays, see `like`.
    """

    store: Store
    name: str
    like: PyTree

    @cached_property
    def record(self) -> dict[str, Any]:
        """Its record."""
        return self.store.record(self.name)

    def load(self) -> Artifact:
        """Reads all of it."""
        return from_tree(*self.store.load(self.name, self.like), self.store.path(self.name))


def to_tree(artifact: Artifact) -> PyTree:
    """Returns the arrays of an artifact as they are stored."""
    return {**artifact.variables.as_flax(), "mask": masks.dense_form(artifact.mask, artifact.variables.params)}


def from_tree(tree: PyTree, record: dict[str, Any], where: Path | None = None) -> Artifact:
    """Makes an artifact of what was stored; the inverse of `to_tree`.

    Args:
        tree: the arrays.
        record: everything else.
        where: the folder that they come from, for the error; None: none.

    Returns:
        The artifact.

    Raises:
        RunError: something is pruned that never is.
    """
    collections = dict(tree)
    params, stored = collections.pop("params"), collections.pop("mask")
    try:
        mask = masks.from_dense_form(stored, masks.full_mask(params))
    except RunError as error:
        raise error if where is None else RunError(f"{where}: {error}") from None
    return Artifact(Variables(params, collections), mask, record)


def like(variables: Variables) -> PyTree:
    """Returns the shapes and dtypes of what `to_tree` stores.

    Args:
        variables: arrays or shapes of the model's variables.
    """

    def shape(leaf, dtype=None):
        return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype)

    mask = jax.tree.map(lambda leaf: shape(leaf, np.bool_), variables.params)
    return {**jax.tree.map(shape, variables.as_flax()), "mask": mask}
