"""Re-estimates BatchNorm's running statistics on training data, for every member of a stack."""

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax.data.feeds import Feed, n_batches
from ssoup_jax.keys import derive
from ssoup_jax.stack import executors
from ssoup_jax.training.state import Variables
from ssoup_jax.training.step import Problem, forward_train
from ssoup_jax.trees import PyTree

METHODS = ("moving", "exact")


def n_recalibration_batches(n_examples: int, batch_size: int, fraction: float | None) -> int:
    """Returns how many batches are used: `int(fraction * batches)`; a missing or impossible fraction means all."""
    total = n_batches(n_examples, batch_size)
    return int(fraction * total) if fraction is not None and 0 <= fraction <= 1 else total


def recalibrate(
    problem: Problem,
    feed: Feed,
    variables: Variables,
    *,
    batch_size: int,
    fraction: float | None,
    method: str | None,
    keys: jax.Array,
    execution: str,
) -> Variables:
    """Re-estimates the statistics from the first batches of the unshuffled training split, in train mode.

    Augmentation and dropout are on, as in the reference. A model without BatchNorm is returned as it is.

    Args:
        problem: architecture and transform.
        feed: has the training images.
        variables: the stack's, leaves `[m, ...]`.
        batch_size: images per batch; the last batch may be smaller.
        fraction: share of the batches, see `n_recalibration_batches`.
        method: `'moving'` is the reference's moving average with each layer's momentum, from mean 0 and variance 1;
            `'exact'` is the plain average over the batches; None leaves the statistics alone.
        keys: typed PRNG keys `[m]`, for augmentation and dropout.
        execution: see `executors.run`.

    Returns:
        The stack with new BatchNorm statistics.
    """
    if method is None or not variables.batch_stats:
        return variables
    count = n_recalibration_batches(len(feed.labels["train"]), batch_size, fraction)
    stats = _reset(variables.batch_stats)
    if not count:
        return variables.replace(batch_stats=stats)
    fn = executors.bind(_moving if method == "moving" else _sum_of_moments, problem)
    stats = stats if method == "moving" else jax.tree.map(np.zeros_like, stats)
    taken = 0
    for block in feed.recalibration(keys, batch_size, count):
        shared = (block.examples, jnp.int32(block.last), jnp.int32(taken))
        stats, _ = executors.run(execution, fn, shared, stats, (variables, keys, block.batches))
        taken += block.last
    if method == "exact":
        stats = _scaled(stats, jnp.float32(1 / count))
    return variables.replace(batch_stats=stats)


def _reset(batch_stats: PyTree) -> PyTree:
    """Returns mean 0 and variance 1 in the structure of the statistics."""

    def fresh(path, leaf):
        return np.full(leaf.shape, float(path[-1].key == "var"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fresh, batch_stats)


@jax.jit
def _scaled(tree: PyTree, factor: jax.Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf * factor, tree)


def _moving(problem: Problem, shared: tuple, stats: PyTree, inputs: tuple[Variables, jax.Array, jax.Array]):
    examples, count, taken = shared
    variables, key, batches = inputs

    def body(i, stats):
        images = examples.images[batches[i]]
        return forward_train(problem, variables.replace(batch_stats=stats), images, derive(key, taken + i))[1]

    return jax.lax.fori_loop(0, count, body, stats), ()


def _sum_of_moments(problem: Problem, shared: tuple, stats: PyTree, inputs: tuple[Variables, jax.Array, jax.Array]):
    examples, count, taken = shared
    variables, key, batches = inputs

    def body(i, total):
        images = examples.images[batches[i]]
        moments = forward_train(problem, variables, images, derive(key, taken + i), "batch_moments")[1]
        return jax.tree.map(jnp.add, total, moments)

    return jax.lax.fori_loop(0, count, body, stats), ()
