"""Transforms of image batches on the accelerator: random crop, flip and rotation, then normalisation.

All three moves only say which source pixel an output pixel shows, so they are composed into one map of coordinates and
cost a single gather. Images stay uint8 until they are normalised.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import rows
from ssoup_jax.errors import SettingsError

# Neighbouring angles of 4096 in +-15 degrees move the corner of a 32 x 32 image by 0.003 pixels. Whole numbers of
# them let the fixed-point coefficients be made in float64 before compilation, which float32 on a device cannot match.
N_ANGLES = 4096


@dataclasses.dataclass(frozen=True)
class Transform:
    """What happens to an image before the network sees it.

    Attributes:
        pad: black pixels added on every side before a random crop of the original size; 0: no crop.
        flip: whether to mirror left to right with probability 1/2.
        rotate_degrees: rotation uniform in plus or minus this angle, nearest pixel, black fill; 0: none.
        mean: subtracted per channel from values in [0, 1]; None: 0.
        std: divided by per channel afterwards; None: 1.
    """

    pad: int = 0
    flip: bool = False
    rotate_degrees: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


_CROP_AND_FLIP = Transform(pad=4, flip=True)

TRANSFORMS: dict[str, Transform] = {
    "mnist": Transform(),
    "cifar10": dataclasses.replace(_CROP_AND_FLIP, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
    "cifar100": dataclasses.replace(
        _CROP_AND_FLIP, rotate_degrees=15.0, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)
    ),
}
"""Transforms by name of the data set; any other data set is only scaled to [0, 1]."""

ENCODED_TRANSFORM = Transform(flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""The transform of images of different sizes, after they were cropped and scaled to one: that of ImageNet."""


def changed(
    transform: Transform,
    shape: tuple[int, int, int],
    *,
    pad: int | None = None,
    flip: bool | None = None,
    rotate_degrees: float | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Transform:
    """Puts what is given in the place of a transform's own values.

    Args:
        transform: the transform.
        shape: height, width and channels of the images.
        pad: as in `Transform`, as are the others; None: as it is.
        flip: likewise.
        rotate_degrees: likewise.
        mean: a value for each channel, or one for all.
        std: likewise.

    Returns:
        The transform; one that changes nothing is equal to `Transform()`.

    Raises:
        SettingsError: a value that images of this shape cannot have.
    """
    height, width, channels = shape
    if pad is not None and pad >= min(height, width):
        raise SettingsError(
            f"data.pad: found {pad}; images have {height} x {width} pixels, allowed: 0 to {min(height, width) - 1}"
        )
    given = {
        "pad": pad,
        "flip": flip,
        "rotate_degrees": None if rotate_degrees is None else float(rotate_degrees),
        "mean": None if mean is None else _of_channels("mean", mean, channels),
        "std": None if std is None else _of_channels("std", std, channels),
    }
    made = dataclasses.replace(transform, **{name: value for name, value in given.items() if value is not None})
    # Nothing is subtracted, nothing divided by: no change, and so no other name for what is made of the data.
    mean = None if mean is not None and not any(made.mean) else made.mean
    std = None if std is not None and set(made.std) == {1.0} else made.std
    return dataclasses.replace(made, mean=mean, std=std)


def _of_channels(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        allowed = f"1 value or {channels}, one for each channel" if channels > 1 else "1 value"
        raise SettingsError(f"data.{name}: found {values}; allowed: {allowed}")
    low = 0.0 if name == "mean" else np.finfo(np.float32).tiny
    if not all(low <= value <= 1 for value in values):
        above = "at least 0" if name == "mean" else "above 0"
        raise SettingsError(
            f"data.{name}: found {values}; allowed: {above} and at most 1, for pixels in 0 to 1: divide by 255"
        )
    return tuple(map(float, values)) * (channels // len(values))


class Moves(NamedTuple):
    """The random numbers of one batch.

    Attributes:
        offset: row and column of the crop's corner in the padded image, int32 `[B, 2]`, each in 0 .. 2 pad.
        flip: bool `[B]`.
        angle: position in `angles(rotate_degrees)`, int32 `[B]`.
    """

    offset: jax.Array
    flip: jax.Array
    angle: jax.Array


def angles(degrees: float) -> np.ndarray:
    """Returns the angles that a rotation is drawn from: the centres of equal bins over plus or minus `degrees`.

    Args:
        degrees: the largest rotation, in degrees.

    Returns:
        Degrees counter-clockwise, ascending, float64 `[N_ANGLES]`.
    """
    return degrees * ((2 * np.arange(N_ANGLES) + 1) / N_ANGLES - 1)


def draw(transform: Transform, key: jax.Array, batch: int) -> Moves:
    """Draws where the images of a batch move; what one move draws does not depend on another being wanted.

    Args:
        transform: which moves are wanted; the others are drawn as no move (an angle is drawn regardless).
        key: typed PRNG key `[]`.
        batch: number of images B.

    Returns:
        The moves of every image.
    """
    # One call of the generator serves all moves. That 2^32 is no multiple of 2 pad + 1 does not show: no offset is
    # favoured by more than one part in 2^32 / (2 pad + 1).
    bits = jax.random.bits(key, (batch, 4), jnp.uint32)
    return Moves(
        offset=(bits[:, :2] % (2 * transform.pad + 1)).astype(jnp.int32),
        flip=bits[:, 2] % (2 if transform.flip else 1) == 1,
        angle=(bits[:, 3] % N_ANGLES).astype(jnp.int32),
    )


def move(transform: Transform, moves: Moves, images: jax.Array) -> jax.Array:
    """Crops, flips and rotates every image, in this order.

    Args:
        transform: which moves are wanted.
        moves: what was drawn for this batch.
        images: uint8 `[B, H, W, C]`.

    Returns:
        uint8 `[B, H, W, C]`; pixels from outside an image are 0.
    """
    if not (transform.pad or transform.flip or transform.rotate_degrees):
        return images
    return jax.vmap(functools.partial(_move_one, transform))(moves, images)


def normalise(transform: Transform, images: jax.Array) -> jax.Array:
    """Scales pixels to [0, 1], then subtracts the mean and divides by the standard deviation of each channel.

    Args:
        transform: has the mean and the standard deviation.
        images: uint8 `[B, H, W, C]`.

    Returns:
        float32 `[B, H, W, C]`.
    """
    scaled = images.astype(jnp.float32) / 255
    if transform.mean is not None:
        scaled -= _per_channel(transform.mean)
    if transform.std is not None:
        scaled /= _per_channel(transform.std)
    return scaled


def augment(transform: Transform, key: jax.Array, images: jax.Array, axis: str | None = None) -> jax.Array:
    """Moves the images of a training batch at random and normalises them.

    Args:
        transform: which moves and which constants.
        key: typed PRNG key `[]`; equal keys give equal batches.
        images: uint8 `[B, H, W, C]`.
        axis: mesh axis over which the batch is cut, of which these are this device's rows.

    Returns:
        float32 `[B, H, W, C]`.
    """
    moves = rows.drawn(functools.partial(draw, transform, key), images.shape[0], axis)
    return normalise(transform, move(transform, moves, images))


def _per_channel(values: tuple[float, ...]) -> jax.Array:
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)


def _move_one(transform: Transform, moves: Moves, image: jax.Array) -> jax.Array:
    """Moves one image `[H, W, C]`, going back from each output pixel through the moves in reverse order."""
    height, width = image.shape[:2]

    def within(rows: jax.Array, cols: jax.Array) -> jax.Array:
        return (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)

    rows, cols = jnp.indices((height, width), jnp.int32)
    inside = jnp.ones((height, width), bool)
    if transform.rotate_degrees:
        table = jnp.asarray(_rotations(transform.rotate_degrees, height, width))
        a, b, c, d, e, f = table[moves.angle]
        rows, cols = (d * cols + e * rows + f) >> 16, (a * cols + b * rows + c) >> 16
        # A rotation sees the cropped image only: beyond its edge is black, even where the uncropped image goes on.
        inside = within(rows, cols)
    if transform.flip:
        cols = jnp.where(moves.flip, width - 1 - cols, cols)
    if transform.pad:
        rows, cols = rows + moves.offset[0] - transform.pad, cols + moves.offset[1] - transform.pad
        inside &= within(rows, cols)
    clipped = jnp.clip(rows, 0, height - 1), jnp.clip(cols, 0, width - 1)
    pixels = image.at[clipped].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], pixels, jnp.zeros((), image.dtype))


@functools.lru_cache(maxsize=32)
def _rotations(degrees: float, height: int, width: int) -> np.ndarray:
    """Returns Pillow's coefficients for all of `angles(degrees)`, int32 `[N_ANGLES, 6]`."""
    return np.array([_rotation(angle, height, width) for angle in angles(degrees).tolist()], np.int32)


def _rotation(angle: float, height: int, width: int) -> tuple[int, ...]:
    """Returns `(a, b, c, d, e, f)` with source column `(a x + b y + c) >> 16` and row `(d x + e y + f) >> 16`.

    These are the 16.16 fixed-point numbers that Pillow's nearest-pixel `Image.rotate` computes with, which torchvision
    calls; the same numbers, rounded at the same places, give the same pixels.
    """
    radians = -math.radians(angle % 360.0)
    cos, sin = round(math.cos(radians), 15), round(math.sin(radians), 15)
    x, y = width / 2, height / 2
    column = cos * -x + sin * -y + x
    row = -sin * -x + cos * -y + y
    exact = (cos, sin, column + cos * 0.5 + sin * 0.5, -sin, cos, row + -sin * 0.5 + cos * 0.5)
    return tuple(math.floor(value * 65536.0 + 0.5) for value in exact)
