"""What a soup is made of: each method weighs the candidates."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ssoup_jax import own
from ssoup_jax.errors import RunError, SettingsError, one_line, unknown
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


def named(method: str, setting: str = "ensemble_method") -> Method:
    """Returns the soup of that name.

    One's own, see `ssoup_jax.own`, is a `Method`, or a function `(scores, evaluate)` that returns one number of at
    least 0 for each candidate.

    Raises:
        SettingsError: no soup has that name; the error calls what it was given for `setting`.
    """
    if own.is_own(method):
        return _own(method, setting)
    if not isinstance(method, str) or method not in SOUPS:
        raise unknown(setting, method, [*SOUPS, own.FORM])
    return SOUPS[method]


def given(weights: Sequence[float], m: int) -> Weights:
    """Makes weights of one number for each of m candidates.

    Raises:
        SettingsError: there are more or fewer, or they cannot be weights.
    """
    if len(weights) != m:
        raise SettingsError(f"weights: found {len(weights)}; the stack has {m} member{'s' * (m > 1)}")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise SettingsError(f"weights: found {weights}; allowed: finite numbers of at least 0, not all of them 0")
    return {i: weight for i, weight in enumerate(weights) if weight}


def _checked(weights: Weights | Sequence[float], m: int) -> Weights:
    if not isinstance(weights, Mapping):
        return given([float(weight) for weight in weights], m)
    if odd := [place for place in weights if place not in range(m)]:
        raise SettingsError(f"weights: found one for candidate {odd[0]!r}; allowed: 0 to {m - 1}")
    positive = given([float(weights.get(i, 0)) for i in range(m)], m)
    return {int(i): positive[i] for i in weights if i in positive}  # in the order in which they were taken


def _own(name: str, setting: str) -> Method:
    found = own.load(setting, name)
    function = found.weigh if isinstance(found, Method) else found
    own.check_positional(setting, name, function, ("scores", "evaluate"))

    def weigh(scores: Scores, evaluate: Evaluate) -> tuple[Weights, list[Trial]]:
        made = own.call(setting, name, function, scores, evaluate, error=RunError)
        try:
            weights, trials = made if isinstance(found, Method) else (made, [])
            return _checked(weights, len(scores)), list(trials)
        except (SettingsError, TypeError, ValueError) as error:
            raise RunError(f"{setting}: {name}: {one_line(error)}") from None

    return Method(weigh, by_score=not isinstance(found, Method) or found.by_score)
