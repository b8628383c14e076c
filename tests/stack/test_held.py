"""Members that lie apart: what is taken apart is put together again, on the host and without a program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax import trees
from ssoup_jax.stack.held import Apart, apart, collected, together
from tests.training import tiny


def stack(m: int, seed: int = 0):
    random = np.random.default_rng(seed)
    return {"a": random.standard_normal((m, 2)).astype(np.float32), "b": [np.arange(m), random.random((m, 1)) < 0.5]}


@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 5), seed=st.integers(0, 100))
def test_what_is_taken_apart_is_put_together_again(m, seed):
    before = stack(m, seed)
    found = apart(before)
    assert len(found) == m
    for i in range(m):
        tiny.assert_equal(jax.device_get(found[i]), trees.member(before, i))
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found[i]))
    back = together(found)
    tiny.assert_equal(back, before)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(back))


def test_what_is_in_the_wanted_form_stays_the_same_object():
    whole = stack(2)
    assert all(
        found is own for found, own in zip(jax.tree.leaves(together(whole)), jax.tree.leaves(whole), strict=True)
    )
    held = apart(whole)
    assert apart(held) is held


def test_a_tree_may_hold_a_stack_that_is_apart():
    whole = stack(3)
    tiny.assert_equal(together((apart(whole), {"key": whole["b"][0]})), (whole, {"key": whole["b"][0]}))


def test_to_jax_it_is_one_leaf_with_members_along_the_first_axis():
    held = apart(stack(3))
    assert jax.tree.leaves((held, ())) == [held]
    assert trees.stack_size(held) == 3
    tiny.assert_equal(trees.member(held, 1), held[1])


def test_another_tree_takes_one_members_place_in_a_new_stack():
    held = Apart([{"a": i} for i in range(3)])
    changed = held.replaced(1, {"a": 7})
    assert [changed[i]["a"] for i in range(3)] == [0, 7, 2]
    assert [held[i]["a"] for i in range(3)] == [0, 1, 2]
    assert changed[0] is held[0]


def test_members_that_returned_nothing_have_zeros():
    outputs = {0: {"x": jnp.ones(2), "n": jnp.int32(3)}, 2: {"x": 5 * jnp.ones(2), "n": jnp.int32(4)}}
    expected = {"x": np.float32([[1, 1], [0, 0], [5, 5], [0, 0]]), "n": np.int32([3, 0, 4, 0])}
    tiny.assert_equal(collected(outputs, 4), expected)
    assert collected(outputs, 4)["n"].dtype == np.int32


@pytest.mark.parametrize("m", [1, 3])
def test_moving_members_compiles_nothing(compiled, m):
    on_device = jax.device_put(stack(m, seed=m))
    compiled()
    collected({0: together(apart(on_device))}, 2)
    assert compiled() == []
