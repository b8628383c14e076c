"""The pytree verbs against NumPy in float64 and against hand-made trees."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax import trees

M = 3


def member_tree(seed, dtype=np.float32):
    random = np.random.default_rng(seed)
    return {
        "conv": {
            "kernel": random.standard_normal((2, 3)).astype(dtype),
            "bias": random.standard_normal(4).astype(dtype),
        },
        "scales": [random.standard_normal(()).astype(dtype), random.standard_normal((1, 2, 2)).astype(dtype)],
    }


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert f.dtype == e.dtype
        np.testing.assert_array_equal(f, e, strict=True)


@pytest.fixture
def members():
    return [member_tree(seed) for seed in range(M)]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_unstack_undoes_stack(members, transform):
    stacked = transform(trees.stack)(members)
    assert trees.stack_size(stacked) == M
    assert stacked["conv"]["kernel"].shape == (M, 2, 3)
    assert stacked["scales"][0].shape == (M,)
    for found, expected in zip(transform(trees.unstack)(stacked), members, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("dtype", [np.int32, bool, jnp.bfloat16])
def test_stacking_keeps_the_dtype(dtype):
    first, second = trees.unstack(trees.stack([member_tree(0, dtype), member_tree(1, dtype)]))
    assert_same(first, member_tree(0, dtype))
    assert_same(second, member_tree(1, dtype))


def test_a_stack_of_one(members):
    stacked = trees.stack(members[:1])
    assert trees.stack_size(stacked) == 1
    assert_same(trees.mean(stacked), members[0])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "traced index"])
def test_member(members, transform):
    for index, expected in enumerate(members):
        assert_same(transform(trees.member)(trees.stack(members), index), expected)


def test_members_of_different_structure_do_not_stack(members):
    with pytest.raises(ValueError, match="scales"):
        trees.stack([members[0], {"conv": members[1]["conv"]}])


def test_members_of_different_shape_do_not_stack():
    with pytest.raises(ValueError, match="shape"):
        trees.stack([{"kernel": jnp.zeros(2)}, {"kernel": jnp.zeros(3)}])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_mean(members, transform):
    found = transform(trees.mean)(trees.stack(members))
    expected = jax.tree.map(lambda *leaves: np.mean(np.float64(leaves), axis=0), *members)
    for f, e, leaf in zip(*map(jax.tree.leaves, (found, expected, members[0])), strict=True):
        assert f.dtype == leaf.dtype
        # Three roundings of float32 (6e-8 each) on values of size 1.
        np.testing.assert_allclose(f, e, rtol=0, atol=3e-7)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 6))
def test_the_mean_keeps_the_zeros_that_all_members_share(seed, m):
    random = np.random.default_rng(seed)
    kept = random.random(20) < 0.5
    members = {"kernel": random.standard_normal((m, 20)).astype(np.float32) * kept}
    np.testing.assert_array_equal(np.asarray(trees.mean(members)["kernel"])[~kept], 0)


def test_the_mean_of_equal_members_of_a_power_of_two_is_exact(members):
    assert_same(trees.mean(trees.stack([members[0]] * 4)), members[0])


def test_path_names():
    pair = namedtuple("Pair", "mean var")
    tree = {"conv_1": {"kernel": 0}, "list": [1, {"bias": 2}], "stats": pair(3, 4), 7: {"scale": 5}}
    tree = {str(key): value for key, value in tree.items()}
    names = {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    assert names == {"conv_1/kernel": 0, "list/0": 1, "list/1/bias": 2, "stats/mean": 3, "stats/var": 4, "7/scale": 5}
    assert trees.path_name(()) == ""
