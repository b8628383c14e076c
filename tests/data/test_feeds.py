"""Orders, batches and blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssoup_jax.data import feeds, sources

SIZES = {"n": st.integers(1, 200), "size": st.integers(1, 250)}


@settings(max_examples=100, deadline=None)
@given(**SIZES, m=st.integers(1, 3))
@example(n=48, size=16, m=2)
@example(n=5, size=16, m=2)
def test_cutting_loses_and_moves_nothing(n, size, m):
    order = np.arange(m * n).reshape(m, n)
    blocks = feeds.cut(order, size)
    np.testing.assert_array_equal(np.concatenate([block.reshape(m, -1) for block in blocks], axis=1), order)
    assert sum(block.shape[1] for block in blocks) == feeds.n_batches(n, size)
    assert [block.shape[2] for block in blocks] == [size] * (n >= size) + [n % size] * (n % size > 0)
    assert all(block.shape[1] == 1 for block in blocks[1:])


def test_cutting_without_members():
    blocks = feeds.cut(np.arange(7), 3)
    assert [block.tolist() for block in blocks] == [[[0, 1, 2], [3, 4, 5]], [[6]]]


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_padded_blocks_are_the_split_and_then_its_first_position(n, size):
    positions = np.random.default_rng(n).permutation(1000)[:n].astype(np.int32)
    blocks = np.asarray(feeds.padded_blocks(positions, size))
    assert (blocks.dtype, blocks.shape[1]) == (np.int32, size)
    flat = blocks.ravel()
    assert 0 <= len(flat) - n < size
    np.testing.assert_array_equal(flat[:n], positions)
    np.testing.assert_array_equal(flat[n:], positions[0])


def keys(*seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def orders(epoch, *seeds, n=50):
    return np.asarray(feeds.epoch_order(keys(*seeds), jnp.int32(epoch), n))


def test_an_order_is_a_permutation_for_every_member():
    found = orders(0, 0, 1, 2)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(50), (3, 1)))


def test_orders_depend_on_the_key_and_the_epoch_and_on_nothing_else():
    found = orders(0, 5, 6, 5)
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found, orders(1, 5, 6, 5))
    np.testing.assert_array_equal(found, orders(0, 5, 6, 5))
    np.testing.assert_array_equal(found[1], orders(0, 6)[0])
    assert not np.array_equal(found[0], np.arange(50))


def test_every_split_is_found_again_on_the_device():
    dataset = sources.load("digits")
    feed = feeds.resident(dataset)
    examples, positions = feed.examples, feed.positions
    assert list(positions) == ["train", "val", "test"]
    assert (examples.images.dtype, examples.labels.dtype) == (jnp.uint8, jnp.int32)
    for name, own in positions.items():
        split = getattr(dataset, name)
        assert own.dtype == np.int32
        # Flat, which costs no padding on a TPU; the shape is the network's matter.
        np.testing.assert_array_equal(np.asarray(examples.images)[own], split.images.reshape(len(split), -1))
        np.testing.assert_array_equal(np.asarray(examples.labels)[own], split.labels)
        assert feed.sizes[name] == len(split)
    everyone = np.concatenate(list(positions.values()))
    np.testing.assert_array_equal(everyone, np.arange(len(examples.labels)))
