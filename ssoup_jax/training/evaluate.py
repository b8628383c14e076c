"""Logits of every member of a stack, in evaluation mode."""

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax.data.augment import normalise
from ssoup_jax.data.batches import Examples, padded_blocks
from ssoup_jax.training import members
from ssoup_jax.training.state import Variables
from ssoup_jax.training.step import Problem

BLOCK_SIZE = 256


def _block_logits(problem: Problem, shared: tuple[Examples, jax.Array], state: tuple, variables: Variables):
    examples, block = shared
    images = normalise(problem.transform, examples.images[block])
    return state, problem.model.apply(variables.collections(), images, train=False)


def logits(
    problem: Problem, examples: Examples, variables: Variables, positions: np.ndarray, execution: str
) -> np.ndarray:
    """Forwards a split through every member; no augmentation, no dropout, BatchNorm's running statistics.

    Args:
        problem: architecture and transform.
        examples: all images and labels.
        variables: the stack's, leaves `[m, ...]`.
        positions: the split, int32 `[n]`.
        execution: see `members.run`.

    Returns:
        float32 `[m, n, n_classes]`, on the host.
    """
    fn = members.bind(_block_logits, problem)
    blocks = [
        members.run(execution, fn, (examples, block), (), variables)[1]
        for block in padded_blocks(positions, BLOCK_SIZE)
    ]
    return np.asarray(jnp.concatenate(blocks, axis=1)[:, : len(positions)])
