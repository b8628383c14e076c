"""What a soup is made of: each method weighs the candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssoup_jax.soups import greedy
from ssoup_jax.soups.averaging import Weights
from ssoup_jax.soups.greedy import Trial

Scores = Sequence[float | None]
"""Each candidate's own score on the validation split, higher is better; None where the method does not ask for it."""

Evaluate = Callable[[Weights], float]
"""Scores the recalibrated soup of those weights on the validation split."""


@dataclass(frozen=True)
class Method:
    """A way to make a soup.

    Attributes:
        weigh: weighs the candidates; returns the weights, in the order in which ingredients were taken, and the soups
            that were tried on the way.
        by_score: whether it asks for scores.
    """

    weigh: Callable[[Scores, Evaluate], tuple[Weights, list[Trial]]]
    by_score: bool


def _uniform(scores: Scores, evaluate: Evaluate) -> tuple[Weights, list[Trial]]:
    del evaluate
    return _equal(range(len(scores))), []


def _greedy(scores: Scores, evaluate: Evaluate) -> tuple[Weights, list[Trial]]:
    ingredients, trials = greedy.select(scores, lambda tried: evaluate(_equal(tried)))
    return _equal(ingredients), trials


def _equal(places: Sequence[int]) -> Weights:
    return dict.fromkeys(places, 1.0)


SOUPS = {
    "UniformEnsembling": Method(_uniform, by_score=False),
    "GreedySoup": Method(_greedy, by_score=True),
}
"""By the names of the setting `ensemble_method`."""
