"""Crop, flip and rotation against NumPy and Pillow on the same random numbers; the statistics of those numbers."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssoup_jax.data.augment import (
    N_ANGLES,
    TRANSFORMS,
    Moves,
    Transform,
    angles,
    augment,
    changed,
    draw,
    move,
    normalise,
)
from ssoup_jax.errors import SettingsError

_move = jax.jit(move, static_argnums=0)
_normalise = jax.jit(normalise, static_argnums=0)
_augment = jax.jit(augment, static_argnums=0)

CASES = {
    "nothing": Transform(),
    "crop": Transform(pad=4),
    "flip": Transform(flip=True),
    "rotate": Transform(rotate_degrees=15.0),
    "crop, flip": Transform(pad=2, flip=True),
    "flip, rotate": Transform(flip=True, rotate_degrees=30.0),
    "all": Transform(pad=4, flip=True, rotate_degrees=15.0),
    "all, any angle": Transform(pad=3, flip=True, rotate_degrees=180.0),
}
# Every case on images that are not square, where rows cannot be mistaken for columns; some on usual ones.
ON_SHAPES = [(name, (7, 10, 3)) for name in CASES] + [("all", (32, 32, 3)), ("all, any angle", (28, 28, 1))]


def images(batch: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random images without black pixels, so that black in a result is fill."""
    return np.random.default_rng(seed).integers(1, 256, (batch, *shape), dtype=np.uint8)


def twin(transform: Transform, moves: Moves, batch: np.ndarray) -> np.ndarray:
    """The same moves image by image with NumPy's pad, slices and Pillow's rotation."""
    height, width = batch.shape[1:3]
    pad = transform.pad
    moved = []
    for image, (row, col), flip, angle in zip(batch, *map(np.asarray, moves), strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        result = padded[row : row + height, col : col + width]
        result = result[:, ::-1] if flip else result
        if transform.rotate_degrees:
            picture = Image.fromarray(result[..., 0] if result.shape[-1] == 1 else result)
            degrees = float(angles(transform.rotate_degrees)[angle])
            result = np.asarray(picture.rotate(degrees, Image.Resampling.NEAREST)).reshape(image.shape)
        moved.append(result)
    return np.stack(moved)


@pytest.mark.parametrize(("name", "shape"), ON_SHAPES, ids=str)
def test_moves_equal_numpy_and_pillow(name, shape):
    transform, batch = CASES[name], images(64, shape)
    moves = draw(transform, jax.random.key(5), len(batch))
    np.testing.assert_array_equal(_move(transform, moves, batch), twin(transform, moves, batch))


@pytest.mark.parametrize(("degrees", "shape"), [(15.0, (32, 32, 1)), (180.0, (9, 6, 1))])
def test_every_angle_equals_pillow(degrees, shape):
    transform = Transform(rotate_degrees=degrees)
    moves = Moves(np.zeros((N_ANGLES, 2), np.int32), np.zeros(N_ANGLES, bool), np.arange(N_ANGLES, dtype=np.int32))
    batch = np.repeat(images(1, shape), N_ANGLES, axis=0)
    np.testing.assert_array_equal(_move(transform, moves, batch), twin(transform, moves, batch))


def test_a_rotated_crop_shows_black_where_the_crop_ends():
    # The crop's corner is at the image's own corner, so the image goes on below and to the right of the crop.
    transform = Transform(pad=2, rotate_degrees=45.0)
    moves = Moves(np.zeros((1, 2), np.int32), np.zeros(1, bool), np.full(1, N_ANGLES - 1, np.int32))
    moved = np.asarray(_move(transform, moves, images(1, (8, 8, 1))))[0, ..., 0]
    assert [moved[0, 0], moved[0, -1], moved[-1, 0], moved[-1, -1]] == [0, 0, 0, 0]
    assert moved.any()


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    # Few shapes and transforms, since each pair is compiled anew.
    transform=st.sampled_from([CASES["crop, flip"], CASES["all"]]),
    shape=st.sampled_from([(8, 8, 1), (7, 10, 3)]),
    seed=st.integers(0, 2**31 - 1),
)
def test_moves_only_move(transform, shape, seed):
    batch = images(4, shape, seed)
    moved = np.asarray(_move(transform, draw(transform, jax.random.key(seed), 4), batch))
    assert moved.shape == batch.shape and moved.dtype == np.uint8
    for image, result in zip(batch, moved, strict=True):
        pixels = {tuple(pixel) for pixel in image.reshape(-1, shape[-1])}
        assert {tuple(pixel) for pixel in result.reshape(-1, shape[-1])} <= pixels | {(0,) * shape[-1]}


def test_statistics_of_the_draws():
    n = 20_000
    transform = Transform(pad=4, flip=True, rotate_degrees=15.0)
    moves = jax.tree.map(np.asarray, draw(transform, jax.random.key(0), n))
    # Every bound is six standard deviations: a correct generator fails once in 500 million keys.
    pairs = np.bincount(moves.offset[:, 0] * 9 + moves.offset[:, 1], minlength=81)
    assert len(pairs) == 81
    np.testing.assert_allclose(pairs, n / 81, atol=6 * np.sqrt(n / 81))
    np.testing.assert_allclose(moves.flip.mean(), 0.5, atol=6 * 0.5 / np.sqrt(n))
    drawn = angles(15.0)[moves.angle]
    assert np.abs(drawn).max() < 15.0
    bins = np.histogram(drawn, bins=30, range=(-15.0, 15.0))[0]
    np.testing.assert_allclose(bins, n / 30, atol=6 * np.sqrt(n / 30))
    # The three draws are independent of each other.
    columns = np.stack([moves.offset[:, 0], moves.offset[:, 1], moves.flip, drawn]).astype(float)
    np.testing.assert_allclose(np.corrcoef(columns), np.eye(4), atol=6 / np.sqrt(n))


def test_angles_cover_the_range_evenly():
    found = angles(15.0)
    np.testing.assert_allclose(np.diff(found), 30.0 / N_ANGLES, rtol=1e-9)  # differences of float64 numbers near 15
    np.testing.assert_allclose([found[0], found[-1]], [-15.0 + 15.0 / N_ANGLES, 15.0 - 15.0 / N_ANGLES], rtol=1e-14)


def test_moves_that_are_off_are_drawn_as_none_and_leave_the_others_alone():
    key = jax.random.key(3)
    everything, crop = (draw(CASES[name], key, 50) for name in ("all", "crop"))
    np.testing.assert_array_equal(crop.offset, everything.offset)
    assert not np.asarray(crop.flip).any()
    assert not np.asarray(draw(CASES["flip"], key, 50).offset).any()
    np.testing.assert_array_equal(draw(CASES["flip"], key, 50).flip, everything.flip)


def test_equal_keys_give_equal_batches():
    transform, batch = CASES["all"], images(32, (8, 8, 3))
    first, again, other = (_augment(transform, jax.random.key(seed), batch) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any(axis=(1, 2, 3)).sum() > 16


@pytest.mark.parametrize("name", ["nothing", "all"])
def test_members_under_vmap_see_what_they_see_alone(name):
    transform, stack = CASES[name], images(3 * 16, (8, 8, 3)).reshape(3, 16, 8, 8, 3)
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(functools.partial(augment, transform)))(keys, stack)
    for key, batch, result in zip(keys, stack, together, strict=True):
        np.testing.assert_array_equal(_augment(transform, key, batch), result)


def test_nothing_asked_is_the_identity():
    batch = images(5, (8, 8, 3))
    np.testing.assert_array_equal(_move(Transform(), draw(Transform(), jax.random.key(0), 5), batch), batch)
    scaled = np.asarray(_augment(Transform(), jax.random.key(0), batch))
    assert scaled.dtype == np.float32
    # One rounding of float32: the compiler may multiply by 1/255 where NumPy divides by 255.
    np.testing.assert_allclose(scaled, batch / 255, rtol=2.4e-7)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_normalise_is_scale_shift_divide_in_float64(name):
    transform = TRANSFORMS[name]
    channels = len(transform.mean or (0,))
    batch = images(2, (4, 4, channels))
    mean, std = (np.float64(values or default) for values, default in ((transform.mean, 0.0), (transform.std, 1.0)))
    found = _normalise(transform, batch)
    assert found.dtype == jnp.float32
    # Rounding of values up to 1 before the subtraction, magnified by the division by at least 0.199.
    np.testing.assert_allclose(found, (batch / 255 - mean) / std, atol=1e-6)


def test_padding_is_black_before_normalisation():
    transform = TRANSFORMS["cifar10"]
    moves = Moves(np.zeros((1, 2), np.int32), np.zeros(1, bool), np.zeros(1, np.int32))
    corner = _normalise(transform, _move(transform, moves, images(1, (32, 32, 3))))[0, 0, 0]
    # Two float32 roundings of the quotient.
    np.testing.assert_allclose(corner, -np.array(transform.mean) / np.array(transform.std), rtol=2.4e-7)


def test_published_transforms():
    assert TRANSFORMS["mnist"] == Transform()
    for name, degrees in (("cifar10", 0.0), ("cifar100", 15.0)):
        found = TRANSFORMS[name]
        assert (found.pad, found.flip, found.rotate_degrees) == (4, True, degrees)
    assert len({hash(transform) for transform in TRANSFORMS.values()}) == 3


CIFAR10 = TRANSFORMS["cifar10"]


@pytest.mark.parametrize(
    ("transform", "given", "expected"),
    [
        (Transform(), {}, Transform()),
        (CIFAR10, {}, CIFAR10),
        (Transform(), {"pad": 2, "flip": True, "rotate_degrees": 5}, Transform(2, True, 5.0)),
        (CIFAR10, {"pad": 0}, Transform(0, True, 0.0, CIFAR10.mean, CIFAR10.std)),
        (Transform(), {"mean": (0.5,), "std": (0.25, 0.5, 1)}, Transform(mean=(0.5,) * 3, std=(0.25, 0.5, 1.0))),
        # What changes nothing is no change, and so keeps the name of what is stored.
        (Transform(), {"mean": (0,), "std": (1,), "flip": False}, Transform()),
        (CIFAR10, {"mean": (0, 0.0, 0), "std": (1, 1, 1), "flip": False, "pad": 0}, Transform()),
        (CIFAR10, {"mean": CIFAR10.mean, "std": CIFAR10.std, "pad": 4}, CIFAR10),
    ],
)
def test_what_is_given_takes_the_place_of_the_data_sets_own(transform, given, expected):
    found = changed(transform, (32, 32, 3), **given)
    assert (found, repr(found)) == (expected, repr(expected))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pad": 8}, "data.pad: found 8; images have 8 x 9 pixels, allowed: 0 to 7"),
        ({"mean": (0.5, 0.5)}, "data.mean: found (0.5, 0.5); allowed: 1 value or 3, one for each channel"),
        ({"mean": (125.3, 123.0, 113.9)}, "allowed: at least 0 and at most 1, for pixels in 0 to 1: divide by 255"),
        ({"std": (0, 0.1, 0.1)}, "data.std: found (0, 0.1, 0.1); allowed: above 0 and at most 1"),
        ({"std": (-0.2,)}, "data.std: found (-0.2,)"),
    ],
)
def test_what_images_of_a_shape_cannot_have_is_one_clear_line(given, says):
    with pytest.raises(SettingsError) as error:
        changed(Transform(), (8, 9, 3), **given)
    assert says in str(error.value)


def test_grey_images_have_one_mean():
    with pytest.raises(SettingsError, match=r"allowed: 1 value$"):
        changed(Transform(), (8, 8, 1), mean=(0.4, 0.5, 0.5))
    found = _normalise(changed(Transform(), (8, 8, 1), mean=(0.25,), std=(0.5,)), np.full((1, 8, 8, 1), 255, np.uint8))
    np.testing.assert_allclose(found, np.full((1, 8, 8, 1), 1.5), rtol=2e-7)  # a rounding of float32
