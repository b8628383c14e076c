"""Members spread over devices: each device runs some of them, and none ever needs another's numbers."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssoup_jax import trees
from ssoup_jax.trees import PyTree

AXIS = "member"


@functools.cache
def all_devices() -> Mesh:
    """Returns the mesh of all devices along the one axis `member`."""
    return Mesh(np.array(jax.devices()), (AXIS,))


def on_all(tree: PyTree) -> PyTree:
    """Copies a tree to every device; what is there already is not copied again."""
    return jax.device_put(tree, NamedSharding(all_devices(), P()))


def on_one(tree: PyTree) -> PyTree:
    """Takes a tree that was spread or copied back to one device; other leaves, host arrays too, stay as they are."""

    def take(leaf):
        if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
            return leaf
        # A copy is on that device already; only what is spread must be fetched.
        return leaf.addressable_data(0) if leaf.is_fully_replicated else jax.device_put(leaf, jax.devices()[0])

    return jax.tree.map(take, tree)


def spread(stack: PyTree) -> PyTree:
    """Spreads a stack over all devices; one that they do not divide evenly is copied to all of them."""
    return jax.device_put(stack, _home(stack))


def _home(stack: PyTree) -> NamedSharding:
    mesh = all_devices()
    return NamedSharding(mesh, P() if jax.tree.leaves(stack)[0].shape[0] % mesh.size else P(AXIS))


def call(
    execute: Callable, fn: Callable, shared: PyTree, state: PyTree, inputs: PyTree, active: np.ndarray
) -> tuple[Callable, tuple]:
    """Returns the program that runs the active members of a stack, spread over all devices, and its arguments.

    Each device runs `ceil(k / devices)` members; where that is more than there are, copies fill up, whose results are
    dropped. The program returns the stack's new state and its outputs, leaves `[m, ...]`; outputs of members that did
    not run are zero.

    Args:
        execute: how one device runs its own members: `(fn, shared, state, inputs) -> (state, outputs)`, all stacked.
        fn: see `executors.run`, as for the other arguments.
        shared: what is not on all devices yet is copied there at every call, see `on_all`.
        state: leaves `[m, ...]`; donated.
        inputs: leaves `[m, ...]`.
        active: indices of the members to run, int `[k]`, k > 0.
    """
    mesh, size = all_devices(), trees.stack_size((state, inputs))
    home = _home((state, inputs))
    state, inputs = jax.device_put((state, inputs), home)
    whole = len(active) == size and not size % mesh.size
    slots, targets = (None, None) if whole else on_all(_slots(active, mesh.size, size))
    return _sharded, (execute, fn, home, on_all(shared), state, inputs, slots, targets)


def _slots(active: np.ndarray, n_devices: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives every device as many slots as the fullest one needs.

    Returns:
        The member that each slot runs, and where its results belong: `size`, which is nowhere, for one that fills up.
    """
    rounds = -(-len(active) // n_devices)
    slots, targets = [], []
    for own in np.array_split(active, n_devices):
        missing = rounds - len(own)
        slots += [*own, *[active[0]] * missing]
        targets += [*own, *[size] * missing]
    return np.array(slots, np.int32), np.array(targets, np.int32)


@functools.partial(jax.jit, static_argnames=("execute", "fn", "home"), donate_argnames="state")
def _sharded(execute, fn, home, shared, state, inputs, slots, targets):
    # Nothing crosses between devices inside, so there is nothing that tracking what varies could get right or wrong,
    # and without it a member's function needs no casts.
    spread = jax.shard_map(
        functools.partial(execute, fn),
        mesh=home.mesh,
        in_specs=(P(), P(AXIS), P(AXIS)),
        out_specs=P(AXIS),
        check_vma=False,
    )
    if slots is None:
        new_state, outputs = spread(shared, state, inputs)
    else:
        ran, own = spread(shared, *trees.member((state, inputs), slots))

        def put(all_, some):
            return all_.at[targets].set(some, mode="drop")

        new_state = jax.tree.map(put, state, ran)
        size = trees.stack_size((state, inputs))
        outputs = jax.tree.map(lambda some: put(jnp.zeros((size, *some.shape[1:]), some.dtype), some), own)
    constrain = jax.lax.with_sharding_constraint
    return constrain(new_state, home), constrain(outputs, NamedSharding(home.mesh, P()))
