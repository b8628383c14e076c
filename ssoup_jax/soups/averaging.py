"""The soup itself: a weighted mean of candidates, and the mask that they share."""

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import trees
from ssoup_jax.errors import RunError
from ssoup_jax.trees import PyTree

Weights = dict[int, float]
"""Weight above 0 of each ingredient by its place among the candidates; who is not in it is left out."""


def average(candidates: PyTree, weights: Weights) -> PyTree:
    """Averages parameters and BatchNorm statistics; zeros that all ingredients share stay zeros.

    Args:
        candidates: the stacked parameters and BatchNorm statistics, leaves `[m, ...]`; or whatever else adds up
            members by `weighted_sum`, in the order of the weights.
        weights: of any sum. The order counts for the last digits: floating-point sums are made in it.

    Returns:
        The soup, leaves `[...]` of the candidates' dtypes; host arrays stay on the host. Sums of half precision are
        made in single precision. What is no float, such as a counter, is the first ingredient's.
    """
    # Relative to the largest first: weights that are equal are exactly 1 then, whatever their sum rounds to, and the
    # soup is the plain mean, bit for bit.
    shares = np.array(list(weights.values())) / max(weights.values())
    shares /= np.mean(shares)
    if hasattr(candidates, "weighted_sum"):
        total = candidates.weighted_sum(dict(zip(weights, shares.tolist(), strict=True)))
        return jax.tree.map(lambda leaf: leaf / leaf.dtype.type(len(weights)), total)
    places = np.array(list(weights))

    def averaged(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf[places[0]]
        wide = leaf.astype(np.promote_types(leaf.dtype, np.float32), copy=False)
        weighted = wide[places] * np.reshape(shares, (-1, *[1] * (leaf.ndim - 1))).astype(wide.dtype)
        return trees.mean(weighted).astype(leaf.dtype)

    return jax.tree.map(averaged, candidates)


def check_same_mask(first: PyTree, other: PyTree, number: int) -> None:
    """Checks that two candidates share their mask, so that their average is no denser than either.

    Args:
        first: the first candidate's mask.
        other: another's.
        number: which one that is, from 1.

    Raises:
        RunError: they differ; names the first layer in which they do.
    """
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), first, other)
    for path, equal in jax.tree_util.tree_leaves_with_path(same):
        if not equal:
            name = trees.path_name(path)
            raise RunError(f"candidates 1 and {number} have different masks in {name}: their soup would be denser")
