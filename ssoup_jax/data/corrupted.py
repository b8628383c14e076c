"""The test images of a feed, corrupted on the device as they are asked for."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ssoup_jax.data import corruptions
from ssoup_jax.data.feeds import Examples, Feed
from ssoup_jax.data.ood import Corruption

SPLIT = "ood"


@dataclass(frozen=True)
class Corrupted:
    """Feeds the test split of another feed, corrupted on the device.

    Attributes:
        feed: has the images.
        corruption: what is done to them.
        key: typed PRNG key `[]`; the result depends on it and an image's place in the split alone.
        image_shape: (H, W, C).
    """

    feed: Feed
    corruption: Corruption
    key: jax.Array
    image_shape: tuple[int, int, int]

    @property
    def sizes(self) -> dict[str, int]:
        """How many images the one split, `ood`, has."""
        return {SPLIT: self.feed.sizes["test"]}

    def evaluation(self, split: str, block_size: int) -> Iterator[tuple[Examples, jax.Array]]:
        """Yields the corrupted test split, see `Feed.evaluation`."""
        del split
        everyone = jnp.arange(block_size, dtype=jnp.int32)
        for number, (examples, block) in enumerate(self.feed.evaluation("test", block_size)):
            index = everyone + number * block_size
            images = examples.images[block].reshape(block_size, *self.image_shape)
            name, severity = self.corruption.name, self.corruption.severity
            corrupted = corruptions.corrupt(name, severity, self.key, index, images)
            yield Examples(corrupted.reshape(block_size, -1), examples.labels[block]), everyone
