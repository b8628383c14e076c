"""The three stages, each (inputs) -> artifact: dense, imp, ensemble."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ssoup_jax import metrics, models, trees
from ssoup_jax.config import Settings
from ssoup_jax.data.batches import Feed, n_batches
from ssoup_jax.errors import RunError
from ssoup_jax.experiment import resumable
from ssoup_jax.experiment.plan import Retraining, retraining
from ssoup_jax.experiment.resumable import Trained, Work
from ssoup_jax.experiment.store import Artifact
from ssoup_jax.keys import derive
from ssoup_jax.pruning import selectors
from ssoup_jax.pruning.prunable import full_mask
from ssoup_jax.pruning.transform import apply_mask
from ssoup_jax.report.console import Console
from ssoup_jax.schedules import pretrain, retrain
from ssoup_jax.soups import greedy, uniform
from ssoup_jax.training import autotune, loop, members, memory
from ssoup_jax.training.evaluate import logits
from ssoup_jax.training.recalibrate import recalibrate
from ssoup_jax.training.state import TrainState, Variables
from ssoup_jax.training.step import Problem
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Context:
    """What every stage of an experiment works with.

    Attributes:
        settings: the experiment's.
        problem_for: architecture and transform, for an executor.
        feed: has the images and labels of every split.
        image_shape: (H, W, C).
        execution: how models are evaluated and recalibrated, see `training.members.run`.
        choices: which executor was the fastest for earlier stacks; None: not kept.
        console: where progress is shown.
        imported: the dense model that `init_from` names, with its file and the file's SHA-256 as record; None: train.
    """

    settings: Settings
    problem_for: Callable[[str], Problem]
    feed: Feed
    image_shape: tuple[int, int, int]
    execution: str
    console: Console
    choices: autotune.Remembered | None = None
    imported: Artifact | None = None

    @property
    def problem(self) -> Problem:
        """Architecture and transform, for evaluation."""
        return self.problem_for(self.execution)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch, the partial last batch included."""
        return n_batches(len(self.feed.labels["train"]), self.settings.batch_size)

    def key(self, *path: str | int) -> jax.Array:
        """Derives a key of this run."""
        return derive(jax.random.key(self.settings.run_id), *path)

    def initial_variables(self) -> Variables:
        """Draws the run's initial weights."""
        init = jax.jit(lambda key: Variables(*models.init(self.problem.model, key, self.image_shape)))
        return init(self.key("Dense", "init"))

    def dense_history(self) -> retrain.DenseHistory:
        """Returns the learning rates of the dense training."""
        settings = self.settings
        rates = pretrain.learning_rates(
            settings.learning_rate, settings.n_epochs, self.steps_per_epoch, settings.n_epochs_warmup
        )
        return retrain.DenseHistory(rates, (settings.n_epochs_warmup or 0) * self.steps_per_epoch)


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
        (record,) = _records(context, trees.stack([variables]))
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
    (record,) = _records(context, trained.variables)
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
    pruned = parent.variables.replace(params=apply_mask(parent.variables.params, mask))
    after_pruning = _pruning_record(context, parent, pruned)
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
    records = _records(context, stack)
    return [
        Artifact(
            trees.member(stack, i),
            mask,
            {"stage": "IMP", "phase": phase, "split_val": split_vals[i], "pruned": after_pruning}
            | {"training": trained.records[i], "diverged": trained.diverged.get(i)}
            | (
                records[i] | {"metrics": {}}
                if i in trained.diverged
                else records[i] | {"distance_to_pruned": _distance_to_pruned(context, trees.member(stack.params, i))}
            ),
        )
        for i in range(len(split_vals))
    ]


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
            scores, lambda indices: _evaluate(context, soup_of(indices), ("val",))[0]["val"][metric]
        )
        selection = _greedy_record(context, title, metric, split_vals, scores, ingredients, trials)
    else:
        ingredients, selection = list(range(len(candidates))), None
    soup = soup_of(ingredients)
    _check_pruned(soup.params, mask, title)
    (record,) = _records(context, soup)
    ingredient_stack = trees.member(stack, np.array(ingredients))
    return Artifact(
        trees.member(soup, 0),
        mask,
        {"stage": "Ensemble", "phase": phase, "ingredients": [split_vals[i] for i in ingredients]}
        | {**record, "distance_to_pruned": _distance_to_pruned(context, trees.member(soup.params, 0))}
        | {"greedy": selection}
        | {
            name: {
                "distances": metrics.soup_distances(group.params),
                "prediction_ensemble": _prediction_ensemble(context, group),
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
        return _execution(context, state, mask, recipe)

    return resumable.train(
        work, title, context.problem_for, context.feed, variables, mask, recipe, choose, on_divergence
    )


def _execution(context: Context, state: TrainState, mask: PyTree, recipe: loop.Recipe) -> str:
    """Chooses how a stack executes: the setting, or the fastest as measured, as far as memory allows."""
    settings, m = context.settings, len(recipe.names)
    member = memory.footprint(context.problem, context.image_shape, settings.batch_size, jax.default_backend())

    def fitting(execution: str) -> str:
        execution = members.resolve(execution)
        free = memory.free_bytes(execution)
        fit = memory.fit(execution, m, member, free, len(jax.devices()))
        if fit.execution != execution:
            context.console.line(
                f"execution: {execution} does not fit into {free / 1e9:.1f} GB of memory; {fit.execution} does"
            )
        return fit.execution

    if settings.execution != "auto":
        return fitting(settings.execution)
    names = autotune.candidates(jax.default_backend(), len(jax.devices()), m)
    names = tuple(dict.fromkeys(map(fitting, names)))
    if len(names) == 1:
        return names[0]
    blocks = context.feed.training(recipe.keys, 0, settings.batch_size)
    with contextlib.closing(blocks):
        block = next(blocks)
    dtype = "bfloat16" if settings.use_amp else "float32"
    return autotune.decide(
        names,
        autotune.measure_step(context.problem_for, block.examples, state, mask, recipe, block.batches),
        int(recipe.n_steps.max()),
        context.console.line,
        context.choices,
        autotune.key(settings.arch, context.image_shape, settings.batch_size, m, dtype, settings.remat),
    ).execution


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


def _logits(context: Context, stack: Variables, split: str) -> np.ndarray:
    return logits(context.problem, context.feed, stack, split, context.execution)


def _evaluate(context: Context, stack: Variables, splits: tuple[str, ...]) -> list[dict[str, dict[str, float]]]:
    """Returns each member's metrics on the given splits."""
    found = {split: _logits(context, stack, split) for split in splits}
    return [
        {split: metrics.prediction_metrics(found[split][i], context.feed.labels[split]) for split in splits}
        for i in range(trees.stack_size(stack))
    ]


def _records(context: Context, stack: Variables) -> list[dict[str, Any]]:
    """Describes each finished model of a stack: metrics on every split, sparsity, cost, size."""
    scores = _evaluate(context, stack, ("train", "val", "test"))
    model = {
        "arch": context.settings.arch,
        "n_classes": context.problem.model.n_classes,
        "image_shape": context.image_shape,
    }
    records = []
    for own, params in zip(scores, trees.unstack(stack.params), strict=True):
        records.append(
            {
                "model": model,
                "metrics": own,
                "sparsity": metrics.sparsity(params),
                "flops": metrics.flops(context.problem.model, params, context.image_shape),
                "distance_to_origin": metrics.distance_to_origin(params),
            }
        )
    return records


def _pruning_record(context: Context, parent: Artifact, pruned: Variables) -> dict[str, Any]:
    """What pruning alone did to the model, before any retraining."""
    (scores,) = _evaluate(context, trees.stack([pruned]), ("val", "test"))
    before, after = parent.record["metrics"]["test"]["accuracy"], scores["test"]["accuracy"]
    drop = metrics.norm_drop(parent.variables.params, pruned.params)
    return {
        "metrics": scores,
        "norm_drop": drop.absolute,
        "relative_norm_drop": drop.relative,
        "instability": metrics.pruning_instability(before, after),
    }


def _distance_to_pruned(context: Context, params: PyTree) -> dict[str, float]:
    return metrics.distance_to_pruned(params, context.settings.goal_sparsity)._asdict()


def _prediction_ensemble(context: Context, stack: Variables) -> dict[str, dict[str, float]]:
    return {
        split: metrics.ensemble_metrics(_logits(context, stack, split), context.feed.labels[split])
        for split in ("val", "test")
    }


def _check_pruned(stacked_params: PyTree, mask: PyTree, title: str) -> None:
    """Guards the promise that pruned weights are exactly zero in every member."""
    for (path, leaf), kept in zip(
        jax.tree_util.tree_leaves_with_path(stacked_params), jax.tree.leaves(mask), strict=True
    ):
        if np.any(np.asarray(leaf)[:, ~np.asarray(kept)]):
            raise RunError(f"{title}: a pruned weight of {trees.path_name(path)} is not zero")


def _greedy_record(
    context: Context,
    title: str,
    metric: str,
    split_vals: list[int | float],
    scores: list[float],
    ingredients: list[int],
    trials: list[greedy.Trial],
) -> dict[str, Any]:
    """Reports every accept and reject, on the console and for the artifact's record."""
    best = scores[ingredients[0]]
    context.console.line(f"{title}: starts from member {split_vals[ingredients[0]]}, val {metric} {best:.2%}")
    for trial in trials:
        verdict = "accepted" if trial.accepted else f"rejected, below {best:.2%}"
        context.console.line(
            f"{title}: with member {split_vals[trial.candidate]}, val {metric} {trial.score:.2%}: {verdict}"
        )
        best = trial.score if trial.accepted else best
    return {
        "metric": metric,
        "scores": dict(zip(map(str, split_vals), scores, strict=True)),
        "trials": [
            {
                "split_val": split_vals[trial.candidate],
                "soup": [split_vals[i] for i in trial.members],
                metric: trial.score,
                "accepted": trial.accepted,
            }
            for trial in trials
        ],
    }
