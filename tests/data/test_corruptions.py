"""Corruptions against float64 twins in NumPy, SciPy and colorsys, and against the closed forms of their noise."""

import colorsys
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from ssoup_jax.data import corruptions
from ssoup_jax.errors import SettingsError

# As published, typed apart from the code: severities 1 to 5 for small images and for large ones.
SMALL = {
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.1],
    "shot_noise": [500, 250, 100, 75, 50],
    "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2],
    "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],
    "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom_blur": [np.arange(1, end, 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26)],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
}
LARGE = {
    "gaussian_noise": [0.08, 0.12, 0.18, 0.26, 0.38],
    "shot_noise": [60, 25, 12, 5, 3],
    "impulse_noise": [0.03, 0.06, 0.09, 0.17, 0.27],
    "speckle_noise": [0.15, 0.2, 0.35, 0.45, 0.6],
    "gaussian_blur": [1, 2, 3, 4, 6],
    "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    "zoom_blur": [np.arange(1, *arguments) for arguments in [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02)]]
    + [np.arange(1, *arguments) for arguments in [(1.26, 0.02), (1.31, 0.03)]],
    "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
    "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
    "saturate": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
}
NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
KEY = jax.random.key(5)


def run(name: str, severity: int, images: np.ndarray, index: list[int] | None = None, key: jax.Array = KEY):
    index = jnp.arange(len(images), dtype=jnp.int32) if index is None else jnp.asarray(index, jnp.int32)
    return np.asarray(corruptions.corrupt(name, severity, key, index, jnp.asarray(images)))


def random_images(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random colours, with black, white and grey pixels among them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, shape).astype(np.uint8)
    images[:, 0, :4] = np.array([0, 255, 90, 1], np.uint8)[:, None]
    return images


def natural_images(n: int, size: int) -> np.ndarray:
    """Smooth random images: most of their contrast is in large shapes, as in photographs."""
    noise = np.random.default_rng(1).normal(size=(n, size, size, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    return np.clip(127 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def gaussian_blur(image, sigma):
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4)


def defocus_blur(image, constant):
    radius, std = constant
    size, width = (8, 3) if radius <= 8 else (radius, 5)
    grid = np.mgrid[-size : size + 1, -size : size + 1]
    disk = ((grid**2).sum(axis=0) <= radius**2).astype(float)
    disk /= disk.sum()
    reach = width // 2
    taps = [math.exp(-(i**2) / 2 / std**2) for i in range(-reach, reach + 1)]
    padded, kernel = np.pad(disk, reach, mode="reflect"), np.zeros_like(disk)
    for i in range(width):
        for j in range(width):
            kernel += taps[i] * taps[j] / sum(taps) ** 2 * padded[i : i + len(disk), j : j + len(disk)]
    # The published kernels add up to 1, or all but: smoothing can move a little of the largest disk past the edge.
    return ndimage.correlate(image, kernel[..., None] / kernel.sum(), mode="mirror")


def zoom_blur(image, factors):
    def middle(array, axis, factor):
        side = array.shape[axis]
        kept = math.ceil(side / factor)
        cropped = np.take(array, range((side - kept) // 2, (side - kept) // 2 + kept), axis)
        zoom = [1, 1, 1]
        zoom[axis] = factor
        enlarged = ndimage.zoom(cropped, zoom, order=1)
        first = (enlarged.shape[axis] - side) // 2
        return np.take(enlarged, range(first, first + side), axis)

    return (image + sum(middle(middle(image, 0, factor), 1, factor) for factor in factors)) / (len(factors) + 1)


def by_pixel(change):
    def twin(image, constant):
        image = np.broadcast_to(image, (*image.shape[:2], 3)) / 255
        pixels = [
            colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel), constant)) for pixel in image.reshape(-1, 3)
        ]
        return 255 * np.array(pixels).reshape(image.shape)

    return twin


TWINS = {
    "gaussian_blur": gaussian_blur,
    "defocus_blur": defocus_blur,
    "zoom_blur": zoom_blur,
    "brightness": by_pixel(lambda h, s, v, c: (h, s, min(v + c, 1))),
    "saturate": by_pixel(lambda h, s, v, c: (h, min(s * c[0] + c[1], 1), v)),
    "contrast": lambda image, c: image.mean(axis=(0, 1)) + c * (image - image.mean(axis=(0, 1))),
}


def is_cut_off(found: np.ndarray, exact: np.ndarray) -> bool:
    """Whether the levels are whole, with what follows the point cut off; 1/256 is added first, see the code.

    Values reach 255 and are sums of at most some hundred float32 terms, each rounded by 1e-5: hence 2e-3.
    """
    excess = np.clip(exact, 0, 255) + 1 / 256 - found
    return excess.min() >= -2e-3 and excess.max() < 1 + 2e-3


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(
    ("shape", "severities"), [((32, 32, 3), range(1, 6)), ((8, 11, 1), [5]), ((64, 66, 3), [1, 5])], ids=str
)
def test_matches_twin(name, shape, severities):
    if name == "saturate" and shape[2] == 1:
        pytest.skip("grey has no saturation")
    images = random_images((48 if shape[0] == 32 else 2, *shape))
    constants = (LARGE if min(shape[:2]) >= 64 else SMALL)[name]
    for severity in severities:
        found = run(name, severity, images)
        assert found.dtype == np.uint8
        assert found.shape == images.shape
        exact = np.stack([TWINS[name](image.astype(np.float64), constants[severity - 1]) for image in images[:2]])
        assert is_cut_off(found[:2], exact[..., : shape[2]])


@pytest.mark.parametrize("name", ["gaussian_blur", "brightness", "contrast", "saturate"])
def test_constants_of_large_images(name):
    images = random_images((2, 64, 66, 3))
    for severity in (2, 3, 4):
        exact = TWINS[name](images[0].astype(np.float64), LARGE[name][severity - 1])
        assert is_cut_off(run(name, severity, images)[0], exact)


def line(angle: float, radius: int) -> tuple[tuple[int, int], ...]:
    """Pixels along a line, down and right; the nearest ones, halves going down."""
    steps = range(2 * radius + 1)
    return tuple((math.ceil(i * math.sin(angle) - 0.5), math.ceil(i * math.cos(angle) - 0.5)) for i in steps)


def along(image: np.ndarray, pixels: tuple[tuple[int, int], ...], weights: np.ndarray) -> np.ndarray:
    """Averages a square image along a line."""
    margin, size = len(pixels), len(image)
    padded = np.pad(image.astype(np.float64), margin, mode="edge")
    return sum(
        weight * padded[margin + down : margin + down + size, margin + right : margin + right + size]
        for weight, (down, right) in zip(weights, pixels, strict=True)
    )


@pytest.mark.parametrize(("size", "severity"), [(32, 1), (32, 5), (64, 5)])
def test_motion_blur_averages_along_a_line(size, severity):
    radius, std = (LARGE if size == 64 else SMALL)["motion_blur"][severity - 1]
    weights = np.array([math.exp(-(i**2) / 2 / std**2) for i in range(2 * radius + 1)])
    weights /= weights.sum()
    n, row, column = 48 if size == 32 else 4, size // 2, size - 3
    dots = np.zeros((n, size, size, 3), np.uint8)
    dots[:, row, column] = 255
    traces = run("motion_blur", severity, dots)[:4, ..., 0]
    images = random_images((n, size, size, 3))
    blurred = run("motion_blur", severity, images)[:4, ..., 0]
    lines = list(dict.fromkeys(line(angle, radius) for angle in np.linspace(-math.pi / 4, math.pi / 4, 2001)))
    expected = np.zeros((len(lines), size, size))
    for trace, pixels in zip(expected, lines, strict=True):
        for weight, (down, right) in zip(weights, pixels, strict=True):
            trace[row - down, column - right] += 255 * weight
    for trace, image, found in zip(traces, images[:4, ..., 0], blurred, strict=True):
        # The dot's faint end shows little, so that several lines may fit it; the image must fit one of them.
        fitting = [pixels for pixels, exact in zip(lines, expected, strict=True) if is_cut_off(trace, exact)]
        assert any(is_cut_off(found, along(image, pixels, weights)) for pixels in fitting)


def test_motion_blur_takes_all_angles():
    dots = np.zeros((48, 32, 32, 3), np.uint8)
    dots[:, 16, 29] = 255
    found = [run("motion_blur", 5, dots, key=key)[..., 0] for key in jax.random.split(KEY, 20)]
    traces = np.concatenate(found).astype(np.float64)
    rows, columns = np.mgrid[:32, :32]
    down, right = ((traces * (at - axis)).sum(axis=(1, 2)) for at, axis in ((16, rows), (29, columns)))
    angles = np.degrees(np.arctan2(down, right))
    # Uniform in +-45 degrees has the standard deviation 26.0; 960 samples tell it to 0.4 and the mean to 0.8. Where the
    # trace ends its pixels hide an angle of up to three degrees.
    assert 42 < angles.max() <= 48
    assert -48 <= angles.min() < -42
    assert abs(angles.mean()) < 3
    assert abs(angles.std() - 90 / math.sqrt(12)) < 1.5


def cumulative(name: str, value: int, constant: float, levels: np.ndarray) -> np.ndarray:
    """Returns the share of values that end at or under each level; `value` is the level before."""
    if name == "impulse_noise":
        under = constant / 2 + (1 - constant) * (levels >= value)
    elif name == "shot_noise":
        # 1e-9: a whole number of levels per photon must count as reached.
        counts = np.ceil((levels + 1 - 1 / 256) * constant / 255 - 1e-9) - 1
        under = stats.poisson.cdf(counts, value * constant / 255)
    else:
        std = 255 * constant * (1 if name == "gaussian_noise" else value / 255)
        edge = levels + 1 - 1 / 256 - value
        under = stats.norm.cdf(edge / std) if std else (edge > 0).astype(np.float64)
    return np.where(levels == 255, 1.0, under)


def check_noise(name: str, n: int, size: int, constants: list) -> None:
    values = (0, 1, 40, 128, 250, 255)
    images = np.broadcast_to(np.array(values, np.uint8)[:, None, None, None, None], (len(values), n, size, size, 3))
    for severity, constant in enumerate(constants, 1):
        found = run(name, severity, images.reshape(-1, size, size, 3)).reshape(len(values), -1)
        for value, levels in zip(values, found, strict=True):
            share = np.cumsum(np.bincount(levels, minlength=256)) / levels.size
            expected = cumulative(name, value, constant, np.arange(256))
            # Five standard deviations of a share of n values, and five values where hardly any is expected.
            deviation = np.sqrt(expected * (1 - expected) / levels.size)
            assert (np.abs(share - expected) <= 5 * deviation + 5 / levels.size).all(), (severity, value)


@pytest.mark.parametrize("name", NOISE)
def test_noise_has_its_distribution(name):
    check_noise(name, n=8, size=32, constants=SMALL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISE)
def test_noise_of_large_images_has_its_distribution(name):
    check_noise(name, n=2, size=64, constants=LARGE[name])


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_independent_between_pixels_channels_and_images(name):
    images = np.full((48, 32, 32, 3), 120, np.uint8)
    noise = run(name, 5, images).astype(np.float64) - 120
    noise /= noise.std()
    n = noise.size
    for other in (np.roll(noise, 1, axis) for axis in range(4)):
        # A correlation estimated from n pairs has the error 1/sqrt(n); the mean of the noise adds its square.
        assert abs(np.mean(noise * other) - noise.mean() ** 2) < 5 / math.sqrt(n)


@pytest.mark.parametrize("name", corruptions.names())
def test_order_and_company_do_not_matter(name):
    images = natural_images(48, 32)
    index = np.arange(100, 148)
    found = run(name, 4, images, index)
    order = np.random.default_rng(0).permutation(48)
    np.testing.assert_array_equal(run(name, 4, images[order], index[order]), found[order])
    strangers = images.copy()
    strangers[1:] = 255 - strangers[1:]
    np.testing.assert_array_equal(run(name, 4, strangers, [100, *range(47)])[0], found[0])


@pytest.mark.parametrize("name", ["shot_noise", "gaussian_blur", "saturate"])
def test_batches_of_any_size_agree(name):
    images = natural_images(48, 32)
    index = np.arange(48)
    found = run(name, 3, images, index)
    parts = [run(name, 3, images[start : start + 5], index[start : start + 5]) for start in (0, 5, 40)]
    np.testing.assert_array_equal(np.concatenate(parts), found[[*range(10), *range(40, 45)]])


@pytest.mark.parametrize("name", [*NOISE, "motion_blur"])
def test_randomness_comes_from_key_and_index(name):
    images = np.repeat(natural_images(1, 32), 48, axis=0)
    found = run(name, 3, images)
    # In motion only as many differ as there are lines of pixels.
    assert len(np.unique(found, axis=0)) >= (20 if name == "motion_blur" else 48)
    np.testing.assert_array_equal(run(name, 3, images, [7] * 48), np.repeat(found[7:8], 48, axis=0))
    other = run(name, 3, images, key=jax.random.key(6))
    assert (other != found).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("name", [name for name in corruptions.names() if name != "saturate"])
def test_each_severity_changes_more(name):
    images = natural_images(48, 32)
    changes = [np.abs(run(name, s, images).astype(int) - images).mean() for s in corruptions.SEVERITIES]
    assert changes[0] > 0.3
    # Two lines of motion blur differ only in the length of what has no weight any more.
    more = np.diff(changes)[[0, 1, 3] if name == "motion_blur" else slice(None)]
    assert (more > 0).all(), changes


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "contrast"])
@pytest.mark.parametrize("severity", [1, 5])
def test_flat_images_stay(name, severity):
    levels = np.arange(0, 256, 5, dtype=np.uint8)[:48]
    images = np.broadcast_to(levels[:, None, None, None], (48, 32, 32, 3))
    np.testing.assert_array_equal(run(name, severity, images), images)


@pytest.mark.parametrize(("severity", "stays"), [(1, True), (2, True), (3, True), (4, False), (5, False)])
def test_saturation_of_grey(severity, stays):
    images = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8)[:, None, None, None], (48, 32, 32, 3))
    found = run("saturate", severity, images)
    assert np.array_equal(found, images) is stays
    np.testing.assert_array_equal(found[..., 0], images[..., 0])


def test_brightness_keeps_white_and_brightens_black():
    images = np.zeros((48, 32, 32, 3), np.uint8)
    images[:24] = 255
    for severity, added in enumerate(SMALL["brightness"], 1):
        found = run("brightness", severity, images)
        assert (found[:24] == 255).all()
        assert (found[24:] == math.floor(255 * added + 1 / 256)).all()


def test_works_within_a_compiled_function():
    images = natural_images(48, 32)
    index = jnp.arange(48, dtype=jnp.int32)
    inside = jax.jit(lambda key, images: corruptions.corrupt("motion_blur", 2, key, index, images))
    np.testing.assert_array_equal(inside(KEY, images), run("motion_blur", 2, images))


def test_grey_has_no_saturation():
    assert set(corruptions.names(3)) - set(corruptions.names(1)) == {"saturate"}
    assert set(corruptions.names(3)) == set(SMALL)


@pytest.mark.parametrize(
    ("name", "severity", "images", "message"),
    [
        ("gausian_blur", 1, np.zeros((1, 8, 8, 3), np.uint8), "did you mean 'gaussian_blur'"),
        ("saturate", 1, np.zeros((1, 8, 8, 1), np.uint8), "unknown value 'saturate'"),
        ("contrast", 0, np.zeros((1, 8, 8, 3), np.uint8), "found severity 0; allowed: 1 to 5"),
        ("contrast", 6, np.zeros((1, 8, 8, 3), np.uint8), "found severity 6; allowed: 1 to 5"),
        ("contrast", 1, np.zeros((1, 8, 8, 3), np.float32), r"found images float32 \[1, 8, 8, 3\]"),
        ("contrast", 1, np.zeros((1, 8, 8, 4), np.uint8), r"found images uint8 \[1, 8, 8, 4\]"),
        ("contrast", 1, np.zeros((8, 8, 3), np.uint8), r"found images uint8 \[8, 8, 3\]"),
    ],
)
def test_mistakes(name, severity, images, message):
    with pytest.raises(SettingsError, match=message) as error:
        run(name, severity, images)
    assert "\n" not in str(error.value)
