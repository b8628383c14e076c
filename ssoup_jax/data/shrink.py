"""Images of fewer pixels, for experiments that are to be quick."""

import dataclasses

import numpy as np

from ssoup_jax.data.dataset import Contents, Encoded, Split
from ssoup_jax.errors import SettingsError


def shrink(contents: Contents, factor: int | None) -> Contents:
    """Makes every image smaller: each pixel the mean of `factor` x `factor`, halves rounded up.

    Args:
        contents: what a source holds.
        factor: how many times smaller each side gets; None: as it is.

    Returns:
        The contents with images uint8 `[N, H / factor, W / factor, C]`.

    Raises:
        SettingsError: the images are not arrays, or `factor` does not divide their sides.
    """
    if factor is None:
        return contents
    if isinstance(contents.training.images, Encoded):
        raise SettingsError(f"data.shrink: found {factor}; pictures of many sizes are scaled by data.image_size")
    height, width = contents.training.images.shape[1:3]
    if height % factor or width % factor:
        fits = [str(n) for n in range(1, min(height, width) + 1) if not (height % n or width % n)]
        raise SettingsError(f"data.shrink: found {factor}; images of {height}x{width} allow {', '.join(fits)}")

    def smaller(split: Split | None) -> Split | None:
        if split is None:
            return None
        n, height, width, channels = split.images.shape
        blocks = split.images.reshape(n, height // factor, factor, width // factor, factor, channels)
        # Whole numbers only, so that every machine rounds alike.
        sums, area = blocks.sum((2, 4), dtype=np.uint32), factor**2
        return Split(((2 * sums + area) // (2 * area)).astype(np.uint8), split.labels)

    given = {name: smaller(getattr(contents, name)) for name in ("training", "test", "val")}
    return dataclasses.replace(contents, **given)
