"""What is recorded of models: metrics on every split, sparsity, cost, and how they came about."""

from collections.abc import Callable
from typing import Any

from ssoup_jax import metrics, soups, trees
from ssoup_jax.experiment import doubts
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.doubts import Answers
from ssoup_jax.experiment.specs import DenseHistory
from ssoup_jax.metrics.predictions import summarise
from ssoup_jax.models.variables import Variables
from ssoup_jax.stack import held
from ssoup_jax.stack.held import Held
from ssoup_jax.training.evaluate import BLOCK_SIZE, count, ensemble_score, score
from ssoup_jax.trees import PyTree


def evaluate(context: Context, stack: Held, splits: tuple[str, ...]) -> list[dict[str, dict[str, float]]]:
    """Returns each member's metrics on the given splits."""
    m = trees.stack_size(stack)
    scores = {split: score(*_what(context, stack, split)) for split in splits}
    return [{split: scores[split][i] for split in splits} for i in range(m)]


def _what(context: Context, stack: Held, split: str) -> tuple:
    """Returns the arguments of `score` and `ensemble_score`."""
    execution = context.executor(trees.stack_size(stack), BLOCK_SIZE)
    return context.classifier, context.feed, stack, split, execution, context.console.line


def describer(
    context: Context, dense: DenseHistory, stack: Held, mask: PyTree
) -> Callable[[int, PyTree], dict[str, Any]]:
    """Makes what describes each finished model of a stack: metrics on every split, sparsity, cost, what is doubtful.

    Args:
        context: has the network and the data.
        dense: the dense model that they come from.
        stack: leaves `[m, ...]`; it is evaluated here.
        mask: says what is prunable; which of it is pruned does not matter.

    Returns:
        `(place in the stack, params on the host) -> record`; whoever has fetched a member need not fetch it again.
    """
    sums = {split: count(*_what(context, stack, split)) for split in context.evaluated}
    model = context.classifier.model
    described = {
        "arch": dense.arch,
        "n_classes": model.n_classes,
        "image_shape": context.classifier.image_shape,
        "classes": context.classes,
        "mean": context.classifier.transform.mean,
        "std": context.classifier.transform.std,
    }

    def describe(i: int, params: PyTree) -> dict[str, Any]:
        scores = {split: summarise(own[i]) for split, own in sums.items()}
        answers = {split: Answers(own[i].n_labels, own[i].n_predicted) for split, own in sums.items()}
        sparsity = metrics.sparsity(params, mask)
        return {
            "model": described,
            "metrics": scores,
            "sparsity": sparsity,
            "flops": metrics.flops(model, params, context.classifier.image_shape),
            "distance_to_origin": metrics.distance_to_origin(params, mask),
            "warnings": doubts.of_model(sparsity["per_layer"], scores, answers, context.classes),
        }

    return describe


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


def distance_to_pruned(params: PyTree, mask: PyTree, goal_sparsity: float) -> dict[str, dict[str, float]]:
    """How far a model is from what pruning it to the goal would leave."""
    return {"distance_to_pruned": metrics.distance_to_pruned(params, mask, goal_sparsity)._asdict()}


def describe_group(context: Context, stack: Held) -> dict[str, Any]:
    """Describes models as a group: how far they are from one another, and what their averaged predictions achieve."""
    params = held.combine(lambda variables: variables.params, stack)
    ensemble = {split: ensemble_score(*_what(context, stack, split)) for split in ("val", "test")}
    return {"distances": metrics.soup_distances(held.leaves(params)), "prediction_ensemble": ensemble}


def own_weights(
    context: Context, title: str, split_vals: list[int | float], weights: soups.Weights
) -> dict[str, float]:
    """Reports the shares that a soup of one's own gives its ingredients, on the console and for the record."""
    total = sum(weights.values())
    shares = {str(split_vals[i]): weight / total for i, weight in weights.items()}
    said = ", ".join(f"{share:.1%} of member {member}" for member, share in shares.items())
    context.console.line(f"{title}: {said}")
    return shares


def greedy_selection(
    context: Context,
    title: str,
    metric: str,
    split_vals: list[int | float],
    scores: list[float],
    ingredients: list[int],
    trials: list[soups.Trial],
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
