"""Fewer pixels and fewer training images: the same on every machine, and part of what the data are."""

import numpy as np
import pytest

from ssoup_jax.data import sources
from ssoup_jax.data.dataset import Contents, Split
from ssoup_jax.data.shrink import shrink
from ssoup_jax.errors import SettingsError


def contents(images: np.ndarray) -> Contents:
    split = Split(images, np.arange(len(images), dtype=np.int32) % 2)
    return Contents(2, split, split)


def test_each_pixel_is_the_mean_of_a_block_with_halves_rounded_up():
    image = np.array([[0, 1, 10, 10], [0, 1, 10, 12], [255, 255, 0, 0], [255, 255, 0, 1]], np.uint8)
    images = np.stack([image, 255 - image])[..., None]
    found = shrink(contents(images), 2).training.images
    assert found.dtype == np.uint8
    # Means of 0.5, 10.5, 255 and 0.25; then of 254.5, 244.5, 0 and 254.75.
    np.testing.assert_array_equal(found[..., 0], [[[1, 11], [255, 0]], [[255, 245], [0, 255]]])


def test_channels_and_splits_stay_apart():
    images = np.zeros((3, 4, 6, 2), np.uint8)
    images[1, ..., 0], images[2, ..., 1] = 7, 9
    made = shrink(contents(images), 2)
    assert made.test.images.shape == (3, 2, 3, 2)
    np.testing.assert_array_equal(made.training.images[:, 0, 0], [[0, 0], [7, 0], [0, 9]])
    assert shrink(contents(images), None).training.images is images


def test_a_factor_that_does_not_divide_is_one_line():
    with pytest.raises(SettingsError, match=r"^data.shrink: found 3; images of 8x8 allow 1, 2, 4, 8$"):
        sources.load("digits", sources.Options(shrink=3))


def test_the_first_training_images_are_used_and_the_others_stay():
    everything, some = (sources.load("digits", sources.Options(n_train=n)) for n in (None, 100))
    np.testing.assert_array_equal(some.train.images, everything.train.images[:100])
    np.testing.assert_array_equal(some.val.images, everything.val.images)
    np.testing.assert_array_equal(some.test.labels, everything.test.labels)
    assert some.fingerprint != everything.fingerprint
    assert sources.load("digits", sources.Options(n_train=len(everything.train))).fingerprint == everything.fingerprint


def test_more_training_images_than_there_are_is_one_line():
    with pytest.raises(SettingsError, match=r"^data.n_train: found 1294; digits has 1293 training images$"):
        sources.load("digits", sources.Options(n_train=1294))
