"""Logits of every member of a stack, in evaluation mode."""

import jax
import numpy as np

from ssoup_jax.data.augment import normalise
from ssoup_jax.data.feeds import Examples, Feed
from ssoup_jax.stack import executors
from ssoup_jax.training.state import Variables
from ssoup_jax.training.step import Problem

BLOCK_SIZE = 256


def _block_logits(problem: Problem, shared: tuple[Examples, jax.Array], state: tuple, variables: Variables):
    examples, block = shared
    images = normalise(problem.transform, examples.images[block])
    return state, problem.model.apply(variables.collections(), images, train=False)


def logits(problem: Problem, feed: Feed, variables: Variables, split: str, execution: str) -> np.ndarray:
    """Forwards a split through every member; no augmentation, no dropout, BatchNorm's running statistics.

    Args:
        problem: architecture and transform.
        feed: has the split's images.
        variables: the stack's, leaves `[m, ...]`.
        split: its name.
        execution: see `executors.run`.

    Returns:
        float32 `[m, n, n_classes]`, on the host.
    """
    fn = executors.bind(_block_logits, problem)
    blocks = [executors.run(execution, fn, block, (), variables)[1] for block in feed.evaluation(split, BLOCK_SIZE)]
    return np.concatenate(jax.device_get(blocks), axis=1)[:, : len(feed.labels[split])]
