"""The greedy soup: from the best candidate on, take each next one only if the soup does not get worse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One soup that was tried.

    Attributes:
        candidate: index of the candidate added in this trial.
        members: indices of all candidates in the tried soup.
        score: the tried soup's score after recalibration.
        accepted: whether the candidate became an ingredient.
    """

    candidate: int
    members: tuple[int, ...]
    score: float
    accepted: bool


def select(scores: Sequence[float], evaluate: Callable[[tuple[int, ...]], float]) -> tuple[list[int], list[Trial]]:
    """Selects the ingredients (Wortsman et al. 2022, "Model soups", recipe 1).

    Args:
        scores: each candidate's own score on the validation split, higher is better; ties keep candidate order.
        evaluate: scores the recalibrated soup of the given candidates on the validation split.

    Returns:
        The ingredients' indices in the order they were taken, and every trial after the first ingredient.
    """
    ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
    ingredients, best = ranked[:1], scores[ranked[0]]
    trials = []
    for candidate in ranked[1:]:
        tried = (*ingredients, candidate)
        score = evaluate(tried)
        trials.append(Trial(candidate, tried, score, accepted=score >= best))
        if trials[-1].accepted:
            ingredients, best = list(tried), score
    return ingredients, trials
