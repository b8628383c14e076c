"""What a weight is worth: of the weights that compete, those with the lowest scores are pruned.

A score takes the prunable weights, by path name and in tree order, and a typed PRNG key of shape `[]`, and gives every
entry a number.
"""

from collections.abc import Callable

import jax
import numpy as np

Leaves = dict[str, np.ndarray]
"""Prunable leaves by path name, in tree order."""

Score = Callable[[Leaves, jax.Array], Leaves]


def magnitude(weights: Leaves, key: jax.Array) -> Leaves:
    """Scores by `|w|`; needs no key."""
    del key
    return {name: np.abs(leaf) for name, leaf in weights.items()}


def random(weights: Leaves, key: jax.Array) -> Leaves:
    """Scores at random, by the key and the number of entries alone."""
    # Each new length would be a new program for jax.random; NumPy's raw stream is frozen and the same everywhere.
    stream = np.random.PCG64(np.asarray(jax.random.key_data(key)))
    return split(stream.random_raw(sum(leaf.size for leaf in weights.values())), weights)


def split(flat: np.ndarray, like: Leaves) -> Leaves:
    """Cuts a vector into tensors with the names and shapes of `like`; the inverse of `flatten`."""
    pieces = np.split(flat, np.cumsum([leaf.size for leaf in like.values()])[:-1])
    return {name: piece.reshape(leaf.shape) for (name, leaf), piece in zip(like.items(), pieces, strict=True)}


def flatten(leaves: Leaves) -> np.ndarray:
    """Lays tensors end to end, each in C order."""
    return np.concatenate([leaf.ravel() for leaf in leaves.values()])
