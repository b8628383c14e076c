"""What each method makes of the same candidates."""

import pytest

from ssoup_jax.soups import SOUPS, Trial


def test_a_uniform_soup_takes_everyone_and_tries_nothing():
    method = SOUPS["UniformEnsembling"]
    weights, trials = method.weigh([None] * 3, lambda weights: pytest.fail("a soup was tried"))
    assert list(weights.items()) == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert trials == []
    assert not method.by_score


def test_a_greedy_soup_takes_its_ingredients_in_order_and_tells_what_it_tried():
    tried = []

    def evaluate(weights):
        tried.append(dict(weights))
        return 0.8 if 1 in weights else 0.9

    method = SOUPS["GreedySoup"]
    weights, trials = method.weigh([0.5, 0.6, 0.7], evaluate)
    assert tried == [{2: 1.0, 1: 1.0}, {2: 1.0, 1: 1.0, 0: 1.0}], "the soups of 0.7 with 0.6, then with 0.5"
    assert list(weights.items()) == [(2, 1.0), (1, 1.0), (0, 1.0)]
    assert trials == [Trial(1, (2, 1), 0.8, True), Trial(0, (2, 1, 0), 0.8, True)]
    assert method.by_score


@pytest.mark.parametrize("name", SOUPS)
def test_whatever_the_scores_someone_is_in_the_soup(name):
    for scores in ([0.0], [0.1, 0.1], [0.3, 0.2, 0.1]):
        weights, _ = SOUPS[name].weigh(scores, lambda weights: -1.0)
        assert weights
        assert set(weights) <= set(range(len(scores)))
        assert all(weight > 0 for weight in weights.values())
