"""How a stack executes: the same pure single-member function, for all members, in one compiled program."""

import functools
from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import trees
from ssoup_jax.trees import PyTree

EXECUTIONS = ("auto", "map", "vmap", "unroll", "loop")

MemberFn = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


@functools.cache
def bind(fn: Callable, *fixed: Hashable) -> MemberFn:
    """Fixes the leading arguments of a function; equal calls return one object, so that it compiles once."""
    return functools.partial(fn, *fixed)


def resolve(execution: str) -> str:
    """Turns `'auto'` into the executor for this backend; any other name is returned as it is.

    A CPU has no use for wider operations than one member fills already, and keeps one member's state in cache:
    a loop over members inside the program is fastest. An accelerator wants them side by side.
    """
    if execution != "auto":
        return execution
    return "map" if jax.default_backend() == "cpu" else "vmap"


def convolution(execution: str) -> str:
    """Names the convolution (`models.build(conv=...)`) that an executor needs."""
    return "unroll" if execution == "unroll" else "plain"


def run(
    execution: str, fn: MemberFn, shared: PyTree, state: PyTree, inputs: PyTree, active: np.ndarray | None = None
) -> tuple[PyTree, PyTree]:
    """Runs `fn(shared, state, inputs) -> (state, outputs)` for the active members of a stack.

    Args:
        execution: one of `EXECUTIONS` but `'auto'`. `map` loops over the members on the device; `vmap` batches them;
            `unroll` is `vmap` for a model whose convolutions loop over the members; `loop` calls the program once for
            each member.
        fn: pure, for one member; hashable and always the same object for the same work, or it is compiled again.
        shared: what all members share.
        state: the stack's state, leaves `[m, ...]`; donated.
        inputs: what each member has to itself, leaves `[m, ...]`.
        active: indices of the members to run, int `[k]`; all by default. The others' states come back unchanged.

    Returns:
        The stack's new state and its outputs, leaves `[m, ...]`; outputs of members that did not run are zero.
    """
    size = trees.stack_size((state, inputs))
    active = np.arange(size) if active is None else active
    if execution in ("vmap", "unroll"):
        return _batched(fn, shared, state, inputs, jnp.asarray(active, jnp.int32))
    slots = jnp.asarray(np.resize(active, size), jnp.int32)
    if execution == "map":
        return _mapped(fn, shared, state, inputs, slots, jnp.int32(0), jnp.int32(len(active)))
    outputs = None
    for i in range(len(active)):
        state, own = _mapped(fn, shared, state, inputs, slots, jnp.int32(i), jnp.int32(i + 1))
        outputs = own if outputs is None else jax.tree.map(jnp.add, outputs, own)
    return state, outputs


@functools.partial(jax.jit, static_argnames="fn", donate_argnames="state")
def _mapped(fn, shared, state, inputs, slots, first, last):
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
    new_state, outputs = jax.vmap(functools.partial(fn, shared))(*chosen)
    if active.shape[0] == size:
        return new_state, outputs

    def put(all_, some):
        return all_.at[active].set(some)

    zeros = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype), outputs)
    return jax.tree.map(put, state, new_state), jax.tree.map(put, zeros, outputs)
