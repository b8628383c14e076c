"""Corruptions of images computed on the accelerator, after Hendrycks & Dietterich 2019, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations".

Noise, blur and light. Images with a side under 64 pixels take the constants of CIFAR-10-C, others those of ImageNet-C,
whose last step, compression as JPEG, is left out.

A corruption is a deterministic function of one image, of random numbers, and of data that the host computes from its
constant and the size of the images. So severities share a program.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # which imports its parts when they are first used

from ssoup_jax.errors import SettingsError, unknown

SEVERITIES = (1, 2, 3, 4, 5)

LARGE = 64
"""From this many pixels on, on the shorter side, the constants are those of ImageNet-C."""

# The published images cut off what follows the point; without this the rounding of float32 would darken whole values.
_ROUNDING = 1 / 256

# All bits set, and enough for the 500 photons of the finest shot noise.
_MAX_COUNT = 2**9 - 1


def names(channels: int = 3) -> tuple[str, ...]:
    """Returns the corruptions of images with so many channels; grey has no saturation."""
    return tuple(name for name in _CORRUPTIONS if channels == 3 or name != "saturate")


def corrupt(name: str, severity: int, key: jax.Array, index: jax.Array, images: jax.Array) -> jax.Array:
    """Corrupts a batch of images, by a compiled program.

    What is random about an image depends on the key and its index alone: an image is corrupted alike in any batch, and
    with one key the severities of a corruption share their random numbers.

    Args:
        name: one of `names`.
        severity: 1 to 5.
        key: a typed PRNG key, shape `[]`.
        index: which image of the data set each one is, int32 `[B]`.
        images: uint8 `[B, H, W, C]`, C being 1 or 3.

    Returns:
        uint8 `[B, H, W, C]`.

    Raises:
        SettingsError: an unknown name or severity, or images that it cannot be done to.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        found = f"{images.dtype} {list(images.shape)}"
        raise SettingsError(f"ood: {name}: found images {found}; allowed: uint8 [B, H, W, C] with 1 or 3 channels")
    *_, height, width, channels = images.shape
    if name not in names(channels):
        raise unknown("ood", name, names(channels))
    if severity not in SEVERITIES:
        raise SettingsError(f"ood: {name}: found severity {severity}; allowed: 1 to 5")
    draw = _CORRUPTIONS[name].draw
    random = () if draw is None else (_drawn(draw, key, index, images.shape[1:]),)
    return _run(name, images, _data(name, severity, height, width), *random)


# Kept for the next batch: it takes up to a tenth of a second.
@functools.lru_cache(maxsize=1)
def _data(name: str, severity: int, height: int, width: int) -> Any:
    corruption = _CORRUPTIONS[name]
    constants = corruption.large if min(height, width) >= LARGE else corruption.small
    return jax.tree.map(np.float32, corruption.data(constants[severity - 1], height, width))


# Apart from the rest, because nothing else takes as long to compile, and what is drawn is shared by corruptions.
@functools.partial(jax.jit, static_argnames=("draw", "shape"))
def _drawn(draw: "_Draw", key: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.vmap(lambda position: draw(jax.random.fold_in(key, position), shape))(index)


@functools.partial(jax.jit, static_argnames="name")
def _run(name: str, images: jax.Array, data: Any, *random: jax.Array) -> jax.Array:
    def one(image: jax.Array, *random: jax.Array) -> jax.Array:
        corrupted = _CORRUPTIONS[name].apply(image.astype(jnp.float32), data, *random)
        return jnp.floor(jnp.clip(corrupted, 0.0, 255.0) + _ROUNDING).astype(jnp.uint8)

    return jax.vmap(one)(images, *random)


_normal, _chance = jax.random.normal, jax.random.uniform


def _angle(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """One for the whole image, in plus or minus 45 degrees."""
    del shape
    return jax.random.uniform(key, minval=-math.pi / 4, maxval=math.pi / 4)


def _as_it_is(constant: Any, height: int, width: int) -> Any:
    del height, width
    return constant


def _gaussian_noise(image: jax.Array, std: jax.Array, normal: jax.Array) -> jax.Array:
    return image + 255 * std * normal


def _speckle_noise(image: jax.Array, std: jax.Array, normal: jax.Array) -> jax.Array:
    return image + image * std * normal


def _impulse_noise(image: jax.Array, share: jax.Array, chance: jax.Array) -> jax.Array:
    """Salt and pepper in equal parts, each channel on its own."""
    return jnp.where(chance < share / 2, 0.0, jnp.where(chance < share, 255.0, image))


def _poisson(photons: int, height: int, width: int) -> tuple[np.ndarray, float]:
    """Tabulates the distribution functions of all 256 means; counts over `photons` are white and need no entry."""
    del height, width
    counts, means = np.arange(_MAX_COUNT), np.arange(256)[:, None] * (photons / 255)
    return np.where(counts < photons, scipy.special.pdtr(counts, means), np.inf), 255 / photons


def _shot_noise(image: jax.Array, data: tuple[jax.Array, jax.Array], chance: jax.Array) -> jax.Array:
    """Counts photons: Poisson noise.

    A count is the number of values of the distribution function that a uniform number reaches, found by bisection.
    `jax.random.poisson` would take forty times as long on a CPU, and refuses all but one kind of key.
    """
    functions, level_per_photon = data
    levels = image.astype(jnp.int32)
    count = jnp.zeros_like(levels)
    for bit in reversed(range(_MAX_COUNT.bit_length())):
        count += jnp.where(functions[levels, count + (2**bit - 1)] <= chance, 2**bit, 0)
    return count.astype(jnp.float32) * level_per_photon


def _gaussian(std: float, height: int, width: int) -> tuple[np.ndarray, ...]:
    """A Gaussian that is cut off at four standard deviations; outside is the nearest pixel."""
    return tuple(
        scipy.ndimage.gaussian_filter1d(np.eye(side), std, axis=0, mode="nearest", truncate=4.0)[None]
        for side in (height, width)
    )


def _zooms(zooms: tuple[float, float], height: int, width: int) -> tuple[np.ndarray, ...]:
    """The average of the image and of enlargements of its middle, with linear interpolation."""
    # What rounding does to the end of this range decides how many enlargements the published images have.
    factors = np.arange(1, *zooms)

    def enlargement(side: int, factor: float) -> np.ndarray:
        kept = math.ceil(side / factor)
        start = (side - kept) // 2
        enlarged = scipy.ndimage.zoom(np.eye(side)[start : start + kept], (factor, 1), order=1)
        trimmed = (len(enlarged) - side) // 2
        return enlarged[trimmed : trimmed + side]

    rows, columns = (
        np.stack([np.eye(side), *(enlargement(side, factor) for factor in factors)]) for side in (height, width)
    )
    return rows / len(rows), columns


def _disk(constant: tuple[float, float], height: int, width: int) -> tuple[np.ndarray, ...]:
    """A disk whose edge a small Gaussian smooths; outside is the mirror image."""
    radius, std = constant
    # The published kernels have these sizes, which matter because the Gaussian sees a mirror at their edges.
    size, reach = (8, 1) if radius <= 8 else (math.floor(radius), 2)
    squares = np.arange(-size, size + 1) ** 2
    disk = (squares[:, None] + squares <= radius**2).astype(np.float64)
    gaussian = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    for axis in (0, 1):
        disk = scipy.ndimage.correlate1d(disk, gaussian / gaussian.sum(), axis, mode="mirror")
    # Few pairs of a blur along each axis add up to a disk: far less work than its hundreds of pixels.
    left, weights, right = np.linalg.svd(disk / disk.sum())
    rank = np.count_nonzero(weights > 1e-9 * weights[0])
    return tuple(
        np.stack([scipy.ndimage.correlate1d(np.eye(side), kernel, axis=0, mode="mirror") for kernel in kernels[:rank]])
        for side, kernels in ((height, (left * weights).T), (width, right))
    )


def _blur(image: jax.Array, maps: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Adds up images whose rows and columns were mixed linearly, by maps `[K, H, H]` and `[K, W, W]`."""

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        highest = jax.lax.Precision.HIGHEST
        mixed = jnp.einsum("ih,hwc->iwc", pair[0], image, precision=highest)
        return total + jnp.einsum("jw,iwc->ijc", pair[1], mixed, precision=highest), None

    return jax.lax.scan(add, jnp.zeros_like(image), maps)[0]


def _line(constant: tuple[int, float], height: int, width: int) -> np.ndarray:
    """Returns the weights of the pixels along a line: half of a Gaussian."""
    del height, width
    radius, std = constant
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * std**2))
    return weights / weights.sum()


def _motion_blur(image: jax.Array, weights: jax.Array, angle: jax.Array) -> jax.Array:
    """Averages along a line that starts at the pixel; outside is the nearest pixel."""
    height, width, _ = image.shape
    rows, columns = jnp.arange(height, dtype=jnp.int32), jnp.arange(width, dtype=jnp.int32)
    steps = jnp.arange(len(weights), dtype=jnp.float32)
    # The nearest pixel; halves go down.
    down, right = (jnp.ceil(steps * part - 0.5).astype(jnp.int32) for part in (jnp.sin(angle), jnp.cos(angle)))

    def add(total: jax.Array, step: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, down, right = step
        moved = image[jnp.clip(rows + down, 0, height - 1)][:, jnp.clip(columns + right, 0, width - 1)]
        return total + weight * moved, None

    return jax.lax.scan(add, jnp.zeros_like(image), (weights, down, right))[0]


def _brightness(image: jax.Array, added: jax.Array) -> jax.Array:
    """Adds to the value (V) of hue, saturation and value, which scales the channels by one factor."""
    value = image.max(axis=-1, keepdims=True)
    brighter = jnp.minimum(value + 255 * added, 255.0)
    return jnp.where(value > 0, image * (brighter / jnp.maximum(value, 1.0)), brighter)


def _contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Brings every channel nearer to its mean over the image."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + factor * (image - mean)


def _saturate(image: jax.Array, line: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Changes the saturation (S) of hue, saturation and value, which scales each channel's distance to the largest."""
    factor, added = line
    value = image.max(axis=-1, keepdims=True)
    spread = value - image.min(axis=-1, keepdims=True)
    saturation = jnp.clip(factor * spread / jnp.maximum(value, 1.0) + added, 0.0, 1.0)
    # Grey has no hue; the published images take red, which is at 0 degrees.
    distance = jnp.where(spread > 0, (value - image) / jnp.maximum(spread, 1.0), jnp.array([[[0.0, 1.0, 1.0]]]))
    return value * (1.0 - saturation * distance)


_Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class _Corruption(NamedTuple):
    """What a corruption is made of.

    Attributes:
        apply: (image, data) or (image, data, random) -> image; float32 `[H, W, C]` in 0 .. 255, to be clipped.
        data: (constant, height, width) -> arrays for `apply`, computed on the host.
        small: constants for severities 1 to 5, as in CIFAR-10-C.
        large: likewise, as in ImageNet-C.
        draw: (key, shape) -> random numbers of one image, for `apply`.
    """

    apply: Callable[..., jax.Array]
    data: Callable[[Any, int, int], Any]
    small: tuple
    large: tuple
    draw: _Draw | None = None


_CORRUPTIONS = {
    # Standard deviation, of 1.
    "gaussian_noise": _Corruption(
        _gaussian_noise, _as_it_is, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38), _normal
    ),
    # Photons that white has on average.
    "shot_noise": _Corruption(_shot_noise, _poisson, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3), _chance),
    # Share of the values.
    "impulse_noise": _Corruption(
        _impulse_noise, _as_it_is, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27), _chance
    ),
    # Standard deviation, of the value itself.
    "speckle_noise": _Corruption(
        _speckle_noise, _as_it_is, (0.06, 0.10, 0.12, 0.16, 0.20), (0.15, 0.20, 0.35, 0.45, 0.60), _normal
    ),
    # Standard deviation, in pixels.
    "gaussian_blur": _Corruption(_blur, _gaussian, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    # Radius and standard deviation of the edge, in pixels.
    "defocus_blur": _Corruption(
        _blur,
        _disk,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
    ),
    # Half the length of the line and standard deviation along it, in pixels.
    "motion_blur": _Corruption(
        _motion_blur,
        _line,
        ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
        _angle,
    ),
    # End and step of the enlargements, which begin at 1.
    "zoom_blur": _Corruption(
        _blur,
        _zooms,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    # Added to the value, of 1.
    "brightness": _Corruption(_brightness, _as_it_is, (0.05, 0.10, 0.15, 0.20, 0.30), (0.1, 0.2, 0.3, 0.4, 0.5)),
    # Factor.
    "contrast": _Corruption(_contrast, _as_it_is, (0.75, 0.50, 0.40, 0.30, 0.15), (0.40, 0.30, 0.20, 0.10, 0.05)),
    # Factor of the saturation, and what is added to it.
    "saturate": _Corruption(
        _saturate,
        _as_it_is,
        ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
        ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),
    ),
}
