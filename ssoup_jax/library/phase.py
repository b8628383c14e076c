"""What one phase of the method made."""

from dataclasses import dataclass

import numpy as np

from ssoup_jax.models.variables import Variables
from ssoup_jax.soups import Trial, Weights
from ssoup_jax.trees import PyTree

Model = PyTree | Variables


@dataclass(frozen=True)
class Phase:
    """What one phase made.

    Attributes:
        number: from 1.
        soup: the model that the next phase starts from: parameters or `Variables`, as they were given.
        members: the retrained members it comes from, leaves `[m, ...]`; those that diverged too.
        mask: of all of them.
        sparsity: fraction of the prunable weights that is zero.
        weights: of each member that is in the soup, in the order in which they were taken.
        trials: what a greedy soup tried.
        distances: between the members that did not diverge, see `distances`.
        losses: training losses, float32 `[m, T]`.
        diverged: the step at which a member diverged, by member.
    """

    number: int
    soup: Model
    members: Model
    mask: PyTree
    sparsity: float
    weights: Weights
    trials: list[Trial]
    distances: dict[str, float]
    losses: np.ndarray
    diverged: dict[int, int]
