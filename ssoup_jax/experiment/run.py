"""Walks the plan: skips what is finished, runs what is wanted, and reports."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ssoup_jax import models
from ssoup_jax.config import Settings
from ssoup_jax.data import sources
from ssoup_jax.data.batches import resident
from ssoup_jax.data.sources import Dataset
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import results, stages
from ssoup_jax.experiment.plan import Plan, Stage, make_plan
from ssoup_jax.experiment.stages import Context
from ssoup_jax.experiment.store import Artifact, Store
from ssoup_jax.interop import pytorch
from ssoup_jax.models.layers import Network
from ssoup_jax.report.console import Console
from ssoup_jax.training import members
from ssoup_jax.training.state import Variables
from ssoup_jax.training.step import Problem


def run(settings: Settings, workdir: Path, console: Console) -> dict[str, Any]:
    """Finishes the stages that the settings ask for and reports on the whole experiment.

    Args:
        settings: the experiment's.
        workdir: where artifacts and summaries live.
        console: where progress is shown.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        SettingsError: something cannot work; nothing was trained.
        RunError: a stage failed; what was finished before is intact.
    """
    dataset = sources.load(settings.dataset, data_dir=settings.data_dir)
    context = prepare(settings, dataset, console)
    plan = make_plan(settings, dataset.fingerprint, context.imported and context.imported.record["sha256"])
    store = Store(workdir)
    _check_parents(plan, store)
    console.line(
        f"{dataset.name}: {len(dataset.train.labels)} training, {len(dataset.val.labels)} validation and "
        f"{len(dataset.test.labels)} test images, {dataset.n_classes} classes; {settings.arch} on "
        f"{jax.devices()[0].device_kind}, execution {context.execution!r}"
    )
    for group in _groups(plan.wanted):
        missing = [stage for stage in group if not store.has(stage)]
        for stage in group:
            if stage not in missing:
                console.line(f"{stage.title}: finished earlier, {store.path(stage)}")
        if missing:
            with _failures_of(missing):
                _run_group(context, store, missing)
    return results.report(settings, plan, store, console)


def prepare(settings: Settings, dataset: Dataset, console: Console) -> Context:
    """Builds the model for the data, reads the file of `init_from`, and puts the data on the device.

    Raises:
        SettingsError: the network does not fit the images, the file not the network, or a batch not the training split.
    """
    n_train = len(dataset.train.labels)
    if settings.batch_size > n_train:
        raise SettingsError(f"batch_size: found {settings.batch_size}; the training split has only {n_train} images")
    execution = members.resolve(settings.execution)
    model = models.build(
        settings.arch,
        dataset.n_classes,
        dataset.image_shape,
        dtype=jnp.bfloat16 if settings.use_amp else jnp.float32,
        remat=settings.remat,
        conv=members.convolution(execution),
    )
    imported = None if settings.init_from is None else _import(settings.init_from, model, dataset.image_shape)
    return Context(
        settings=settings,
        problem=Problem(model, dataset.transform),
        feed=resident(dataset),
        image_shape=dataset.image_shape,
        execution=execution,
        console=console,
        imported=imported,
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


def _run_group(context: Context, store: Store, group: list[Stage]) -> None:
    like = jax.eval_shape(context.initial_variables)
    first = group[0]
    folders = [store.begin(stage) for stage in group]
    parents = [store.load(parent, like) for parent in first.parents]
    artifacts: list[Artifact]
    if first.kind == "Dense":
        artifacts = [stages.dense(context, folders[0])]
    elif first.kind == "IMP":
        artifacts = stages.imp(context, first.phase, parents[0], tuple(stage.split_val for stage in group), folders)
    else:
        split_vals = [parent.split_val for parent in first.parents]
        artifacts = [stages.ensemble(context, first.phase, parents, split_vals)]
    for stage, artifact in zip(group, artifacts, strict=True):
        store.finish(stage, artifact)
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
