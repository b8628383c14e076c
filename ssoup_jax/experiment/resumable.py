"""Trains a stage's stack with progress on the console, checkpoints to come back to, and a clean stop."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.data.feeds import n_batches
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.models.variables import Variables
from ssoup_jax.report.console import Console
from ssoup_jax.report.live_file import LiveFile
from ssoup_jax.report.trackers import Run
from ssoup_jax.stack import executors, held, names
from ssoup_jax.stack.held import Held
from ssoup_jax.storage.checkpoints import Checkpoints
from ssoup_jax.training import interval, loop, measured, step
from ssoup_jax.training.curves import Curves
from ssoup_jax.training.epochs import EpochLog
from ssoup_jax.training.hyper import Hyper
from ssoup_jax.training.step import TrainState
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Work:
    """Where a group of stages leaves its traces while it runs, and what may end it.

    Attributes:
        stages: the names of the stages.
        runs: the same for the tracker, which have been started.
        checkpoints: the group's.
        every: how often a checkpoint is written, see `training.interval`; None: only when a stop is asked for.
        on_divergence: see `loop.train`.
        stop: says when a stop is asked for.
        console: where progress is shown.
        started: when this process began with them, see `provenance.now`.
        to_come: steps of all members of all stages after these, as far as this launch goes.
        live: told what training is at.
    """

    stages: list[str]
    runs: list[Run]
    checkpoints: Path
    every: str | None
    on_divergence: str
    stop: Stop
    console: Console
    started: str
    to_come: int
    live: LiveFile


@dataclass(frozen=True)
class Origin:
    """Where members of a stack start.

    Attributes:
        variables: on the host.
        mask: False where a weight is pruned.
    """

    variables: Variables
    mask: PyTree


@dataclass(frozen=True)
class Trained:
    """A stack after its training.

    Attributes:
        variables: leaves `[m, ...]`, on the host, where slicing a stack compiles nothing; or spread over a mesh.
        records: each member's figures, JSON-ready.
        diverged: the step at which a member's loss or weights were no longer finite.
        started: when it began, in an earlier process if it was cut off.
    """

    variables: Held
    records: list[dict[str, Any]]
    diverged: dict[int, int]
    started: str


@dataclass(frozen=True)
class _Start:
    """Where a training begins: its state, and what an earlier process has left."""

    snapshot: loop.Snapshot
    log: EpochLog
    seconds: float
    execution: str
    started: str


def train(
    context: Context,
    task: Task,
    work: Work,
    title: str,
    origins: Sequence[Origin],
    among: PyTree,
    hyper: Hyper,
    batch_size: int,
) -> Trained:
    """Trains a stack to its end, from its newest whole checkpoint if there is one.

    Args:
        context: the examples and the executor; a checkpoint goes on under the executor it began with.
        task: what is trained.
        work: where its traces go.
        title: what is going on, for the console.
        origins: where each member starts; one object for those that start from the same.
        among: a mask, but for what the experiment leaves out: what the sparsity of an epoch's line is of.
        hyper: what the members differ in, and how many steps each takes.
        batch_size: examples per step.

    Returns:
        The trained stack.

    Raises:
        RunError: a member diverged and that is to be a failure, or a checkpoint cannot be written.
        Stopped: a stop was asked for; the last step is in a checkpoint.
    """
    m, total = len(hyper.n_steps), int(np.max(hyper.n_steps))
    if not total:
        stack = trees.stack([jax.device_get(origin.variables) for origin in origins])
        return Trained(stack, [{"epoch": 0, "n_steps": 0, "seconds": 0.0}] * m, {}, work.started)
    each, places = trees.distinct(origins)
    begun = [step.init_member(task, hyper.values, own.variables, own.mask) for own in each]
    members = [begun[place] for place in places]
    checkpoints = Checkpoints(
        work.checkpoints, on_damage=lambda text: work.console.line(f"{title}: {text}"), pod=context.pod
    )
    choose = functools.partial(_choose, context, task, members, hyper, batch_size)
    start = _resume(context, checkpoints, work, title, members, batch_size, choose)
    if start is None:
        execution = choose()
        state = executors.assemble(execution, m, members.__getitem__)
        log = EpochLog(work.runs, context.tracker)
        start = _Start(loop.Snapshot(0, state), log, 0.0, execution, work.started)
    per_epoch = n_batches(context.feed.sizes["train"], batch_size)
    every = interval.make(work.every, per_epoch, start.snapshot.step, total)
    curves = Curves(
        *(context.classifier, context.feed, [own.variables.params for own in origins], among),
        *(hyper.n_steps, batch_size),
        *(context.evaluate_every, work.console.line),
    )
    started, execution, anything_new = time.perf_counter(), start.execution, False
    log, board = start.log, work.console.board
    board.begin(title, work.runs, hyper.n_steps, work.to_come)
    log.tell_again()
    with (
        contextlib.ExitStack() as saving,
        checkpoints,
        contextlib.closing(board),
        work.console.stage(title, total, start.snapshot.step) as update,
    ):
        update(start.snapshot.step)  # the first step is compiled before it is taken

        def on_chunk(progress: loop.Progress, snapshot: loop.Snapshot) -> None:
            nonlocal execution, anything_new
            execution = progress.execution
            if not anything_new:
                # Not before: whoever stops a run that compiles its first program has nothing to wait for.
                saving.enter_context(work.stop.saving())
                anything_new = True
            losses = progress.figures["loss"]
            board.chunk(progress.step, _means(progress))
            update(progress.step, {"loss": float(losses.mean()), "images/s": progress.images_per_second})
            log.add(progress, curves.at(progress, snapshot))
            work.live.write(board.content)
            stop = work.stop.asked()
            due = context.pod.agree(every.due(progress.step))
            if stop or due:
                info = {
                    "stages": work.stages,
                    "n_steps": total,
                    "diverged": snapshot.diverged,
                    "seconds": start.seconds + time.perf_counter() - started,
                    "log": log.state(),
                    "execution": execution,
                    "started": start.started,
                }
                own = {index: _stored(state) for index, state in held.own(snapshot.state)}
                checkpoints.save(snapshot.step, own, m, info)
            if stop:
                checkpoints.wait()
                work.console.line(f"{title}: a checkpoint of step {progress.step} is written")
                work.stop.now()

        trained = loop.train(
            task,
            context.feed,
            start.snapshot,
            hyper,
            batch_size,
            execution,
            on_chunk,
            work.on_divergence,
            work.console.line,
            context.pod,
        )
        for member, when in trained.diverged.items():
            work.console.line(f"{hyper.names[member]}: not finite at step {when}; stopped, the others go on")
        how = {"seconds": start.seconds + time.perf_counter() - started, "execution": execution}
        records = [log.final(i) | {"n_steps": int(n)} | how for i, n in enumerate(hyper.n_steps)]
        variables = held.combine(lambda state: state.variables, trained.state)
        return Trained(jax.device_get(variables), records, trained.diverged, start.started)


def _means(progress: loop.Progress) -> dict[int, dict[str, float]]:
    """Returns each active member's figures, averaged over the steps of a chunk."""
    return {
        int(index): {name: float(values[row].mean()) for name, values in progress.figures.items()}
        for row, index in enumerate(progress.active)
    }


def _choose(context: Context, task: Task, members: list[TrainState], hyper: Hyper, batch_size: int) -> str:
    """Chooses the executor of a stack that begins: by the setting, by a rule, or by measuring."""
    m = len(hyper.n_steps)
    if context.execution != "measured":
        return context.executor(m, batch_size)
    return measured.choose(
        names.candidates(jax.default_backend(), len(jax.devices()), context.load(m, batch_size), context.mesh),
        measured.probe(task, context.feed, trees.stack(members), hyper, batch_size),
        context.console.line,
        context.choices,
        f"{measured.machine()}, {context.description}, batch {batch_size}, {m} members",
    )


def _stored(state: TrainState) -> dict[str, PyTree]:
    """Returns a state in the form in which it is stored, that of checkpoints which knew no masks but for `mask`."""
    variables = {"params": state.variables.params, **state.variables.collections}
    return {"variables": variables, "opt_state": state.opt_state, "mask": state.mask}


def _resume(
    context: Context,
    checkpoints: Checkpoints,
    work: Work,
    title: str,
    begun: list[TrainState],
    batch_size: int,
    choose: Callable[[], str],
) -> _Start | None:
    """Returns where the newest whole checkpoint was; None without one."""
    form, m = _stored(begun[0]), len(begun)
    older = {name: part for name, part in form.items() if name != "mask"}
    spread = jax.process_count() > 1
    # A process reads its own members, and whose they are the executor says.
    wanted = executors.needed(context.executor(m, batch_size), m) if spread else range(m)
    found = checkpoints.latest(form, m, wanted, older)
    if found is None:
        return None
    when, members, info = found

    def read(index: int) -> TrainState:
        # A process that runs no member needs some state of the right form, and nobody's.
        return _restored(members[index], begun[index]) if index in members else begun[index]

    start, why = None, None
    try:
        execution = context.executor(m, batch_size) if spread else _again(info, choose)
        state = executors.assemble(execution, m, read)
        start = _Start(
            loop.Snapshot(when, state, {int(member): int(at) for member, at in info["diverged"].items()}),
            EpochLog(work.runs, context.tracker, info["log"]),
            float(info["seconds"]),
            execution,
            str(info.get("started", work.started)),
        )
    except (AttributeError, KeyError, TypeError, ValueError, SettingsError) as error:
        why = repr(error)
    if reasons := list(filter(None, context.pod.everyone(why))):
        # Whole but not ours: its manifest is right, so somebody else wrote it. What one cannot use nobody does.
        work.console.line(f"{title}: the checkpoint of step {when} cannot be used ({reasons[0]}); starts anew")
        return None
    work.console.line(f"{title}: goes on after step {when}, from a checkpoint")
    return start


def _restored(stored: PyTree, member: TrainState) -> TrainState:
    """Returns a member's state from the form in which it is stored, see `_stored`."""
    collections = dict(stored["variables"])
    variables = Variables(collections.pop("params"), collections)
    return TrainState(variables, stored["opt_state"], stored.get("mask", member.mask))


def _again(info: dict[str, Any], choose: Callable[[], str]) -> str:
    """Returns the executor that a checkpoint goes on under: the one before, if there are as many devices as then."""
    before = info["execution"]
    if not names.stands_for_another(before):
        mesh = names.parse(before).mesh or (1, 1)
        if mesh[0] * mesh[1] == len(jax.devices()):
            return before
    return choose()
