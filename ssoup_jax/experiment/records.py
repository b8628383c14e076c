"""What is recorded of models: metrics on every split, sparsity, cost, and how they came about."""

from typing import Any

import numpy as np

from ssoup_jax import metrics, trees
from ssoup_jax.experiment.context import Context
from ssoup_jax.soups import greedy
from ssoup_jax.storage.store import Artifact
from ssoup_jax.training.evaluate import logits
from ssoup_jax.training.state import Variables
from ssoup_jax.trees import PyTree


def _logits(context: Context, stack: Variables, split: str) -> np.ndarray:
    return logits(context.problem, context.feed, stack, split, context.execution)


def evaluate(context: Context, stack: Variables, splits: tuple[str, ...]) -> list[dict[str, dict[str, float]]]:
    """Returns each member's metrics on the given splits."""
    found = {split: _logits(context, stack, split) for split in splits}
    return [
        {split: metrics.prediction_metrics(found[split][i], context.feed.labels[split]) for split in splits}
        for i in range(trees.stack_size(stack))
    ]


def describe(context: Context, stack: Variables) -> list[dict[str, Any]]:
    """Describes each finished model of a stack: metrics on every split, sparsity, cost, size."""
    scores = evaluate(context, stack, ("train", "val", "test"))
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


def describe_pruning(context: Context, parent: Artifact, pruned: Variables) -> dict[str, Any]:
    """What pruning alone did to the model, before any retraining."""
    (scores,) = evaluate(context, trees.stack([pruned]), ("val", "test"))
    before, after = parent.record["metrics"]["test"]["accuracy"], scores["test"]["accuracy"]
    drop = metrics.norm_drop(parent.variables.params, pruned.params)
    return {
        "metrics": scores,
        "norm_drop": drop.absolute,
        "relative_norm_drop": drop.relative,
        "instability": metrics.pruning_instability(before, after),
    }


def distance_to_pruned(context: Context, params: PyTree) -> dict[str, dict[str, float]]:
    """How far a model is from what pruning it to the goal would leave."""
    return {"distance_to_pruned": metrics.distance_to_pruned(params, context.settings.goal_sparsity)._asdict()}


def prediction_ensemble(context: Context, stack: Variables) -> dict[str, dict[str, float]]:
    """Metrics of the members' averaged predictions."""
    return {
        split: metrics.ensemble_metrics(_logits(context, stack, split), context.feed.labels[split])
        for split in ("val", "test")
    }


def greedy_selection(
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
