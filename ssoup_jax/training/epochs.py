"""Each member's training figures, one line an epoch, for whoever keeps track of it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ssoup_jax.report.trackers import NULL, Line, Run, Tracker
from ssoup_jax.training.loop import Progress

_NOTHING: Mapping[int, Mapping[str, Any]] = MappingProxyType({})


class EpochLog:
    """Gathers chunks of steps into epochs and tells a tracker each member's.

    `train_loss` and the task's other figures are means over the epoch's examples as they were trained on, `seconds` and
    `images_per_second` are the whole stack's.

    Args:
        runs: one per member, which have been started.
        tracker: told every line.
        state: what `state` returned in an earlier process, to go on from.

    Raises:
        ValueError, KeyError, TypeError: `state` is not such a one.
    """

    def __init__(self, runs: Sequence[Run], tracker: Tracker = NULL, state: dict[str, Any] | None = None):
        if state is None:
            state = {"lines": [[] for _ in runs], "pending": [[] for _ in runs], "seconds": 0.0}
        self._lines: list[list[Line]] = [[dict(line) for line in lines] for lines in state["lines"]]
        # Per member: a row for each step of the epoch under way: figures, loss first; images; step; schedules. What is
        # not finite comes back from JSON as None, and becomes NaN.
        self._pending: list[list[list[float]]] = [np.asarray(rows, np.float64).tolist() for rows in state["pending"]]
        self._seconds = float(state["seconds"])
        self._runs, self._tracker = list(runs), tracker
        if not len(self._runs) == len(self._lines) == len(self._pending):
            raise ValueError(f"a log of {len(self._lines)} members, where {len(self._runs)} are wanted")

    def tell_again(self) -> None:
        """Tells the tracker the lines of an earlier process."""
        for run, lines in zip(self._runs, self._lines, strict=True):
            for line in lines:
                self._tracker.log(run, line)

    def add(self, chunk: Progress, beside: Mapping[int, Mapping[str, Any]] = _NOTHING) -> None:
        """Takes in a chunk; when it ends its epoch, that epoch's lines are told.

        Args:
            chunk: what was trained.
            beside: what else an epoch's line is to say of a member, by index; see `training.curves`.
        """
        self._seconds += chunk.seconds
        figures = ["loss", *(name for name in chunk.figures if name != "loss")]
        for row, member in enumerate(chunk.active):
            n_steps = chunk.figures["loss"].shape[1]
            steps = chunk.step - n_steps + 1 + np.arange(n_steps)
            columns = [
                *(chunk.figures[name][row] for name in figures),
                *(chunk.batch_size, steps),
                *(values[row] for values in chunk.schedules.values()),
            ]
            rows = np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float64).tolist()
            # What a diverged member did after that depends on where the chunk happened to end.
            self._pending[member] += rows[: chunk.taken[row]]
        if chunk.epoch_done:
            self._end_epoch(chunk.epoch + 1, figures, list(chunk.schedules), beside)

    def _end_epoch(
        self, epoch: int, figures: list[str], schedules: list[str], beside: Mapping[int, Mapping[str, Any]]
    ) -> None:
        at = len(figures)
        images = sum(row[at] for rows in self._pending for row in rows)
        for member, rows in enumerate(self._pending):
            if not rows:
                continue
            columns = np.array(rows).T
            line = {
                "epoch": epoch,
                "step": int(columns[at + 1][-1]),
                **{
                    f"train_{name}": float(np.average(columns[i], weights=columns[at]))
                    for i, name in enumerate(figures)
                },
                **{name: float(np.float32(columns[at + 2 + i][-1])) for i, name in enumerate(schedules)},
                "seconds": self._seconds,
                "images_per_second": float(images / self._seconds),
                **beside.get(member, {}),
            }
            self._lines[member].append(line)
            self._tracker.log(self._runs[member], line)
        self._pending = [[] for _ in self._pending]
        self._seconds = 0.0

    def final(self, member: int) -> Line:
        """Returns the figures of a member's last epoch."""
        return self._lines[member][-1] if self._lines[member] else {"epoch": 0}

    def state(self) -> dict[str, Any]:
        """Returns all that a log needs to go on from here, ready for JSON."""
        return {
            "lines": [list(lines) for lines in self._lines],
            "pending": [[list(row) for row in rows] for rows in self._pending],
            "seconds": self._seconds,
        }
