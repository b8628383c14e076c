"""Keys by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.keys import derive

ROOT = jax.random.key(1)
PARTS = st.one_of(st.text(max_size=8), st.integers(0, 2**31 - 1))
PATHS = st.lists(PARTS, max_size=4).map(tuple)


def data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@settings(max_examples=40, deadline=None)
@given(path=PATHS)
def test_equal_paths_give_equal_keys(path):
    assert data(derive(ROOT, *path)) == data(derive(jax.random.key(1), *path))


@settings(max_examples=40, deadline=None)
@given(first=PATHS, second=PATHS)
def test_a_path_can_be_walked_in_pieces(first, second):
    assert data(derive(derive(ROOT, *first), *second)) == data(derive(ROOT, *first, *second))


def test_keys_differ_wherever_paths_differ():
    paths = [
        (),
        ("Dense",),
        ("Dense", "init"),
        ("Dense", "train"),
        ("init", "Dense"),
        ("Denseinit",),
        ("IMP", 1, "train", 0),
        ("IMP", 1, "train", 1),
        ("IMP", 2, "train", 1),
        ("IMP", 12, "train"),
        ("IMP", 1, 2, "train"),
        (0,),
        ("0",),
        (1,),
        ("1",),
        ("é",),
        ("e",),
    ]
    keys = [tuple(data(derive(root, *path))) for root in (ROOT, jax.random.key(2)) for path in paths]
    assert len(set(keys)) == 2 * len(paths)


def test_no_path_is_the_key_itself():
    assert data(derive(ROOT)) == data(ROOT)


def test_stored_results_keep_their_randomness():
    # Pins the derivation: another one would give other results to the same settings.
    expected = jax.random.fold_in(jax.random.fold_in(ROOT, 0xCBF43926), 7)
    assert data(derive(ROOT, "123456789", 7)) == data(expected), "0xCBF43926 is CRC-32's published check value"


@jax.jit
def traced(key, number):
    return jax.random.key_data(derive(key, "step", number, "augment"))


@pytest.mark.parametrize("number", [0, 3, 2**31 - 1])
def test_traced_numbers_give_the_same_keys(number):
    expected = data(derive(ROOT, "step", number, "augment"))
    assert traced(ROOT, jnp.int32(number)).tolist() == expected
    assert jax.vmap(traced, (None, 0))(ROOT, jnp.int32([number, 1])).tolist()[0] == expected


def test_keys_can_be_stacked_and_used():
    keys = jnp.stack([derive(ROOT, "IMP", seed) for seed in range(3)])
    drawn = jax.vmap(lambda key: jax.random.bits(key, ()))(keys)
    assert len(set(drawn.tolist())) == 3
