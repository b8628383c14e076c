"""One's own data as a feed: arrays in memory, or whatever yields batches of NumPy arrays."""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import jax
import numpy as np

from ssoup_jax.data.feeds import Block, Feed, Part, Resident
from ssoup_jax.errors import SettingsError
from ssoup_jax.identity import identity
from ssoup_jax.trees import PyTree, digest, first_difference, named_leaves, spell

STEPS_PER_BLOCK = 16
"""How many batches of a stream are put on the device at a time."""

_ENDLESS = 2**40  # batches in an epoch of a stream that never begins anew


@dataclass(frozen=True)
class Batches:
    """What members are trained on; made by `from_arrays` or `from_batches`.

    Attributes:
        feed: where programs get their batches from.
        batch_size: examples in each.
        like: shapes and dtypes of one batch, leaves `[B, ...]`.
        repeats: whether an epoch can be run through more than once.
        fingerprint: says what the data are, for the names of results that are stored.
    """

    feed: Feed
    batch_size: int
    like: PyTree
    repeats: bool
    fingerprint: Callable[[], str]


def from_arrays(arrays: PyTree, batch_size: int) -> Batches:
    """Makes batches of arrays that fit on the device, shuffled for each member by its key.

    Args:
        arrays: any pytree of arrays `[N, ...]`.
        batch_size: examples per step; the last batch of an epoch may be smaller.

    Raises:
        SettingsError: the arrays have no, or unequal, numbers of examples, or fewer than a batch.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import from_arrays
        >>> from_arrays({"x": np.zeros((100, 8)), "y": np.zeros(100, int)}, batch_size=32).feed.sizes
        {'train': 100}
    """
    arrays = jax.tree.map(np.asarray, arrays)
    n = _n_rows("arrays", arrays)
    if not 1 <= batch_size <= n:
        raise SettingsError(f"batch_size: found {batch_size}; allowed: 1 to the {n} examples")
    examples = jax.device_put(arrays)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype), examples)
    feed = Resident(examples, {"train": np.arange(n, dtype=np.int32)})
    return Batches(feed, batch_size, like, True, lambda: digest(arrays))


def from_batches(
    batches: Iterable[PyTree] | Callable[[int, int], Iterable[PyTree]], steps_per_epoch: int | None = None
) -> Batches:
    """Makes a feed of whatever yields batches of NumPy arrays: a list, a generator, a loader, a pipeline.

    Args:
        batches: an iterable, the same for all members, that is run through once an epoch; or a function
            `(epoch, seed) -> iterable`, where members whose keys differ have different seeds: whole numbers, for
            `jax.random.key(n)` just n. A run that goes on in the middle of an epoch skips what it took before.
            All batches are pytrees of one structure with leaves `[B, ...]` of one shape.
        steps_per_epoch: how many batches an epoch takes of an iterable; None: its length, or, if it has none, all
            steps are one epoch.

    Raises:
        SettingsError: there is no batch, or it is no tree of arrays.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import from_batches
        >>> def shuffled(epoch, seed):
        ...     order = np.random.default_rng((seed, epoch)).permutation(100)
        ...     return ({"x": rows} for rows in order.reshape(10, 10))
        >>> from_batches(shuffled, steps_per_epoch=10).batch_size
        10
    """
    if not callable(batches) and not isinstance(batches, Iterable):
        raise SettingsError(
            f"batches: found {type(batches).__name__}; allowed: an iterable of batches or a function (epoch, seed)"
        )
    if steps_per_epoch is None and hasattr(batches, "__len__"):
        steps_per_epoch = len(batches)
    stream = Stream(batches, steps_per_epoch)
    return Batches(stream, stream.batch_size, stream.like, stream.repeats, lambda: _identity(batches))


class Stream:
    """Feeds programs, as `feeds.Feed` says, with batches that are made elsewhere."""

    whole = False

    def __init__(self, batches: Iterable | Callable[[int, int], Iterable], steps_per_epoch: int | None):
        self._shared = not callable(batches)
        self.repeats = not (self._shared and iter(batches) is batches)
        self._make = batches if callable(batches) else lambda epoch, seed: batches
        self._first: list[PyTree] = []
        opened = iter(self._make(0, 0))
        first = next(opened, None)
        if first is None:
            raise SettingsError("batches: the first epoch has none")
        self.like = jax.tree.map(_shape, _arrays(first))
        self.batch_size = _n_rows("batches", self.like)
        if not self.repeats:
            rest = itertools.chain([first], opened)
            self._make = lambda epoch, seed: rest
        self._steps = steps_per_epoch
        self.sizes = {"train": (steps_per_epoch or _ENDLESS) * self.batch_size}

    def training(
        self, keys: jax.Array, epoch: int, batch_size: int, first_batch: int = 0, part: Part | None = None
    ) -> Generator[Block, None, None]:
        """Yields an epoch in blocks, see `Feed.training`; members of one seed share their batches."""
        seeds = [0] * len(keys) if self._shared else [_seed(data) for data in jax.device_get(jax.random.key_data(keys))]
        distinct = list(dict.fromkeys(seeds))
        # What can be run through only once is where it was left.
        skipped = first_batch if self.repeats else 0
        streams = [itertools.islice(self._make(epoch, seed), skipped, None) for seed in distinct]
        stream_of = np.array([distinct.index(seed) for seed in seeds], np.int32)
        taken = first_batch
        while self._steps is None or taken < self._steps:
            wanted = STEPS_PER_BLOCK if self._steps is None else min(STEPS_PER_BLOCK, self._steps - taken)
            found = [self._checked(itertools.islice(stream, wanted), epoch, taken) for stream in streams]
            count = min(map(len, found))
            if not count or (self._steps is not None and count < wanted):
                raise SettingsError(
                    f"batches: epoch {epoch} ended after {taken + count} batches; " + self._needs(taken + count)
                )
            yield self._block([own[:count] for own in found], stream_of)
            taken += count

    def recalibration(
        self, keys: jax.Array, batch_size: int, n_batches: int, part: Part | None = None
    ) -> Iterator[Block]:
        """Yields the first batches of epoch 0, see `Feed.recalibration`."""
        left = n_batches
        for block in self.training(keys, 0, batch_size):
            yield block._replace(last=min(block.last, left))
            left -= block.last
            if left <= 0:
                return

    def evaluation(self, split: str, block_size: int) -> Iterator:
        """A stream has no other splits."""
        raise SettingsError(f"batches: a stream has training batches only, not those of {split!r}")

    def _needs(self, n_batches: int) -> str:
        if self._steps is None:
            return f"to begin it anew give steps_per_epoch={n_batches}"
        return f"steps_per_epoch={self._steps} needs more"

    def _checked(self, batches: Iterable[PyTree], epoch: int, number: int) -> list[PyTree]:
        found = []
        for own in map(_arrays, batches):
            if difference := first_difference(jax.tree.map(_shape, own), self.like):
                raise SettingsError(
                    f"batches: batch {number + len(found)} of epoch {epoch} is not like the first one: {difference}; "
                    "drop it or fill it up"
                )
            found.append(own)
        return found

    def _block(self, streams: list[list[PyTree]], stream_of: np.ndarray) -> Block:
        """Puts the batches of all streams on the device; a short block is filled up with its first batch."""
        last = len(streams[0])
        filled = [own + [own[0]] * (STEPS_PER_BLOCK - last) for own in streams]
        examples = jax.tree.map(lambda *leaves: np.concatenate(leaves), *itertools.chain(*filled))
        within = np.arange(STEPS_PER_BLOCK * self.batch_size, dtype=np.int32).reshape(STEPS_PER_BLOCK, -1)
        positions = within + stream_of[:, None, None] * np.int32(within.size)
        return Block(jax.device_put(examples), positions, 0, last)


def _arrays(batch: PyTree) -> PyTree:
    batch = jax.tree.map(np.asarray, batch)
    for name, leaf in named_leaves(batch).items():
        if leaf is None or leaf.dtype.kind in "OSUM":
            found = "None" if leaf is None else f"of type {leaf.dtype}"
            raise SettingsError(f"batches: {name or 'a batch'} is {found}; allowed: arrays of numbers")
    return batch


def _shape(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _n_rows(what: str, tree: PyTree) -> int:
    leaves = named_leaves(tree)
    if not leaves:
        raise SettingsError(f"{what}: found no array")
    for name, leaf in leaves.items():
        if not np.shape(leaf) or not leaf.shape[0]:
            raise SettingsError(f"{what}: {name} is {spell(leaf)}; its first axis is the examples'")
    (first, size), *others = [(name, leaf.shape[0]) for name, leaf in leaves.items()]
    for name, own in others:
        if own != size:
            raise SettingsError(f"{what}: {name} has {own} examples and {first} has {size}")
    return size


def _seed(key_data: np.ndarray) -> int:
    """Reads a key as a number: that of `jax.random.key(n)` is n."""
    return int.from_bytes(key_data.astype(">u4").tobytes(), "big")


def _identity(batches: Iterable | Callable) -> str:
    if not callable(batches) and not hasattr(batches, "version"):
        raise SettingsError(
            f"batches: found {type(batches).__name__}; a workdir keeps results by what they were made of: give a "
            "function (epoch, seed) -> iterable, or an iterable with an attribute `version`"
        )
    return identity(batches) if callable(batches) else f"{type(batches).__qualname__} {batches.version}"
