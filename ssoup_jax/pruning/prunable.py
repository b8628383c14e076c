"""Which leaves may be pruned: convolution and linear kernels, the first and the last layer included."""

import jax
import numpy as np

from ssoup_jax.trees import PyTree, path_name


def is_prunable(path: tuple) -> bool:
    """Says whether the leaf at a key path of `jax.tree_util` is a kernel: its own name, the last key, is `'kernel'`."""
    return path_name(path[-1:]) == "kernel"


def prunable_leaves(params: PyTree) -> dict[str, jax.Array]:
    """Picks the prunable leaves out of a tree of parameters, or of any tree with that structure, such as a mask.

    Args:
        params: pytree whose leaves carry flax's names.

    Returns:
        The kernels by path name (`'layer/kernel'`), in tree order.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): leaf for path, leaf in leaves if is_prunable(path)}


def full_mask(params: PyTree) -> PyTree:
    """Returns the mask that keeps everything: structure and shapes of `params`, every bool leaf True."""
    # Moved rather than made on the device, where each shape would be a program to compile.
    return jax.tree.map(lambda leaf: jax.device_put(np.ones(leaf.shape, bool)), params)
