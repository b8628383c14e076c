"""A soup of any stack: which weights its members get, and their mean."""

import math
from collections.abc import Callable, Sequence

from ssoup_jax import trees
from ssoup_jax.errors import RunError, SettingsError, unknown
from ssoup_jax.soups.averaging import Weights, average
from ssoup_jax.soups.greedy import Trial
from ssoup_jax.soups.methods import SOUPS, Method, given
from ssoup_jax.trees import PyTree

METHODS = {"uniform": SOUPS["UniformEnsembling"], "greedy": SOUPS["GreedySoup"]}
"""What `weights` may be, besides numbers."""


def soup(
    stack: PyTree,
    weights: str | Method | Sequence[float] = "uniform",
    score: Callable[[PyTree], float] | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> PyTree:
    """Averages the members of a stack; zeros that all of them share stay zeros.

    Args:
        stack: leaves `[m, ...]`: parameters, or anything else that is to be averaged with them.
        weights: `'uniform'`: all members equally; `'greedy'`: from the best member on, each next one is taken only if
            the soup does not get worse (Wortsman et al. 2022, recipe 1); or one number of at least 0 for each member.
        score: what a greedy soup is not to lose, of one model; higher is better. BatchNorm's statistics should be
            re-estimated in it, see `recalibrate`.
        on_trial: told of each member that a greedy soup accepts or rejects, with the score.

    Returns:
        The soup, leaves `[...]`.

    Raises:
        SettingsError: there is no such way to weigh, or it needs a score that is not given.
        RunError: a score is not finite.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import soup
        >>> stack = {"w": np.array([[1.0, 0.0], [3.0, 0.0], [8.0, 0.0]])}
        >>> soup(stack)["w"].tolist(), soup(stack, [1, 1, 0])["w"].tolist()
        ([4.0, 0.0], [2.0, 0.0])
        >>> soup(stack, "greedy", score=lambda one: -abs(one["w"][0] - 2))["w"].tolist()
        [2.0, 0.0]
    """
    chosen, trials = weigh(stack, weights, score)
    for trial in trials:
        on_trial(trial)
    return average(stack, chosen)


def weigh(
    stack: PyTree, weights: str | Method | Sequence[float] = "uniform", score: Callable[[PyTree], float] | None = None
) -> tuple[Weights, list[Trial]]:
    """Returns the weight of each ingredient and the soups that were tried on the way; arguments as for `soup`."""
    m = trees.stack_size(stack)
    if isinstance(weights, str):
        if weights not in METHODS:
            raise unknown("weights", weights, [*METHODS, "a number for each member"])
        weights = METHODS[weights]
    if not isinstance(weights, Method):
        return given([float(weight) for weight in weights], m), []
    if weights.by_score and score is None:
        raise SettingsError("score: not given; a soup that is chosen by its score needs a function of one model")

    def checked(model: PyTree) -> float:
        found = float(score(model))
        if not math.isfinite(found):
            raise RunError(f"score: found {found}; a soup is chosen by finite numbers only")
        return found

    scores = [checked(trees.member(stack, i)) if weights.by_score else None for i in range(m)]
    return weights.weigh(scores, lambda tried: checked(average(stack, tried)))
