import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ssoup_jax.metrics import sparsity
from ssoup_jax.pruning import full_mask, restrict


def test_hand_computed():
    params = {
        "conv": {"kernel": jnp.array([[0.0, 1.0, -0.0, 2.0]]).reshape(1, 1, 2, 2), "bias": jnp.array([0.0, 3.0])},
        "bn": {"scale": jnp.array([1.0, 0.0]), "bias": jnp.array([0.0, 0.0])},
        "block": {"fc": {"kernel": jnp.array([[1.0], [1e-45]], jnp.float32), "bias": jnp.array([1.0])}},
    }
    assert sparsity(params, full_mask(params)) == {
        "global": 6 / 13,
        "prunable": 2 / 6,
        "per_layer": {"block/fc/kernel": 0.0, "bn/scale": 0.5, "conv/kernel": 0.5},
        "n_params": 13,
        "n_nonzero_params": 7,
    }


@pytest.mark.parametrize("value, fraction", [(0.0, 1.0), (1.0, 0.0)])
def test_all_or_nothing(value, fraction):
    params = {"fc": {"kernel": jnp.full((3, 2), value), "bias": jnp.full((2,), value)}}
    found = sparsity(params, full_mask(params))
    assert (found["global"], found["prunable"], found["per_layer"]) == (fraction, fraction, {"fc/kernel": fraction})


def test_nothing_prunable():
    params = {"bn": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    found = sparsity(params, full_mask(params))
    assert (found["global"], found["prunable"]) == (0.5, 0.0)


def test_the_mask_says_what_is_prunable_and_the_params_what_is_zero():
    params = {name: {"kernel": jnp.array(kernel)} for name, kernel in (("a", [0.0, 0.0, 1.0, 2.0]), ("b", [0.0, 3.0]))}
    full = full_mask(params)
    assert sparsity(params, full)["prunable"] == 3 / 6
    assert sparsity(params, jax.tree.map(jnp.zeros_like, full))["prunable"] == 3 / 6
    found = sparsity(params, restrict(full, only="a/*"))
    assert (found["prunable"], found["global"]) == (2 / 4, 3 / 6)
    assert found["per_layer"] == {"a/kernel": 0.5, "b/kernel": 0.5}


@given(arrays(np.float32, (4, 5), elements=st.sampled_from([0.0, -0.0, 1.0, -2.0])), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_count_knows_no_order(kernel, random):
    shuffled = kernel.ravel()[random.sample(range(20), 20)].reshape(4, 5)
    params, moved = ({"fc": {"kernel": k, "bias": np.ones(5, np.float32)}} for k in (kernel, shuffled))
    mask = full_mask(params)
    found = sparsity(params, mask)
    assert found == sparsity(moved, mask)
    assert found["n_nonzero_params"] == 5 + np.sum(kernel != 0)
    assert found["global"] <= found["prunable"] == found["per_layer"]["fc/kernel"]


def test_figures_are_plain_python():
    params = {"fc": {"kernel": jnp.eye(2)}}
    found = sparsity(params, full_mask(params))
    assert {type(leaf) for leaf in jax.tree.leaves(found)} == {int, float}
