"""The order in which a member sees its examples, and how that order is cut into batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ssoup_jax.data.sources import Dataset
from ssoup_jax.keys import derive


@struct.dataclass
class Examples:
    """All images of a data set on the device; a split is a set of positions in them.

    Attributes:
        images: uint8 `[N, H, W, C]`.
        labels: int32 `[N]`.
    """

    images: jax.Array
    labels: jax.Array


def on_device(dataset: Dataset) -> tuple[Examples, dict[str, np.ndarray]]:
    """Puts every split on the device as one array, so that all programs share one data shape.

    Args:
        dataset: the data set on the host.

    Returns:
        The examples, and for each split (`train`, `val`, `test` and, where there is one, `ood`) its positions in
        them, int32 `[n]`.
    """
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test, "ood": dataset.ood}
    splits = {name: split for name, split in splits.items() if split is not None}
    ends = np.cumsum([len(split.labels) for split in splits.values()])
    positions = {
        name: np.arange(end - len(split.labels), end, dtype=np.int32)
        for (name, split), end in zip(splits.items(), ends, strict=True)
    }
    images = np.concatenate([split.images for split in splits.values()])
    labels = np.concatenate([split.labels for split in splits.values()])
    return Examples(jax.device_put(images), jax.device_put(labels.astype(np.int32))), positions


def n_batches(n_examples: int, batch_size: int) -> int:
    """Returns the number of batches in an epoch; a partial last batch is kept."""
    return -(-n_examples // batch_size)


@functools.partial(jax.jit, static_argnames="n_examples")
def epoch_order(keys: jax.Array, epoch: jax.Array, n_examples: int) -> jax.Array:
    """Shuffles an epoch for every member; members with equal keys see equal orders.

    Args:
        keys: typed PRNG keys `[m]`.
        epoch: 0-based epoch, int `[]`.
        n_examples: size of the training split.

    Returns:
        Positions in the training split, int32 `[m, n_examples]`.
    """
    return jax.vmap(lambda key: jax.random.permutation(derive(key, "order", epoch), n_examples))(keys)


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


def padded_blocks(positions: np.ndarray, block_size: int) -> jax.Array:
    """Cuts positions into blocks of one size for evaluation; the last is filled up with its own first position.

    Args:
        positions: int32 `[n]`.
        block_size: images per block.

    Returns:
        int32 `[ceil(n / block_size), block_size]`.
    """
    missing = -len(positions) % block_size
    padded = np.concatenate([positions, np.full(missing, positions[0], positions.dtype)])
    return jnp.asarray(padded.reshape(-1, block_size))
