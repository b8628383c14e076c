"""Looks at what lies between models: along the lines between them, and on the plane of three.

Every point is scored twice: with the BatchNorm statistics that mixing gives, and with recalibrated ones, as soups have.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import trees
from ssoup_jax.data.feeds import Feed
from ssoup_jax.experiment import records
from ssoup_jax.experiment.context import Context
from ssoup_jax.metrics import landscape, soup_distances
from ssoup_jax.models.variables import Variables
from ssoup_jax.stack.held import Held
from ssoup_jax.training.recalibrate import recalibrate
from ssoup_jax.trees import PyTree

BEFORE, AFTER = "before", "after"  # recalibration

Scores = dict[str, dict[str, dict[str, Any]] | None]
"""`{before: {split: {metric: values}}, after: likewise}`; None where there is nothing to recalibrate."""


@dataclass(frozen=True)
class Ground:
    """Where models are looked at, and how.

    Attributes:
        context: has network and images, in the models' precision.
        scored: what they are scored on.
        splits: which of its splits.
        recalibration: (method, share of the batches).
        batch_size: of recalibration.
        key: typed PRNG key `[]` of recalibration; all points have it in common.
    """

    context: Context
    scored: Feed
    splits: tuple[str, ...]
    recalibration: tuple[str, float]
    batch_size: int
    key: jax.Array

    def scores(self, points: Variables) -> Scores:
        """Scores models; points: leaves `[k, ...]`; each metric has k values."""
        before = self._score(points)
        if not jax.tree.leaves(points.collections):
            return {BEFORE: before, AFTER: None}
        (method, fraction), k = self.recalibration, trees.stack_size(points)
        recalibrated = recalibrate(
            self.context.task(),
            self.context.feed,
            points,
            batch_size=self.batch_size,
            fraction=fraction,
            method=method,
            keys=jnp.stack([self.key] * k),
            execution=self.context.executor(k, self.batch_size),
            on_line=self.context.console.line,
        )
        return {BEFORE: before, AFTER: self._score(recalibrated)}

    def _score(self, points: Held) -> dict[str, dict[str, np.ndarray]]:
        found = records.evaluate(dataclasses.replace(self.context, feed=self.scored), points, self.splits)
        return {
            split: {metric: np.array([own[split][metric] for own in found]) for metric in ("loss", "accuracy")}
            for split in self.splits
        }


def line(ground: Ground, ends: Variables, n_points: int) -> dict[str, Any]:
    """Looks along the line between two models.

    Args:
        ground: see `Ground`.
        ends: the models, leaves `[2, ...]`, on the host.
        n_points: how many points, both ends among them.

    Returns:
        The positions in [0, 1], the L2 distance of the ends, the scores, and the barriers in loss and error, see
        `metrics.landscape.barrier`; as `to_json` takes them.
    """
    weights = landscape.line(n_points)
    scores = ground.scores(_points(ends, weights))
    return {
        "position": weights[:, 1],
        "distance": soup_distances(ends.params)["l2_max"],
        **scores,
        "barrier": {when: own and _barriers(own) for when, own in scores.items()},
    }


def plane(
    ground: Ground, models: Variables, n_points: int, on_row: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Looks at the plane through three models, on test images: it has many points.

    Args:
        ground: see `Ground`.
        models: leaves `[3, ...]`, on the host.
        n_points: of a grid to a side.
        on_row: told that a row of the grid is done.

    Returns:
        The coordinates of the models, of their mean, of the grid's columns and of its rows, and the scores, row by row;
        as `to_json` takes them. A variance that would be negative beyond the models is 0.

    Raises:
        SettingsError: the models lie on one line.
    """
    found, rows = landscape.plane(models.params, n_points), []
    ground = dataclasses.replace(ground, splits=("test",))
    for weights in found.weights:
        rows.append(ground.scores(_points(models, weights)))
        on_row()
    return {
        "corners": found.corners,
        "mean": found.corners.mean(0),
        "x": found.x,
        "y": found.y,
        **jax.tree.map(lambda *values: np.stack(values), rows[0], *rows[1:]),
    }


def _points(models: Variables, weights: np.ndarray) -> Variables:
    return Variables(
        landscape.mixtures(models.params, weights), _no_negative(landscape.mixtures(models.collections, weights))
    )


def _no_negative(collections: PyTree) -> PyTree:
    """Leaves no variance below 0, as mixtures with negative weights can have."""

    def least(path: tuple, leaf: np.ndarray) -> np.ndarray:
        return np.maximum(leaf, 0) if trees.path_name(path).rpartition("/")[2] == "var" else leaf

    return jax.tree_util.tree_map_with_path(least, collections)


def _barriers(scores: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        split: {
            "loss": landscape.barrier(own["loss"])._asdict(),
            "error": landscape.barrier(1 - own["accuracy"])._asdict(),
        }
        for split, own in scores.items()
    }
