"""The soup stage: candidates of a phase -> their soup."""

import jax
import numpy as np

from ssoup_jax import soups, trees
from ssoup_jax.errors import Diverged
from ssoup_jax.experiment import doubts, records
from ssoup_jax.experiment.artifacts import Artifact, Stored
from ssoup_jax.experiment.context import Context, key
from ssoup_jax.experiment.specs import Retrain, Soup, Stage
from ssoup_jax.experiment.stages import check_pruned, recalibrated
from ssoup_jax.models.variables import Variables
from ssoup_jax.own import is_own
from ssoup_jax.pruning import masks
from ssoup_jax.stack import executors, held, names
from ssoup_jax.stack.held import Held
from ssoup_jax.trees import PyTree


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
