"""The stages, each (stage, its parents' artifacts) -> artifact: dense, retrain, soup."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ssoup_jax import soups, trees
from ssoup_jax.errors import Diverged, RunError
from ssoup_jax.experiment import doubts, provenance, records
from ssoup_jax.experiment.artifacts import Artifact, Stored
from ssoup_jax.experiment.context import Context, key
from ssoup_jax.experiment.resumable import Work, train
from ssoup_jax.experiment.specs import Average, Dense, Retrain, Soup, Stage
from ssoup_jax.models.variables import Variables
from ssoup_jax.own import is_own
from ssoup_jax.pruning import masks, selectors
from ssoup_jax.pruning.transform import apply_mask
from ssoup_jax.schedules import retrain as retraining_schedules
from ssoup_jax.stack import executors, held, names
from ssoup_jax.stack.held import Held
from ssoup_jax.training.hyper import Hyper, per_step
from ssoup_jax.training.recalibrate import recalibrate
from ssoup_jax.trees import PyTree


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


def dense(context: Context, stage: Stage, work: Work) -> Artifact:
    """Trains the dense model, from scratch or from the file that `init_from` names.

    Args:
        context: what it works with.
        stage: a `Dense` spec.
        work: where it leaves its traces.

    Returns:
        The artifact; its mask is True everywhere, or what the file has pruned already.
    """
    spec: Dense = stage.spec
    if spec.init_from is None:
        variables = context.initial_variables(spec.run_id)
        mask, origin = masks.full_mask(variables.params), {}
    else:
        found = context.imported.artifact
        variables, mask = found.variables, found.mask
        origin = {"init_from": found.record, "notes": context.imported.notes}
    hyper = Hyper(
        values={
            "learning_rate": per_step([context.history(spec).rates]),
            "weight_decay": np.array([spec.weight_decay]),
            "momentum": np.array([spec.momentum]),
        },
        n_steps=np.array([len(context.history(spec).rates)]),
        keys=key(spec.run_id, "Dense", "train")[None],
        names=[stage.title],
    )
    task = context.task(spec.optimizer, spec.loss)
    trained = train(context, task, work, stage.title, variables, mask, mask, hyper, spec.batch_size)
    describe, own = records.describer(context, spec, trained.variables, mask), held.member(trained.variables, 0)
    record = describe(0, own.params) | origin
    record |= {"training": trained.records[0], provenance.KEY: {"started": trained.started}}
    return Artifact(own, mask, {"stage": "Dense", **record})


def retrain(context: Context, stages: list[Stage], parent: Artifact, work: Work) -> Iterator[Artifact]:
    """Prunes one model and retrains a copy of it for each member, all as one stack.

    Args:
        context: what they work with.
        stages: `Retrain` specs of one parent, which differ in their own retraining only.
        parent: the model this phase starts from.
        work: where they leave their traces.

    Returns:
        The candidates: retrained and recalibrated, all with one mask. The record of one that diverged says at which
        step, and has no metrics. Of a stack that is spread over a mesh each is fetched when it is asked for, which all
        processes do, so that a host has one at a time.
    """
    spec: Retrain = stages[0].spec
    members = [stage.spec.retraining for stage in stages]
    title = f"IMP phase {spec.phase} ({len(stages)} member{'s' * (len(stages) > 1)})"
    if parent.record.get("diverged") is not None:
        raise Diverged(f"{title}: the model it starts from diverged at step {parent.record['diverged']}")
    pruned, mask = _prune(spec, parent)
    after_pruning = records.describe_pruning(context, parent, pruned)
    fraction = _fraction_pruned(spec, parent.mask, mask) if spec.again else spec.amount
    rates = [_learning_rates(context, stage, after_pruning, fraction) for stage in stages]
    hyper = Hyper(
        values={
            "learning_rate": per_step(rates),
            "weight_decay": np.array([member.weight_decay for member in members]),
            "momentum": np.full(len(members), spec.momentum),
        },
        n_steps=np.array(list(map(len, rates))),
        keys=_member_keys(stages, "train"),
        names=[stage.title for stage in stages],
    )
    # What the experiment leaves out counts for no goal.
    among = masks.restrict(mask, spec.prune_only, spec.prune_except)
    task = context.task(spec.optimizer, spec.loss)
    trained = train(context, task, work, title, pruned, mask, among, hyper, spec.batch_size)
    stack = trained.variables
    for i in trained.diverged:
        # In the place of members that diverged, so that what follows need not know of them.
        stack = held.replaced(stack, i, pruned)
    stack = recalibrated(context, spec, stack, _member_keys(stages, "recalibrate"))
    describe = records.describer(context, stages[0].dense, stack, among)

    def candidate(i: int, stage: Stage) -> Artifact:
        own = held.member(stack, i)
        check_pruned(own.params, mask, title)
        record = {"stage": "IMP", "phase": spec.phase, "split_val": stage.label, "pruned": after_pruning}
        record |= describe(i, own.params) | {"training": trained.records[i], "diverged": trained.diverged.get(i)}
        record[provenance.KEY] = {"started": trained.started}
        if i in trained.diverged:
            record |= {"metrics": {}, "warnings": []}
        else:
            record |= records.distance_to_pruned(own.params, among, spec.goal_sparsity)
        return Artifact(own, mask, record)

    return map(candidate, range(len(stages)), stages)


def soup(context: Context, stage: Stage, candidates: list[Stored]) -> Artifact:
    """Makes the soup of a phase's candidates.

    Args:
        context: what it works with.
        stage: a `Soup` spec.
        candidates: its parents, in the store.

    Returns:
        The soup, recalibrated, with the candidates' mask.

    Raises:
        RunError: so many candidates diverged that fewer than two are left, or their masks differ.
    """
    spec: Soup = stage.spec
    # A candidate may have been trained under another name; what this experiment calls it is the plan's to say.
    called = [parent.label for parent in stage.parents]
    candidates, labels = healthy(context, stage.title, candidates, called)
    mask, stack = _gathered(context, spec, candidates)
    keys = key(stage.run_id, "Ensemble", stage.phase, "recalibrate")[None]

    def soup_of(weights: soups.Weights) -> Variables:
        return recalibrated(context, spec, trees.stack([soups.average(stack, weights)]), keys)

    def score(weights: soups.Weights) -> float:
        return records.evaluate(context, soup_of(weights), ("val",))[0]["val"][spec.metric]

    method, selection = soups.named(spec.method), None
    scores = [candidate.record["metrics"]["val"][spec.metric] if method.by_score else None for candidate in candidates]
    weights, trials = method.weigh(scores, score)
    ingredients, shares = list(weights), {}
    if is_own(spec.method):
        shares = {"weights": records.own_weights(context, stage.title, labels, weights)}
    elif method.by_score:
        selection = records.greedy_selection(context, stage.title, spec.metric, labels, scores, ingredients, trials)
    made = soup_of(weights)
    own = held.member(made, 0)
    check_pruned(own.params, mask, stage.title)
    members: Retrain = stage.parents[0].spec
    among = masks.restrict(mask, members.prune_only, members.prune_except)
    record = records.describer(context, stage.dense, made, among)(0, own.params)
    record |= records.distance_to_pruned(own.params, among, spec.goal_sparsity)
    every = selected = records.describe_group(context, stack)
    if len(ingredients) < len(candidates):
        selected = records.describe_group(context, _ingredients(context, spec, stack, candidates, ingredients))
    record["warnings"] += doubts.of_soup(
        record["metrics"],
        [candidates[i].record["metrics"] for i in ingredients],
        context.feed.sizes,
        selected["distances"],
        mean_statistics=bool(jax.tree.leaves(own.collections)) and not (spec.recalibration and spec.recalibration[1]),
    )
    return Artifact(
        own,
        mask,
        {"stage": "Ensemble", "phase": stage.phase, "ingredients": [labels[i] for i in ingredients], "called": called}
        | {**record, "greedy": selection, **shares, "candidates": every, "selected": selected},
    )


def _gathered(context: Context, spec: Soup, candidates: list[Stored]) -> tuple[PyTree, Held]:
    """Brings candidates together where they are needed; a process of a pod reads those of its own devices.

    Returns:
        The mask that they share, and the stack of them.

    Raises:
        RunError: their masks differ.
    """
    first = candidates[0].load()

    def read(index: int) -> Variables:
        own = candidates[index].load() if index else first
        soups.check_same_mask(first.mask, own.mask, index + 1)
        return own.variables

    execution = context.executor(len(candidates), spec.batch_size)
    if names.parse(execution).mesh is None:
        return first.mask, trees.stack([read(index) for index in range(len(candidates))])
    return first.mask, executors.assemble(execution, len(candidates), read)


def _ingredients(context: Context, spec: Soup, stack: Held, candidates: list[Stored], ingredients: list[int]) -> Held:
    """Returns the stack of some of the candidates; members of a spread one do not move, so these are read again."""
    if isinstance(stack, held.Spread):
        return _gathered(context, spec, [candidates[i] for i in ingredients])[1]
    return trees.member(stack, np.array(ingredients))


def _prune(spec: Retrain, parent: Artifact) -> tuple[Variables, PyTree]:
    """Returns the pruned model and its mask."""
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
    return parent.variables.replace(params=params), mask


def _fraction_pruned(spec: Retrain, before: PyTree, after: PyTree) -> float:
    """Returns which share of the weights that were left is pruned."""
    n_before, n_after = (
        masks.count(mask, masks.restrict(mask, spec.prune_only, spec.prune_except))[1] for mask in (before, after)
    )
    # Where all runs have the same mask nothing is left to prune, and no norm is lost whatever it is divided by.
    return 1 - n_after / n_before if n_after < n_before else 1.0


def _learning_rates(context: Context, stage: Stage, pruned: dict[str, Any], fraction: float) -> np.ndarray:
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
        relative_norm_drop=pruned["relative_norm_drop"],
        fraction_pruned=fraction,
    )


def _member_keys(stages: list[Stage], purpose: str) -> jax.Array:
    specs = [stage.spec for stage in stages]
    return jax.numpy.stack([key(spec.run_id, "IMP", spec.phase, purpose, spec.retraining.seed) for spec in specs])


def healthy(
    context: Context, title: str, candidates: list[Stored], labels: list[int | float]
) -> tuple[list[Stored], list[int | float]]:
    """Leaves out the candidates that diverged, and says so."""
    kept = [i for i, candidate in enumerate(candidates) if candidate.record.get("diverged") is None]
    for i in sorted({*range(len(candidates))} - {*kept}):
        step = candidates[i].record["diverged"]
        context.console.line(f"{title}: without member {labels[i]}, which diverged at step {step}")
    if len(kept) < min(2, len(candidates)):
        raise Diverged(f"{title}: only {len(kept)} of {len(candidates)} candidates did not diverge; a soup needs two")
    return [candidates[i] for i in kept], [labels[i] for i in kept]


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
