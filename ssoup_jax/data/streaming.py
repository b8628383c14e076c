"""Data sets that do not fit on the device: blocks of batches are made ready on the host while earlier ones are used.

A block's images go to the device as examples of their own, and its batches are positions in them, so programs do not
notice. Which image belongs where follows from keys, epoch and step alone; a pass can begin at any batch of it.

Threads decode: Pillow lets go of Python's lock while it decodes and scales, and what holds it, about a sixth of an
image's time, lets some six cores work at once. Processes were no faster on two cores and are slow to start.
"""

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from ssoup_jax.data import pictures, views
from ssoup_jax.data.dataset import Dataset, Files, Split
from ssoup_jax.data.feeds import Block, Examples, Part, cut, epoch_order, padded_blocks
from ssoup_jax.data.views import View
from ssoup_jax.errors import RunError, one_line
from ssoup_jax.keys import derive

BLOCKS_AHEAD = 2
"""How many blocks at most are on the device, or on their way there, besides the one in use."""

_IMAGES_AHEAD = 4  # for each worker; enough that none is idle, few enough that stopping is quick

Job = TypeVar("Job")
Result = TypeVar("Result")
Map = Callable[[Callable[[Job], Result], Iterable[Job]], Iterator[Result]]


class _Plan(NamedTuple):
    """What is to be read for a block.

    Attributes:
        split: where from.
        rows: positions in the split, int `[k, n]`, for each of k streams.
        first: the first that is wanted; black before it.
        last: one past the last that is wanted; black from there.
        keys: decide how each stream sees its images, uint32 `[k, words]`; None: as in evaluation.
    """

    split: Split
    rows: np.ndarray
    first: int
    last: int
    keys: np.ndarray | None


class Streaming:
    """Feeds programs, as `feeds.Feed` says, with images that are read and decoded as they are needed.

    Members with equal keys share one stream: their images are decoded once. A process of a pod reads its `feeds.Part`.

    Attributes:
        sizes: how many examples each split has.
        skipped: why each image that was skipped cannot be decoded, by where it lies.
        waited_seconds: how long programs have waited for images.
    """

    whole = False

    def __init__(
        self,
        dataset: Dataset,
        view: View | None,
        *,
        workers: int,
        steps_per_block: int,
        skip_undecodable: bool,
    ):
        """Reads nothing yet.

        Args:
            dataset: the data set on the host.
            view: how encoded images are cropped and scaled; None for uint8 arrays.
            workers: threads that decode; 0: images are read when they are asked for, and nothing is read ahead.
            steps_per_block: S; a block holds `S * B` images for every distinct key.
            skip_undecodable: whether an image that cannot be decoded is black and noted in `skipped`, in place of an
                error. Its label stays, so every batch has the images it would have had.
        """
        self._splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
        self._view = view
        self._shape = dataset.train.images.shape[1:] if view is None else (view.size, view.size, 3)
        self._workers = workers
        self._steps_per_block = steps_per_block
        self._skip_undecodable = skip_undecodable
        self.sizes = {name: len(split) for name, split in self._splits.items()}
        self.skipped: dict[str, str] = {}
        self.waited_seconds = 0.0

    def training(
        self, keys: jax.Array, epoch: int, batch_size: int, first_batch: int = 0, part: Part | None = None
    ) -> Iterator[Block]:
        """Yields an epoch in blocks of S batches, the last of them filled up, then its partial batch.

        Args:
            keys: typed PRNG keys `[m]`.
            epoch: 0-based.
            batch_size: B.
            first_batch: batches of the epoch that were taken before.
            part: what this process needs; None: all of it.

        Raises:
            RunError: an image cannot be read or decoded.
        """
        distinct, stream = _distinct(keys, part)
        order = epoch_order(distinct, epoch, self.sizes["train"])
        return self._blocks(order, self._view_keys(distinct, epoch), stream, batch_size, first_batch, part)

    def recalibration(
        self, keys: jax.Array, batch_size: int, n_batches: int, part: Part | None = None
    ) -> Iterator[Block]:
        """Yields batches in blocks as for training; images are seen as in an epoch 0 of these keys.

        Args:
            keys: typed PRNG keys `[m]`.
            batch_size: B.
            n_batches: how many.
            part: what this process needs; None: all of it.

        Raises:
            RunError: an image cannot be read or decoded.
        """
        distinct, stream = _distinct(keys, part)
        if self._view is None:
            distinct, stream = distinct[:1], np.zeros_like(stream)
        rows = np.arange(self.sizes["train"])[: n_batches * batch_size]
        rows = np.broadcast_to(rows, (len(distinct), len(rows)))
        return self._blocks(rows, self._view_keys(distinct, 0), stream, batch_size, part=part)

    def evaluation(self, split: str, block_size: int) -> Iterator[tuple[Examples, jax.Array]]:
        """Yields a split in order; what fills up the last block is black.

        Args:
            split: its name.
            block_size: images per block.

        Raises:
            RunError: an image cannot be read or decoded.
        """
        n_images = self.sizes[split]
        plans = (
            _Plan(
                self._splits[split],
                rows[None],
                first=0,
                last=min(n_images - i * block_size, block_size),
                keys=None,
            )
            for i, rows in enumerate(padded_blocks(np.arange(n_images), block_size))
        )
        positions = np.arange(block_size, dtype=np.int32)
        return self._ahead(lambda run, plan: jax.device_put((self._examples(run, plan), positions)), plans)

    def _blocks(
        self,
        order: np.ndarray,
        view_keys: np.ndarray | None,
        stream: np.ndarray,
        batch_size: int,
        first_batch: int = 0,
        part: Part | None = None,
    ) -> Iterator[Block]:
        """Yields the blocks of an order `[k, n]`, where member i has the stream `stream[i]`."""
        plans = _cut(order, batch_size, self._steps_per_block, first_batch)

        def make(run: Map, planned: tuple[np.ndarray, int, int]) -> Block:
            batches, first, last = planned
            n_slots, batch_size = batches.shape[1:]
            own = slice(0, batch_size) if part is None else part.rows(batch_size)
            size = own.stop - own.start
            rows = batches[:, :, own].reshape(len(batches), n_slots * size)
            plan = _Plan(self._splits["train"], rows, first * size, last * size, view_keys)
            within = np.arange(n_slots * size, dtype=np.int32).reshape(1, n_slots, size)
            positions = np.zeros((len(stream), n_slots, batch_size), np.int32)
            positions[:, :, own] = stream[:, None, None] * np.int32(n_slots * size) + within
            return Block(jax.device_put(self._examples(run, plan)), positions, first, last)

        return self._ahead(make, plans)

    def _view_keys(self, keys: jax.Array, epoch: int) -> np.ndarray | None:
        if self._view is None:
            return None
        return np.stack([jax.device_get(jax.random.key_data(derive(key, "view", epoch))) for key in keys])

    def _ahead(self, make: Callable[[Map, Job], Result], plans: Iterable[Job]) -> Iterator[Result]:
        """Yields what is made of the plans, reading ahead; abandoned, it ends its threads within a few images."""
        if not self._workers:
            yield from self._timed(map(functools.partial(make, map), plans))
            return
        # They are left in reverse: the thread that puts blocks together ends because decoding takes nothing more.
        with ThreadPoolExecutor(1, "blocks") as together, ThreadPoolExecutor(self._workers, "decoding") as decoding:
            run = functools.partial(_in_order, decoding, _IMAGES_AHEAD * self._workers)
            # On the device before the next one is begun, so that the host holds one block at a time.
            ready = _in_order(together, BLOCKS_AHEAD, lambda plan: jax.block_until_ready(make(run, plan)), plans)
            with contextlib.closing(ready):
                yield from self._timed(ready)

    def _timed(self, blocks: Iterator[Result]) -> Iterator[Result]:
        while True:
            started = time.perf_counter()
            block = next(blocks, None)
            self.waited_seconds += time.perf_counter() - started
            if block is None:
                return
            yield block

    def _examples(self, run: Map, plan: _Plan) -> Examples:
        """Reads the images of all streams, one stream after another, into one array; `run` is `map` or like it."""
        n_streams, n_rows = plan.rows.shape
        out = np.zeros((n_streams, n_rows, *self._shape), np.uint8)
        wanted = slice(plan.first, plan.last)
        images = plan.split.images
        if isinstance(images, np.ndarray):
            for own, rows in zip(out[:, wanted], plan.rows[:, wanted], strict=True):
                np.take(images, rows, axis=0, out=own, mode="clip")  # any other mode makes a copy first
        else:

            def read(place: tuple[int, int]) -> None:
                stream, row = place
                key = None if plan.keys is None else plan.keys[stream]
                out[place] = self._image(images.files, int(images.indices[plan.rows[stream, row]]), key)

            places = ((stream, row) for stream in range(n_streams) for row in range(plan.first, plan.last))
            deque(run(read, places), maxlen=0)
        labels = plan.split.labels[plan.rows.ravel()].astype(np.int32)
        return Examples(out.reshape(n_streams * n_rows, -1), labels)

    def _image(self, files: Files, index: int, key: np.ndarray | None) -> np.ndarray | int:
        """Returns an image uint8 `[H, W, 3]`, or 0 if it is skipped."""
        try:
            data = files.read(index)
        except OSError as error:
            raise RunError(f"{files.describe(index)}: cannot be read: {one_line(error)}") from error
        try:
            image = pictures.decode(data, files.rules)
        except Exception as error:
            where, why = files.describe(index), one_line(error)
            if not self._skip_undecodable:
                hint = "data.skip_undecodable=True puts black ones in their place"
                raise RunError(f"{where}: cannot be decoded: {why}; {hint}") from error
            self.skipped[where] = why
            return 0
        if key is None:
            return self._view.evaluation(image)
        return self._view.training(image, views.uniforms(key, index))


def _distinct(keys: jax.Array, part: Part | None) -> tuple[jax.Array, np.ndarray]:
    """Returns the distinct keys of the members that are needed, `[k]`, and which of them each has, int32 `[m]`."""
    needed = np.arange(len(keys)) if part is None else np.array(part.members)
    data = jax.device_get(jax.random.key_data(keys))[needed]
    _, first, inverse = np.unique(data, axis=0, return_index=True, return_inverse=True)
    stream = np.zeros(len(keys), np.int32)
    stream[needed] = inverse.ravel()
    return keys[needed[first]], stream


def _cut(
    order: np.ndarray, batch_size: int, steps_per_block: int, first_batch: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Cuts an order `[k, n]` into blocks of one shape and, where its last batch is partial, that one apart.

    Yields:
        Batches `[k, S, B]`, the first one to be taken and one past the last.
    """
    for full in cut(order, batch_size):
        length = full.shape[1]
        n_slots = min(steps_per_block, length)
        for start in range(0, length, n_slots):
            first, last = max(0, first_batch - start), min(n_slots, length - start)
            if first < last:
                batches = full[:, start : start + n_slots]
                yield np.pad(batches, ((0, 0), (0, n_slots - last), (0, 0))), first, last
        first_batch = max(0, first_batch - length)


def _in_order(
    executor: Executor, ahead: int, function: Callable[[Job], Result], jobs: Iterable[Job]
) -> Iterator[Result]:
    """Maps like `map`, in an executor; at most `ahead` jobs are begun beyond the one whose result is taken."""
    pending = deque()
    try:
        for job in jobs:
            pending.append(executor.submit(function, job))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
