"""Soups of one's own: what their weights may be, and one line for every mistake."""

import pytest

from ssoup_jax import soups
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.soups import Trial

SOUPS = """
from ssoup_jax.soups import Method, Trial

def by_score(scores, evaluate):
    return [score - min(scores) for score in scores]

def best_pair(scores, evaluate):
    value = evaluate({2: 1.0, 0: 3.0})
    return {2: 1.0, 0: 3.0}, [Trial(0, (2, 0), value, True)]

pair = Method(best_pair, by_score=False)

def raises(scores, evaluate):
    raise ArithmeticError("nothing adds up")

def few(scores, evaluate):
    return [1.0]

def negative(scores, evaluate):
    return [-1.0 for _ in scores]

def nothing(scores, evaluate):
    pass

def elsewhere(scores, evaluate):
    return {7: 1.0}

def words(scores, evaluate):
    return ["all"] * len(scores)

def one(scores):
    return scores
"""


@pytest.fixture(autouse=True)
def written(own_module):
    own_module(SOUPS)


def weigh(name, evaluate=lambda weights: 0.5):
    return soups.named(f"mine:{name}").weigh([0.5, 0.25, 0.75], evaluate)


def test_a_function_gives_each_candidate_a_number_by_their_scores():
    weights, trials = weigh("by_score")
    assert list(weights.items()) == [(0, 0.25), (2, 0.5)], "who has none is left out"
    assert trials == []
    assert soups.named("mine:by_score").by_score


def test_a_method_keeps_the_order_of_its_ingredients_and_its_trials():
    weights, trials = weigh("pair")
    assert list(weights.items()) == [(2, 1.0), (0, 3.0)]
    assert trials == [Trial(0, (2, 0), 0.5, True)]
    assert not soups.named("mine:pair").by_score


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raises", "ensemble_method: mine:raises raised ArithmeticError: nothing adds up"),
        ("few", "ensemble_method: mine:few: weights: found 1; the stack has 3 members"),
        ("negative", "ensemble_method: mine:negative: weights: found [-1.0, -1.0, -1.0]; allowed: finite numbers"),
        ("nothing", "ensemble_method: mine:nothing: "),
        ("elsewhere", "ensemble_method: mine:elsewhere: weights: found one for candidate 7; allowed: 0 to 2"),
        ("words", "ensemble_method: mine:words: could not convert string to float: 'all'"),
    ],
)
def test_what_are_no_weights_is_one_line(name, expected):
    with pytest.raises(RunError) as error:
        weigh(name)
    assert str(error.value).startswith(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mine:one", "ensemble_method: mine:one takes (scores); allowed: (scores, evaluate), in this order"),
        ("mine:pairs", "did you mean 'mine:pair'?"),
        ("GreedySoups", "did you mean 'GreedySoup'?"),
    ],
)
def test_what_is_no_soup_is_said_at_once(name, expected):
    with pytest.raises(SettingsError) as error:
        soups.named(name)
    assert expected in str(error.value)
