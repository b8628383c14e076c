"""Each member's training figures, one JSON line an epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from ssoup_jax.report.sinks import JsonLines


class Chunk(Protocol):
    """What a chunk of steps did; `training.loop.Progress` is one."""

    step: int
    epoch: int
    epoch_done: bool
    active: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray
    learning_rate: np.ndarray
    batch_size: int
    seconds: float


class EpochLog:
    """Gathers chunks of steps into epochs and appends each member's to its own file.

    Args:
        paths: one file per member; `train_loss` and `train_accuracy` are means over the epoch's images as they were
            trained on, `seconds` and `images_per_second` are the whole stack's.
    """

    def __init__(self, paths: Sequence[Path]):
        self._files = [JsonLines(path) for path in paths]
        self._chunks: list[Chunk] = []
        self._final: list[dict[str, Any]] = [{"epoch": 0} for _ in paths]

    def add(self, chunk: Chunk) -> None:
        """Takes in a chunk; when it ends its epoch, that epoch's lines are written."""
        self._chunks.append(chunk)
        if not chunk.epoch_done:
            return
        chunks, self._chunks = self._chunks, []
        seconds = sum(part.seconds for part in chunks)
        images = sum(part.losses.size * part.batch_size for part in chunks)
        for member in np.unique(np.concatenate([part.active for part in chunks])):
            rows = [(part, np.flatnonzero(part.active == member)) for part in chunks if member in part.active]
            weights = np.concatenate([np.full(part.losses.shape[1], part.batch_size) for part, _ in rows])
            losses = np.concatenate([part.losses[row[0]] for part, row in rows])
            accuracies = np.concatenate([part.accuracies[row[0]] for part, row in rows])
            last, row = rows[-1]
            self._final[member] = {
                "epoch": chunk.epoch + 1,
                "step": last.step,
                "train_loss": float(np.average(losses, weights=weights)),
                "train_accuracy": float(np.average(accuracies, weights=weights)),
                "learning_rate": float(last.learning_rate[row[0]]),
                "seconds": seconds,
                "images_per_second": images / seconds,
            }
            self._files[member].write(self._final[member])

    def final(self, member: int) -> dict[str, Any]:
        """Returns the figures of a member's last epoch."""
        return self._final[member]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
