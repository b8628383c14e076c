"""An experiment that takes seconds: real digits, a small network, short training."""

import io
import json
import signal
from pathlib import Path
from typing import Any

from configs import digits_sms
from ssoup_jax.config import Settings, make_settings
from ssoup_jax.data import sources
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.experiment.plan import Plan, Stage, make_plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.experiment.run import run
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.report.console import Console
from ssoup_jax.storage.store import Store


def settings(**changes: Any) -> Settings:
    """Returns the default experiment made tiny, with some settings changed."""
    config = digits_sms.get_config()
    small = {"arch": "Simple", "n_epochs": 2, "n_epochs_per_phase": 1, "n_phases": 2, "n_splits_total": 2}
    config.update(small | {"goal_sparsity": 0.9, "execution": "map", "batch_size": 64} | changes)
    return make_settings(config)


def launch(workdir: Path, stop: Stop | None = None, **changes: Any) -> tuple[dict[str, Any], str]:
    """Runs an experiment in this process; returns its summary and what it printed."""
    printed = io.StringIO()
    return run(settings(**changes), workdir, Console(printed), stop), printed.getvalue()


class StopAfter(Stop):
    """As if SIGTERM had come in the given chunk of steps, counted over all stages that train."""

    def __init__(self, chunk: int):
        super().__init__()
        self._left = chunk

    def asked(self) -> bool:
        self._left -= 1
        self.requested = None if self._left else signal.SIGTERM
        return not self._left


def plan(**changes: Any) -> Plan:
    """Returns the plan of an experiment on the digits."""
    return make_plan(settings(**changes), sources.load("digits").fingerprint)


def artifact(workdir: Path, stage: Stage, **changes: Any) -> Artifact:
    """Loads the artifact of a finished stage."""
    return load(workdir, stage.name, **changes)[stage.name]


def load(workdir: Path, *names: str, **changes: Any) -> dict[str, Artifact]:
    """Loads artifacts by name; all that are finished, where none is named."""
    context = prepare(settings(**changes), sources.load("digits"), Console(io.StringIO()))
    store, like = Store(workdir), artifacts.like(context.like)
    finished = (path.name for path in store.workdir.artifacts.glob("[!.]*"))
    return {name: artifacts.from_tree(*store.load(name, like)) for name in names or sorted(finished)}


def curve(workdir: Path, stage: Stage) -> list[dict]:
    """Returns the lines of a finished stage's epochs."""
    return [json.loads(line) for line in (Store(workdir).path(stage.name) / "metrics.jsonl").read_text().splitlines()]
