"""A stack as m trees, one a member, for an executor that runs them one by one with one and the same program."""

from collections.abc import Iterable

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.trees import PyTree


class Apart:
    """The trees of a stack's members; a single leaf to `jax.tree`, indexed like an array `[m, ...]`."""

    def __init__(self, members: Iterable[PyTree]):
        self._members = tuple(members)

    def __getitem__(self, index: int) -> PyTree:
        return self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    def replaced(self, index: int, tree: PyTree) -> "Apart":
        """Returns the stack with another tree in one member's place."""
        return Apart((*self._members[:index], tree, *self._members[index + 1 :]))


def apart(stack: PyTree) -> Apart:
    """Puts each member of a stack on the device as a tree of its own; one that is apart already stays.

    Sliced on the host: on a device every shape of stack would be a program to compile.
    """
    if isinstance(stack, Apart):
        return stack
    m = trees.stack_size(stack)
    on_host = jax.device_get(stack)
    return Apart(jax.device_put(trees.member(on_host, i)) for i in range(m))


def together(stack: PyTree) -> PyTree:
    """Returns leaves `[m, ...]`, on the host where members were apart; a stack that is together stays as it is."""

    def stacked(leaf):
        return trees.stack(jax.device_get(list(leaf))) if isinstance(leaf, Apart) else leaf

    return stacked(stack) if isinstance(stack, Apart) else jax.tree.map(stacked, stack)


def collected(outputs: dict[int, PyTree], m: int) -> PyTree:
    """Stacks what some of m members returned, on the host; the others' are zero."""
    found = jax.device_get(outputs)
    missing = jax.tree.map(np.zeros_like, next(iter(found.values())))
    return trees.stack([found.get(i, missing) for i in range(m)])
