"""What lies between models as a picture: loss and error along lines, and the loss on a plane."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ssoup_jax.report.plot import BLUE, GREY, VERMILION

Found = Mapping[str, Any]

_STYLES = {"before": (BLUE, "BatchNorm mixed"), "after": (VERMILION, "BatchNorm recalibrated")}
_ONLY = (VERMILION, "all points")  # without BatchNorm
_HEIGHT = 3.1
_N_LEVELS = 14
_NEAR_BLACK = "#111111"  # black itself is the colour of a page's text, whatever that is


def plot(found: Found, path: str | os.PathLike) -> None:
    """Draws what was found between the models of a phase and writes it as a PNG of 150 dots per inch.

    Args:
        found: see `commands.barriers`.
        path: the file to write; its folder exists.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters in a name that the font lacks, and which are drawn as boxes
        figure(found).savefig(path, format="png", dpi=150)


def figure(found: Found) -> Figure:
    """Draws a row of two panels for the lines between members, one for those between soups, and one for the plane.

    Args:
        found: see `commands.barriers`; what it does not have is not drawn.

    Returns:
        The figure.
    """
    kinds = [kind for kind in ("members", "soups") if any(line["of"] == kind for line in found["lines"])]
    n_rows = len(kinds) + (found.get("plane") is not None)
    result = Figure(figsize=(7.6, 0.9 + _HEIGHT * n_rows), layout="constrained")
    FigureCanvasAgg(result)
    panels = result.subplots(max(n_rows, 1), 2, squeeze=False)
    for row, kind in zip(panels, kinds, strict=False):
        lines = [line for line in found["lines"] if line["of"] == kind]
        for axes, metric in zip(row, ("loss", "error"), strict=True):
            draw_lines(axes, lines, found["splits"], metric)
            axes.set_xlabel(f"from one of the {kind} to another")
    if found.get("plane") is not None:
        draw_plane(result, panels[-1], found["plane"], found["members"])
    result.suptitle(f"{found['title']}: phase {found['phase']}".removeprefix(": "), fontsize=11, parse_math=False)
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        result.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return result


def draw_lines(axes: Axes, lines: Sequence[Found], splits: Sequence[str], metric: str) -> None:
    """Draws every line thin on the test images, and the mean over the lines on every split."""
    position = lines[0]["position"]
    for when, colour, label in _styles(lines[0]):
        for split in sorted(splits, key=lambda split: split != "test"):
            values = np.array([_values(line[when][split], metric) for line in lines])
            test = split == "test"
            if test and len(lines) > 1:
                axes.plot(position, values.T, color=colour, linewidth=0.9, alpha=0.4)
            axes.plot(
                position,
                values.mean(0),
                color=colour,
                linewidth=2.4 if test else 1.4,
                linestyle="-" if test else ":",
                marker="o" if test else None,
                markersize=3.5,
                label=f"{label}, {split}",
            )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylabel("loss" if metric == "loss" else "error (%)")
    _plain(axes)


def _styles(scores: Found) -> Iterator[tuple[str, str, str]]:
    """Yields what there is of before and after recalibration, with its colour and its name."""
    for when, (colour, label) in _STYLES.items():
        if scores.get(when) is not None:
            yield when, *((colour, label) if scores.get("after") is not None else _ONLY)


def _values(scores: Found, metric: str) -> list[float]:
    if metric == "loss":
        return _numbers(scores["loss"])
    return [100 * (1 - value) for value in _numbers(scores["accuracy"])]


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def draw_plane(result: Figure, row: Sequence[Axes], found: Found, members: Sequence[int | float]) -> None:
    """Draws the test loss as contours, which are the same in both panels."""
    styles = list(_styles(found))
    losses = [np.array([_numbers(line) for line in found[when]["test"]["loss"]]) for when, *_ in styles]
    levels = _levels(losses)
    for axes, loss, (_, _, label) in zip(row, losses, styles, strict=False):
        drawn = axes.contourf(found["x"], found["y"], loss, levels=levels, cmap="viridis_r", extend="both")
        axes.contour(found["x"], found["y"], loss, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
        axes.plot(*np.array([*found["corners"], found["corners"][0]]).T, color=GREY, linewidth=0.8, linestyle=":")
        marks = {"s": 44, "edgecolors": "white", "zorder": 3}
        axes.scatter(*np.transpose(found["corners"]), color="black", **marks)
        axes.scatter(*found["mean"], color=VERMILION, marker="s", **marks)
        for place, name in zip([*found["corners"], found["mean"]], [*map(str, members[:3]), "mean"], strict=True):
            text = axes.annotate(name, place, xytext=(6, 5), textcoords="offset points", fontsize=9, color=_NEAR_BLACK)
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # on any colour
        axes.set_title(f"test loss, {label}", fontsize=9)
        axes.set_aspect("equal")
        axes.set_xlabel("L2 distance")
    for axes in row[len(styles) :]:
        axes.set_axis_off()
    result.colorbar(drawn, ax=list(row[: len(styles)]), shrink=0.85, format="%.3g")


def _levels(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Chooses levels that are close where the loss is low; what lies far out is all of one colour."""
    finite = np.concatenate([loss[np.isfinite(loss)] for loss in losses])
    low, high = (finite.min(), np.quantile(finite, 0.9)) if finite.size else (0.0, 1.0)
    return low + max(high - low, 1e-9) * np.linspace(0, 1, _N_LEVELS) ** 2


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
