"""The rows of a batch that the devices of a mesh axis share: each takes its own, and sums are the whole batch's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ssoup_jax.trees import PyTree


def divide(batch_size: int, axis: str | None) -> bool:
    """Tells whether the devices of an axis take a part of a batch each; one that they do not divide is everyone's."""
    return axis is not None and lax.axis_size(axis) > 1 and not batch_size % lax.axis_size(axis)


def own(array: jax.Array, axis: str | None) -> jax.Array:
    """Cuts this device's rows out of what a whole batch has, `[B, ...]`, if the devices divide it."""
    if not divide(array.shape[0], axis):
        return array
    length = array.shape[0] // lax.axis_size(axis)
    return lax.dynamic_slice_in_dim(array, lax.axis_index(axis) * length, length)


def take(examples: PyTree, positions: jax.Array, axis: str | None) -> PyTree:
    """Returns this device's rows of a batch.

    Args:
        examples: leaves `[N, ...]`.
        positions: of the whole batch in the examples, int32 `[B]`.
        axis: whose devices share the batch; None: none do.
    """
    positions = own(positions, axis)
    return jax.tree.map(lambda leaf: leaf[positions], examples)


def drawn(draw: Callable[[int], PyTree], n_rows: int, axis: str | None) -> PyTree:
    """Draws random numbers for the whole batch and returns those of this device's rows, so that no mesh changes them.

    Args:
        draw: of a whole batch of B rows, leaves `[B, ...]`.
        n_rows: this device's.
        axis: over which the batch is cut; None: these are all rows.
    """
    if axis is None:
        return draw(n_rows)
    start = lax.axis_index(axis) * n_rows
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, n_rows), draw(n_rows * lax.axis_size(axis)))


def mean(tree: PyTree, axis: str | None) -> PyTree:
    """Averages floats over the devices of an axis, so that none drifts away from the others; integers are all alike."""
    if axis is None:
        return tree
    return jax.tree.map(lambda leaf: lax.pmean(leaf, axis) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def total(tree: PyTree, axis: str | None) -> PyTree:
    """Sums over the devices of an axis."""
    return tree if axis is None else lax.psum(tree, axis)
