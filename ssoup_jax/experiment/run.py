"""Walks the plan: skips what is finished, runs what is wanted, and reports."""

import contextlib
import functools
import itertools
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ssoup_jax import models
from ssoup_jax.config import Settings
from ssoup_jax.data import sources
from ssoup_jax.data.feeds import Feed, resident
from ssoup_jax.data.sources import Dataset
from ssoup_jax.data.streaming import Streaming
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import out_of_distribution, results, stages
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.plan import Plan, Stage, make_plan
from ssoup_jax.experiment.resumable import Work
from ssoup_jax.experiment.stop import Preemption
from ssoup_jax.interop import pytorch
from ssoup_jax.models.layers import Network
from ssoup_jax.report.console import Console
from ssoup_jax.stack import executors
from ssoup_jax.storage import lock
from ssoup_jax.storage.store import Artifact, Store
from ssoup_jax.training import memory
from ssoup_jax.training.autotune import Remembered
from ssoup_jax.training.state import Variables
from ssoup_jax.training.step import Problem

# Images of one block on their way to the device; a few such blocks are there at a time.
STREAMED_BLOCK_BYTES = 64 * 2**20


def run(settings: Settings, workdir: Path, console: Console, preemption: Preemption | None = None) -> dict[str, Any]:
    """Finishes the stages that the settings ask for and reports on the whole experiment.

    Args:
        settings: the experiment's.
        workdir: where artifacts and summaries live.
        console: where progress is shown.
        preemption: says when a stop is asked for; None: never.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        SettingsError: something cannot work; nothing was trained.
        RunError: a stage failed; what was finished before is intact.
        Stopped: a stop was asked for.
    """
    preemption = preemption or Preemption()
    dataset = sources.load(
        settings.dataset,
        data_dir=settings.data_dir,
        download=settings.data.download,
        image_size=settings.data.image_size,
    )
    context = prepare(settings, dataset, console, Remembered(workdir / "execution.json"))
    plan = make_plan(settings, dataset.fingerprint, context.imported and context.imported.record["sha256"])
    corruptions = out_of_distribution.available(context)
    store = Store(workdir, on_damage=console.line)
    _check_parents(plan, store)
    console.line(
        f"{dataset.name}: {len(dataset.train.labels)} training, {len(dataset.val.labels)} validation and "
        f"{len(dataset.test.labels)} test images, {dataset.n_classes} classes; {settings.arch} on "
        f"{jax.devices()[0].device_kind}"
    )
    for group in _groups(plan.wanted):
        with _failures_of(group):
            preemption.stop()  # one raised inside a library's callback may have been lost
            _finish(context, store, group, preemption)
    out_of_distribution.evaluate(context, plan, store, corruptions)
    if skipped := getattr(context.feed, "skipped", None):
        name, reason = next(iter(skipped.items()))
        console.line(f"data: {len(skipped)} images could not be decoded and were black, such as {name} ({reason})")
    return results.report(settings, plan, store, console, list(map(str, corruptions)))


def prepare(settings: Settings, dataset: Dataset, console: Console, choices: Remembered | None = None) -> Context:
    """Builds the model for the data, reads the file of `init_from`, and puts the data on the device.

    Args:
        settings: the experiment's.
        dataset: its data.
        console: where progress is shown.
        choices: which executor was the fastest for earlier stacks.

    Raises:
        SettingsError: the network does not fit the images, the file not the network, or a batch not the training split.
    """
    n_train = len(dataset.train.labels)
    if settings.batch_size > n_train:
        raise SettingsError(f"batch_size: found {settings.batch_size}; the training split has only {n_train} images")

    @functools.cache
    def problem_for(execution: str) -> Problem:
        model = models.build(
            settings.arch,
            dataset.n_classes,
            dataset.image_shape,
            dtype=jnp.bfloat16 if settings.use_amp else jnp.float32,
            remat=settings.remat,
            conv=executors.convolution(execution),
        )
        return Problem(model, dataset.transform)

    execution = executors.resolve(settings.execution)
    model = problem_for(execution).model
    imported = None if settings.init_from is None else _import(settings.init_from, model, dataset.image_shape)
    return Context(
        settings=settings,
        problem_for=problem_for,
        feed=_feed(settings, dataset, console),
        image_shape=dataset.image_shape,
        execution=execution,
        console=console,
        choices=choices,
        imported=imported,
    )


def _feed(settings: Settings, dataset: Dataset, console: Console) -> Feed:
    """Keeps the images on the device if they fit, and streams them to it otherwise."""
    wanted, n_bytes, free = settings.data.on_device, dataset.nbytes, memory.free_bytes("auto")
    if wanted and n_bytes is None:
        raise SettingsError("data.on_device: found True; images of different sizes can only be streamed to the device")
    if wanted and free is not None and n_bytes > free:
        raise SettingsError(
            f"data.on_device: found True; the images take {n_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
        )
    if n_bytes is not None and (wanted or (wanted is None and memory.data_fits(n_bytes, free))):
        return resident(dataset)
    image_bytes = math.prod(dataset.image_shape) * settings.batch_size
    workers = (os.cpu_count() or 1) if settings.data.workers is None else settings.data.workers
    size = "images of different sizes" if n_bytes is None else f"{n_bytes / 1e9:.2f} GB of images"
    console.line(f"data: {size} are streamed to the device by {workers} threads")
    return Streaming(
        dataset,
        dataset.view,
        workers=workers,
        steps_per_block=max(1, min(64, STREAMED_BLOCK_BYTES // image_bytes)),
        skip_undecodable=settings.data.skip_undecodable,
    )


def _import(path: str, model: Network, image_shape: models.ImageShape) -> Artifact:
    """Reads a dense model from a PyTorch file."""
    checkpoint = pytorch.read(path)
    params, batch_stats, mask = jax.device_get(pytorch.variables_from(checkpoint, model, image_shape))
    return Artifact(Variables(params, batch_stats), mask, {"file": path, "sha256": checkpoint.sha256})


def _check_parents(plan: Plan, store: Store) -> None:
    """A stage run alone needs the artifacts it starts from; names all that are missing."""
    for stage in plan.wanted:
        missing = [parent.title for parent in stage.parents if parent not in plan.wanted and not store.has(parent)]
        if missing:
            raise SettingsError(
                f"strategy: {stage.title} needs what is not in {store.workdir}: {'; '.join(missing)}; "
                f"run strategy={stage.parents[0].kind!r} first, with the same settings"
            )


def _groups(wanted: tuple[Stage, ...]) -> Iterator[list[Stage]]:
    """Members that start from one parent are retrained as one stack; any other stage is alone."""
    for _, group in itertools.groupby(wanted, lambda stage: (stage.kind, stage.phase, stage.parents)):
        yield list(group)


def _finish(context: Context, store: Store, group: list[Stage], preemption: Preemption) -> None:
    """Runs what is missing of a group, once no other launch is at it."""
    if any(not store.has(stage) for stage in group):
        with lock.hold(store.locks, [stage.name for stage in group], context.console.line):
            # Whoever held the stages may have finished them, or left them whole but for their names.
            store.recover()
            missing = [stage for stage in group if not store.has(stage)]
            if missing:
                _run_group(context, store, missing, preemption)
    else:
        missing = []
    # Of a stack that was cut off, and whose members were then finished one by one.
    shutil.rmtree(store.checkpoints(group), ignore_errors=True)
    for stage in (stage for stage in group if stage not in missing):
        context.console.line(f"{stage.title}: finished earlier, {store.path(stage)}")


def _run_group(context: Context, store: Store, group: list[Stage], preemption: Preemption) -> None:
    first = group[0]
    work = Work(
        stages=[stage.name for stage in group],
        folders=[store.begin(stage) for stage in group],
        checkpoints=store.checkpoints(group),
        every=context.settings.checkpoint_every,
        preemption=preemption,
        console=context.console,
    )
    parents = [store.load(parent, context.like) for parent in first.parents]
    artifacts: list[Artifact]
    if first.kind == "Dense":
        artifacts = [stages.dense(context, work)]
    elif first.kind == "IMP":
        artifacts = stages.imp(context, first.phase, parents[0], tuple(stage.split_val for stage in group), work)
    else:
        split_vals = [parent.split_val for parent in first.parents]
        artifacts = [stages.ensemble(context, first.phase, parents, split_vals)]
    with preemption.deferred():
        store.finish_group(group, artifacts)
    for stage, artifact in zip(group, artifacts, strict=True):
        context.console.line(f"{stage.title}: {results.one_line(artifact.record)}")


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
