"""What the devices of a mesh tell one another of a stack that is spread over it: members, and sums of them.

A spread stack is what `mesh.put_members` returns. Every process of a pod makes the same calls with the same values.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssoup_jax import trees
from ssoup_jax.stack.mesh import MEMBER, block_on, everywhere, mine
from ssoup_jax.trees import PyTree


def fetch(tree: PyTree, index: int, mesh: Mesh) -> PyTree:
    """Returns one member on the host; in a pod every process has to ask for it, and gets it.

    Args:
        tree: see `put_members`.
        index: its place in the stack.
        mesh: the devices.
    """
    rounds = trees.stack_size(tree) // mesh.shape[MEMBER]
    group, place = divmod(index, rounds)
    if mine(mesh).all():
        device = mesh.devices[group, 0]
        return jax.tree.map(lambda leaf: block_on(leaf, device)[place], tree)
    numbers = everywhere((np.int32(group), np.int32(place)), mesh)
    return jax.device_get(_told(mesh, tree, *numbers))


def fetch_all(tree: PyTree, mesh: Mesh) -> PyTree:
    """Returns all members on the host; in a pod every process has to ask for them, and every device has all of them
    for a moment: for what is small.

    Args:
        tree: see `put_members`.
        mesh: the devices.
    """
    return jax.device_get(tree if mine(mesh).all() else _told_all(mesh, tree))


@functools.partial(jax.jit, static_argnames="mesh")
def _told(mesh, tree, group, place):
    """Sends one member to everybody: its bits are added to zeros, which no number's rounding can spoil."""

    def tell(tree, group, place):
        has_it = jax.lax.axis_index(MEMBER) == group

        def leaf_from_all(leaf):
            kind = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
            if leaf.dtype == bool:  # which has no bits to be read as a number's
                return jax.lax.psum(jnp.where(has_it, leaf[place].astype(kind), 0), MEMBER).astype(bool)
            bits = jax.lax.bitcast_convert_type(leaf[place], kind)
            return jax.lax.bitcast_convert_type(jax.lax.psum(jnp.where(has_it, bits, 0), MEMBER), leaf.dtype)

        return jax.tree.map(leaf_from_all, tree)

    return jax.shard_map(tell, mesh=mesh, in_specs=(P(MEMBER), P(), P()), out_specs=P(), check_vma=False)(
        tree, group, place
    )


@functools.partial(jax.jit, static_argnames="mesh")
def _told_all(mesh, tree):
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


@functools.partial(jax.jit, static_argnames="mesh")
def replaced(mesh: Mesh, tree: PyTree, index: jax.Array, one: PyTree) -> PyTree:
    """Returns a stack with another tree in one member's place; nothing moves but that tree.

    Args:
        mesh: the devices.
        tree: see `put_members`.
        index: the member's place in the stack, int32 `[]`, everywhere.
        one: what is put there, everywhere.
    """

    def put(leaf, own):
        here = (jnp.arange(leaf.shape[0]) == index).reshape(-1, *[1] * own.ndim)
        return jax.lax.with_sharding_constraint(jnp.where(here, own[None], leaf), NamedSharding(mesh, P(MEMBER)))

    return jax.tree.map(put, tree, one)


@functools.partial(jax.jit, static_argnames="mesh")
def weighted_sum(mesh: Mesh, tree: PyTree, places: jax.Array, weights: jax.Array) -> PyTree:
    """Adds up members, each times its weight; one exchange of what one model has, whatever m is.

    Every device adds up one part of the parameters of all members, in the order of `places`, so that no mesh changes
    a digit; a sum that is made on the way from device to device would depend on the way.

    Args:
        mesh: the devices.
        tree: see `put_members`.
        places: the members' places in the stack, int32 `[k]`, everywhere.
        weights: theirs, float32 `[k]`, everywhere.

    Returns:
        The sum, leaves `[...]`, on all devices.
    """
    groups = mesh.shape[MEMBER]

    def add(tree, places, weights):
        def of_leaf(leaf):
            own = leaf.reshape(leaf.shape[0], -1)
            size = own.shape[1]
            parts = jnp.pad(own, ((0, 0), (0, -size % groups))).reshape(leaf.shape[0], groups, -1)
            # [groups, rounds, size / groups]: this device's part of every member, group after group.
            parts = jax.lax.all_to_all(parts.swapaxes(0, 1), MEMBER, 0, 0)
            parts = parts.reshape(groups * leaf.shape[0], -1)

            def body(i, total):
                return total + parts[places[i]] * weights[i].astype(leaf.dtype)

            first = parts[places[0]] * weights[0].astype(leaf.dtype)
            total = jax.lax.fori_loop(1, places.shape[0], body, first)
            return jax.lax.all_gather(total, MEMBER, tiled=True)[:size].reshape(leaf.shape[1:])

        return jax.tree.map(of_leaf, tree)

    return jax.shard_map(add, mesh=mesh, in_specs=(P(MEMBER), P(), P()), out_specs=P(), check_vma=False)(
        tree, places, weights
    )
