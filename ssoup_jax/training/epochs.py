"""Each member's training figures, one JSON line an epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from ssoup_jax.storage.json_files import JsonLines


class Chunk(Protocol):
    """What a chunk of steps did; `training.loop.Progress` is one."""

    step: int
    epoch: int
    epoch_done: bool
    active: np.ndarray
    taken: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray
    learning_rates: np.ndarray
    batch_size: int
    seconds: float


class EpochLog:
    """Gathers chunks of steps into epochs and appends each member's to its own file.

    Args:
        paths: one file per member; `train_loss` and `train_accuracy` are means over the epoch's images as they were
            trained on, `seconds` and `images_per_second` are the whole stack's.
        state: what `state` returned in an earlier process, to go on from; its lines are written again.

    Raises:
        ValueError, KeyError, TypeError: `state` is not such a one.
    """

    def __init__(self, paths: Sequence[Path], state: dict[str, Any] | None = None):
        if state is None:
            state = {"lines": [[] for _ in paths], "pending": [[] for _ in paths], "seconds": 0.0}
        self._lines: list[list[dict[str, Any]]] = [list(lines) for lines in state["lines"]]
        # Per member: rows of loss, accuracy, images, step and rate, for the steps of the epoch under way.
        self._pending = [np.asarray(rows, np.float64).reshape(-1, 5) for rows in state["pending"]]
        self._seconds = float(state["seconds"])
        self._files = [JsonLines(path) for path in paths]
        for file, lines in zip(self._files, self._lines, strict=True):
            for line in lines:
                file.write(line)

    def add(self, chunk: Chunk) -> None:
        """Takes in a chunk; when it ends its epoch, that epoch's lines are written."""
        self._seconds += chunk.seconds
        for row, member in enumerate(chunk.active):
            losses, accuracies, rates = chunk.losses[row], chunk.accuracies[row], chunk.learning_rates[row]
            steps = chunk.step - len(losses) + 1 + np.arange(len(losses))
            rows = np.stack(np.broadcast_arrays(losses, accuracies, chunk.batch_size, steps, rates), axis=1)
            # What a diverged member did after that depends on where the chunk happened to end.
            self._pending[member] = np.concatenate([self._pending[member], rows[: chunk.taken[row]]])
        if not chunk.epoch_done:
            return
        images = sum(rows[:, 2].sum() for rows in self._pending)
        for member, rows in enumerate(self._pending):
            if not len(rows):
                continue
            losses, accuracies, weights, steps, rates = rows.T
            line = {
                "epoch": chunk.epoch + 1,
                "step": int(steps[-1]),
                "train_loss": float(np.average(losses, weights=weights)),
                "train_accuracy": float(np.average(accuracies, weights=weights)),
                "learning_rate": float(np.float32(rates[-1])),
                "seconds": self._seconds,
                "images_per_second": float(images / self._seconds),
            }
            self._lines[member].append(line)
            self._files[member].write(line)
        self._pending = [rows[:0] for rows in self._pending]
        self._seconds = 0.0

    def final(self, member: int) -> dict[str, Any]:
        """Returns the figures of a member's last epoch."""
        return self._lines[member][-1] if self._lines[member] else {"epoch": 0}

    def state(self) -> dict[str, Any]:
        """Returns all that a log needs to go on from here, ready for JSON."""
        return {
            "lines": [list(lines) for lines in self._lines],
            "pending": [rows.tolist() for rows in self._pending],
            "seconds": self._seconds,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
