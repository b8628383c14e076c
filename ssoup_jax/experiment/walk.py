"""Runs groups of stages: what is missing of one, as one stack, once no other launch is at it."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ssoup_jax.errors import Diverged, RunError, one_line
from ssoup_jax.experiment import artifacts, averages, provenance, results, stages
from ssoup_jax.experiment.artifacts import Artifact, Stored
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.resumable import Work
from ssoup_jax.experiment.soup import soup
from ssoup_jax.experiment.specs import Average, Dense, Imported, Retrain, Soup, Stage, titles
from ssoup_jax.experiment.stages import Made
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.report.live_file import LiveFile
from ssoup_jax.report.trackers import Run, Tracker, tracking
from ssoup_jax.storage import lock
from ssoup_jax.storage.store import Store
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Manner:
    """How groups of stages are run, whatever they are; changes no result.

    Attributes:
        stop: says when a stop is asked for.
        checkpoint_every: see `training.interval`.
        on_divergence: see `loop.train`.
        run_of: describes a stage, and the folder that it is made in, to trackers.
        score: scores what was just stored out of distribution; for each stage the mean, or None.
        sweep: who awaits results of stages that were finished earlier, too; None: nobody.
        to_come: steps of all members of all stages that this launch trains after the group; to say how long it takes.
    """

    stop: Stop
    checkpoint_every: str | None
    on_divergence: str
    run_of: Callable[[Stage, Path], Run]
    score: Callable[[list[Stage]], list[dict[str, Any] | None]]
    sweep: Tracker | None = None
    to_come: int = 0


def finish(context: Context, store: Store, group: list[Stage], manner: Manner, *, wait: bool = True) -> bool:
    """Runs what is missing of a group, once no other launch is at it.

    Args:
        context: what the stages work with.
        store: where their parents are, and they will be.
        group: stages that train as one stack, each run's with the same parents; or one stage.
        manner: how they are run.
        wait: whether to wait for another launch that is at one of them.

    Returns:
        False if another launch is at one of them, and nothing was done.

    Raises:
        RunError: a stage failed; what was finished before is intact.
        Stopped: a stop was asked for.
    """
    names, missing = [stage.name for stage in group], []
    if not all(map(store.has, names)):
        locks = map(store.workdir.lock, names)
        with lock.hold(locks, context.console.line, pod=context.pod, wait=wait) as held:
            if not held:
                return False
            # Whoever held the stages may have finished them, or left them whole but for their names.
            store.recover()
            missing = [stage for stage in group if not store.has(stage.name)]
            if missing:
                _run_group(context, store, missing, manner)
    # Of a stack that was cut off, and whose members were then finished one by one.
    store.discard_checkpoints(names)
    for stage in (stage for stage in group if stage not in missing):
        context.console.line(f"{stage.title}: finished earlier, {store.path(stage.name)}")
        if manner.sweep:
            parents = [Stored(store, parent.name, None) for parent in stage.parents]
            record = results.for_trackers(stage, store.record(stage.name), parents)
            manner.sweep.summary(manner.run_of(stage, store.path(stage.name)), record)
    for warning in results.warnings(store, group):
        context.console.line(f"warning: {warning}")
    return True


def _run_group(context: Context, store: Store, group: list[Stage], manner: Manner) -> None:
    names, context = [stage.name for stage in group], context.in_precision(group[0].use_amp)
    runs = [manner.run_of(stage, store.begin(stage.name)) for stage in group]
    work = Work(
        stages=names,
        runs=runs,
        checkpoints=store.checkpoints(names),
        every=manner.checkpoint_every,
        on_divergence=manner.on_divergence,
        stop=manner.stop,
        console=context.console,
        started=provenance.now(),
        to_come=manner.to_come,
        live=LiveFile(store.workdir.live(names) if context.pod.leads else None),
    )
    like = artifacts.like(context.like)
    parents = {stage: [Stored(store, parent.name, like) for parent in stage.parents] for stage in group}
    with tracking(context.tracker, runs), work.live:
        made, records = _made(context, group, parents, work), []
        kept = [i for i in range(len(group)) if i not in made.lost]
        runs, finished = [runs[i] for i in kept], [group[i] for i in kept]

        def tree(run: Run, stage: Stage, artifact: Artifact) -> PyTree:
            record = artifact.record
            record[provenance.KEY] = _provenance(context, stage, record, work.started)
            context.tracker.summary(run, results.for_trackers(stage, record, parents[stage]))
            records.append(record)  # is there once its tree is
            return artifacts.to_tree(artifact)

        with manner.stop.saving():
            store.finish([stage.name for stage in finished], map(tree, runs, finished, made.artifacts), records)
        for title, record in zip(titles(finished), records, strict=True):
            context.console.line(f"{title}: {results.one_line(record)}")
        for run, scores in zip(runs, manner.score(finished), strict=True):
            context.tracker.summary(run, {"ood": scores})
    if made.lost:
        store.discard_checkpoints(names)
        raise Diverged("; ".join(made.lost.values()))


def _provenance(context: Context, stage: Stage, record: dict[str, Any], started: str) -> dict[str, Any]:
    """Describes where an artifact comes from; its stage knows when it began, if that was not now."""
    training = record.get("training") or {}
    execution = training.get("execution")
    if isinstance(stage.spec, Soup | Average):
        execution = context.executor(len(stage.parents), stage.spec.batch_size)
    return provenance.describe(record.get(provenance.KEY, {}).get("started", started), execution)


def run_of(settings: Mapping[str, Any], label: str, digest: str, stage: Stage, folder: Path) -> Run:
    """Describes a stage to the trackers; its settings say which of the experiment's stages it is.

    Args:
        settings: the record of the experiment's.
        label: what the experiment is called; the stages of one are a group.
        digest: tells it from others of that name.
        stage: the stage.
        folder: where it is, or is made.
    """
    member = stage.label if stage.kind == "IMP" else None
    called = re.sub(r"[^\w.=+-]+", "-", label)[-100:]
    own = {"strategy": stage.kind, "phase": stage.phase or None, "split_val": member}
    own |= {} if stage.run_id is None else {"run_id": stage.run_id}
    return Run(
        name=stage.name,
        title=stage.title,
        kind=stage.kind,
        phase=stage.phase,
        member=member,
        group=f"{called}-{digest[:8]}",
        config={**settings, **own},
        folder=folder,
    )


def _made(context: Context, group: list[Stage], parents: Mapping[Stage, list[Stored]], work: Work) -> Made:
    """Calls the function of a group's kind of stage."""
    first = group[0]
    match first.spec:
        case Imported():
            return Made([stages.imported(context, first)])
        case Dense():
            return stages.dense(context, group, work)
        case Retrain():
            return stages.retrain(context, group, [parents[stage][0] for stage in group], work)
        case Average():
            return Made([averages.average(context, first, parents[first])])
    return Made([soup(context, first, parents[first])])


@contextlib.contextmanager
def failures_of(title: str) -> Iterator[None]:
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
