"""The mean of models that were pruned apart from one another: what averaging costs without a mask that all share."""

import jax
import numpy as np

from ssoup_jax import soups, trees
from ssoup_jax.experiment import records
from ssoup_jax.experiment.artifacts import Artifact, Stored
from ssoup_jax.experiment.context import Context, key
from ssoup_jax.experiment.soup import healthy
from ssoup_jax.experiment.specs import Average, Retrain, Stage
from ssoup_jax.experiment.stages import check_pruned, recalibrated
from ssoup_jax.pruning import masks
from ssoup_jax.trees import PyTree


def average(context: Context, stage: Stage, models: list[Stored]) -> Artifact:
    """Averages models with masks of their own (IMP-AVG of Zimmer et al. 2024, section 2).

    Args:
        context: what it works with.
        stage: an `Average` spec.
        models: its parents, in the store.

    Returns:
        The mean, recalibrated; its mask is the union of theirs, so it is denser than each of them.

    Raises:
        RunError: so many diverged that fewer than two are left.
    """
    spec: Average = stage.spec
    models, labels = healthy(context, stage.title, models, [parent.label for parent in stage.parents])
    loaded = [model.load() for model in models]
    mask = union([model.mask for model in loaded])
    stack = trees.stack([model.variables for model in loaded])
    mean = soups.average(stack, dict.fromkeys(range(len(loaded)), 1.0))
    keys = key(stage.run_id, "Average", stage.phase, "recalibrate")[None]
    made = recalibrated(context, spec, trees.stack([mean]), keys)
    own = trees.member(made, 0)
    check_pruned(own.params, mask, stage.title)
    members: Retrain = stage.parents[0].spec
    among = masks.restrict(mask, members.prune_only, members.prune_except)
    record = records.describer(context, stage.dense, made, among)(0, own.params)
    about = {"stage": "Average", "phase": stage.phase, "ingredients": labels}
    return Artifact(own, mask, about | record | records.describe_group(context, stack))


def union(of: list[PyTree]) -> PyTree:
    """Returns the mask that keeps what any of some masks keeps."""
    return jax.tree.map(lambda *leaves: np.logical_or.reduce([np.asarray(leaf) for leaf in leaves]), *of)
