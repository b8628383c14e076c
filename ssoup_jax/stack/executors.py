"""How a stack executes: one pure function of a single member, for all members, under one of several executors."""

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from ssoup_jax import trees
from ssoup_jax.data.feeds import Part
from ssoup_jax.models.ops.convolution import UNROLLED
from ssoup_jax.stack import mesh
from ssoup_jax.stack.held import Apart, Held, Spread, apart, collected, spread, together
from ssoup_jax.stack.names import parse
from ssoup_jax.trees import PyTree

MemberFn = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


@functools.cache
def bind(fn: Callable, *fixed: Hashable, **named: Hashable) -> MemberFn:
    """Fixes the leading and the named arguments of a function; equal calls return one object: it compiles once."""
    return functools.partial(fn, *fixed, **named)


def over(execution: str) -> str | None:
    """Returns the mesh axis that the devices of a group are along; None where every member has a device to itself."""
    shape = parse(execution).mesh
    return mesh.DATA if shape is not None and shape[1] > 1 else None


def part(execution: str, m: int) -> Part | None:
    """Returns what this process needs of the batches of m members; None: all of it."""
    shape = parse(execution).mesh
    return None if shape is None else mesh.part(m, mesh.of(shape))


def needed(execution: str, m: int) -> Sequence[int]:
    """Returns the members that this process runs."""
    shape = parse(execution).mesh
    return range(m) if shape is None else mesh.needed(m, mesh.of(shape))


def place(execution: str, shared: PyTree) -> PyTree:
    """Puts what all members share, such as the images, where an executor wants it.

    `run` does the same at every call; large arrays are better placed once, so that no call has to copy them.
    """
    shape = parse(execution).mesh
    return mesh.on_one(jax.device_put(shared)) if shape is None else mesh.everywhere(shared, mesh.of(shape))


def hold(execution: str, stack: Held) -> Held:
    """Puts a stack where and in the form in which an executor wants it.

    `run` does the same at every call; what serves many calls is better held once.

    Args:
        execution: full name of an executor.
        stack: leaves `[m, ...]` on the host or on any devices, or held for another executor.

    Returns:
        The stack as `run` takes and returns it; `held.together` makes leaves `[m, ...]` of it again.
    """
    name, _, shape = parse(execution)
    if not jax.tree.leaves(stack):
        return stack
    if name == "loop":
        return apart(stack)
    return jax.device_put(together(stack)) if shape is None else spread(stack, mesh.of(shape))


def assemble(execution: str, m: int, read: Callable[[int], PyTree]) -> Held:
    """Makes a stack of its members; of a mesh, a process reads only the members that its own devices run.

    Args:
        execution: full name of an executor.
        m: how many members there are.
        read: returns a member, by its place in the stack, on the host.

    Returns:
        The stack, see `hold`.
    """
    name, _, shape = parse(execution)
    if shape is not None:
        return Spread(mesh.read_members(m, read, mesh.of(shape)), m, mesh.of(shape))
    members = [read(index) for index in range(m)]
    return Apart(map(jax.device_put, members)) if name == "loop" else jax.device_put(trees.stack(members))


def run(
    execution: str, fn: MemberFn, shared: PyTree, state: PyTree, inputs: PyTree, active: np.ndarray | None = None
) -> tuple[PyTree, PyTree]:
    """Runs `fn(shared, state, inputs) -> (state, outputs)` for the active members of a stack.

    Args:
        execution: `map` loops over the members on the device; `vmap` batches them; `unroll` is `vmap` whose
            convolutions loop over the members; `loop` calls a program for one member, the same for every m, once for
            each. `vmap:4` and `unroll:4` take at most 4 members at a time, in chunks as equal as can be. `2x4:NAME`
            spreads the members over 2 groups of 4 devices, each of which runs its group's by NAME; `fn` decides what
            the devices of a group share, see `over`.
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
    (name, _, shape), (m, active) = parse(execution), _members(state, inputs, active)
    state = hold(execution, state)
    if name == "loop":
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
        state = state if shape is None else Spread(state, m, mesh.of(shape))
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
        parts = {np.shape(part)[-1]: part for part in _parts(execution, active, m)}
        calls = [_some(execution, fn, shared, state, inputs, part) for part in parts.values()]
    return [program.lower(*arguments).compile() for program, arguments in calls]


def lowered(
    execution: str, fn: MemberFn, shared: PyTree, state: PyTree, inputs: PyTree, devices: Sequence[jax.Device]
) -> jax.stages.Lowered:
    """Lowers what `run` calls for all members, of shapes alone and for devices that need not be there.

    Args:
        execution: full name of an executor that takes all members at once.
        fn: see `run`.
        shared, state, inputs: see `run`, as `jax.ShapeDtypeStruct`.
        devices: as many as the executor's mesh has; the first one, where it has none.
    """
    (name, _, shape), m = parse(execution), trees.stack_size((state, inputs))

    def there(tree: PyTree, sharding: jax.sharding.Sharding) -> PyTree:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    if shape is not None:
        grid, missing = mesh.over(devices, shape), -m % shape[0]
        filled = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((m + missing, *leaf.shape[1:]), leaf.dtype), (state, inputs)
        )
        shared = there(shared, NamedSharding(grid, P()))
        own = there(filled, NamedSharding(grid, P(mesh.MEMBER)))
        return mesh.sharded.lower(_EXECUTE[name], fn, grid, m, shared, *own, None, None)
    one = SingleDeviceSharding(devices[0])
    if name == "loop":
        state, inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (state, inputs))
    shared, state, inputs = there((shared, state, inputs), one)
    if name == "loop":
        return _single.lower(fn, shared, state, inputs)
    number, numbers = there((np.int32(0), np.zeros(m, np.int32)), one)
    if name == "map":
        return _mapped.lower(fn, shared, state, inputs, numbers, number)
    return _batched.lower(_EXECUTE[name], fn, shared, state, inputs, numbers)


def _members(state: PyTree, inputs: PyTree, active: np.ndarray | None) -> tuple[int, np.ndarray]:
    m = trees.stack_size((state, inputs))
    return m, np.arange(m) if active is None else np.asarray(active)


def _parts(execution: str, active: np.ndarray, m: int) -> Iterator[np.ndarray | tuple[np.ndarray, np.ndarray]]:
    """Cuts the active members into what one call runs; on a mesh, into its `mesh.rounds`."""
    name, chunk, shape = parse(execution)
    if shape is not None:
        yield from mesh.rounds(active, m, shape[0], chunk)
        return
    # Chunks are calls: a loop over them on the device gains nothing, and needs a program for each number of members.
    yield from np.array_split(active, 1 if name == "map" else -(-len(active) // (chunk or m)))


def _alone(fn, shared, state, inputs, i: int) -> tuple[Callable, tuple]:
    """Returns the program that runs one member, and its arguments."""
    return _single, (fn, mesh.on_one(shared), trees.member(state, i), jax.device_put(trees.member(inputs, i)))


def _some(execution: str, fn, shared, state, inputs, part) -> tuple[Callable, tuple]:
    """Returns the program that runs some members at once, and its arguments."""
    name, _, shape = parse(execution)
    if shape is not None:
        return _of_mesh(name, mesh.of(shape), fn, shared, state, inputs, part)
    shared, inputs = mesh.on_one((shared, jax.device_put(together(inputs))))
    if name == "map":
        slots = np.resize(part, trees.stack_size((state, inputs)))
        return _mapped, (fn, shared, state, inputs, _on_device(slots), _on_device(len(part)))
    return _batched, (_EXECUTE[name], fn, shared, state, inputs, _on_device(part))


def _of_mesh(name: str, grid: Mesh, fn, shared, state, inputs, part) -> tuple[Callable, tuple]:
    m = trees.stack_size((state, inputs))
    own = jax.tree.map(lambda leaf: spread(leaf, grid).tree, (state, inputs))
    slots, targets = part
    # What only fills up may run, too, where that is one program for all.
    everyone = np.sum(targets < -(-m // grid.shape[mesh.MEMBER])) == m
    numbers = (None, None) if everyone else mesh.put_members((slots, targets), grid)
    return mesh.sharded, (_EXECUTE[name], fn, grid, m, mesh.everywhere(shared, grid), *own, *numbers)


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
