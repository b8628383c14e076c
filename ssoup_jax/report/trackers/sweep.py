"""A run that an agent of Weights & Biases has made: its dictionary of settings, and the results that a sweep awaits."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb

from ssoup_jax.errors import SettingsError, one_line
from ssoup_jax.report.trackers import reference_names
from ssoup_jax.report.trackers.tracker import Line, Record, Run
from ssoup_jax.report.trackers.weights_and_biases import quiet


class SweepRun:
    """The tracker of the run that this process was started for.

    It has the history of the first stage that is trained in it, which is the only one where a sweep goes through stages
    as the authors' does, and the results of the last one that is finished: what a sweep optimises.

    Args:
        folder: where local files lie; made where it is not there.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(dir=str(folder), settings=quiet())
        self._first: str | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return f"run {self._run.id} of wandb"

    @property
    def settings(self) -> dict[str, Any]:
        """The run's dictionary."""
        return dict(self._run.config)

    def start(self, run: Run) -> None:
        """Adds the stage's settings to the run's, which stay as they are."""
        known = self._run.config.keys()
        self._run.config.update({name: value for name, value in run.config.items() if name not in known})

    def log(self, run: Run, line: Line) -> None:
        """Logs an epoch of the first stage that is trained."""
        self._first = self._first or run.name
        if run.name == self._first and line["epoch"] >= self._run.step:
            self._run.log(reference_names.epoch(run.kind, line), step=line["epoch"], commit=True)

    def summary(self, run: Run, record: Record) -> None:
        """Puts what came out into the summary, over what came of earlier stages."""
        for name, value in reference_names.final(record).items():
            self._run.summary[name] = value

    def finish(self, run: Run, finished: bool) -> None:
        """Does nothing: more stages may follow."""

    def close(self, exit_code: int) -> None:
        """Ends the run."""
        self._run.finish(exit_code=exit_code)


@contextlib.contextmanager
def run(folder: Path) -> Iterator[SweepRun]:
    """Takes part in the run that this process was started for, or in one of its own where there is none.

    Raises:
        SettingsError: wandb has no run for us.
    """
    try:
        own = SweepRun(folder)
    except Exception as error:  # it has many kinds of them
        raise SettingsError(f"--from_wandb: there is no run: {one_line(error)}") from None
    exit_code = 1
    try:
        yield own
        exit_code = 0
    finally:
        with contextlib.suppress(Exception):
            own.close(exit_code)
