"""Views of encoded images: decoding, the choice of crops, their pixels, and the random numbers behind them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp

from ssoup_jax.data import views
from ssoup_jax.data.views import View
from ssoup_jax.errors import SettingsError

HALVES = np.full((views.TRIES, 4), 0.5)
NEARLY_ONE = 1 - 2.0**-53


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth image with some noise, so that neither the filter nor the place of a crop goes unnoticed."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + random.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8))


def scaled_by_torch(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with antialiasing, by an implementation that shares nothing with Pillow's."""
    planes = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].double()
    scaled = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()


SIZES = {
    "landscape": (90, 60),
    "portrait": (47, 101),
    "square": (64, 64),
    "smaller than the view": (20, 13),
    "flat": (200, 9),
    "as resized": (40, 32),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_evaluation_is_resize_and_centre_crop(size):
    image = picture(*size)
    found = View(28, 32).evaluation(image)
    shorter = min(size)
    width, height = (32 if side == shorter else int(32 * side / shorter) for side in size)
    left, top = round((width - 28) / 2.0), round((height - 28) / 2.0)
    expected = scaled_by_torch(np.asarray(image), height, width)[top : top + 28, left : left + 28]
    assert (found.dtype, found.shape) == (np.uint8, (28, 28, 3))
    # Pillow rounds to whole levels after the rows and again after the columns.
    np.testing.assert_allclose(found, expected, atol=1.01, rtol=0)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_training_scales_nothing_but_the_crop(size):
    image, numbers = picture(*size), views.uniforms(np.array([1, 2], np.uint32), 3)
    left, top, width, height = views.random_crop(*size, numbers)
    pixels = np.asarray(image)[top : top + height, left : left + width]
    found = View(28, 32).training(image, numbers)
    assert (found.dtype, found.shape) == (np.uint8, (28, 28, 3))
    np.testing.assert_allclose(found, scaled_by_torch(pixels, 28, 28), atol=1.01, rtol=0)  # as above


def tries(*rows):
    """The given tries, then ones that are too wide for any image, since all of its area never is."""
    too_large = (NEARLY_ONE, NEARLY_ONE, 0, 0)
    return np.array([*rows, *[too_large] * (views.TRIES - len(rows))], float)


CROPS = {
    # A ratio in the middle is 1; 0.08 of the area is 28.28 squared.
    "smallest, in the top right corner": ((100, 100), tries((0, 0.5, 0, NEARLY_ONE)), (72, 0, 28, 28)),
    # 0.54 of the area, 4000 pixels, at 3 to 4: sqrt(2160 * 3 / 4) = 40.2 wide, sqrt(2160 * 4 / 3) = 53.7 high.
    "narrow, in the middle of its room": ((50, 80), tries((0.5, 0, 0.5, 0.5)), (5, 13, 40, 54)),
    "second try": ((100, 100), tries((NEARLY_ONE, 0, 0, 0), (0, 0.5, 0, 0)), (0, 0, 28, 28)),
    "none fits a wide image, which 4 to 3 cuts": ((80, 50), tries(), (6, 0, 67, 50)),
    "none fits a wider image": ((400, 100), tries(), (133, 0, 133, 100)),
    "none fits a high image": ((100, 400), tries(), (0, 133, 100, 133)),
    "none fits, but all of the image does": ((100, 100), tries(), (0, 0, 100, 100)),
    "a single pixel": ((1, 1), HALVES, (0, 0, 1, 1)),
}


@pytest.mark.parametrize(("size", "numbers", "expected"), CROPS.values(), ids=CROPS)
def test_crops_worked_out_by_hand(size, numbers, expected):
    assert views.random_crop(*size, numbers) == expected


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1))
def test_a_crop_is_never_empty_and_never_leaves_the_image(width, height, seed):
    left, top, crop_width, crop_height = views.random_crop(width, height, views.uniforms(np.uint32([seed, 0]), 0))
    assert 0 <= left < left + crop_width <= width
    assert 0 <= top < top + crop_height <= height


@pytest.mark.parametrize("size", [(500, 375), (300, 700)])
def test_crops_have_the_distribution_of_independent_draws(size):
    found = [views.random_crop(*size, views.uniforms(np.uint32([5, 6]), index)) for index in range(4000)]
    random = np.random.default_rng(1)
    expected = [independent_crop(random, *size) for _ in range(4000)]
    for figure in (area_share, log_ratio, rest_left, rest_above):
        # Both samples are fixed by their seeds: this is no chance to be taken anew with every run.
        result = ks_2samp([figure(*size, *crop) for crop in found], [figure(*size, *crop) for crop in expected])
        assert result.pvalue > 1e-3, (figure.__name__, result)
    # The comparison would see crops of a tenth more area.
    larger = [1.1 * area_share(*size, *crop) for crop in found]
    assert ks_2samp(larger, [area_share(*size, *crop) for crop in expected]).pvalue < 1e-3


def independent_crop(random, width, height):
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        crop_width, crop_height = np.rint(np.sqrt([area * ratio, area / ratio])).astype(int)
        if crop_width <= width and crop_height <= height:
            left, top = random.integers(0, [width - crop_width + 1, height - crop_height + 1])
            return left, top, crop_width, crop_height
    crop_width, crop_height = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def area_share(width, height, left, top, crop_width, crop_height):
    return crop_width * crop_height / (width * height)


def log_ratio(width, height, left, top, crop_width, crop_height):
    return math.log(crop_width / crop_height)


def rest_left(width, height, left, top, crop_width, crop_height):
    return left / max(1, width - crop_width)


def rest_above(width, height, left, top, crop_width, crop_height):
    return top / max(1, height - crop_height)


def philox(counter, key):
    """Philox4x64-10 as published, in Python's own integers."""
    c, k, low = list(counter), list(key), 2**64 - 1
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(second >> 64) ^ c[1] ^ k[0], second & low, (first >> 64) ^ c[3] ^ k[1], first & low]
        k = [(k[0] + 0x9E3779B97F4A7C15) & low, (k[1] + 0xBB67AE8584CAA73B) & low]
    return c


def test_the_published_answer():
    """The first of the known answers that come with the authors' library Random123."""
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox((0, 0, 0, 0), (0, 0)) == expected


KEYS = {"two words": ([1, 2**32 - 1], (2**64 - 2**32 + 1, 0)), "four": ([1, 2, 3, 4], (1 + 2**33, 3 + 2**34))}


@pytest.mark.parametrize(("words", "key"), KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("index", [0, 7, 2**40])
def test_the_stream_is_frozen(words, key, index):
    found = views.uniforms(np.array(words, np.uint32), index)
    # Counters begin at 1, and a number is the upper 53 bits of a word; both sides are exact.
    expected = [[(word >> 11) / 2**53 for word in philox((1 + i, index, 0, 0), key)] for i in range(views.TRIES)]
    assert found.tolist() == expected


@pytest.mark.parametrize(("size", "resize"), [(0, 10), (33, 32), (-1, -1)])
def test_a_view_larger_than_its_image_is_refused(size, resize):
    with pytest.raises(SettingsError, match=f"found {size} from {resize} pixels"):
        View(size, resize)
