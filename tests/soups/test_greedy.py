"""Which candidates a greedy soup takes, with made-up scores."""

import pytest

from ssoup_jax.soups import greedy
from ssoup_jax.soups.greedy import Trial

# Candidates' own scores; scores of the soups that are tried; ingredients; which trials are accepted.
CASES = {
    "one candidate": ([0.7], {}, [0], []),
    "all accepted": ([0.7, 0.6, 0.5], {(0, 1): 0.8, (0, 1, 2): 0.9}, [0, 1, 2], [True, True]),
    "equal is accepted": ([0.7, 0.6], {(0, 1): 0.7}, [0, 1], [True]),
    "a little worse is rejected": ([0.7, 0.6], {(0, 1): 0.7 - 1e-12}, [0], [False]),
    "the best comes first": ([0.5, 0.7, 0.6], {(1, 2): 0.8, (1, 2, 0): 0.9}, [1, 2, 0], [True, True]),
    "after a rejection the old soup goes on": ([0.7, 0.6, 0.5], {(0, 1): 0.1, (0, 2): 0.7}, [0, 2], [False, True]),
    "the bar rises": ([0.7, 0.6, 0.5], {(0, 1): 0.9, (0, 1, 2): 0.8}, [0, 1], [True, False]),
    "a rejected score is no bar": ([0.7, 0.6, 0.5], {(0, 1): 0.6, (0, 2): 0.65}, [0], [False, False]),
    "ties keep their order": (
        [0.6, 0.7, 0.6, 0.7],
        {(1, 3): 0.7, (1, 3, 0): 0.7, (1, 3, 0, 2): 0.7},
        [1, 3, 0, 2],
        [True, True, True],
    ),
    "a score that is no number is rejected": ([0.7, 0.6], {(0, 1): float("nan")}, [0], [False]),
}


@pytest.mark.parametrize(("scores", "soups", "ingredients", "verdicts"), CASES.values(), ids=CASES)
def test_selection(scores, soups, ingredients, verdicts):
    asked = []

    def evaluate(indices):
        asked.append(indices)
        return soups[indices]

    found, trials = greedy.select(scores, evaluate)
    assert found == ingredients
    assert asked == list(soups), "every soup of the table is tried once, in this order"
    # Identity first: a score that is no number is not equal to itself.
    expected = [
        Trial(indices[-1], indices, score, verdict)
        for (indices, score), verdict in zip(soups.items(), verdicts, strict=True)
    ]
    assert [vars(trial) for trial in trials] == [vars(trial) for trial in expected]
