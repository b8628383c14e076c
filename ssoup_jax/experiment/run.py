"""Walks the plan: skips what is finished, runs what is wanted, and reports."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ssoup_jax.config import Settings
from ssoup_jax.data import sources
from ssoup_jax.data.feeds import Feed
from ssoup_jax.data.ood import Corruption
from ssoup_jax.errors import RunError, SettingsError, one_line
from ssoup_jax.experiment import artifacts, out_of_distribution, provenance, results, stages
from ssoup_jax.experiment.artifacts import Artifact, Stored
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.imported import Import
from ssoup_jax.experiment.plan import Plan, groups, make_plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.experiment.resumable import Work
from ssoup_jax.experiment.specs import Dense, Imported, Retrain, Soup, Stage
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.pod.same import check_same, check_shared
from ssoup_jax.report.console import Console
from ssoup_jax.report.trackers import NULL, Run, Tracker, chosen, tracking
from ssoup_jax.storage import lock
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.store import Store
from ssoup_jax.training import curves
from ssoup_jax.training.measured import Remembered


@dataclass(frozen=True)
class _Launch:
    """What one call of `run` does all its stages with."""

    context: Context
    store: Store
    plan: Plan
    settings: Settings
    stop: Stop
    corruptions: dict[Corruption, Callable[[], Feed]]
    sweep: Tracker | None


def run(
    settings: Settings,
    workdir: Path,
    console: Console,
    stop: Stop | None = None,
    pod: Pod = ALONE,
    sweep: Tracker | None = None,
) -> dict[str, Any]:
    """Finishes the stages that the settings ask for and reports on the whole experiment.

    Args:
        settings: the experiment's.
        workdir: where artifacts and summaries live.
        console: where progress is shown.
        stop: says when a stop is asked for; None: never.
        pod: the processes of this run; all of them call this alike.
        sweep: who awaits the results of the last stage, whether it is run or was finished earlier.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        SettingsError: something cannot work; nothing was trained.
        RunError: a stage failed; what was finished before is intact.
        Stopped: a stop was asked for.
    """
    check_same(pod, settings.record())
    check_shared(pod, workdir)
    pod.first(lambda: chosen.check(settings.trackers))
    options = settings.data.options()
    with pod.patient():  # process 0 may have to download
        dataset = sources.load(settings.dataset, options, data_dir=settings.data_dir, on_line=console.line, pod=pod)
    check_same(pod, {"data": dataset.fingerprint})
    folder = Workdir(workdir).trackers
    tracker = chosen.make(settings.trackers, folder, console.line, sweep) if pod.leads else NULL
    context = prepare(settings, dataset, console, Remembered(Workdir(workdir).executions, pod), pod, tracker)
    plan = _plan(settings, dataset.fingerprint, context.imported)
    corruptions = out_of_distribution.available(settings, context)
    store = Store(workdir, on_damage=console.line, pod=pod)
    _check_parents(plan, store)
    console.line(f"{dataset.describe()}; {settings.arch} on {jax.devices()[0].device_kind}")
    if settings.evaluate_every is None:
        console.line(curves.said(context.evaluate_every, context.feed))
    imported_notes = context.imported.notes if context.imported else ()
    for note in (*(f"data: {note}" for note in dataset.notes), *imported_notes):
        console.line(note)
    launch = _Launch(context, store, plan, settings, stop or Stop(), corruptions, sweep)
    for group in groups(plan.wanted):
        title = group[0].title if len(group) == 1 else f"{group[0].kind} phase {group[0].phase}"
        with _failures_of(title):
            _finish(launch, group)
    failed = None
    try:
        with _failures_of("out of distribution"):
            out_of_distribution.evaluate(context, groups(plan.stages), store, corruptions)
    except RunError as error:  # what is known without it is reported first
        failed = error
    if skipped := getattr(context.feed, "skipped", None):
        name, reason = next(iter(skipped.items()))
        console.line(f"data: {len(skipped)} images could not be decoded and were black, such as {name} ({reason})")
    notes = [*dataset.notes, *imported_notes]
    about = {"description": dataset.describe(), "classes": dataset.classes, "notes": notes}
    found = results.report(settings, plan, store, console, list(map(str, corruptions)), about, pod)
    if failed:
        raise failed
    return found


def _plan(settings: Settings, fingerprint: str, given: Import | None) -> Plan:
    if given is None:
        return make_plan(settings, fingerprint)
    return make_plan(settings, fingerprint, given.sha256, init_mask=given.init_mask, pruned=given.pruned)


def _on_divergence(settings: Settings, group: list[Stage]) -> str:
    """A chain of phases without soups ends with its member, and a single model, such as the dense one, with itself."""
    alone = isinstance(group[0].spec, Dense) or settings.ensemble_method is None or len(settings.all_splits) == 1
    return "fail" if alone else settings.on_divergence


def _check_parents(plan: Plan, store: Store) -> None:
    """A stage run alone needs the artifacts it starts from; names all that are missing."""
    for stage in plan.wanted:
        missing = [parent.title for parent in stage.parents if parent not in plan.wanted and not store.has(parent.name)]
        if missing:
            raise SettingsError(
                f"strategy: {stage.title} needs what is not in {store.workdir.path}: {'; '.join(missing)}; "
                f"run strategy={stage.parents[0].kind!r} first, with the same settings"
            )


def _finish(launch: _Launch, group: list[Stage]) -> None:
    """Runs what is missing of a group, once no other launch is at it."""
    context, store = launch.context, launch.store
    names, missing = [stage.name for stage in group], []
    if not all(map(store.has, names)):
        with lock.hold(map(store.workdir.lock, names), context.console.line, pod=context.pod):
            # Whoever held the stages may have finished them, or left them whole but for their names.
            store.recover()
            missing = [stage for stage in group if not store.has(stage.name)]
            if missing:
                _run_group(launch, missing)
    # Of a stack that was cut off, and whose members were then finished one by one.
    store.discard_checkpoints(names)
    for stage in (stage for stage in group if stage not in missing):
        context.console.line(f"{stage.title}: finished earlier, {store.path(stage.name)}")
        if launch.sweep:
            parents = [Stored(store, parent.name, None) for parent in stage.parents]
            record = results.for_trackers(stage, store.record(stage.name), parents)
            launch.sweep.summary(_run(launch, stage, store.path(stage.name)), record)
    for warning in results.warnings(store, group):
        context.console.line(f"warning: {warning}")


def _run_group(launch: _Launch, group: list[Stage]) -> None:
    context, store, settings, stop = launch.context, launch.store, launch.settings, launch.stop
    names = [stage.name for stage in group]
    runs = [_run(launch, stage, store.begin(stage.name)) for stage in group]
    work = Work(
        stages=names,
        runs=runs,
        checkpoints=store.checkpoints(names),
        every=settings.checkpoint_every,
        on_divergence=_on_divergence(settings, group),
        stop=stop,
        console=context.console,
        started=provenance.now(),
    )
    like = artifacts.like(context.like)
    parents = [Stored(store, parent.name, like) for parent in group[0].parents]
    with tracking(context.tracker, runs):
        finished = _artifacts(context, group, parents, work)
        for artifact in finished:
            artifact.record[provenance.KEY] = _provenance(context, group[0], artifact.record, work.started)
        for run_, stage, artifact in zip(runs, group, finished, strict=True):
            context.tracker.summary(run_, results.for_trackers(stage, artifact.record, parents))
        with stop.saving():
            store.finish(names, map(artifacts.to_tree, finished), [artifact.record for artifact in finished])
        for stage, artifact in zip(group, finished, strict=True):
            context.console.line(f"{stage.title}: {results.one_line(artifact.record)}")
        for run_, scores in zip(runs, _out_of_distribution(launch, group), strict=True):
            context.tracker.summary(run_, {"ood": scores})


def _provenance(context: Context, stage: Stage, record: dict[str, Any], started: str) -> dict[str, Any]:
    """Describes where an artifact comes from; its stage knows when it began, if that was not now."""
    training = record.get("training") or {}
    execution = training.get("execution")
    if isinstance(stage.spec, Soup):
        execution = context.executor(len(stage.parents), stage.spec.batch_size)
    return provenance.describe(record.get(provenance.KEY, {}).get("started", started), execution)


def _run(launch: _Launch, stage: Stage, folder: Path) -> Run:
    """Describes a stage to the tracker; its settings say which of the experiment's stages it is."""
    settings, member = launch.settings, stage.label if stage.kind == "IMP" else None
    own = {"strategy": stage.kind, "phase": stage.phase or None, "split_val": member}
    title = re.sub(r"[^\w.=+-]+", "-", f"{settings.dataset}-{settings.arch}-m={len(settings.all_splits)}")[-100:]
    return Run(
        name=stage.name,
        title=stage.title,
        kind=stage.kind,
        phase=stage.phase,
        member=member,
        group=f"{title}-{launch.plan.digest[:8]}",
        config=settings.record() | own,
        folder=folder,
    )


def _out_of_distribution(launch: _Launch, group: Sequence[Stage]) -> list[dict[str, Any] | None]:
    """Evaluates what was just stored; what fails here fails again when all is evaluated, and is said then."""
    with contextlib.suppress(RunError), _failures_of("out of distribution"):
        out_of_distribution.evaluate(launch.context, [group], launch.store, launch.corruptions)
    names = list(map(str, launch.corruptions))
    found = [out_of_distribution.read(launch.store, stage, launch.context.pod) for stage in group]
    return [out_of_distribution.mean(scores, names) for scores in found]


def _artifacts(context: Context, group: list[Stage], parents: list[Stored], work: Work) -> list[Artifact]:
    """Calls the function of a group's kind of stage."""
    match group[0].spec:
        case Imported():
            return [stages.imported(context, group[0])]
        case Dense():
            return [stages.dense(context, group[0], work)]
        case Retrain():
            return stages.retrain(context, group, parents[0].load(), work)
    return [stages.soup(context, group[0], parents)]


@contextlib.contextmanager
def _failures_of(title: str) -> Iterator[None]:
    """Names the stage in which the machine failed."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise RunError(f"{title}: {error.strerror or error}{place}; finished stages are intact") from error
    except MemoryError as error:
        raise RunError(f"{title}: {one_line(error)}; finished stages are intact") from error
    except jax.errors.JaxRuntimeError as error:
        raise RunError(f"{title}: {str(error).splitlines()[0]}; finished stages are intact") from error
