"""The plain mean, and the mask that makes it as sparse as its candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax import trees
from ssoup_jax.errors import RunError
from ssoup_jax.soups import uniform
from ssoup_jax.training.state import Variables


def candidates(seed, m, kept=1.0):
    random = np.random.default_rng(seed)
    mask = random.random((4, 5)) < kept

    def draw(*shape):
        return random.standard_normal((m, *shape)).astype(np.float32)

    params = {"fc": {"kernel": draw(4, 5) * mask, "bias": draw(5)}, "bn": {"scale": draw(3)}}
    return jax.tree.map(jnp.asarray, Variables(params, {"bn": {"mean": draw(3), "var": draw(3)}})), mask


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), m=st.integers(1, 6), kept=st.floats(0, 1))
def test_the_soup_is_numpys_mean(seed, m, kept):
    stack, mask = candidates(seed, m, kept)
    soup = uniform.average(stack)
    assert jax.tree.structure(soup) == jax.tree.structure(stack)
    for found, own in zip(jax.tree.leaves(soup), jax.tree.leaves(stack), strict=True):
        assert found.dtype == jnp.float32
        # At most six roundings of float32, 6e-8 each, of sums up to 20, divided by m.
        np.testing.assert_allclose(found, np.mean(np.float64(own), axis=0), rtol=0, atol=1e-6)
    assert not np.asarray(soup.params["fc"]["kernel"])[~mask].any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_soup_of_one_candidate_is_the_candidate(seed):
    stack, _ = candidates(seed, m=1)
    found, expected = uniform.average(stack), trees.member(stack, 0)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def masks(m=3):
    random = np.random.default_rng(0)
    one = {
        "conv": {"kernel": random.random((2, 3)) < 0.5, "bias": np.ones(3, bool)},
        "fc": {"kernel": np.ones(4, bool)},
    }
    return [jax.tree.map(np.copy, one) for _ in range(m)]


@pytest.mark.parametrize("m", [1, 3])
def test_equal_masks_have_a_common_one(m):
    found = uniform.common_mask(masks(m))
    assert jax.tree.structure(found) == jax.tree.structure(masks()[0])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(masks()[0]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("candidate", [0, 1, 2])
@pytest.mark.parametrize(("layer", "leaf"), [("conv", "kernel"), ("conv", "bias"), ("fc", "kernel")])
def test_one_weight_too_many_is_named(candidate, layer, leaf):
    own = masks()
    own[candidate][layer][leaf].flat[-1] ^= True
    # Masks are compared with the first, so if that one differs the second is named.
    with pytest.raises(RunError, match=rf"candidates 1 and {max(candidate, 1) + 1} .* {layer}/{leaf}") as error:
        uniform.common_mask(own)
    assert "\n" not in str(error.value)
