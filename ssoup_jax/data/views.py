"""How an encoded image becomes one of fixed size: cropped at random in training, from the middle in evaluation.

The steps and their rounding are those of torchvision's `RandomResizedCrop`, and of `Resize` followed by `CenterCrop`,
on Pillow images. Mirroring is left to the device, see `augment`.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ssoup_jax.errors import SettingsError

AREA = (0.08, 1.0)
"""Smallest and largest area of a training crop, as a share of the image's; uniform in between."""

RATIO = (3 / 4, 4 / 3)
"""Smallest and largest width over height of a training crop; log-uniform in between."""

TRIES = 10
"""How many crops are drawn until one lies within the image."""


@dataclass(frozen=True)
class View:
    """Two ways to see an image.

    Attributes:
        size: pixels to a side of what is seen.
        resize: pixels of the shorter side of the scaled image whose middle is seen in evaluation.
    """

    size: int = 224
    resize: int = 256

    def __post_init__(self):
        if not 1 <= self.size <= self.resize:
            raise SettingsError(f"image size: found {self.size} from {self.resize} pixels; allowed: 1 to {self.resize}")

    def training(self, image: Image.Image, numbers: np.ndarray) -> np.ndarray:
        """Crops at random and scales the crop; Szegedy et al. 2015, section 6.

        Args:
            image: RGB, of any size.
            numbers: from `uniforms`, float64 `[TRIES, 4]`.

        Returns:
            uint8 `[size, size, 3]`.
        """
        left, top, width, height = random_crop(*image.size, numbers)
        return _scaled(image.crop((left, top, left + width, top + height)), self.size, self.size)

    def evaluation(self, image: Image.Image) -> np.ndarray:
        """Scales the shorter side to `resize`, then crops the middle.

        Args:
            image: RGB, of any size.

        Returns:
            uint8 `[size, size, 3]`.
        """
        width, height = (self.resize * side // min(image.size) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return _scaled(image, width, height)[top : top + self.size, left : left + self.size]


def uniforms(key: np.ndarray, index: int) -> np.ndarray:
    """Draws the random numbers for one view of one image.

    The words are those of Philox4x64-10 (Salmon et al. 2011) whose key is the given one, two words of it to one of
    Philox's, lower first, and whose counter is (1, index, 0, 0), then (2, index, 0, 0) and so on. A number is the upper
    53 bits of a word over 2^53. Neither a release of NumPy nor the order in which images are read can change it.

    Args:
        key: the data of a PRNG key, uint32 `[2]` or `[4]`.
        index: which image, in 0 .. 2^64 - 1.

    Returns:
        Uniform in [0, 1), float64 `[TRIES, 4]`.
    """
    words = np.zeros(4, np.uint64)
    words[: len(key)] = key
    # Arrays, because NumPy rounds a list of large and small integers to floats.
    counter = np.array([0, index, 0, 0], np.uint64)
    philox = np.random.Philox(key=words[::2] | words[1::2] << np.uint64(32), counter=counter)
    return (philox.random_raw((TRIES, 4)) >> 11) * 2.0**-53


def random_crop(width: int, height: int, numbers: np.ndarray) -> tuple[int, int, int, int]:
    """Chooses a crop: area and ratio at random, then its place; the middle if no try lies within the image.

    Args:
        width: of the image, in pixels.
        height: likewise.
        numbers: uniform in [0, 1), float64 `[TRIES, 4]`: a try's area, ratio, row and column.

    Returns:
        Left, top, width and height, in pixels.
    """
    low, high = (math.log(ratio) for ratio in RATIO)
    for for_area, for_ratio, for_row, for_column in numbers.tolist():
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * for_area)
        ratio = math.exp(low + (high - low) * for_ratio)
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(for_column * (width - crop_width + 1))
            return left, int(for_row * (height - crop_height + 1)), crop_width, crop_height
    crop_width, crop_height = width, height
    if width < RATIO[0] * height:
        crop_height = round(width / RATIO[0])
    elif width > RATIO[1] * height:
        crop_width = round(height * RATIO[1])
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def _scaled(image: Image.Image, width: int, height: int) -> np.ndarray:
    # Bilinear in Pillow means a triangle as wide as the reduction, which is what smooths.
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
