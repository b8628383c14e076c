"""How many weights are exactly zero."""

from collections.abc import Collection

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.pruning.masks import prunable_leaves
from ssoup_jax.trees import PyTree


def sparsity(params: PyTree, mask: PyTree) -> dict[str, float | int | dict[str, float]]:
    """Counts the zeros of a model.

    Args:
        params: the model's parameters; BatchNorm statistics are none.
        mask: says what is prunable; which of it is pruned does not matter.

    Returns:
        `global`: fraction of zeros among all weights and biases, BatchNorm's too. `prunable`: fraction among the
        prunable weights. `per_layer`: fraction in every weight (kernel or BatchNorm scale, no bias) by its path.
        `n_params` and `n_nonzero_params`: numbers of all weights and biases.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import full_mask, sparsity
        >>> params = {"kernel": np.array([0.0, 2.0, 0.0, 1.0]), "bias": np.array([1.0, 1.0])}
        >>> sparsity(params, full_mask(params))["prunable"]
        0.5
    """
    leaves = {trees.path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    sizes = {name: int(np.size(leaf)) for name, leaf in leaves.items()}
    nonzero = {name: int(np.count_nonzero(jax.device_get(leaf))) for name, leaf in leaves.items()}

    def fraction(names: Collection[str]) -> float:
        total = sum(sizes[name] for name in names)
        return (total - sum(nonzero[name] for name in names)) / total if total else 0.0

    return {
        "global": fraction(leaves),
        "prunable": fraction(prunable_leaves(params, mask)),
        "per_layer": {name: fraction([name]) for name in leaves if name.split("/")[-1] != "bias"},
        "n_params": sum(sizes.values()),
        "n_nonzero_params": sum(nonzero.values()),
    }
