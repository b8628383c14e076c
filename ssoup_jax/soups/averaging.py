"""The soup itself: a weighted mean of candidates, and the mask that they share."""

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.errors import RunError
from ssoup_jax.trees import PyTree

Weights = dict[int, float]
"""Weight above 0 of each ingredient by its place among the candidates; who is not in it is left out."""


def average(candidates: PyTree, weights: Weights) -> PyTree:
    """Averages parameters and BatchNorm statistics; zeros that all ingredients share stay zeros.

    Args:
        candidates: the stacked parameters and BatchNorm statistics, float leaves `[m, ...]`.
        weights: of any sum. The order counts for the last digits: floating-point sums are made in it.

    Returns:
        The soup, leaves `[...]`; host arrays stay on the host.
    """
    # Relative to the largest first: weights that are equal are exactly 1 then, whatever their sum rounds to, and the
    # soup is the plain mean, bit for bit.
    shares = np.array(list(weights.values())) / max(weights.values())
    shares /= np.mean(shares)
    places = np.array(list(weights))

    def weighted(leaf: jax.Array) -> jax.Array:
        return leaf[places] * np.reshape(shares, (-1, *[1] * (leaf.ndim - 1))).astype(leaf.dtype)

    return trees.mean(jax.tree.map(weighted, candidates))


def common_mask(masks: list[PyTree]) -> PyTree:
    """Returns the one mask that all candidates share.

    Args:
        masks: one per candidate.

    Raises:
        RunError: two masks differ, so that their average would be denser than either.
    """
    first = masks[0]
    for number, mask in enumerate(masks[1:], start=2):
        same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), first, mask)
        for path, equal in jax.tree_util.tree_leaves_with_path(same):
            if not equal:
                name = trees.path_name(path)
                raise RunError(f"candidates 1 and {number} have different masks in {name}: their soup would be denser")
    return first
