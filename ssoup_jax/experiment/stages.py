"""The stages that train, each (stages of one stack, their parents) -> artifacts: dense, retrain."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.errors import Diverged, RunError
from ssoup_jax.experiment import provenance, records
from ssoup_jax.experiment.artifacts import Artifact, Stored
from ssoup_jax.experiment.context import Context, key
from ssoup_jax.experiment.resumable import Origin, Work, train
from ssoup_jax.experiment.specs import Average, Dense, Retrain, Soup, Stage, titles
from ssoup_jax.pruning import masks, selectors
from ssoup_jax.pruning.transform import apply_mask
from ssoup_jax.schedules import retrain as retraining_schedules
from ssoup_jax.stack import held
from ssoup_jax.stack.held import Held
from ssoup_jax.training.hyper import Hyper, per_step
from ssoup_jax.training.recalibrate import recalibrate
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Made:
    """What became of stages.

    Attributes:
        artifacts: of those that have one, in their order. Of a stack that is spread over a mesh each is fetched when it
            is asked for, which all processes do, so that a host has one at a time.
        lost: why the others have none, by their places.
    """

    artifacts: Iterable[Artifact]
    lost: Mapping[int, str] = field(default_factory=dict)


def imported(context: Context, stage: Stage) -> Artifact:
    """Takes the dense model from the file that `init_from` names.

    Args:
        context: has the model.
        stage: an `Imported` spec.

    Returns:
        The artifact; its mask is what the file has pruned already.
    """
    found, notes = context.imported.artifact, context.imported.notes
    describe = records.describer(context, stage.dense, trees.stack([found.variables]), found.mask)
    record = describe(0, found.variables.params)
    record |= {"init_from": found.record, "notes": notes, "training": None}
    return Artifact(found.variables, found.mask, {"stage": "Dense", **record})


def dense(context: Context, stages: list[Stage], work: Work) -> Made:
    """Trains dense models, from scratch or from the file that `init_from` names, all as one stack.

    Args:
        context: what they work with.
        stages: `Dense` specs that differ in their run only.
        work: where they leave their traces.

    Returns:
        The artifacts; a mask is True everywhere, or what the file has pruned already. One that diverged has none.

    Raises:
        Diverged: all have, or one has, and that is to be a failure.
    """
    spec: Dense = stages[0].spec
    if spec.init_from is None:
        variables = [context.initial_variables(stage.run_id) for stage in stages]
        mask, origin = masks.full_mask(variables[0].params), {}
    else:
        found = context.imported.artifact
        variables, mask = [found.variables] * len(stages), found.mask
        origin = {"init_from": found.record, "notes": context.imported.notes}
    rates, title = context.history(spec).rates, _title(stages)
    hyper = Hyper(
        values={
            "learning_rate": per_step([rates] * len(stages)),
            "weight_decay": np.full(len(stages), spec.weight_decay),
            "momentum": np.full(len(stages), spec.momentum),
        },
        n_steps=np.full(len(stages), len(rates)),
        keys=jax.numpy.stack([key(stage.run_id, "Dense", "train") for stage in stages]),
        names=titles(stages),
    )
    task = context.task(spec.optimizer, spec.loss)
    origins = [Origin(own, mask) for own in variables]
    trained = train(context, task, work, title, origins, mask, hyper, spec.batch_size)
    lost = {i: f"{hyper.names[i]}: diverged at step {step}" for i, step in trained.diverged.items()}
    if len(lost) == len(stages):
        raise Diverged("; ".join(lost.values()))
    describe = records.describer(context, spec, trained.variables, mask)

    def model(i: int) -> Artifact:
        own = held.member(trained.variables, i)
        record = describe(i, own.params) | origin
        record |= {"training": trained.records[i], provenance.KEY: {"started": trained.started}}
        return Artifact(own, mask, {"stage": "Dense", **record})

    return Made(map(model, [i for i in range(len(stages)) if i not in lost]), lost)


def retrain(context: Context, stages: list[Stage], parents: Sequence[Stored], work: Work) -> Made:
    """Prunes models and retrains a copy for each member, all as one stack.

    Args:
        context: what they work with.
        stages: `Retrain` specs of one parent in each run, which differ in their run and their own retraining only.
        parents: the model that each starts from.
        work: where they leave their traces.

    Returns:
        The candidates: retrained and recalibrated, those of one parent with one mask. The record of one that diverged
        says at which step, and has no metrics. One whose parent has diverged is lost.

    Raises:
        Diverged: so have the parents of all, or a member has, and that is to be a failure.
    """
    lost = {
        i: f"{called}: the model it starts from diverged at step {parent.record['diverged']}"
        for i, (called, parent) in enumerate(zip(titles(stages), parents, strict=True))
        if parent.record.get("diverged") is not None
    }
    if len(lost) == len(stages):
        raise Diverged("; ".join(lost.values()))
    sound = [i for i in range(len(stages)) if i not in lost]
    stages, parents = [stages[i] for i in sound], [parents[i] for i in sound]
    work = replace(work, stages=[stage.name for stage in stages], runs=[work.runs[i] for i in sound])
    spec: Retrain = stages[0].spec
    members, title = [stage.spec.retraining for stage in stages], _title(stages)
    # A parent that comes from a file belongs to several runs, each of which may prune it in its own way.
    places = [(parent.name, stage.run_id) for stage, parent in zip(stages, parents, strict=True)]
    first_of = dict(zip(places, zip(stages, parents, strict=True), strict=True))
    by_place = {place: _pruned(context, *pair) for place, pair in first_of.items()}
    pruned = [by_place[place] for place in places]
    rates = [_learning_rates(context, stage, own) for stage, own in zip(stages, pruned, strict=True)]
    hyper = Hyper(
        values={
            "learning_rate": per_step(rates),
            "weight_decay": np.array([member.weight_decay for member in members]),
            "momentum": np.full(len(members), spec.momentum),
        },
        n_steps=np.array(list(map(len, rates))),
        keys=_member_keys(stages, "train"),
        names=titles(stages),
    )
    # What the experiment leaves out counts for no goal.
    among = masks.restrict(pruned[0].origin.mask, spec.prune_only, spec.prune_except)
    task = context.task(spec.optimizer, spec.loss)
    origins = [own.origin for own in pruned]
    trained = train(context, task, work, title, origins, among, hyper, spec.batch_size)
    stack = trained.variables
    for i in trained.diverged:
        # In the place of members that diverged, so that what follows need not know of them.
        stack = held.replaced(stack, i, origins[i].variables)
    stack = recalibrated(context, spec, stack, _member_keys(stages, "recalibrate"))
    describe = records.describer(context, stages[0].dense, stack, among)

    def candidate(i: int, stage: Stage) -> Artifact:
        own, mask = held.member(stack, i), origins[i].mask
        check_pruned(own.params, mask, title)
        record = {"stage": "IMP", "phase": spec.phase, "split_val": stage.label, "pruned": pruned[i].record}
        record |= describe(i, own.params) | {"training": trained.records[i], "diverged": trained.diverged.get(i)}
        record[provenance.KEY] = {"started": trained.started}
        if i in trained.diverged:
            record |= {"metrics": {}, "warnings": []}
        else:
            record |= records.distance_to_pruned(own.params, among, spec.goal_sparsity)
        return Artifact(own, mask, record)

    return Made(map(candidate, range(len(stages)), stages), lost)


@dataclass(frozen=True)
class _Pruned:
    """A parent after pruning.

    Attributes:
        origin: what its members start from.
        record: what pruning did to it.
        fraction: the share of the weights left that it pruned.
    """

    origin: Origin
    record: dict[str, Any]
    fraction: float


def _pruned(context: Context, stage: Stage, parent: Stored) -> _Pruned:
    spec, found = stage.spec, parent.load()
    origin = _prune(spec, found)
    fraction = _fraction_pruned(spec, found.mask, origin.mask) if spec.again else spec.amount
    return _Pruned(origin, records.describe_pruning(context, found, origin.variables), fraction)


def _prune(spec: Retrain, parent: Artifact) -> Origin:
    before = parent.mask
    if spec.again:  # weights that are pruned already are zeros, the first to go
        before = masks.full_mask(parent.variables.params)
    mask = selectors.select(
        spec.selector,
        parent.variables.params,
        before,
        spec.amount,
        key(spec.run_id, "IMP", spec.phase, "prune"),
        among=masks.restrict(before, spec.prune_only, spec.prune_except),
    )
    params = jax.device_get(jax.jit(apply_mask)(parent.variables.params, mask))
    return Origin(parent.variables.replace(params=params), mask)


def _fraction_pruned(spec: Retrain, before: PyTree, after: PyTree) -> float:
    """Returns which share of the weights that were left is pruned."""
    n_before, n_after = (
        masks.count(mask, masks.restrict(mask, spec.prune_only, spec.prune_except))[1] for mask in (before, after)
    )
    # Where all runs have the same mask nothing is left to prune, and no norm is lost whatever it is divided by.
    return 1 - n_after / n_before if n_after < n_before else 1.0


def _learning_rates(context: Context, stage: Stage, pruned: _Pruned) -> np.ndarray:
    own, history = stage.spec.retraining, context.history(stage.dense)
    per_epoch = context.steps_per_epoch(stage.spec.batch_size)
    n_steps = own.n_epochs * per_epoch
    if own.peak is not None:
        return retraining_schedules.learning_rates_to_peak(own.peak, n_steps)
    return retraining_schedules.learning_rates(
        own.schedule,
        history,
        n_steps,
        n_dense_steps=stage.dense.n_epochs * per_epoch,
        relative_norm_drop=pruned.record["relative_norm_drop"],
        fraction_pruned=pruned.fraction,
    )


def _title(stages: list[Stage]) -> str:
    """Says what a stack is, such as `'IMP phase 1 (3 members)'`, and of how many runs, if they are several."""
    kind, phase, n_runs = stages[0].kind, stages[0].phase, len({stage.run_id for stage in stages})
    of_runs = f" of {n_runs} runs" if n_runs > 1 else ""
    if kind == "Dense":
        return f"Dense{of_runs}" if n_runs > 1 else stages[0].title
    return f"{kind} phase {phase} ({len(stages)} member{'s' * (len(stages) > 1)}{of_runs})"


def _member_keys(stages: list[Stage], purpose: str) -> jax.Array:
    specs = [stage.spec for stage in stages]
    return jax.numpy.stack([key(spec.run_id, "IMP", spec.phase, purpose, spec.retraining.seed) for spec in specs])


def recalibrated(context: Context, spec: Retrain | Soup | Average, stack: Held, keys: jax.Array) -> Held:
    """Re-estimates the BatchNorm statistics of a stack as a spec says; returns it on the host."""
    method, fraction = spec.recalibration or (None, None)
    stack = recalibrate(
        context.task(),
        context.feed,
        stack,
        batch_size=spec.batch_size,
        fraction=fraction,
        method=method,
        keys=keys,
        execution=context.executor(trees.stack_size(stack), spec.batch_size),
        on_line=context.console.line,
    )
    return jax.device_get(stack)


def check_pruned(params: PyTree, mask: PyTree, title: str) -> None:
    """Guards the promise that pruned weights are exactly zero."""
    kept = masks.prunable_leaves(mask, mask)
    for name, leaf in masks.prunable_leaves(params, mask).items():
        if np.any(np.asarray(leaf)[~np.asarray(kept[name])]):
            raise RunError(f"{title}: a pruned weight of {name} is not zero")
