"""Weights & Biases: one of its runs for each stage, one group for an experiment, figures under the reference's names.

Project, entity and mode are what its own environment says (`WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_MODE`). What it
writes locally lies in the workdir, from where `wandb sync` sends it later.
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

import wandb

from ssoup_jax.errors import SettingsError, one_line
from ssoup_jax.report.trackers import reference_names
from ssoup_jax.report.trackers.tracker import Line, Record, Run

PROJECT = "ssoup_jax"

_IDS = "wandb_ids"
_LONGEST_END = 120.0  # seconds that the end of a run waits for the network; `wandb sync` sends what is left


def check() -> None:
    """Checks that somebody is logged in, or that nothing is to be sent.

    Raises:
        SettingsError: nobody is, or wandb does not like its environment.
    """
    try:
        # Silent, for it would print into the live display.
        mode = wandb.setup(wandb.Settings(silent=True)).settings.mode
        ready = mode not in ("online", "run", "shared") or wandb.login(prompt=False, verify=False)
    except Exception as error:  # it has many kinds of them
        raise SettingsError(f"trackers: wandb cannot be used here: {one_line(error)}") from None
    if not ready:
        raise SettingsError(
            "trackers: nobody is logged in to wandb; allowed: `wandb login`, WANDB_API_KEY=..., or WANDB_MODE=offline"
        )


def quiet() -> wandb.Settings:
    """Returns settings of a run that leaves the terminal to us, and does not wait for the network for ever."""
    return wandb.Settings(silent=True, console="off", finish_timeout=_LONGEST_END)


class WandbTracker:
    """Keeps a run of Weights & Biases for each stage.

    A stage that was cut off goes on in the run that it has begun, by an id that the workdir remembers: epochs that the
    server knows are not sent again. Without a server there is a new folder, with all epochs, under the same id.

    Args:
        folder: where local files and ids lie; made where it is not there.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._runs: dict[str, Any] = {}

    def start(self, run: Run) -> None:
        """Begins a run, or goes on with it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._runs[run.name] = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=self._id(run),
            resume="allow",
            group=os.environ.get("WANDB_RUN_GROUP") or run.group,
            job_type=run.kind,
            name=run.title,
            config=dict(run.config),
            dir=str(self._folder),
            reinit="create_new",  # the members of a stack have one each, at the same time
            settings=quiet(),
        )

    def log(self, run: Run, line: Line) -> None:
        """Logs an epoch under its own number, unless the server knows it already."""
        own = self._runs[run.name]
        if line["epoch"] >= own.step:
            own.log(reference_names.epoch(run.kind, line), step=line["epoch"], commit=True)

    def summary(self, run: Run, record: Record) -> None:
        """Puts what came out into the run's summary."""
        for name, value in reference_names.final(record).items():
            self._runs[run.name].summary[name] = value

    def finish(self, run: Run, finished: bool) -> None:
        """Ends a run, as failed if its stage is not finished; it can go on later."""
        if own := self._runs.pop(run.name, None):
            own.finish(exit_code=0 if finished else 1)

    def _id(self, run: Run) -> str:
        """Returns the id of a stage in this workdir; stages of the same name elsewhere have others."""
        path = self._folder / _IDS / f"{run.name}.json"
        try:
            found = json.loads(path.read_text())["id"]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, str):
            found = secrets.token_hex(4)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"id": found}))
        return found
