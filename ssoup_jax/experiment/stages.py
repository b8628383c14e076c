"""The three stages, each (inputs) -> artifact: dense, imp, ensemble."""

from typing import Any

import jax
import numpy as np

from ssoup_jax import metrics, trees
from ssoup_jax.errors import RunError
from ssoup_jax.experiment import execution, records, resumable
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.plan import Retraining, retraining
from ssoup_jax.experiment.resumable import Trained, Work
from ssoup_jax.pruning import selectors
from ssoup_jax.pruning.prunable import full_mask
from ssoup_jax.pruning.transform import apply_mask
from ssoup_jax.schedules import retrain
from ssoup_jax.soups import greedy, uniform
from ssoup_jax.storage.store import Artifact
from ssoup_jax.training import loop
from ssoup_jax.training.recalibrate import recalibrate
from ssoup_jax.training.state import TrainState, Variables
from ssoup_jax.trees import PyTree


def dense(context: Context, work: Work) -> Artifact:
    """Trains the dense model from scratch, or takes it from the file that `init_from` names.

    Args:
        context: the experiment's.
        work: where it leaves its traces; an imported model has none.

    Returns:
        The artifact; its mask is True everywhere, but for what an imported model has pruned already.
    """
    if context.imported is not None:
        variables, mask, source = context.imported.variables, context.imported.mask, context.imported.record
        (record,) = records.describe(context, trees.stack([variables]))
        return Artifact(variables, mask, {"stage": "Dense", **record, "init_from": source, "training": None})
    settings = context.settings
    variables = jax.device_get(context.initial_variables())
    mask = full_mask(variables.params)
    recipe = loop.Recipe(
        learning_rates=[context.dense_history().rates],
        weight_decays=[settings.weight_decay],
        keys=context.key("Dense", "train")[None],
        momentum=settings.momentum,
        batch_size=settings.batch_size,
        names=["Dense"],
    )
    trained = _train(context, work, "Dense", trees.stack([variables]), mask, recipe, "fail")
    (record,) = records.describe(context, trained.variables)
    return Artifact(
        trees.member(trained.variables, 0), mask, {"stage": "Dense", **record, "training": trained.records[0]}
    )


def imp(
    context: Context, phase: int, parent: Artifact, split_vals: tuple[int | float, ...], work: Work
) -> list[Artifact]:
    """Prunes one model and retrains a copy of it for each split value, all as one stack.

    Args:
        context: the experiment's.
        phase: 1-based.
        parent: the model this phase starts from.
        split_vals: one per member.
        work: where they leave their traces.

    Returns:
        The candidates: retrained and recalibrated, all with one mask. The record of one that diverged says at which
        step, and has no metrics.
    """
    settings = context.settings
    amount = selectors.phase_amount(settings.goal_sparsity, settings.n_phases)
    mask = selectors.select(
        settings.pruning_selector, parent.variables.params, parent.mask, amount, context.key("IMP", phase, "prune")
    )
    params = jax.device_get(jax.jit(apply_mask)(parent.variables.params, mask))
    pruned = parent.variables.replace(params=params)
    after_pruning = records.describe_pruning(context, parent, pruned)
    retrainings = [retraining(settings, value) for value in split_vals]
    recipe = loop.Recipe(
        learning_rates=[_retraining_rates(context, member, amount, after_pruning) for member in retrainings],
        weight_decays=[member.weight_decay for member in retrainings],
        keys=jax.numpy.stack([context.key("IMP", phase, "train", member.seed) for member in retrainings]),
        momentum=settings.momentum,
        batch_size=settings.batch_size,
        names=[f"IMP phase {phase}, member {value}" for value in split_vals],
    )
    title = f"IMP phase {phase} ({len(split_vals)} member{'s' * (len(split_vals) > 1)})"
    # A chain of phases without soups ends with its member, and a single model with itself.
    alone = settings.ensemble_method is None or len(settings.all_splits) == 1
    on_divergence = "fail" if alone else settings.on_divergence
    trained = _train(context, work, title, trees.stack([pruned] * len(split_vals)), mask, recipe, on_divergence)
    stack = _without(trained.diverged, trained.variables, pruned)
    _check_pruned(stack.params, mask, title)
    stack = _recalibrate(
        context, stack, [context.key("IMP", phase, "recalibrate", member.seed) for member in retrainings]
    )
    described = records.describe(context, stack)
    artifacts = []
    for i, value in enumerate(split_vals):
        record = {"stage": "IMP", "phase": phase, "split_val": value, "pruned": after_pruning} | described[i]
        record |= {"training": trained.records[i], "diverged": trained.diverged.get(i)}
        params = trees.member(stack.params, i)
        record |= {"metrics": {}} if i in trained.diverged else records.distance_to_pruned(context, params)
        artifacts.append(Artifact(trees.member(stack, i), mask, record))
    return artifacts


def ensemble(context: Context, phase: int, candidates: list[Artifact], split_vals: list[int | float]) -> Artifact:
    """Makes the soup of a phase's candidates.

    Args:
        context: the experiment's.
        phase: 1-based.
        candidates: in the order of the members.
        split_vals: what this experiment calls them; a candidate may have been trained under another name.

    Returns:
        The soup, recalibrated, with the candidates' mask.

    Raises:
        RunError: so many candidates diverged that fewer than two are left.
    """
    settings = context.settings
    title = f"Ensemble phase {phase}"
    candidates, split_vals = _healthy(context, title, candidates, split_vals)
    mask = uniform.common_mask([candidate.mask for candidate in candidates])
    stack = trees.stack([candidate.variables for candidate in candidates])
    key = context.key("Ensemble", phase, "recalibrate")

    def soup_of(indices: tuple[int, ...] | list[int]) -> Variables:
        chosen = trees.member(stack, np.array(indices))
        return _recalibrate(context, trees.stack([uniform.average(chosen)]), [key])

    if settings.ensemble_method == "GreedySoup":
        metric = settings.greedy_metric
        scores = [candidate.record["metrics"]["val"][metric] for candidate in candidates]
        ingredients, trials = greedy.select(
            scores, lambda indices: records.evaluate(context, soup_of(indices), ("val",))[0]["val"][metric]
        )
        selection = records.greedy_selection(context, title, metric, split_vals, scores, ingredients, trials)
    else:
        ingredients, selection = list(range(len(candidates))), None
    soup = soup_of(ingredients)
    _check_pruned(soup.params, mask, title)
    (record,) = records.describe(context, soup)
    ingredient_stack = trees.member(stack, np.array(ingredients))
    return Artifact(
        trees.member(soup, 0),
        mask,
        {"stage": "Ensemble", "phase": phase, "ingredients": [split_vals[i] for i in ingredients]}
        | {**record, **records.distance_to_pruned(context, trees.member(soup.params, 0))}
        | {"greedy": selection}
        | {
            name: {
                "distances": metrics.soup_distances(group.params),
                "prediction_ensemble": records.prediction_ensemble(context, group),
            }
            for name, group in (("candidates", stack), ("selected", ingredient_stack))
        },
    )


def _train(
    context: Context,
    work: Work,
    title: str,
    variables: Variables,
    mask: PyTree,
    recipe: loop.Recipe,
    on_divergence: str,
) -> Trained:
    def choose(state: TrainState) -> str:
        return execution.choose(context, state, mask, recipe)

    return resumable.train(
        work, title, context.problem_for, context.feed, variables, mask, recipe, choose, on_divergence
    )


def _without(diverged: dict[int, int], stack: Variables, pruned: Variables) -> Variables:
    """Puts the pruned model in the place of members that diverged, so that what follows need not know of them."""

    def put(leaf, start):
        return np.stack([start if i in diverged else own for i, own in enumerate(leaf)])

    return jax.tree.map(put, stack, pruned) if diverged else stack


def _healthy(
    context: Context, title: str, candidates: list[Artifact], split_vals: list[int | float]
) -> tuple[list[Artifact], list[int | float]]:
    """Leaves out the candidates that diverged, and says so."""
    kept = [i for i, candidate in enumerate(candidates) if candidate.record.get("diverged") is None]
    for i in sorted({*range(len(candidates))} - {*kept}):
        step = candidates[i].record["diverged"]
        context.console.line(f"{title}: without member {split_vals[i]}, which diverged at step {step}")
    if len(kept) < min(2, len(candidates)):
        raise RunError(f"{title}: only {len(kept)} of {len(candidates)} candidates did not diverge; a soup needs two")
    return [candidates[i] for i in kept], [split_vals[i] for i in kept]


def _retraining_rates(context: Context, member: Retraining, amount: float, pruned: dict[str, Any]) -> np.ndarray:
    n_steps = member.n_epochs * context.steps_per_epoch
    if member.peak is not None:
        return retrain.learning_rates_to_peak(member.peak, n_steps)
    return retrain.learning_rates(
        member.schedule,
        context.dense_history(),
        n_steps,
        relative_norm_drop=pruned["relative_norm_drop"],
        fraction_pruned=amount,
    )


def _recalibrate(context: Context, stack: Variables, keys: list[jax.Array]) -> Variables:
    settings = context.settings
    stack = recalibrate(
        context.problem,
        context.feed,
        stack,
        batch_size=settings.batch_size,
        fraction=settings.bn_recalibration_frac,
        method=settings.bn_recalibration,
        keys=jax.numpy.stack(keys),
        execution=context.execution,
    )
    return jax.device_get(stack)


def _check_pruned(stacked_params: PyTree, mask: PyTree, title: str) -> None:
    """Guards the promise that pruned weights are exactly zero in every member."""
    for (path, leaf), kept in zip(
        jax.tree_util.tree_leaves_with_path(stacked_params), jax.tree.leaves(mask), strict=True
    ):
        if np.any(np.asarray(leaf)[:, ~np.asarray(kept)]):
            raise RunError(f"{title}: a pruned weight of {trees.path_name(path)} is not zero")
