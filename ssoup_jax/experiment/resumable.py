"""Trains a stage's stack with progress on the console, checkpoints to come back to, and a clean stop."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ssoup_jax.data.feeds import Feed, n_batches
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.stop import Preemption
from ssoup_jax.report.console import Console
from ssoup_jax.stack import executors
from ssoup_jax.storage.checkpoints import Checkpoints
from ssoup_jax.training import interval, loop, optimizer
from ssoup_jax.training.epochs import EpochLog
from ssoup_jax.training.state import TrainState, Variables
from ssoup_jax.training.step import Problem
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Work:
    """Where a group of stages leaves its traces while it runs.

    Attributes:
        stages: the names of the stages.
        folders: one for each member's `metrics.jsonl`.
        checkpoints: the group's.
        every: how often a checkpoint is written, see `training.interval`; None: only when a stop is asked for.
        preemption: says when a stop is asked for.
        console: where progress is shown.
    """

    stages: list[str]
    folders: list[Path]
    checkpoints: Path
    every: str | None
    preemption: Preemption
    console: Console


@dataclass(frozen=True)
class Trained:
    """A stack after its training.

    Attributes:
        variables: leaves `[m, ...]`, on the host, where slicing a stack compiles nothing.
        records: each member's figures, JSON-ready.
        diverged: the step at which a member's loss or weights were no longer finite.
    """

    variables: Variables
    records: list[dict[str, Any]]
    diverged: dict[int, int]


def train(
    work: Work,
    title: str,
    problem_for: Callable[[str], Problem],
    feed: Feed,
    variables: Variables,
    mask: PyTree,
    recipe: loop.Recipe,
    choose: Callable[[TrainState], str],
    on_divergence: str,
) -> Trained:
    """Trains a stack to its end, from its newest whole checkpoint if there is one.

    Args:
        work: where its traces go.
        title: what is going on, for the console.
        problem_for: architecture and transform, for an executor.
        feed: has the training images.
        variables: where the members start, leaves `[m, ...]`.
        mask: shared by all.
        recipe: how each member is trained.
        choose: chooses the executor for a stack that begins; a checkpoint goes on as it began.
        on_divergence: see `loop.train`.

    Returns:
        The trained stack.

    Raises:
        RunError: a member diverged and that is to be a failure, or a checkpoint cannot be written.
        Stopped: a stop was asked for; the last step is in a checkpoint.
    """
    state = TrainState(variables, optimizer.init(variables.params))
    total = int(recipe.n_steps.max())
    if not total:
        return Trained(jax.device_get(variables), [{"epoch": 0, "n_steps": 0, "seconds": 0.0}] * len(recipe.names), {})
    checkpoints = Checkpoints(work.checkpoints, on_damage=lambda text: work.console.line(f"{title}: {text}"))
    start, log, earlier, execution = _resume(checkpoints, work, title, state) or (
        loop.Snapshot(0, state),
        EpochLog([folder / "metrics.jsonl" for folder in work.folders]),
        0.0,
        choose(state),
    )
    per_epoch = n_batches(len(feed.labels["train"]), recipe.batch_size)
    every = interval.make(work.every, per_epoch, start.step) if work.every else None
    started = time.perf_counter()
    with (
        work.preemption.deferred(),
        contextlib.closing(checkpoints),
        log,
        work.console.stage(title, total, start.step) as update,
    ):
        update(start.step)  # the first step is compiled before it is taken

        def on_chunk(progress: loop.Progress, snapshot: loop.Snapshot) -> None:
            update(progress.step, {"loss": float(progress.losses.mean()), "images/s": progress.images_per_second})
            log.add(progress)
            stop = work.preemption.reached(progress.step)
            if stop or (every is not None and every.due(progress.step) and progress.step < total):
                info = {
                    "stages": work.stages,
                    "n_steps": total,
                    "diverged": snapshot.diverged,
                    "seconds": earlier + time.perf_counter() - started,
                    "log": log.state(),
                    "execution": execution,
                }
                checkpoints.save(snapshot.step, snapshot.state, info)
            if stop:
                checkpoints.wait()
                work.console.line(f"{title}: a checkpoint of step {progress.step} is written")
                work.preemption.stop()

        problem = problem_for(execution)
        state, _, diverged = loop.train(problem, feed, start, mask, recipe, execution, on_chunk, on_divergence)
        for member, step in diverged.items():
            work.console.line(f"{recipe.names[member]}: not finite at step {step}; stopped, the others go on")
        seconds = earlier + time.perf_counter() - started
        records = [log.final(i) | {"n_steps": int(n), "seconds": seconds} for i, n in enumerate(recipe.n_steps)]
        return Trained(jax.device_get(state.variables), records, diverged)


def _resume(
    checkpoints: Checkpoints, work: Work, title: str, state: TrainState
) -> tuple[loop.Snapshot, EpochLog, float, str] | None:
    """Returns where the newest whole checkpoint was, its log, its seconds and its executor; None without one."""
    found = checkpoints.latest(state)
    if found is None:
        return None
    step, stored, info = found
    try:
        resumed = (
            loop.Snapshot(step, stored, {int(member): int(when) for member, when in info["diverged"].items()}),
            EpochLog([folder / "metrics.jsonl" for folder in work.folders], info["log"]),
            float(info["seconds"]),
            executors.resolve(info["execution"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError, SettingsError) as error:
        # Whole but not ours: its manifest is right, so somebody else wrote it.
        work.console.line(f"{title}: the checkpoint of step {step} cannot be used ({error!r}); starts anew")
        return None
    work.console.line(f"{title}: goes on after step {step}, from a checkpoint")
    return resumed
