"""Batches: what feeds programs with them, the order in which a member sees its examples, and how that order is cut."""

import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import numpy as np
from flax import struct

from ssoup_jax.data.sources import Dataset
from ssoup_jax.keys import derive
from ssoup_jax.trees import PyTree


@struct.dataclass
class Examples:
    """All images of a data set on the device; a split is a set of positions in them.

    Attributes:
        images: uint8 `[N, H*W*C]`; of `[N, H, W, C]` a TPU program would make a copy at every dispatch, padded to four
            times the size.
        labels: int32 `[N]`.
    """

    images: jax.Array
    labels: jax.Array


class Block(NamedTuple):
    """Consecutive training batches of every member.

    Attributes:
        examples: what the batches point into, on the device: any pytree with leaves `[N, ...]`.
        batches: positions in the examples, int32 `[m, S, B]`, on the host.
        first: the first batch of the block to be taken; those before it belong to earlier steps.
        last: one past the last batch to be taken, at most S; what follows only fills the shape.
    """

    examples: PyTree
    batches: np.ndarray
    first: int
    last: int


class Part(NamedTuple):
    """What one process of a pod needs of every batch, where its devices run some members, or see some rows, only.

    Attributes:
        members: their places in the stack.
        first, last, of: it sees the rows from `B * first / of` to `B * last / of`; of a batch that `of` does not
            divide, all.
    """

    members: tuple[int, ...]
    first: int
    last: int
    of: int

    def rows(self, batch_size: int) -> slice:
        """Returns the rows of a batch that it sees."""
        if batch_size % self.of:
            return slice(0, batch_size)
        return slice(batch_size // self.of * self.first, batch_size // self.of * self.last)


class Feed(Protocol):
    """Where programs get their images from: all on the device, or streamed to it."""

    sizes: dict[str, int]
    """How many examples each split has."""

    whole: bool
    """Whether every block points into the same examples."""

    def training(
        self, keys: jax.Array, epoch: int, batch_size: int, first_batch: int = 0, part: Part | None = None
    ) -> Generator[Block, None, None]:
        """Yields an epoch of shuffled training batches.

        Args:
            keys: typed PRNG keys `[m]`; members with equal keys see equal batches.
            epoch: 0-based.
            batch_size: B; the partial last batch is kept, as a block of its own shape.
            first_batch: batches of the epoch that were taken before; nothing is read for them.
            part: what this process needs; the positions of everything else point anywhere. None: all of it.
        """

    def recalibration(
        self, keys: jax.Array, batch_size: int, n_batches: int, part: Part | None = None
    ) -> Iterator[Block]:
        """Yields the first batches of the unshuffled training split, seen as in training.

        Args:
            keys: typed PRNG keys `[m]`, for what is random about how an image is seen.
            batch_size: B.
            n_batches: how many.
            part: see `training`.
        """

    def evaluation(self, split: str, block_size: int) -> Iterator[tuple[Examples, jax.Array]]:
        """Yields a split in order, as it is seen in evaluation.

        Args:
            split: its name.
            block_size: images per block.

        Yields:
            Examples and positions in them, int32 `[block_size]`; the last block is filled up with any valid position.
        """


def n_batches(n_examples: int, batch_size: int) -> int:
    """Returns the number of batches in an epoch; a partial last batch is kept."""
    return -(-n_examples // batch_size)


def epoch_order(keys: jax.Array, epoch: int, n_examples: int) -> np.ndarray:
    """Shuffles an epoch for every member; members with equal keys see equal orders.

    Args:
        keys: typed PRNG keys `[m]`.
        epoch: 0-based.
        n_examples: size of the training split.

    Returns:
        Positions in the training split, int32 `[m, n_examples]`.
    """
    # One after another, so that one program serves every m, and each distinct key once.
    rows, epoch, orders = jax.device_get(jax.random.key_data(keys)), jax.device_put(np.int32(epoch)), {}
    for data in rows:
        if data.tobytes() not in orders:
            orders[data.tobytes()] = jax.device_get(_epoch_order(jax.device_put(data), epoch, n_examples))
    return np.stack([orders[data.tobytes()] for data in rows])


@functools.partial(jax.jit, static_argnames="n_examples")
def _epoch_order(key_data: jax.Array, epoch: jax.Array, n_examples: int) -> jax.Array:
    return jax.random.permutation(derive(jax.random.wrap_key_data(key_data), "order", epoch), n_examples)


def cut(order: jax.Array | np.ndarray, batch_size: int) -> list[jax.Array | np.ndarray]:
    """Cuts an order into its full batches and, where the last one is partial, that one apart.

    Args:
        order: `[..., n]`.
        batch_size: B.

    Returns:
        Blocks of equal batches: `[..., n // B, B]` if there are any, then `[..., 1, n % B]` if there is a remainder.
    """
    n_full = order.shape[-1] // batch_size
    full, rest = order[..., : n_full * batch_size], order[..., n_full * batch_size :]
    blocks = [full.reshape(*order.shape[:-1], n_full, batch_size), rest[..., None, :]]
    return [block for block in blocks if block.size]


def padded_blocks(positions: np.ndarray, block_size: int) -> np.ndarray:
    """Cuts positions into blocks of one size for evaluation; the last is filled up with its own first position.

    Args:
        positions: int32 `[n]`.
        block_size: images per block.

    Returns:
        int32 `[ceil(n / block_size), block_size]`.
    """
    missing = -len(positions) % block_size
    padded = np.concatenate([positions, np.full(missing, positions[0], positions.dtype)])
    return padded.reshape(-1, block_size)


@dataclass(frozen=True)
class Resident:
    """Feeds programs with images that all lie on the device, in one array, so that all programs share one data shape.

    Attributes:
        examples: every split's images and labels.
        positions: each split's positions in them, int32 `[n]`.
        order: shuffles an epoch, see `epoch_order`.
    """

    examples: Examples
    positions: dict[str, np.ndarray]
    order: Callable[[jax.Array, int, int], np.ndarray] = epoch_order
    whole: bool = True

    @property
    def sizes(self) -> dict[str, int]:
        """How many examples each split has."""
        return {split: len(positions) for split, positions in self.positions.items()}

    def training(
        self, keys: jax.Array, epoch: int, batch_size: int, first_batch: int = 0, part: Part | None = None
    ) -> Generator[Block, None, None]:
        """Yields an epoch in at most two blocks, see `Feed.training`."""
        positions = self.positions["train"]
        order = positions[self.order(keys, epoch, len(positions))]
        return self._blocks(order, batch_size, first_batch)

    def recalibration(
        self, keys: jax.Array, batch_size: int, n_batches: int, part: Part | None = None
    ) -> Iterator[Block]:
        """Yields the batches in at most two blocks, see `Feed.recalibration`."""
        positions = self.positions["train"][: n_batches * batch_size]
        return self._blocks(np.broadcast_to(positions, (len(keys), len(positions))), batch_size)

    def evaluation(self, split: str, block_size: int) -> Iterator[tuple[Examples, jax.Array]]:
        """Yields a split, see `Feed.evaluation`."""
        for block in padded_blocks(self.positions[split], block_size):
            yield self.examples, jax.device_put(block)

    def _blocks(self, order: np.ndarray, batch_size: int, first_batch: int = 0) -> Generator[Block, None, None]:
        for block in cut(order, batch_size):
            length = block.shape[1]
            if first_batch < length:
                yield Block(self.examples, block, first_batch, length)
            first_batch = max(0, first_batch - length)


def resident(dataset: Dataset) -> Resident:
    """Puts every split of a data set on the device.

    Args:
        dataset: the data set on the host, uint8 arrays.

    Returns:
        The feed.
    """
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    ends = np.cumsum([len(split) for split in splits.values()])
    positions = {
        name: np.arange(end - len(split), end, dtype=np.int32)
        for (name, split), end in zip(splits.items(), ends, strict=True)
    }
    images = np.concatenate([split.images.reshape(len(split), -1) for split in splits.values()])
    labels = np.concatenate([split.labels for split in splits.values()])
    return Resident(Examples(jax.device_put(images), jax.device_put(labels.astype(np.int32))), positions)
