"""The few pytree verbs everybody uses: stack, unstack, mean."""

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

PyTree = jax.typing.ArrayLike | dict | list | tuple


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stacks m trees of one structure along a new leading axis.

    Args:
        trees: m pytrees whose leaves have equal shapes.

    Returns:
        One pytree whose leaves have shape `[m, ...]`; host arrays stay on the host.
    """
    return jax.tree.map(lambda *leaves: leaves[0].__array_namespace__().stack(leaves), *trees)


def member(stacked: PyTree, index: ArrayLike) -> PyTree:
    """Returns the tree at `index` of a stack; the leading axis is gone."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def unstack(stacked: PyTree) -> list[PyTree]:
    """Splits a stack `[m, ...]` into its m trees; the inverse of `stack`."""
    return [member(stacked, i) for i in range(stack_size(stacked))]


def stack_size(stacked: PyTree) -> int:
    """Returns m, the length of the leading axis that every leaf of a stack shares."""
    return len(jax.tree.leaves(stacked)[0])


def mean(stacked: PyTree) -> PyTree:
    """Averages a stack over its leading axis, leaf by leaf: `[m, ...]` to `[...]`; host arrays stay on the host."""
    return jax.tree.map(lambda leaf: leaf.__array_namespace__().mean(leaf, axis=0), stacked)


def path_name(path: tuple) -> str:
    """Spells a key path of `jax.tree_util` as `'layer/kernel'`, the name used in reports and errors."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
