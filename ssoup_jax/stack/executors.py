"""How a stack executes: the same pure single-member function, for all members, under one of several executors."""

import functools
import re
from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import trees
from ssoup_jax.errors import SettingsError, unknown
from ssoup_jax.stack import mesh
from ssoup_jax.trees import PyTree

FORMS = (
    *("auto", "map", "vmap", "unroll", "loop"),
    *("vmap:K", "unroll:K", "shard", "shard:map", "shard:vmap", "shard:unroll"),
)
"""Every form an execution can take; K is how many members run side by side at most, behind `shard` on each device."""

INDEPENDENT = ("map", "loop")
"""Executors under which a member's last bits do not depend on which others run."""

_FORM = re.compile(r"(shard:)?(map|vmap|unroll|loop)(?::(.*))?")

MemberFn = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


class Execution(NamedTuple):
    """What the name of an executor means.

    Attributes:
        name: how one device runs its members: `map`, `vmap`, `unroll` or `loop`.
        chunk: how many of them side by side at most; None: all.
        sharded: whether members are spread over all devices.
    """

    name: str
    chunk: int | None = None
    sharded: bool = False

    def __str__(self) -> str:
        return "shard:" * self.sharded + self.name + ("" if self.chunk is None else f":{self.chunk}")


def parse(execution: str) -> Execution:
    """Reads the name of an executor; `'auto'` and a bare `'shard'` mean what is best guess on this backend.

    Raises:
        SettingsError: see `check`.
    """
    check(execution)
    if execution in ("auto", "shard"):
        # A CPU has no use for wider operations than one member fills already, and keeps one member's state in cache:
        # a loop over members inside the program is fastest. An accelerator wants them side by side.
        return Execution("map" if jax.default_backend() == "cpu" else "vmap", sharded=execution == "shard")
    sharded, name, chunk = _FORM.fullmatch(execution).groups()
    return Execution(name, chunk and int(chunk), bool(sharded))


def check(execution: str) -> None:
    """Checks the name of an executor without starting a backend.

    Raises:
        SettingsError: it is none of `FORMS`, with the nearest one.
    """
    if execution in ("auto", "shard"):
        return
    match = _FORM.fullmatch(execution)
    if match is None:
        raise unknown("execution", execution, FORMS)
    sharded, name, chunk = match.groups()
    if (sharded and name == "loop") or (chunk is not None and name in ("map", "loop")):
        raise unknown("execution", execution, FORMS)
    if chunk is not None and not re.fullmatch("[1-9][0-9]{0,8}", chunk):
        raise SettingsError(f"execution: found {execution!r}; after {name!r} comes a number of members, at least 1")


def resolve(execution: str) -> str:
    """Returns the full name of an executor: `'auto'` and `'shard'` go by the backend, any other stays as it is."""
    return str(parse(execution))


def convolution(execution: str) -> str:
    """Names the convolution (`models.build(conv=...)`) that an executor needs."""
    return "unroll" if parse(execution).name == "unroll" else "plain"


def place(execution: str, tree: PyTree) -> PyTree:
    """Puts what all members share, such as the images, where an executor wants it.

    `run` does the same at every call; large arrays are better placed once, so that no call has to copy them.

    Args:
        execution: see `run`.
        tree: arrays on the host or on any devices.

    Returns:
        The tree: on all devices for `shard`, else on one, or on the host as it was.
    """
    return mesh.on_all(tree) if parse(execution).sharded else mesh.on_one(tree)


@functools.cache
def bind(fn: Callable, *fixed: Hashable) -> MemberFn:
    """Fixes the leading arguments of a function; equal calls return one object, so that it compiles once."""
    return functools.partial(fn, *fixed)


def run(
    execution: str, fn: MemberFn, shared: PyTree, state: PyTree, inputs: PyTree, active: np.ndarray | None = None
) -> tuple[PyTree, PyTree]:
    """Runs `fn(shared, state, inputs) -> (state, outputs)` for the active members of a stack.

    Args:
        execution: `map` loops over the members on the device; `vmap` batches them; `unroll` is `vmap` for a model whose
            convolutions loop over the members; `loop` calls the program once for each member. `vmap:4` and `unroll:4`
            take at most 4 members at a time, in chunks as equal as can be. `shard:NAME` spreads the members over all
            devices, each of which runs its own by NAME; `shard` alone chooses NAME by the backend, as does `auto` for
            one device.
        fn: pure, for one member; hashable and always the same object for the same work, or it is compiled again.
        shared: what all members share.
        state: the stack's state, leaves `[m, ...]`; donated.
        inputs: what each member has to itself, leaves `[m, ...]`.
        active: indices of the members to run, int `[k]`, k > 0; all by default. The others' states come back unchanged.

    Returns:
        The stack's new state and its outputs, leaves `[m, ...]`; outputs of members that did not run are zero.

    Raises:
        SettingsError: there is no such executor.
    """
    name, chunk, sharded = parse(execution)
    size = trees.stack_size((state, inputs))
    active = np.arange(size) if active is None else np.asarray(active)
    if not sharded:
        shared, state, inputs = mesh.on_one((shared, state, inputs))
    slots = _on_device(np.resize(active, size))
    if name == "map" and not sharded:
        return _mapped(fn, shared, state, inputs, slots, _on_device(0), _on_device(len(active)))

    def run_part(part: np.ndarray, state: PyTree) -> tuple[PyTree, PyTree]:
        if sharded:
            return mesh.run(_each if name == "map" else _together, fn, shared, state, inputs, active[part])
        if name == "loop":
            return _mapped(fn, shared, state, inputs, slots, _on_device(part[0]), _on_device(part[0] + 1))
        return _batched(fn, shared, state, inputs, _on_device(active[part]))

    # Chunks are calls: a loop over them on the device gains nothing, and needs a program for each number of members.
    at_once = 1 if name == "loop" else (chunk or size) * (len(jax.devices()) if sharded else 1)
    outputs = None
    for part in np.array_split(np.arange(len(active)), -(-len(active) // at_once)):
        state, own = run_part(part, state)
        outputs = own if outputs is None else jax.tree.map(jnp.add, outputs, own)
    return state, outputs


def _on_device(numbers: np.ndarray | int) -> jax.Array:
    # On purpose: what moves unasked is an error under a transfer guard.
    return jax.device_put(np.asarray(numbers, np.int32))


@functools.partial(jax.jit, static_argnames="fn", donate_argnames="state")
def _mapped(fn, shared, state, inputs, slots, first, last):
    return _loop(fn, shared, state, inputs, slots, first, last)


def _loop(fn, shared, state, inputs, slots, first, last):
    fn = jax.jit(fn, inline=True)  # is traced once, though it is asked twice
    one = jax.eval_shape(fn, shared, *trees.member((state, inputs), 0))[1]
    outputs = jax.tree.map(lambda leaf: jnp.zeros((slots.shape[0], *leaf.shape), leaf.dtype), one)

    def body(i, carry):
        index = slots[i]
        result = fn(shared, *trees.member((carry[0], inputs), index))
        return jax.tree.map(lambda all_, one: all_.at[index].set(one), carry, result)

    return jax.lax.fori_loop(first, last, body, (state, outputs))


@functools.partial(jax.jit, static_argnames="fn", donate_argnames="state")
def _batched(fn, shared, state, inputs, active):
    size = trees.stack_size((state, inputs))
    chosen = (state, inputs) if active.shape[0] == size else trees.member((state, inputs), active)
    new_state, outputs = _together(fn, shared, *chosen)
    if active.shape[0] == size:
        return new_state, outputs

    def put(all_, some):
        return all_.at[active].set(some)

    zeros = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), outputs)
    return jax.tree.map(put, state, new_state), jax.tree.map(put, zeros, outputs)


def _together(fn, shared, state, inputs):
    return jax.vmap(functools.partial(fn, shared))(state, inputs)


def _each(fn, shared, state, inputs):
    size = trees.stack_size((state, inputs))
    return _loop(fn, shared, state, inputs, jnp.arange(size), 0, size)
