"""The uniform soup: the plain mean of all candidates."""

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.errors import RunError
from ssoup_jax.trees import PyTree


def average(candidates: PyTree) -> PyTree:
    """Averages parameters and BatchNorm statistics; zeros that all candidates share stay zeros.

    Args:
        candidates: the stacked parameters and BatchNorm statistics, leaves `[m, ...]`.

    Returns:
        The soup, leaves `[...]`.
    """
    return trees.mean(candidates)


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
