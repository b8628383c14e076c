"""A stack in the form in which its executor holds it: leaves `[m, ...]`, apart, or spread over a mesh.

The latter two are a single leaf to `jax.tree` each, and are indexed like an array `[m, ...]`.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from ssoup_jax import trees
from ssoup_jax.stack import exchange
from ssoup_jax.stack import mesh as meshes
from ssoup_jax.trees import PyTree


class Apart:
    """The trees of m members, one by one, for an executor that runs them with one and the same program."""

    def __init__(self, members: Iterable[PyTree]):
        self._members = tuple(members)

    def __getitem__(self, index: int) -> PyTree:
        return self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    def replaced(self, index: int, tree: PyTree) -> "Apart":
        """Returns the stack with another tree in one member's place."""
        return Apart((*self._members[:index], tree, *self._members[index + 1 :]))


class Spread:
    """The members of a stack over a mesh: each group of devices has as many as the next, and what fills up is nobody's.

    Attributes:
        tree: leaves `[groups * rounds, ...]`, cut over the groups of the mesh; the first m are the members.
        mesh: the devices.
    """

    def __init__(self, tree: PyTree, size: int, mesh: Mesh):
        self.tree, self.mesh, self._size = tree, mesh, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> PyTree:
        """Returns a member on the host of every process, which all have to ask for it."""
        return exchange.fetch(self.tree, index, self.mesh)

    def replaced(self, index: int, tree: PyTree) -> "Spread":
        """Returns the stack with another tree, on the host of every process, in one member's place."""
        number, one = meshes.everywhere((np.int32(index), tree), self.mesh)
        return Spread(exchange.replaced(self.mesh, self.tree, number, one), len(self), self.mesh)

    def weighted_sum(self, weights: dict[int, float]) -> PyTree:
        """Adds up the members that have a weight, in its order; on the host of every process."""
        places, own = np.array(list(weights), np.int32), np.array(list(weights.values()), np.float32)
        return jax.device_get(exchange.weighted_sum(self.mesh, self.tree, *meshes.everywhere((places, own), self.mesh)))

    def all(self) -> PyTree:
        """Returns all members, leaves `[m, ...]`, on the host of every process, which all have to ask for it."""
        return jax.tree.map(lambda leaf: leaf[: len(self)], exchange.fetch_all(self.tree, self.mesh))

    def own(self) -> Iterator[tuple[int, PyTree]]:
        """Yields the members, with their numbers, whose first device is this process's; on the host."""
        yield from ((index, tree) for index, tree in meshes.own(self.tree, self.mesh) if index < self._size)


Held = PyTree | Apart | Spread


def apart(stack: Held) -> Apart:
    """Puts each member of a stack on the device as a tree of its own; one that is apart already stays.

    Sliced on the host: on a device every shape of stack would be a program to compile.
    """
    if isinstance(stack, Apart):
        return stack
    on_host = jax.device_get(together(stack))
    return Apart(jax.device_put(trees.member(on_host, i)) for i in range(trees.stack_size(on_host)))


def spread(stack: Held, mesh: Mesh) -> Spread:
    """Spreads a stack over a mesh; one that is spread over the same already stays."""
    if isinstance(stack, Spread) and stack.mesh == mesh:
        return stack
    stack = together(stack)
    return Spread(meshes.put_members(stack, mesh), trees.stack_size(stack), mesh)


def together(stack: Held) -> PyTree:
    """Returns leaves `[m, ...]`, on the host where members were not together; of parts of a tree, too."""

    def stacked(leaf):
        if isinstance(leaf, Apart):
            return trees.stack(jax.device_get(list(leaf)))
        return leaf.all() if isinstance(leaf, Spread) else leaf

    return jax.tree.map(stacked, stack)


def member(stack: Held, index: int) -> PyTree:
    """Returns one member's tree of a stack in any form; of a spread one on the host of every process."""
    return stack[index] if isinstance(stack, Apart | Spread) else trees.member(stack, index)


def is_empty(stack: Held) -> bool:
    """Tells whether a stack's trees have no leaves."""
    return not jax.tree.leaves(stack.tree if isinstance(stack, Spread) else member(stack, 0))


def own(stack: Held) -> Iterator[tuple[int, PyTree]]:
    """Yields the members that this process answers for, with their places, on the host; of one process, all."""
    if isinstance(stack, Spread):
        yield from stack.own()
    else:
        # Sliced on the host, where that compiles nothing.
        yield from enumerate(trees.unstack(jax.device_get(together(stack))))


def replaced(stack: Held, index: int, tree: PyTree) -> Held:
    """Returns a stack with another tree, on the host, in one member's place."""
    if isinstance(stack, Apart | Spread):
        return stack.replaced(index, tree)

    def put(leaf, own):
        copy = np.array(jax.device_get(leaf))
        copy[index] = own
        return copy

    return jax.tree.map(put, stack, tree)


def leaves(stack: Held) -> Iterator[np.ndarray]:
    """Yields the leaves `[m, ...]` of a stack on the host, of a spread one so that no host ever has more than one."""
    if not isinstance(stack, Spread):
        yield from jax.device_get(jax.tree.leaves(together(stack)))
        return
    for leaf in jax.tree.leaves(stack.tree):
        yield together(Spread(leaf, len(stack), stack.mesh))


def combine(function: Callable[..., PyTree], *stacks: Held) -> Held:
    """Applies what only takes trees apart and puts them together to stacks that are held alike.

    Args:
        function: of one tree for each stack, without regard to the leading axis of its leaves.
        stacks: all in one form and of one size.
    """
    first = stacks[0]
    if isinstance(first, Spread):
        return Spread(function(*(stack.tree for stack in stacks)), len(first), first.mesh)
    if isinstance(first, Apart):
        return Apart(function(*own) for own in zip(*stacks, strict=True))
    return function(*stacks)


def collected(outputs: dict[int, PyTree], m: int) -> PyTree:
    """Stacks what some of m members returned, on the host; the others' are zero."""
    found = jax.device_get(outputs)
    missing = jax.tree.map(np.zeros_like, next(iter(found.values())))
    return trees.stack([found.get(i, missing) for i in range(m)])
