"""The pytree verbs against NumPy in float64 and against hand-made trees."""

import re
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax import trees
from ssoup_jax.errors import SettingsError

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


UNLIKE = {
    "leaf missing": ({"a": {"w": 1.0}}, {"a": {}}, "a/w is nothing, where float64[] is wanted"),
    "leaf too many": ({"a": 1.0}, {"a": 1.0, "b": None}, "b is None, where nothing is wanted"),
    "shape": ({"w": np.zeros(2)}, {"w": np.zeros(3)}, "w is float64[3], where float64[2] is wanted"),
    "dtype": ({"w": np.zeros(2)}, {"w": np.zeros(2, bool)}, "w is bool[2], where float64[2] is wanted"),
    "the first of two": ([1, 2, 3], [1.0, 2, 3.0], "0 is float64[], where int64[] is wanted"),
    "container": ([1.0], (1.0,), "(*,), where [*] is wanted"),
}


@pytest.mark.parametrize(("wanted", "found", "says"), UNLIKE.values(), ids=UNLIKE)
def test_the_first_difference_is_named(wanted, found, says):
    assert str(trees.first_difference(found, wanted)) == says
    assert trees.first_difference(found, found) is None
    with pytest.raises(SettingsError, match=f"^stack: member 2 is not like member 0: {re.escape(says)}$"):
        trees.stack([wanted, wanted, found])


def test_shapes_and_traced_values_are_compared_like_arrays(members):
    shapes = jax.eval_shape(lambda tree: tree, members[0])
    assert trees.first_difference(members[0], shapes) is None

    found = []
    jax.jit(lambda tree: found.append(str(trees.first_difference(tree, {"x": shapes["conv"]["bias"]}))))(
        {"x": np.zeros(3, np.float32)}
    )
    assert found == ["x is float32[3], where float32[4] is wanted"]


def test_nothing_does_not_stack():
    with pytest.raises(SettingsError, match=r"^stack: found no members"):
        trees.stack([])


def test_keys_and_numbers_stack():
    found = trees.stack([{"key": jax.random.key(i), "n": i} for i in range(2)])
    assert found["key"].shape == (2,)
    assert jax.random.key_data(trees.member(found, 1)["key"]).tolist() == [0, 1]
    np.testing.assert_array_equal(found["n"], [0, 1])


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


def test_a_variable_of_nnx_has_the_name_of_its_layer():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    for state in (nnx.state(model, nnx.Param), nnx.to_pure_dict(nnx.state(model, nnx.Param))):
        assert list(trees.named_leaves({"layer": state})) == ["layer/bias", "layer/kernel"]


def test_objects_are_told_apart_by_what_they_are_and_not_by_what_they_hold():
    one, same_values = member_tree(0), member_tree(0)
    each, places = trees.distinct([same_values, one, same_values])
    assert [id(tree) for tree in each] == [id(same_values), id(one)]
    assert places == [0, 1, 0]
