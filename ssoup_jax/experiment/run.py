"""Walks the plan: skips what is finished, runs what is wanted, and reports."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ssoup_jax import variants
from ssoup_jax.config import Settings
from ssoup_jax.data import sources
from ssoup_jax.data.feeds import Feed
from ssoup_jax.data.ood import Corruption
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import out_of_distribution, results
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.imported import Import
from ssoup_jax.experiment.plan import Plan, groups, make_plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.experiment.specs import Dense, Stage
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.experiment.walk import Manner, failures_of, finish, run_of
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.pod.same import check_same, check_shared
from ssoup_jax.report.console import Console
from ssoup_jax.report.trackers import NULL, Tracker, chosen
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
    defaults: Settings | None = None,
    sweep: Tracker | None = None,
) -> dict[str, Any]:
    """Finishes the stages that the settings ask for and reports on the whole experiment.

    Args:
        settings: the experiment's.
        workdir: where artifacts and summaries live.
        console: where progress is shown.
        stop: says when a stop is asked for; None: never.
        pod: the processes of this run; all of them call this alike.
        defaults: settings to compare these with in the report; None: with none.
        sweep: who awaits the results of the last stage, whether it is run or was finished earlier.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        SettingsError: something cannot work; nothing was trained.
        RunError: a stage failed; what was finished before is intact.
        Stopped: a stop was asked for.
    """
    # Of files outside of the project each host may have its own.
    check_same(pod, settings.record() | settings.own_parts)
    check_shared(pod, workdir)
    pod.first(lambda: chosen.check(settings.trackers))
    options = settings.data.options()
    with pod.patient():  # process 0 may have to download
        dataset = sources.load(settings.dataset, options, data_dir=settings.data_dir, on_line=console.line, pod=pod)
    check_same(pod, {"data": dataset.fingerprint})
    folder = Workdir(workdir).trackers
    tracker = chosen.make(settings.trackers, folder, console.line, sweep, console.board) if pod.leads else NULL
    context = prepare(settings, dataset, console, Remembered(Workdir(workdir).executions), pod, tracker)
    plan = plan_of(settings, dataset.fingerprint, context.imported)
    corruptions = out_of_distribution.available(settings, context)
    store = Store(workdir, on_damage=console.line, pod=pod)
    _check_parents(plan, store)
    console.line(f"{dataset.describe()}; {settings.arch} on {jax.devices()[0].device_kind}")
    if settings.evaluate_every is None:
        console.line(curves.said(context.evaluate_every, context.feed))
    imported_notes = context.imported.notes if context.imported else ()
    members = () if settings.listed is None else (variants.line(settings.listed),)
    for note in (*(f"data: {note}" for note in dataset.notes), *imported_notes, *members):
        console.line(note)
    launch = _Launch(context, store, plan, settings, stop or Stop(), corruptions, sweep)
    for group in groups(plan.wanted):
        title = group[0].title if len(group) == 1 else f"{group[0].kind} phase {group[0].phase}"
        with failures_of(title):
            finish(context, store, group, _manner(launch, group))
    failed = None
    try:
        with failures_of("out of distribution"):
            out_of_distribution.evaluate(context, groups(plan.stages), store, corruptions)
    except RunError as error:  # what is known without it is reported first
        failed = error
    if skipped := getattr(context.feed, "skipped", None):
        name, reason = next(iter(skipped.items()))
        console.line(f"data: {len(skipped)} images could not be decoded and were black, such as {name} ({reason})")
    notes = [*dataset.notes, *imported_notes]
    about = {"description": dataset.describe(), "classes": dataset.classes, "notes": notes}
    found = results.report(settings, plan, store, console, list(map(str, corruptions)), about, pod, defaults)
    if failed:
        raise failed
    return found


def plan_of(settings: Settings, fingerprint: str, given: Import | None) -> Plan:
    """Lays out an experiment, see `make_plan`, whose dense model may come from a file."""
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


def _manner(launch: _Launch, group: list[Stage]) -> Manner:
    """How a group is run, what trackers are told of it, and what else it is scored on."""
    settings = launch.settings
    label = f"{settings.dataset}-{settings.arch}-m={len(settings.all_splits)}"

    def score(group: list[Stage]) -> list[dict[str, Any] | None]:
        """Evaluates what was just stored; what fails here fails again when all is evaluated, and is said then."""
        with contextlib.suppress(RunError), failures_of("out of distribution"):
            out_of_distribution.evaluate(launch.context, [group], launch.store, launch.corruptions)
        names = list(map(str, launch.corruptions))
        found = [out_of_distribution.read(launch.store, stage, launch.context.pod) for stage in group]
        return [out_of_distribution.mean(scores, names) for scores in found]

    return Manner(
        stop=launch.stop,
        checkpoint_every=settings.checkpoint_every,
        on_divergence=_on_divergence(settings, group),
        run_of=functools.partial(run_of, settings.record(), label, launch.plan.digest),
        score=score,
        sweep=launch.sweep,
        to_come=_to_come(launch, group),
    )


def _to_come(launch: _Launch, group: Sequence[Stage]) -> int:
    """Counts the steps of all members of the stages that come after a group; some may turn out to be finished."""
    behind = launch.plan.wanted.index(group[-1]) + 1
    return sum(launch.context.n_steps(stage) for stage in launch.plan.wanted[behind:])
