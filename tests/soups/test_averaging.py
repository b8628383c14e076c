"""The weighted mean, and the mask that makes it as sparse as its candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax import trees
from ssoup_jax.errors import RunError
from ssoup_jax.models.variables import Variables
from ssoup_jax.soups import average, check_same_mask


def candidates(seed, m, kept=1.0):
    """A stack on the host and the mask of its kernel; some leaves have one entry, where NumPy adds in pairs."""
    random = np.random.default_rng(seed)
    mask = random.random((4, 5)) < kept

    def draw(*shape):
        return random.standard_normal((m, *shape)).astype(np.float32)

    params = {"fc": {"kernel": draw(4, 5) * mask, "bias": draw(5)}, "bn": {"scale": draw(1)}, "temperature": draw()}
    return Variables(params, {"bn": {"mean": draw(3), "var": draw(3)}}), mask


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@st.composite
def chosen(draw):
    """How many candidates there are, and which of them are taken in which order."""
    m = draw(st.integers(1, 20))
    return m, draw(st.lists(st.integers(0, m - 1), min_size=1, unique=True))


@settings(max_examples=100, deadline=None)
@given(case=chosen(), seed=st.integers(0, 2**31), weight=st.sampled_from([1.0, 1, 0.5, 8]))
def test_equal_weights_give_the_plain_mean_bit_for_bit(case, seed, weight):
    m, places = case
    stack, _ = candidates(seed, m, kept=0.5)
    found = average(stack, dict.fromkeys(places, weight))
    assert all(isinstance(leaf, np.ndarray | np.float32) for leaf in jax.tree.leaves(found)), "stays on the host"
    assert_same(found, jax.tree.map(lambda leaf: np.mean(leaf[places], axis=0), stack))


@pytest.mark.parametrize(
    "places", [[0], [1, 0], [2, 0, 1], [0, 1, 2], [6, 1, 4, 2, 0, 5, 3], [*range(9, -1, -1)]], ids=str
)
def test_equal_weights_give_the_plain_mean_bit_for_bit_on_a_device(places):
    stack = jax.tree.map(jnp.asarray, candidates(len(places), m=10)[0])
    found = average(stack, dict.fromkeys(places, 1.0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    assert_same(found, jax.tree.map(lambda leaf: jnp.mean(leaf[np.array(places)], axis=0), stack))
    assert_same(found, trees.mean(trees.member(stack, np.array(places))))


@settings(max_examples=50, deadline=None)
@given(case=chosen(), seed=st.integers(0, 2**31), weight=st.floats(1e-3, 1e3))
def test_equal_weights_of_any_size_give_the_plain_mean_bit_for_bit_in_float64_too(case, seed, weight):
    m, places = case
    stack = jax.tree.map(np.float64, candidates(seed, m)[0])
    found = average(stack, dict.fromkeys(places, weight))
    assert_same(found, jax.tree.map(lambda leaf: np.mean(leaf[places], axis=0), stack))


@settings(max_examples=40, deadline=None)
@given(case=chosen(), seed=st.integers(0, 2**31), kept=st.floats(0, 1), data=st.data())
def test_weights_count_relative_to_their_sum(case, seed, kept, data):
    m, places = case
    weights = {place: data.draw(st.floats(1e-3, 1e3)) for place in places}
    stack, mask = candidates(seed, m, kept)
    soup = average(stack, weights)
    shares = np.array(list(weights.values())) / sum(weights.values())
    for found, own in zip(jax.tree.leaves(soup), jax.tree.leaves(stack), strict=True):
        assert found.dtype == np.float32
        # Each of at most 20 terms and each of their sums is rounded to float32, 6e-8; a term is at most 5.
        np.testing.assert_allclose(found, np.tensordot(shares, np.float64(own[places]), axes=1), rtol=0, atol=2e-5)
    assert not soup.params["fc"]["kernel"][~mask].any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), weight=st.floats(1e-3, 1e3))
def test_the_soup_of_one_candidate_is_the_candidate(seed, weight):
    stack, _ = candidates(seed, m=3)
    assert_same(average(stack, {1: weight}), trees.member(stack, 1))


def test_who_has_no_weight_does_not_count():
    stack, _ = candidates(0, m=3)
    for leaf in jax.tree.leaves(stack):
        leaf[1] = np.nan
    assert_same(average(stack, {0: 1.0, 2: 1.0}), trees.mean(trees.member(stack, np.array([0, 2]))))


def masks(m=3):
    random = np.random.default_rng(0)
    one = {
        "conv": {"kernel": random.random((2, 3)) < 0.5, "bias": None},
        "fc": {"kernel": np.ones(4, bool)},
    }
    return [jax.tree.map(np.copy, one) for _ in range(m)]


def test_equal_masks_are_the_same():
    check_same_mask(masks()[0], masks()[1], 2)


@pytest.mark.parametrize("candidate", [0, 1, 2])
@pytest.mark.parametrize("layer", ["conv", "fc"])
def test_one_weight_too_many_is_named(candidate, layer):
    own = masks()
    own[candidate][layer]["kernel"].flat[-1] ^= True
    number = max(candidate, 1) + 1
    with pytest.raises(RunError, match=rf"candidates 1 and {number} .* {layer}/kernel") as error:
        check_same_mask(own[0], own[number - 1], number)
    assert "\n" not in str(error.value)
