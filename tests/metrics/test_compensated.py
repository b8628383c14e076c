"""Compensated float32 sums against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.metrics import compensated
from ssoup_jax.metrics.compensated import Sum

# What 48 bits and some roundings leave.
EXACT = 1e-13

two_sum, log, reciprocal, total = map(
    jax.jit, (compensated.two_sum, compensated.log, compensated.reciprocal, lambda values: compensated.total(values, 0))
)


def split(x: np.ndarray) -> Sum:
    high = x.astype(np.float32)
    return Sum(high, (x - high).astype(np.float32))


def values(seed: int, low: float, high: float) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, 4096)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=20, deadline=None)
def test_a_sum_of_two_loses_nothing(seed, scale):
    a, b = values(seed, -1, 1).astype(np.float32), (scale * values(seed + 1, -1, 1)).astype(np.float32)
    np.testing.assert_array_equal(two_sum(a, b).exact(), a.astype(np.float64) + b)


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_long_sum_has_twice_the_digits(scale):
    own = (1 + scale * values(0, -1, 1)).astype(np.float32)
    found = total(own)
    assert found.exact() == pytest.approx(own.sum(dtype=np.float64), rel=EXACT)
    # Every addition may take one rounding of 48 bits, 4e-15.
    together = total(Sum(*(np.tile(part, 1000) for part in found)))
    assert together.exact() == pytest.approx(1000 * own.sum(dtype=np.float64), rel=4e-12)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_what_it_is(value):
    found = total(np.float32([1, value, 2]))
    np.testing.assert_equal([found.exact(), float(found.rounded())], [value, value])


@pytest.mark.parametrize("low, high", [(1, 1.001), (1, 3), (3, 1000)])
def test_logarithms_carry_one_small_rounding(low, high):
    x = values(0, low, high)
    # A rounding of a number below 0.4, 3e-8, and as much of its logarithm's approximation.
    np.testing.assert_allclose(log(split(x)).exact(), np.log(x), rtol=0, atol=6e-8)
    np.testing.assert_allclose(np.mean(log(split(x)).exact()), np.mean(np.log(x)), rtol=0, atol=2e-9)


def test_the_logarithm_of_hardly_more_than_one_keeps_its_digits():
    tiny = np.float32([0, 1e-30, 1e-12, 1e-8])
    np.testing.assert_allclose(log(Sum(jnp.ones(4), tiny)).exact(), tiny, rtol=1e-6)


@pytest.mark.parametrize("low, high", [(1, 1.001), (1, 3), (3, 1000)])
def test_reciprocals_are_rounded_once(low, high):
    x = values(0, low, high)
    expected = (1 / x).astype(np.float32)
    found = reciprocal(split(x))
    # All but those that lie within 1e-4 of the middle between two floats.
    assert np.mean(np.asarray(found) != expected) <= 1e-3
    np.testing.assert_allclose(found, expected, rtol=2e-7)


def test_reciprocals_of_whole_numbers_are_those_of_float32():
    whole = np.arange(1, 1001, dtype=np.float32)
    np.testing.assert_array_equal(reciprocal(Sum(whole, np.zeros_like(whole))), np.float32(1) / whole)
