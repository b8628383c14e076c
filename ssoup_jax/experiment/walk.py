"""Runs groups of stages: what is missing of one, as one stack, once no other launch is at it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import jax

from ssoup_jax.errors import RunError, one_line
from ssoup_jax.experiment import artifacts, averages, results, stages
from ssoup_jax.experiment.artifacts import Artifact, Stored
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.resumable import Work
from ssoup_jax.experiment.specs import Average, Dense, Imported, Retrain, Stage
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.storage import lock
from ssoup_jax.storage.store import Store


@dataclass(frozen=True)
class Manner:
    """How groups of stages are run, whatever they are; changes no result.

    Attributes:
        stop: says when a stop is asked for.
        checkpoint_every: see `training.interval`.
        on_divergence: see `loop.train`.
    """

    stop: Stop
    checkpoint_every: str | None
    on_divergence: str


def finish(context: Context, store: Store, group: list[Stage], manner: Manner, *, wait: bool = True) -> bool:
    """Runs what is missing of a group, once no other launch is at it.

    Args:
        context: what the stages work with.
        store: where their parents are, and they will be.
        group: stages with the same parents that train as one stack, or one stage.
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
    for warning in results.warnings(store, group):
        context.console.line(f"warning: {warning}")
    return True


def _run_group(context: Context, store: Store, group: list[Stage], manner: Manner) -> None:
    names, context = [stage.name for stage in group], context.in_precision(group[0].use_amp)
    work = Work(
        stages=names,
        folders=[store.begin(name) for name in names],
        checkpoints=store.checkpoints(names),
        every=manner.checkpoint_every,
        on_divergence=manner.on_divergence,
        stop=manner.stop,
        console=context.console,
    )
    like = artifacts.like(context.like)
    parents = [Stored(store, parent.name, like) for parent in group[0].parents]
    finished = _artifacts(context, group, parents, work)
    with manner.stop.saving():
        store.finish(names, map(artifacts.to_tree, finished), [artifact.record for artifact in finished])
    for stage, artifact in zip(group, finished, strict=True):
        context.console.line(f"{stage.title}: {results.one_line(artifact.record)}")


def _artifacts(context: Context, group: list[Stage], parents: list[Stored], work: Work) -> list[Artifact]:
    """Calls the function of a group's kind of stage."""
    match group[0].spec:
        case Imported():
            return [stages.imported(context, group[0])]
        case Dense():
            return [stages.dense(context, group[0], work)]
        case Retrain():
            return stages.retrain(context, group, parents[0].load(), work)
        case Average():
            return [averages.average(context, group[0], parents)]
    return [stages.soup(context, group[0], parents)]


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
