"""How a stack executes: one pure function of a single member, for all members, under one of several executors."""

import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import trees
from ssoup_jax.models.ops.convolution import UNROLLED
from ssoup_jax.stack import mesh
from ssoup_jax.stack.apart import Apart, apart, collected, together
from ssoup_jax.stack.names import parse
from ssoup_jax.trees import PyTree

MemberFn = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


@functools.cache
def bind(fn: Callable, *fixed: Hashable) -> MemberFn:
    """Fixes the leading arguments of a function; equal calls return one object, so that it compiles once."""
    return functools.partial(fn, *fixed)


def place(execution: str, shared: PyTree) -> PyTree:
    """Puts what all members share, such as the images, where an executor wants it.

    `run` does the same at every call; large arrays are better placed once, so that no call has to copy them.
    """
    return mesh.on_all(shared) if parse(execution).sharded else mesh.on_one(jax.device_put(shared))


def hold(execution: str, stack: PyTree) -> PyTree:
    """Puts a stack where and in the form in which an executor wants it.

    `run` does the same at every call; what serves many calls is better held once.

    Args:
        execution: full name of an executor.
        stack: leaves `[m, ...]` on the host or on any devices, or held for another executor.

    Returns:
        The stack as `run` takes and returns it; `apart.together` makes leaves `[m, ...]` of it again.
    """
    name, _, sharded = parse(execution)
    if not jax.tree.leaves(stack):
        return stack
    if name == "loop":
        return apart(stack)
    return mesh.spread(together(stack)) if sharded else mesh.on_one(jax.device_put(together(stack)))


def run(
    execution: str, fn: MemberFn, shared: PyTree, state: PyTree, inputs: PyTree, active: np.ndarray | None = None
) -> tuple[PyTree, PyTree]:
    """Runs `fn(shared, state, inputs) -> (state, outputs)` for the active members of a stack.

    Args:
        execution: `map` loops over the members on the device; `vmap` batches them; `unroll` is `vmap` whose
            convolutions loop over the members; `loop` calls a program for one member, the same for every m, once for
            each. `vmap:4` and `unroll:4` take at most 4 members at a time, in chunks as equal as can be. `shard:NAME`
            spreads the members over all devices, each of which runs its own by NAME.
        fn: pure, for one member; hashable and always the same object for the same work, or it is compiled again.
        shared: what all members share.
        state: the stack's state, see `hold`; donated.
        inputs: what each member has to itself, leaves `[m, ...]`, held or not.
        active: indices of the members to run, int `[k]`, k > 0; all by default. The others' states come back unchanged.

    Returns:
        The stack's new state, held, and its outputs, leaves `[m, ...]`; outputs of members that did not run are zero.

    Raises:
        SettingsError: there is no such executor.
    """
    m, active = _members(state, inputs, active)
    state = hold(execution, state)
    if parse(execution).name == "loop":
        outputs = {}
        for i in active:
            program, arguments = _alone(fn, shared, state, inputs, i)
            own, outputs[i] = program(*arguments)
            state = state.replaced(i, own) if isinstance(state, Apart) else state
        return state, collected(outputs, m)
    outputs = None
    for part in _parts(execution, active, m):
        program, arguments = _some(execution, fn, shared, state, inputs, part)
        state, own = program(*arguments)
        outputs = own if outputs is None else jax.tree.map(jnp.add, outputs, own)
    return state, outputs


def compiled(
    execution: str, fn: MemberFn, shared: PyTree, state: PyTree, inputs: PyTree, active: np.ndarray | None = None
) -> list[jax.stages.Compiled]:
    """Compiles what `run` calls with these arguments, unless that is done already; computes nothing.

    Returns:
        The programs, one for each width of the chunks.
    """
    m, active = _members(state, inputs, active)
    state = hold(execution, state)
    if parse(execution).name == "loop":
        calls = [_alone(fn, shared, state, inputs, active[0])]
    else:
        parts = {len(part): part for part in _parts(execution, active, m)}
        calls = [_some(execution, fn, shared, state, inputs, part) for part in parts.values()]
    return [program.lower(*arguments).compile() for program, arguments in calls]


def lowered(
    execution: str, fn: MemberFn, shared: PyTree, state: PyTree, inputs: PyTree, sharding: jax.sharding.Sharding
) -> jax.stages.Lowered:
    """Lowers what `run` calls for all members, of shapes alone and for a device that need not be there.

    Args:
        execution: full name of an executor of one device that takes all members at once.
        fn: see `run`.
        shared, state, inputs: see `run`, as `jax.ShapeDtypeStruct`.
        sharding: where the arguments would lie.
    """
    name, m = parse(execution).name, trees.stack_size((state, inputs))

    def there(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    if name == "loop":
        state, inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (state, inputs))
    shared, state, inputs = jax.tree.map(there, (shared, state, inputs))
    if name == "loop":
        return _single.lower(fn, shared, state, inputs)
    number, numbers = (there(np.zeros(shape, np.int32)) for shape in ((), (m,)))
    if name == "map":
        return _mapped.lower(fn, shared, state, inputs, numbers, number)
    return _batched.lower(_EXECUTE[name], fn, shared, state, inputs, numbers)


def _members(state: PyTree, inputs: PyTree, active: np.ndarray | None) -> tuple[int, np.ndarray]:
    m = trees.stack_size((state, inputs))
    return m, np.arange(m) if active is None else np.asarray(active)


def _parts(execution: str, active: np.ndarray, m: int) -> Iterator[np.ndarray]:
    """Cuts the active members into what one call runs."""
    name, chunk, sharded = parse(execution)
    # Chunks are calls: a loop over them on the device gains nothing, and needs a program for each number of members.
    at_once = (chunk or m) * (len(jax.devices()) if sharded else 1)
    yield from np.array_split(active, 1 if name == "map" else -(-len(active) // at_once))


def _alone(fn, shared, state, inputs, i: int) -> tuple[Callable, tuple]:
    """Returns the program that runs one member, and its arguments."""
    return _single, (fn, mesh.on_one(shared), trees.member(state, i), jax.device_put(trees.member(inputs, i)))


def _some(execution: str, fn, shared, state, inputs, part: np.ndarray) -> tuple[Callable, tuple]:
    """Returns the program that runs some members at once, and its arguments."""
    name, _, sharded = parse(execution)
    if sharded:
        return mesh.call(_EXECUTE[name], fn, shared, state, together(inputs), part)
    shared, inputs = mesh.on_one((shared, jax.device_put(together(inputs))))
    if name == "map":
        slots = np.resize(part, trees.stack_size((state, inputs)))
        return _mapped, (fn, shared, state, inputs, _on_device(slots), _on_device(len(part)))
    return _batched, (_EXECUTE[name], fn, shared, state, inputs, _on_device(part))


def _on_device(numbers: np.ndarray | int) -> jax.Array:
    # On purpose: what moves unasked is an error under a transfer guard.
    return jax.device_put(np.asarray(numbers, np.int32))


@functools.partial(jax.jit, static_argnames="fn", donate_argnames="state")
def _single(fn, shared, state, inputs):
    return fn(shared, state, inputs)


@functools.partial(jax.jit, static_argnames="fn", donate_argnames="state")
def _mapped(fn, shared, state, inputs, slots, n_active):
    return _loop(fn, shared, state, inputs, slots, n_active)


def _loop(fn, shared, state, inputs, slots, n_active):
    fn = jax.jit(fn, inline=True)  # is traced once, though it is asked twice
    one = jax.eval_shape(fn, shared, *trees.member((state, inputs), 0))[1]
    outputs = jax.tree.map(lambda leaf: jnp.zeros((slots.shape[0], *leaf.shape), leaf.dtype), one)

    def body(i, carry):
        index = slots[i]
        result = fn(shared, *trees.member((carry[0], inputs), index))
        return jax.tree.map(lambda all_, one: all_.at[index].set(one), carry, result)

    return jax.lax.fori_loop(0, n_active, body, (state, outputs))


@functools.partial(jax.jit, static_argnames=("execute", "fn"), donate_argnames="state")
def _batched(execute, fn, shared, state, inputs, active):
    m = trees.stack_size((state, inputs))
    chosen = (state, inputs) if active.shape[0] == m else trees.member((state, inputs), active)
    new_state, outputs = execute(fn, shared, *chosen)
    if active.shape[0] == m:
        return new_state, outputs

    def put(all_, some):
        return all_.at[active].set(some)

    zeros = jax.tree.map(lambda leaf: jnp.zeros((m, *leaf.shape[1:]), leaf.dtype), outputs)
    return jax.tree.map(put, state, new_state), jax.tree.map(put, zeros, outputs)


def _side_by_side(fn, shared, state, inputs):
    return jax.vmap(functools.partial(fn, shared))(state, inputs)


def _unrolled(fn, shared, state, inputs):
    return jax.vmap(functools.partial(fn, shared), axis_name=UNROLLED)(state, inputs)


def _one_by_one(fn, shared, state, inputs):
    m = trees.stack_size((state, inputs))
    return _loop(fn, shared, state, inputs, jnp.arange(m), m)


_EXECUTE: dict[str, Any] = {"vmap": _side_by_side, "unroll": _unrolled, "map": _one_by_one}
"""How one device runs several members at once: `(fn, shared, state, inputs) -> (state, outputs)`, all stacked."""
