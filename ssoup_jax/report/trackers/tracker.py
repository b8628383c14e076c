"""What a tracker is: it is told of every stage as it starts, of its epochs, of its result, and of its end."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ssoup_jax.errors import one_line

Line = Mapping[str, Any]
"""Figures of one model's epoch, as `docs/records.md` lists them."""

Record = Mapping[str, Any]
"""What is known of a finished stage, or a part of it, as `docs/records.md` lists it."""


@dataclass(frozen=True)
class Run:
    """A stage as trackers see it: one model in training, or a soup.

    Attributes:
        name: of its artifact; no other stage of the workdir has it.
        title: what people call it, such as `'IMP phase 1, member 0'`.
        kind: 'Dense', 'IMP' or 'Ensemble'.
        phase: 1-based; 0 for the dense model.
        member: its `split_val`; None where there are no members.
        group: what all stages of an experiment have in common.
        config: the settings by name, with its own `strategy`, `phase` and `split_val`, ready for JSON.
        folder: where its files are gathered until it is stored.
    """

    name: str
    title: str
    kind: str
    phase: int
    member: int | float | None
    group: str
    config: Mapping[str, Any]
    folder: Path


class Tracker(Protocol):
    """Takes figures of any number of runs, several of which may go on at a time.

    A run that was cut off starts again under its name, and all its epochs until there are logged again: equal numbers
    for equal epochs.
    """

    def start(self, run: Run) -> None:
        """Begins a run, or goes on with it."""

    def log(self, run: Run, line: Line) -> None:
        """Takes in an epoch, in their order."""

    def summary(self, run: Run, record: Record) -> None:
        """Takes in what came out: before it is stored the stage's record, and whatever else is known later."""

    def finish(self, run: Run, finished: bool) -> None:
        """Ends a run; whether its stage is finished, or was stopped or failed."""


class Composite:
    """Tells several trackers everything, one after the other."""

    def __init__(self, trackers: Sequence[Tracker]):
        self._trackers = tuple(trackers)

    def start(self, run: Run) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.start(run)

    def log(self, run: Run, line: Line) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.log(run, line)

    def summary(self, run: Run, record: Record) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.summary(run, record)

    def finish(self, run: Run, finished: bool) -> None:
        """See `Tracker`."""
        for tracker in self._trackers:
            tracker.finish(run, finished)


NULL: Tracker = Composite(())
"""The tracker that takes no notice."""


@contextlib.contextmanager
def tracking(tracker: Tracker, runs: Sequence[Run]) -> Iterator[None]:
    """Starts runs, and finishes them however what is inside ends."""
    finished = False
    for run in runs:
        tracker.start(run)
    try:
        yield
        finished = True
    finally:
        for run in runs:
            tracker.finish(run, finished)


class Guarded:
    """Keeps what goes wrong in a tracker from the training: it is said once, and that tracker is told nothing more.

    Args:
        tracker: the one that may fail.
        name: what to call it.
        on_line: told in one line that it failed.
    """

    def __init__(self, tracker: Tracker, name: str, on_line: Callable[[str], None]):
        self._tracker, self._name, self._on_line = tracker, name, on_line
        self._failed = False

    def start(self, run: Run) -> None:
        """See `Tracker`."""
        self._try(self._tracker.start, run)

    def log(self, run: Run, line: Line) -> None:
        """See `Tracker`."""
        self._try(self._tracker.log, run, line)

    def summary(self, run: Run, record: Record) -> None:
        """See `Tracker`."""
        self._try(self._tracker.summary, run, record)

    def finish(self, run: Run, finished: bool) -> None:
        """See `Tracker`."""
        self._try(self._tracker.finish, run, finished)

    def _try(self, tell: Callable[..., None], *what: Any) -> None:
        if self._failed:
            return
        try:
            tell(*what)
        except Exception as error:  # whatever somebody else's library raises
            self._failed = True
            self._on_line(
                f"warning: {self._name} failed, and is told nothing more: {one_line(error)}; the run goes on, and "
                "metrics.jsonl and record.json have everything"
            )
