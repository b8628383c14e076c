"""Norms of parameters and distances between them, in float64 on the host.

A float32 sum over millions of squares is off by up to 1e-3 of itself, more than what pruning a few weights changes.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from ssoup_jax.errors import SettingsError
from ssoup_jax.pruning.masks import prunable_leaves
from ssoup_jax.trees import PyTree

# Columns of the stack that are held in float64 at a time.
_BLOCK_COLUMNS = 1 << 18


class Drop(NamedTuple):
    """An L2 distance, and the same as a fraction of the norm of what it is measured from (0 if that is 0)."""

    absolute: float
    relative: float


def distance_to_origin(params: PyTree, mask: PyTree) -> float:
    """Returns the L2 norm of the weights that the mask says are prunable, pruned or not."""
    return _norm(prunable_leaves(params, mask))


def distance_to_pruned(params: PyTree, mask: PyTree, sparsity: float) -> Drop:
    """Measures how far a model is from itself after global magnitude pruning.

    Args:
        params: the model's parameters; n of them are prunable weights.
        mask: says what is prunable; which of it is pruned does not matter.
        sparsity: fraction of zeros that pruning would leave; `int((1 - sparsity) * n)` weights stay.

    Returns:
        The L2 norm of the prunable weights that would go, absolute and relative to that of all prunable weights.

    Raises:
        SettingsError: `sparsity` is not in [0, 1].
    """
    if not 0 <= sparsity <= 1:
        raise SettingsError(f"sparsity: found {sparsity}, must be in [0, 1]")
    kernels = [np.ravel(kernel) for kernel in jax.device_get(list(prunable_leaves(params, mask).values()))]
    # Sorted whole: NumPy's partition is many times slower than its sort where most entries are equal, as zeros are.
    magnitudes = np.sort(np.abs(np.concatenate(kernels or [np.zeros(0)])))
    n_removed = magnitudes.size - int((1 - sparsity) * magnitudes.size)
    return _drop(_norm(magnitudes[:n_removed]), _norm(magnitudes))


def norm_drop(before: PyTree, after: PyTree) -> Drop:
    """Measures what pruning took from a model, over all weights and biases, BatchNorm's too.

    Args:
        before: parameters before pruning.
        after: the same with some entries set to zero.

    Returns:
        The L2 norm of the difference, absolute and relative to that of `before`. For entries set to zero it is
        `sqrt(norm(before)^2 - norm(after)^2)`, without that formula's cancellation.

    References:
        Zimmer, Spiegel, Pokutta, "How I Learned to Stop Worrying and Love Retraining", ICLR 2023: the relative
        norm change that sets the initial learning rate of ALLR.
    """

    def square_of_difference(a: jax.Array, b: jax.Array) -> float:
        return _square(np.subtract(*jax.device_get((a, b))))

    squares = jax.tree.map(square_of_difference, before, after)
    return _drop(math.sqrt(sum(jax.tree.leaves(squares))), _norm(before))


def pruning_instability(accuracy_before: float, accuracy_after: float) -> float | None:
    """Returns the fraction of the accuracy that pruning took; stability is 1 minus that.

    Args:
        accuracy_before: accuracy of the model in [0, 1].
        accuracy_after: accuracy right after pruning, before any retraining.

    Returns:
        `(before - after) / before`, negative if pruning helped; None if there was nothing to lose.

    References:
        Bartoldson et al., "The Generalization-Stability Tradeoff in Neural Network Pruning", NeurIPS 2020.
    """
    return (accuracy_before - accuracy_after) / accuracy_before if accuracy_before else None


def soup_distances(stacked: PyTree | Iterator[np.ndarray]) -> dict[str, float]:
    """Measures how far the candidates of a soup are from one another.

    Args:
        stacked: their parameters, leaves `[m, ...]`; or such leaves one by one.

    Returns:
        `l2_max`, `l2_min`, `l2_mean`: L2 distance over all pairs. `angle_max`, `angle_min`, `angle_mean`: angle at
        the origin over all pairs, in degrees. `barycentre_max`, `barycentre_min`: L2 distance to the mean of all.
        With one candidate all are 0.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        gram = _centred_gram(stacked)
        to_centre = gram[1:, 1:]
        own = np.diagonal(to_centre)
        first, second = np.triu_indices(len(own), k=1)
        squared = np.maximum(own[first] + own[second] - 2 * to_centre[first, second], 0)
        beyond_centre = 2 * gram[0, 1:] + own
        norms = np.sqrt(np.maximum(gram[0, 0] + beyond_centre, 0))
        angles = _angles(squared, norms[first], norms[second], beyond_centre[first] - beyond_centre[second])
        barycentre = np.sqrt(own)
    return {
        **_extremes("l2", np.sqrt(squared)),
        **_extremes("angle", angles),
        "barycentre_max": float(barycentre.max()),
        "barycentre_min": float(barycentre.min()),
    }


def _centred_gram(stacked: PyTree | Iterator[np.ndarray]) -> np.ndarray:
    """Returns the inner products `[1+m, 1+m]` of the mean of all members and of each member's offset from it.

    Members are close to one another and far from the origin: the offsets keep the digits that a Gram matrix of the
    members themselves would lose.
    """
    gram = 0
    for leaf in stacked if isinstance(stacked, Iterator) else jax.tree.leaves(stacked):
        rows = np.reshape(jax.device_get(leaf), (len(leaf), -1))
        for start in range(0, rows.shape[1], _BLOCK_COLUMNS):
            block = rows[:, start : start + _BLOCK_COLUMNS].astype(np.float64)
            centre = block.mean(axis=0, keepdims=True)
            vectors = np.concatenate([centre, block - centre])
            gram = gram + vectors @ vectors.T
    return gram


def _angles(squared: np.ndarray, a: np.ndarray, b: np.ndarray, a2_minus_b2: np.ndarray) -> np.ndarray:
    """Returns the angles in degrees between vectors of norms `a` and `b` whose squared distance is `squared`.

    By the half angle, sin^2 = (squared - (a - b)^2) / 4ab: the arc cosine of a cosine near 1 has no digits left. An
    angle with a zero vector is 0.
    """
    total = a + b
    gap = np.divide(a2_minus_b2, total, out=np.zeros_like(total), where=total != 0)
    sine = np.clip(squared - gap**2, 0, 4 * a * b)
    return np.degrees(2 * np.arctan2(np.sqrt(sine), np.sqrt(4 * a * b - sine)))


def _extremes(name: str, values: np.ndarray) -> dict[str, float]:
    values = values if values.size else np.zeros(1)
    return {
        f"{name}_max": float(values.max()),
        f"{name}_min": float(values.min()),
        f"{name}_mean": float(values.mean()),
    }


def _square(array: np.ndarray) -> float:
    # einsum converts in small buffers: no float64 copy of the array is ever made.
    flat = np.ravel(array)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def _norm(tree: PyTree) -> float:
    return math.sqrt(sum(_square(leaf) for leaf in jax.device_get(jax.tree.leaves(tree))))


def _drop(distance: float, norm: float) -> Drop:
    return Drop(distance, distance / norm if norm else 0.0)
