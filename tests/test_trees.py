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


def test_subtract():
    a, b = {"x": jnp.float32([3, 5]), "y": [jnp.float32(1)]}, {"x": jnp.float32([1, -1]), "y": [jnp.float32(4)]}
    assert_same(trees.subtract(a, b), {"x": np.float32([2, 6]), "y": [np.float32(-3)]})


def test_dot_and_norm_by_hand():
    a = {"x": jnp.float32([[1, 2], [3, 4]]), "y": [jnp.float32(2)]}
    b = {"x": jnp.float32([[1, 0], [-1, 2]]), "y": [jnp.float32(-3)]}
    assert trees.dot(a, b) == 1 - 3 + 8 - 6
    assert trees.norm({"x": jnp.float32([[2, 4], [5, 6]]), "y": [jnp.float32(0)]}) == 9
    assert trees.norm({"x": jnp.zeros((2, 2))}) == 0


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_dot_and_norm_are_float32_over_many_entries(transform, dtype):
    random = np.random.default_rng(0)
    a = {name: jnp.asarray(1 + 0.1 * random.standard_normal(100_003), dtype) for name in "xy"}
    b = {name: jnp.asarray(1 + 0.1 * random.standard_normal(100_003), dtype) for name in "xy"}
    exact = sum(np.dot(np.float64(a[name]), np.float64(b[name])) for name in a)
    length = np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in a.values()))
    assert transform(trees.dot)(a, b).dtype == np.float32
    # A naive float32 sum of 2e5 equal terms would be off by 1e-3; blocked sums stay near one rounding.
    np.testing.assert_allclose(transform(trees.dot)(a, b), exact, rtol=2e-6)
    np.testing.assert_allclose(transform(trees.norm)(a), length, rtol=2e-6)


def test_norm_of_each_member_of_a_stack(members):
    found = jax.vmap(trees.norm)(trees.stack(members))
    # The batched sum may run in another order.
    np.testing.assert_allclose(found, [trees.norm(tree) for tree in members], rtol=1e-6)


@pytest.mark.parametrize("verb", [trees.subtract, trees.dot])
def test_trees_of_different_structure_do_not_mix(verb, members):
    with pytest.raises(ValueError, match="scales"):
        verb(members[0], {"conv": members[1]["conv"]})


def test_path_names():
    pair = namedtuple("Pair", "mean var")
    tree = {"conv_1": {"kernel": 0}, "list": [1, {"bias": 2}], "stats": pair(3, 4), 7: {"scale": 5}}
    tree = {str(key): value for key, value in tree.items()}
    names = {trees.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    assert names == {"conv_1/kernel": 0, "list/0": 1, "list/1/bias": 2, "stats/mean": 3, "stats/var": 4, "7/scale": 5}
    assert trees.path_name(()) == ""
