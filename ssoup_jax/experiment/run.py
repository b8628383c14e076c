"""Walks the plan: skips what is finished, runs what is wanted, and reports."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ssoup_jax.config import Settings
from ssoup_jax.data import sources
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import artifacts, out_of_distribution, results, stages
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.plan import Plan, make_plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.experiment.resumable import Work
from ssoup_jax.experiment.specs import Dense, Imported, Retrain, Stage
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.report.console import Console
from ssoup_jax.storage import lock
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.store import Store
from ssoup_jax.training.measured import Remembered


def run(
    settings: Settings, workdir: Path, console: Console, stop: Stop | None = None, pod: Pod = ALONE
) -> dict[str, Any]:
    """Finishes the stages that the settings ask for and reports on the whole experiment.

    Args:
        settings: the experiment's.
        workdir: where artifacts and summaries live.
        console: where progress is shown.
        stop: says when a stop is asked for; None: never.
        pod: the processes of the run, which all call this.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        SettingsError: something cannot work; nothing was trained.
        RunError: a stage failed; what was finished before is intact.
        Stopped: a stop was asked for.
    """
    options = settings.data.options()
    dataset = sources.load(settings.dataset, options, data_dir=settings.data_dir, on_line=console.line, pod=pod)
    context = prepare(settings, dataset, console, Remembered(Workdir(workdir).executions, pod), pod)
    plan = make_plan(settings, dataset.fingerprint, context.imported and context.imported.record["sha256"])
    corruptions = out_of_distribution.available(settings, context)
    store = Store(workdir, on_damage=console.line, pod=pod)
    _check_parents(plan, store)
    console.line(f"{dataset.describe()}; {settings.arch} on {jax.devices()[0].device_kind}")
    for note in dataset.notes:
        console.line(f"data: {note}")
    for group in _groups(plan.wanted):
        with _failures_of(group):
            _finish(context, store, group, stop or Stop(), settings)
    out_of_distribution.evaluate(context, plan, store, corruptions)
    if skipped := getattr(context.feed, "skipped", None):
        name, reason = next(iter(skipped.items()))
        console.line(f"data: {len(skipped)} images could not be decoded and were black, such as {name} ({reason})")
    about = {"description": dataset.describe(), "classes": dataset.classes, "notes": dataset.notes}
    return results.report(settings, plan, store, console, list(map(str, corruptions)), about, pod)


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


def _groups(wanted: tuple[Stage, ...]) -> Iterator[list[Stage]]:
    """Members that start from one parent are retrained as one stack; any other stage is alone."""
    for _, group in itertools.groupby(wanted, lambda stage: (stage.kind, stage.phase, stage.parents)):
        yield list(group)


def _finish(context: Context, store: Store, group: list[Stage], stop: Stop, settings: Settings) -> None:
    """Runs what is missing of a group, once no other launch is at it."""
    names, missing = [stage.name for stage in group], []
    if not all(map(store.has, names)):
        with lock.hold(map(store.workdir.lock, names), context.console.line, pod=context.pod):
            # Whoever held the stages may have finished them, or left them whole but for their names.
            store.recover()
            missing = [stage for stage in group if not store.has(stage.name)]
            if missing:
                _run_group(context, store, missing, stop, settings)
    # Of a stack that was cut off, and whose members were then finished one by one.
    store.discard_checkpoints(names)
    for stage in (stage for stage in group if stage not in missing):
        context.console.line(f"{stage.title}: finished earlier, {store.path(stage.name)}")


def _run_group(context: Context, store: Store, group: list[Stage], stop: Stop, settings: Settings) -> None:
    names = [stage.name for stage in group]
    work = Work(
        stages=names,
        folders=[store.begin(name) for name in names],
        checkpoints=store.checkpoints(names),
        every=settings.checkpoint_every,
        on_divergence=_on_divergence(settings, group),
        stop=stop,
        console=context.console,
    )
    like = artifacts.like(context.like)
    parents = [artifacts.from_tree(*store.load(parent.name, like)) for parent in group[0].parents]
    finished = _artifacts(context, group, parents, work)
    with stop.saving():
        store.finish(names, list(map(artifacts.to_tree, finished)), [artifact.record for artifact in finished])
    for stage, artifact in zip(group, finished, strict=True):
        context.console.line(f"{stage.title}: {results.one_line(artifact.record)}")


def _artifacts(context: Context, group: list[Stage], parents: list[Artifact], work: Work) -> list[Artifact]:
    """Calls the function of a group's kind of stage."""
    match group[0].spec:
        case Imported():
            return [stages.imported(context, group[0])]
        case Dense():
            return [stages.dense(context, group[0], work)]
        case Retrain():
            return stages.retrain(context, group, parents[0], work)
    return [stages.soup(context, group[0], parents)]


@contextlib.contextmanager
def _failures_of(group: list[Stage]) -> Iterator[None]:
    """Names the stage in which the machine failed."""
    title = group[0].title if len(group) == 1 else f"{group[0].kind} phase {group[0].phase}"
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise RunError(f"{title}: {error.strerror or error}{place}; finished stages are intact") from error
    except jax.errors.JaxRuntimeError as error:
        raise RunError(f"{title}: {str(error).splitlines()[0]}; finished stages are intact") from error
