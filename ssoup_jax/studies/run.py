"""Runs a study: the union of its stages, what of them is missing, and the table of what is there."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax

from ssoup_jax.config import Settings
from ssoup_jax.config.study import parse_shard
from ssoup_jax.data import sources
from ssoup_jax.data.dataset import Dataset
from ssoup_jax.experiment import run as experiment
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.plan import Plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.experiment.specs import Dense
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.experiment.walk import Manner, failures_of, finish, run_of
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.pod.same import check_same, check_shared
from ssoup_jax.report.console import Console
from ssoup_jax.report.trackers import NULL, chosen
from ssoup_jax.stack import memory
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.store import Store
from ssoup_jax.studies import cells, grid, work
from ssoup_jax.studies.report import report
from ssoup_jax.studies.table import Table
from ssoup_jax.studies.work import Group
from ssoup_jax.training import step
from ssoup_jax.training.measured import Remembered


def run_study(
    settings: Settings, workdir: Path, console: Console, stop: Stop | None = None, pod: Pod = ALONE
) -> list[Table]:
    """Finishes the stages of a study, or this launch's share of them, and reports on all that are there.

    Args:
        settings: the study's.
        workdir: where artifacts and tables live; other launches of the study may work on it, too.
        console: where progress is shown.
        stop: says when a stop is asked for; None: never.
        pod: the processes of this run; all of them call this alike.

    Returns:
        The tables.

    Raises:
        SettingsError: something cannot work; nothing was trained.
        RunError: the machine failed; what was finished before is intact.
        Stopped: a stop was asked for.
    """
    points = grid.points(settings)
    check_same(pod, settings.record() | settings.own_parts)
    check_shared(pod, workdir)
    pod.first(lambda: chosen.check(settings.trackers))
    options = settings.data.options()
    with pod.patient():
        dataset = sources.load(settings.dataset, options, data_dir=settings.data_dir, on_line=console.line, pod=pod)
    check_same(pod, {"data": dataset.fingerprint})
    folder = Workdir(workdir).trackers
    tracker = chosen.make(settings.trackers, folder, console.line, None, console.board) if pod.leads else NULL
    context = prepare(settings, dataset, console, Remembered(Workdir(workdir).executions), pod, tracker)
    digest = _digest(settings, dataset)

    def plan_of(own: Settings) -> Plan:
        return experiment.plan_of(own, dataset.fingerprint, context.imported)

    rows = [(point, row) for point in points for row in point.rows(plan_of)]
    ours = work.share(points, settings.shard and parse_shard(settings.shard))
    most = _most_members(settings, context)
    todo = work.groups((stage for point, row in rows if point in ours for stage in row.stages), most)
    store = Store(workdir, on_damage=console.line, pod=pod)
    console.line(f"{dataset.describe()}; {settings.arch} on {jax.devices()[0].device_kind}")
    shard = f", of which this launch does part {settings.shard}" if settings.shard else ""
    console.line(f"study: {len(points)} experiments{shard}; {sum(map(len, todo))} stages")

    if any(len({stage.run_id for stage in group}) > 1 for group in todo):
        console.line(f"study: runs train as one stack, up to {most} members at a time (stack_members)")

    left = {group[0].name: sum(map(context.n_steps, group)) for group in todo}

    def finish_group(group: Group, wait: bool) -> bool:
        # A dense model alone has nobody beside it whom its failure must not cost.
        on_divergence = "fail" if isinstance(group[0].spec, Dense) and len(group) == 1 else "exclude"
        manner = Manner(
            stop or Stop(),
            settings.checkpoint_every,
            on_divergence,
            run_of=functools.partial(run_of, settings.record(), f"study-{settings.dataset}-{settings.arch}", digest),
            score=lambda group: [None] * len(group),
            to_come=sum(left.values()) - left[group[0].name],
        )
        with failures_of(work.called(group)):
            finished = finish(context, store, group, manner, wait=wait)
            left[group[0].name] *= not finished
            return finished

    failed = work.walk(todo, store, finish_group, console.line)
    found = cells.collect(rows, lambda stage: store.record(stage.name) if store.has(stage.name) else None, failed)
    about = {"name": dataset.name, "data": dataset.fingerprint, "description": _describe(settings, dataset)}
    folder = store.workdir.study(digest)
    return pod.first(lambda: _report(folder, settings, found, about, console))


def _most_members(settings: Settings, context: Context) -> int:
    """Returns how many members of several runs may train as one stack; 0: runs stay apart."""
    if settings.stack_members is not None:
        return settings.stack_members
    hyper = "learning_rate", "weight_decay", "momentum"
    groups = context.mesh[0] if context.mesh else jax.device_count()
    return groups * memory.fitting(step.state_bytes(context.task(settings.optimizer), hyper, context.like))


def _report(
    folder: Path, settings: Settings, found: list[cells.Cell], about: dict[str, Any], console: Console
) -> list[Table]:
    folder.mkdir(parents=True, exist_ok=True)
    cells.write(folder, settings, found, about)
    made = report(folder, {"settings": settings.record(), **about}, found, console)
    console.line(f"study: {folder}")
    return made


def _describe(settings: Settings, dataset: Dataset) -> str:
    """Says what was done to whom, for those who see the table alone."""
    return (
        f"{dataset.describe()}. Dense: {settings.n_epochs} epochs, batch {settings.batch_size}, "
        f"{settings.learning_rate}, weight decay {settings.weight_decay:g}. {settings.n_phases} phases of "
        f"{settings.n_epochs_per_phase} epochs each, {settings.retrain_schedule}; members differ in "
        f"{', '.join(settings.differ_in)}."
    )


def _digest(settings: Settings, dataset: Dataset) -> str:
    """Names a study by all that its table depends on."""
    what = settings.model_dump(mode="json", exclude=cells.HOW)
    return hashlib.sha256(json.dumps([what, dataset.fingerprint], sort_keys=True).encode()).hexdigest()[:16]
