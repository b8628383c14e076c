"""An experiment that takes seconds: real digits, a small network, short training."""

import io
from pathlib import Path
from typing import Any

from configs import digits_sms
from ssoup_jax.config import Settings, make_settings
from ssoup_jax.data import sources
from ssoup_jax.experiment.plan import Plan, Stage, make_plan
from ssoup_jax.experiment.run import prepare, run
from ssoup_jax.experiment.stop import Preemption
from ssoup_jax.report.console import Console
from ssoup_jax.storage.store import Artifact, Store


def settings(**changes: Any) -> Settings:
    """Returns the default experiment made tiny, with some settings changed."""
    config = digits_sms.get_config()
    small = {"arch": "Simple", "n_epochs": 2, "n_epochs_per_phase": 1, "n_phases": 2, "n_splits_total": 2}
    config.update(small | {"goal_sparsity": 0.9, "execution": "map", "batch_size": 64} | changes)
    return make_settings(config)


def launch(workdir: Path, preemption: Preemption | None = None, **changes: Any) -> tuple[dict[str, Any], str]:
    """Runs an experiment in this process; returns its summary and what it printed."""
    printed = io.StringIO()
    return run(settings(**changes), workdir, Console(printed), preemption), printed.getvalue()


class StopAfter(Preemption):
    """As if SIGTERM had come in the given chunk of steps, counted over all stages that train."""

    def __init__(self, chunk: int):
        super().__init__()
        self._left = chunk

    def reached(self, step: int) -> bool:
        self._left -= 1
        self.requested = None if self._left else "SIGTERM"
        return not self._left


def plan(**changes: Any) -> Plan:
    """Returns the plan of an experiment on the digits."""
    return make_plan(settings(**changes), sources.load("digits").fingerprint)


def artifact(workdir: Path, stage: Stage, **changes: Any) -> Artifact:
    """Loads the artifact of a finished stage."""
    context = prepare(settings(**changes), sources.load("digits"), Console(io.StringIO()))
    return Store(workdir).load(stage, context.like)
