"""What the figures of a finished model say that was hardly meant, one line each: printed, and kept in its record."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from ssoup_jax.data.checks import share, some

FAR_BELOW = 0.05
"""A soup that is worse by more than this is doubtful, however much its members differ."""

_NAMES = {"val": "validation", "test": "test"}  # of the splits that are looked at
_NEARLY_ALL = 0.95  # of the answers

Metrics = Mapping[str, Mapping[str, float]]
"""Figures by name, by split."""


class Answers(NamedTuple):
    """How a model answers on a split.

    Attributes:
        n_labels: how many images there are of each class, int `[C]`.
        n_predicted: to how many it answers each class, int `[C]`.
    """

    n_labels: np.ndarray
    n_predicted: np.ndarray


def of_model(
    per_layer: Mapping[str, float], metrics: Metrics, answers: Mapping[str, Answers], classes: Sequence[str] | None
) -> list[str]:
    """Doubts a model that has lost a layer, whose outputs are not numbers, or that knows one answer.

    Args:
        per_layer: the fraction of zeros in each weight, by its path.
        metrics: what it scores.
        answers: how it answers, by split.
        classes: the classes' names; None: they have none.
    """
    dead = [name for name, fraction in per_layer.items() if fraction == 1]
    sick = [_NAMES[split] for split in _NAMES if split in metrics and not math.isfinite(metrics[split]["loss"])]
    doubts = []
    if dead:
        lost = "s {} have lost all their weights" if len(dead) > 1 else " {} has lost all its weights"
        doubts.append(f"layer{lost.format(some(dead))}")
    if sick:
        return [*doubts, f"the loss on {' and '.join(sick)} images is not a number"]
    found = [_one_class(name, answers[split], classes) for split, name in _NAMES.items() if split in answers]
    found = [text for text in found if text]
    return [*doubts, f"it answers {' and '.join(found)}"] if found else doubts


def _one_class(name: str, answers: Answers, classes: Sequence[str] | None) -> str | None:
    label, n = int(answers.n_predicted.argmax()), int(answers.n_labels.sum())
    given = int(answers.n_predicted[label])
    others_given, others = n - given, n - int(answers.n_labels[label])
    # Where nearly all images are of one class, nearly all answers are rightly so.
    if others == 0 or given < _NEARLY_ALL * n or others_given > others / 10:
        return None
    spelled = f"class {label}" + (f" ({classes[label]!r})" if classes else "")
    return f"{spelled} to {share(given, n)} {name} images"


def of_soup(
    soup: Metrics,
    members: Sequence[Metrics],
    sizes: Mapping[str, int],
    distances: Mapping[str, float],
    mean_statistics: bool = False,
) -> list[str]:
    """Doubts a soup whose members are equal, or that is below their mean by more than they differ among themselves.

    Args:
        soup: what it scores.
        members: what each of its ingredients scores.
        sizes: the number of images of each split.
        distances: between the ingredients, see `metrics.soup_distances`.
        mean_statistics: whether its BatchNorm statistics are only averaged.
    """
    if len(members) < 2:
        return []
    doubts = []
    if distances["l2_min"] == 0:
        equal = f"its {len(members)}" if distances["l2_max"] == 0 else "some of its"
        doubts.append(f"{equal} members have the same weights")
    worse = [_worse(split, soup, members, sizes) for split in _NAMES if split in soup]
    if worse := [text for text in worse if text]:
        between = ", ".join(f"{name} {value:.4g}" for name, value in distances.items())
        doubts.append(f"it is below its members' mean: {'; '.join(worse)}; distances between them: {between}")
        if mean_statistics:
            doubts[-1] += "; without bn_recalibration its BatchNorm statistics are the mean of theirs"
    return doubts


def _worse(split: str, soup: Metrics, members: Sequence[Metrics], sizes: Mapping[str, int]) -> str | None:
    own = [member[split]["accuracy"] for member in members]
    accuracy, mean, spread = soup[split]["accuracy"], fmean(own), max(own) - min(own)
    lost = round(mean - accuracy, 9)  # of fractions of counts, so the rest is rounding
    if lost <= round(min(spread, FAR_BELOW), 9):
        return None
    return (
        f"{_NAMES[split]} accuracy {100 * accuracy:.2f} % against {100 * mean:.2f} %, which is {100 * lost:.2f} points "
        f"({lost * sizes[split]:.3g} of {sizes[split]} images) where they differ by {100 * spread:.2f}"
    )
