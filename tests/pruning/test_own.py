"""Selectors of one's own: a score, or a score, an allocation and a pattern; each mistake is one line."""

import jax
import numpy as np
import pytest

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.pruning import full_mask, select, selectors

SELECTORS = """
import jax.numpy as jnp
import numpy as np
from ssoup_jax.pruning import Selector, allocation, scores

def largest(weights, key):
    return {name: -jnp.abs(leaf) for name, leaf in weights.items()}

def by_layer(kept, amount):
    return allocation.uniform(kept, amount)

uniform = Selector(largest, by_layer)

def raises(weights, key):
    return weights["no such layer"]

def one(weights):
    return weights

def none(weights, key):
    pass

def fewer(weights, key):
    return {name: leaf for name, leaf in weights.items() if name != "b/kernel"}

def flat(weights, key):
    return {name: leaf.ravel() for name, leaf in weights.items()}

def odd(weights, key):
    return {name: np.full(leaf.shape, np.nan) for name, leaf in weights.items()}

def revive(scores, kept, n_cut):
    return {name: np.ones(leaf.shape, bool) for name, leaf in kept.items()}

def drop(scores, kept, n_cut):
    return {name: leaf.astype(int) for name, leaf in kept.items()}

revives = Selector(scores.magnitude, allocation.global_, revive)
whole_numbers = Selector(scores.magnitude, allocation.global_, drop)
number = 3
"""

WEIGHTS = {"a": {"kernel": np.float32([[1, -2], [3, 4]])}, "b": {"kernel": np.float32([[5, 6], [-7, 8]])}}
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def written(own_module):
    own_module(SELECTORS)


def left(name, mask=None):
    found = select(name, WEIGHTS, full_mask(WEIGHTS) if mask is None else mask, 0.5, KEY)
    return [np.asarray(leaf).astype(int).tolist() for leaf in jax.tree.leaves(found)]


def test_the_lowest_of_all_scores_go():
    assert left("mine:largest") == [[[1, 1], [1, 1]], [[0, 0], [0, 0]]]


def test_a_selector_is_taken_as_it_is():
    assert left("mine:uniform") == [[[1, 1], [0, 0]], [[1, 1], [0, 0]]]


def test_the_spelling_of_a_stage_names_it_too():
    assert left("mine:largest 0123456789abcdef") == left("mine:largest")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one", "pruning_selector: mine:one takes (weights); allowed: (weights, key), in this order"),
        ("number", "pruning_selector: mine:number is int; allowed: a function"),
        ("largst", "pruning_selector: unknown value 'mine:largst'; allowed: mine:largest, "),
    ],
)
def test_what_cannot_be_called_is_said_at_once(name, expected):
    with pytest.raises(SettingsError) as error:
        selectors.named(f"mine:{name}")
    assert str(error.value).startswith(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raises", "pruning_selector: mine:raises raised KeyError: 'no such layer'"),
        ("none", "pruning: the selector's scores are NoneType; wanted: a dict of arrays, ['a/kernel', 'b/kernel']"),
        ("fewer", "pruning: the selector's scores are ['a/kernel']; wanted: a dict of arrays, ['a/kernel', 'b/ker"),
        ("flat", "pruning: the selector's scores of a/kernel are float32[4]; wanted: numbers [2, 2]"),
        ("odd", "pruning: the selector's scores of a/kernel hold NaN"),
        ("whole_numbers", "pruning: the selector's masks of a/kernel are int64[2, 2]; wanted: numbers [2, 2]"),
    ],
)
def test_what_makes_no_mask_is_one_line(name, expected):
    with pytest.raises(RunError) as error:
        left(f"mine:{name}")
    assert str(error.value).startswith(expected)


def test_nothing_is_revived():
    mask = {"a": {"kernel": np.array([[True, False], [True, True]])}, "b": {"kernel": np.ones((2, 2), bool)}}
    with pytest.raises(RunError, match=r"^pruning: the selector revives weights of a/kernel$"):
        left("mine:revives", mask)
