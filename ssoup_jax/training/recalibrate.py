"""Re-estimates BatchNorm's running statistics on training data, for every member of a stack."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import rows
from ssoup_jax.data.feeds import Feed, n_batches
from ssoup_jax.keys import derive
from ssoup_jax.models.variables import Variables
from ssoup_jax.stack import executors, held, memory
from ssoup_jax.stack.held import Held, Spread, together
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree, path_name

METHODS = ("moving", "exact")


def n_recalibration_batches(n_examples: int, batch_size: int, fraction: float | None) -> int:
    """Returns how many batches are used: `int(fraction * batches)`; a missing or impossible fraction means all."""
    total = n_batches(n_examples, batch_size)
    return int(fraction * total) if fraction is not None and 0 <= fraction <= 1 else total


def recalibrate(
    task: Task,
    feed: Feed,
    variables: Held,
    *,
    batch_size: int,
    fraction: float | None,
    method: str | None,
    keys: jax.Array,
    execution: str,
    on_line: Callable[[str], None] = lambda line: None,
    only: str | None = None,
) -> Held:
    """Re-estimates the statistics from the first batches of the unshuffled training split, in train mode.

    Augmentation and dropout are on, as in the reference. A model without BatchNorm is returned as it is.

    Args:
        task: says what a batch does to the statistics.
        feed: has the training images.
        variables: the stack's, leaves `[m, ...]` or held, see `stack.held`.
        batch_size: images per batch; the last batch may be smaller.
        fraction: share of the batches, see `n_recalibration_batches`.
        method: `'moving'` is the reference's moving average with each layer's momentum, from mean 0 and variance 1;
            `'exact'` is the plain average over the batches; None leaves the statistics alone.
        keys: typed PRNG keys `[m]`, for augmentation and dropout.
        execution: full name of an executor.
        on_line: see `memory.fit`.
        only: the collection that holds the statistics, where there are others, which stay; None: there are none.

    Returns:
        The stack with new BatchNorm statistics, leaves `[m, ...]`; spread over a mesh where that is the executor's.
    """
    if method is None or held.is_empty(held.combine(lambda own: own.collections, variables)):
        return variables

    def given(own: Variables, stats: PyTree) -> Variables:
        return own.replace(collections=stats if only is None else own.collections | {only: stats[only]})

    count = n_recalibration_batches(feed.sizes["train"], batch_size, fraction)
    if not count:
        return held.combine(lambda own: given(own, _reset(own.collections)), variables)
    fn = executors.bind(_moving if method == "moving" else _sum_of_moments, task, axis=executors.over(execution))
    there, key_data, taken, fitted = executors.hold(execution, variables), jax.random.key_data(keys), 0, False
    fresh = _reset if method == "moving" else _zeros

    def start(own: Variables) -> PyTree:
        stats = fresh(own.collections)
        # Copies, since the state of a program is donated.
        return stats if only is None else jax.tree.map(_copied, own.collections) | {only: stats[only]}

    stats, key_data = held.combine(start, there), jax.device_get(key_data)
    for block in feed.recalibration(keys, batch_size, count, executors.part(execution, len(keys))):
        shared = (block.examples, *jax.device_put((np.int32(block.last), np.int32(taken))))
        inputs = (there, key_data, block.batches)
        if not fitted:
            execution, fitted = memory.fit(execution, fn, shared, stats, inputs, on_line=on_line), True
        stats, _ = executors.run(execution, fn, shared, stats, inputs)
        taken += block.last
    if not isinstance(stats, Spread):
        there, stats = variables, together(stats)
    if method == "exact":
        stats = held.combine(lambda own: _scaled(own, np.float32(1 / count)), stats)
    return held.combine(given, there, stats)


def _reset(collections: PyTree) -> PyTree:
    """Returns mean 0 and variance 1 in the structure of the statistics."""

    def fresh(path, leaf):
        return _filled(leaf, float(path_name(path).rpartition("/")[2] == "var"))

    return jax.tree_util.tree_map_with_path(fresh, collections)


def _copied(leaf: jax.Array) -> jax.Array:
    return jnp.copy(leaf) if isinstance(leaf, jax.Array) else np.array(leaf)


def _zeros(collections: PyTree) -> PyTree:
    return jax.tree.map(functools.partial(_filled, value=0.0), collections)


def _filled(leaf: jax.Array, value: float) -> jax.Array:
    """Returns an array full of one value where another lies; on one device no program is needed."""
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
        return jnp.full(leaf.shape, value, leaf.dtype, device=leaf.sharding)
    return np.full(leaf.shape, value, leaf.dtype)


@jax.jit
def _scaled(tree: PyTree, factor: jax.Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf * factor, tree)


def _moving(task: Task, shared: tuple, collections: PyTree, inputs: tuple, axis: str | None):
    variables, task = inputs[0], _cut(task, axis, inputs)

    def see(collections, batch, key):
        return task.loss(variables.params, collections, batch, key)[1][0]

    return _over_batches(see, axis, shared, collections, inputs), ()


def _sum_of_moments(task: Task, shared: tuple, total: PyTree, inputs: tuple, axis: str | None):
    variables, task = inputs[0], _cut(task, axis, inputs)

    def see(total, batch, key):
        return jax.tree.map(jnp.add, total, task.moments(variables.params, variables.collections, batch, key))

    return _over_batches(see, axis, shared, total, inputs), ()


def _cut(task: Task, axis: str | None, inputs: tuple) -> Task:
    return task.cut(axis) if rows.divide(inputs[2].shape[-1], axis) else task


def _over_batches(see: Callable, axis: str | None, shared: tuple, carry: PyTree, inputs: tuple) -> PyTree:
    examples, count, taken = shared
    _, key_data, batches = inputs
    key = jax.random.wrap_key_data(key_data)

    def body(i, carry):
        batch = rows.take(examples, batches[i], axis)
        return rows.mean(see(carry, batch, derive(key, taken + i)), axis)

    return jax.lax.fori_loop(0, count, body, carry)
