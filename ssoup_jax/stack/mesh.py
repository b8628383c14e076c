"""Members and batches spread over devices: groups share the members among them, the devices of a group each batch.

Members never need one another's numbers. What the devices of a group say to one another is the task's to say, see
`training.step`. Every process of a pod makes the same calls with the same values; a device is given its part of them.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssoup_jax import trees
from ssoup_jax.data.feeds import Part
from ssoup_jax.stack.names import Shape
from ssoup_jax.trees import PyTree

MEMBER, DATA = "member", "data"


@functools.cache
def of(shape: Shape) -> Mesh:
    """Returns the mesh of all devices of all processes: a group's are neighbours, so within one host if they can be."""
    return over(tuple(jax.devices()), shape)


def over(devices: Sequence[jax.Device], shape: Shape) -> Mesh:
    """Returns a mesh of the given devices, as many as it has places."""
    return Mesh(np.array(devices).reshape(shape), (MEMBER, DATA))


def everywhere(tree: PyTree, mesh: Mesh) -> PyTree:
    """Copies a tree to every device; what is there already is not copied again."""
    return _put(tree, NamedSharding(mesh, P()))


def put_members(stack: PyTree, mesh: Mesh) -> PyTree:
    """Gives every group of devices its members.

    Args:
        stack: leaves `[m, ...]`, on the host or on one device.
        mesh: the devices.

    Returns:
        Leaves `[groups * ceil(m / groups), ...]`; what fills up repeats the first member.
    """
    missing = -trees.stack_size(stack) % mesh.shape[MEMBER]

    def filled(leaf):
        leaf = jax.device_get(leaf)
        return np.concatenate([leaf, np.repeat(leaf[:1], missing, 0)]) if missing else leaf

    return _put(jax.tree.map(filled, stack), NamedSharding(mesh, P(MEMBER)))


def needed(m: int, mesh: Mesh) -> list[int]:
    """Returns the members that some device of this process runs."""
    length, own = -(-m // mesh.shape[MEMBER]), mine(mesh).any(1)
    return [index for index in range(m) if own[index // length]]


def part(m: int, mesh: Mesh) -> Part | None:
    """Returns what this process needs of the batches of m members; None: all of it."""
    owned = mine(mesh)
    if owned.all():
        return None
    ranks = np.flatnonzero(owned.any(0))
    return Part(tuple(needed(m, mesh)), int(ranks[0]), int(ranks[-1]) + 1, mesh.shape[DATA])


def mine(mesh: Mesh) -> np.ndarray:
    """Tells which devices are this process's, bool `[groups, devices of each]`."""
    return np.vectorize(lambda device: device.process_index == jax.process_index())(mesh.devices)


def read_members(m: int, read: Callable[[int], PyTree], mesh: Mesh) -> PyTree:
    """Gives every group of devices its members, of which a process reads no other's; see `put_members`.

    Args:
        m: how many there are.
        read: returns a member, by its place in the stack, on the host.
        mesh: the devices.
    """
    length = -(-m // mesh.shape[MEMBER])
    total, found = mesh.shape[MEMBER] * length, {index: read(index) for index in needed(m, mesh)}
    # What fills up is nobody's, so anybody will do.
    some = next(iter(found.values())) if found else read(0)
    leaves = {index: jax.tree.leaves(own) for index, own in found.items()}

    def put(number: int, leaf) -> jax.Array:
        def rows(index):
            own = [leaves[i][number] if i in leaves else leaf for i in range(*index[0].indices(total))]
            return np.stack(own)[(slice(None), *index[1:])]

        return jax.make_array_from_callback((total, *np.shape(leaf)), NamedSharding(mesh, P(MEMBER)), rows)

    return jax.tree.unflatten(
        jax.tree.structure(some), [put(number, leaf) for number, leaf in enumerate(jax.tree.leaves(some))]
    )


def _put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    def put(leaf):
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(jax.device_get(leaf))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def on_one(tree: PyTree) -> PyTree:
    """Takes a tree that was copied to many devices back to one; other leaves, host arrays too, stay as they are."""

    def take(leaf):
        return leaf.addressable_data(0) if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1 else leaf

    return jax.tree.map(take, tree)


def own(tree: PyTree, mesh: Mesh) -> Iterator[tuple[int, PyTree]]:
    """Yields the members that this process answers for, the first device of whose group is its own, on the host.

    Args:
        tree: see `put_members`.
        mesh: the devices.

    Yields:
        The member's place in the stack, and its tree.
    """
    rounds = trees.stack_size(tree) // mesh.shape[MEMBER]
    for group in np.flatnonzero(mine(mesh)[:, 0]).tolist():
        block = jax.tree.map(functools.partial(block_on, device=mesh.devices[group, 0]), tree)
        yield from ((group * rounds + i, trees.member(block, i)) for i in range(rounds))


def block_on(leaf: jax.Array, device: jax.Device) -> np.ndarray:
    """Returns the members that one device has of a leaf of `put_members`, on the host."""
    return jax.device_get(next(shard.data for shard in leaf.addressable_shards if shard.device == device))


def rounds(active: np.ndarray, size: int, groups: int, chunk: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lays out which of its own members each group runs, call by call; nobody's members move.

    Args:
        active: indices of the members to run, int `[k]`.
        size: m.
        groups: of the mesh.
        chunk: how many members a device runs side by side at most; None: all.

    Returns:
        For each call, int32 `[groups * width]` each: the places, in its group's own block, of the members that run,
        and the places where their results belong: one beyond the block, which is nowhere, for those that only fill up.
    """
    length = -(-size // groups)
    owned = [[int(i) % length for i in active if int(i) // length == group] for group in range(groups)]
    most = max(map(len, owned))
    n_calls = 1 if chunk is None else -(-most // chunk)
    width = -(-most // n_calls)
    calls = []
    for start in range(0, most, width):
        parts = [places[start : start + width] for places in owned]
        slots = [part + [(part or [0])[0]] * (width - len(part)) for part in parts]
        targets = [part + [length] * (width - len(part)) for part in parts]
        calls.append((np.array(slots, np.int32).ravel(), np.array(targets, np.int32).ravel()))
    return calls


@functools.partial(jax.jit, static_argnames=("execute", "fn", "mesh", "size"), donate_argnames="state")
def sharded(execute: Callable, fn: Callable, mesh: Mesh, size: int, shared, state, inputs, slots, targets):
    """Runs some members of a stack, each on the devices of its group.

    Args:
        execute: how one device runs several members: `(fn, shared, state, inputs) -> (state, outputs)`, all stacked.
        fn: see `executors.run`.
        mesh: the devices.
        size: m.
        shared: on all of them.
        state, inputs: see `put_members`; the state is donated.
        slots, targets: see `rounds`; None: all members run.

    Returns:
        The stack's new state, and the outputs, leaves `[m, ...]`, on all devices; zero of members that did not run.
    """

    def of_a_device(shared, state, inputs, slots, targets):
        if slots is None:
            return execute(fn, shared, state, inputs)
        ran, outputs = execute(fn, shared, *trees.member((state, inputs), slots))

        def put(all_, some):
            return all_.at[targets].set(some, mode="drop")

        zeros = jax.tree.map(lambda some: jnp.zeros((trees.stack_size(inputs), *some.shape[1:]), some.dtype), outputs)
        return jax.tree.map(put, state, ran), jax.tree.map(put, zeros, outputs)

    # Groups never hear from one another, and inside a group the task says what is summed. There is nothing left that
    # tracking what varies could get right or wrong, and without it a member's function needs no casts.
    spread = jax.shard_map(
        of_a_device,
        mesh=mesh,
        in_specs=(P(), P(MEMBER), P(MEMBER), P(MEMBER), P(MEMBER)),
        out_specs=P(MEMBER),
        check_vma=False,
    )
    state, outputs = spread(shared, state, inputs, slots, targets)
    outputs = jax.lax.with_sharding_constraint(outputs, NamedSharding(mesh, P()))
    return state, trees.member(outputs, slice(size))
