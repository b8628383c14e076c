"""How many weights go, and from where: the layers that compete with one another, and what they lose together.

An allocation takes the prunable leaves of the mask and the fraction of the kept weights to prune, and gives groups of
layers, each with the number of weights that it loses.
"""

from collections.abc import Callable

import numpy as np

from ssoup_jax.errors import SettingsError
from ssoup_jax.pruning.scores import Leaves

Allocation = Callable[[Leaves, float], list[tuple[list[str], int]]]


def phase_amount(goal_sparsity: float, n_phases: int, pruned: float = 0.0) -> float:
    """Returns the fraction of the remaining weights to prune in each phase: `1 - ((1 - goal) / (1 - pruned))^(1 / n)`.

    Args:
        goal_sparsity: fraction of the prunable weights that is zero after the last phase, 0 to 1.
        n_phases: number of phases, at least 1.
        pruned: fraction of them that is zero before the first phase, 0 to the goal.

    Returns:
        The fraction, the same in every phase.

    Raises:
        SettingsError: an argument is outside its range.
    """
    if not 0 <= goal_sparsity <= 1:
        raise SettingsError(f"goal_sparsity: found {goal_sparsity!r}; allowed: a number from 0 to 1")
    if n_phases < 1:
        raise SettingsError(f"n_phases: found {n_phases!r}; allowed: a whole number from 1 on")
    if not 0 <= pruned < 1 or pruned > goal_sparsity:
        raise SettingsError(f"goal_sparsity: found {goal_sparsity!r}; {pruned!r} of the weights are pruned already")
    return 1 - ((1 - goal_sparsity) / (1 - pruned)) ** (1 / n_phases)


def prune_count(amount: float, n_kept: int) -> int:
    """Returns how many of `n_kept` weights the fraction `amount` is; halves are rounded to the even number.

    Raises:
        SettingsError: `amount` is not a number from 0 to 1.
    """
    if not 0 <= amount <= 1:
        raise SettingsError(f"amount to prune: found {amount!r}; allowed: a number from 0 to 1")
    return round(float(amount) * int(n_kept))


def global_(kept: Leaves, amount: float) -> list[tuple[list[str], int]]:
    """All layers compete with one another; the count is rounded once."""
    return [(list(kept), prune_count(amount, sum(np.count_nonzero(leaf) for leaf in kept.values())))]


def uniform(kept: Leaves, amount: float) -> list[tuple[list[str], int]]:
    """Every layer loses the same fraction; the count is rounded layer by layer."""
    return [([name], prune_count(amount, np.count_nonzero(leaf))) for name, leaf in kept.items()]
