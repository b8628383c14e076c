"""The summary as a picture: test accuracy against sparsity."""

import math
import os
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ssoup_jax.report.summary import PhaseResult, Summary, dig, phase_results, title

# Okabe and Ito's palette, which readers with any colour vision can tell apart.
BLUE, SKY, VERMILION, GREEN, GREY = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#555555"

_LEAST_Y_SPAN = 0.5
_LEAST_TICK_DISTANCE = 0.07


def plot(summary: Summary, path: str | os.PathLike) -> None:
    """Draws a summary and writes it as a PNG of 150 dots per inch.

    Args:
        summary: a run's summary.
        path: the file to write; its folder exists.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters in a name that the font lacks, and which are drawn as boxes
        figure(summary).savefig(path, format="png", dpi=150)


def figure(summary: Summary, size: tuple[float, float] = (7, 4.6), titled: bool = True) -> Figure:
    """Draws test accuracy against sparsity: dense, candidates, their mean and best, soup, prediction ensemble.

    The sparsity axis is logarithmic in the share of weights that are left: every phase removes the same
    share of what it finds, so phases stand at even distances however close to 100 % they come.

    Args:
        summary: a run's summary.
        size: width and height in inches.
        titled: whether the experiment's name stands above it.

    Returns:
        The figure; what the summary does not have is not drawn.
    """
    phases = [phase for phase in phase_results(summary) if phase.sparsity is not None]
    dense = dig(summary, "dense", "test", "accuracy")

    result = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(result)
    axes = result.add_subplot()
    if dense is not None:
        axes.axhline(100 * dense, color=GREY, linestyle="--", linewidth=1.2, label=f"dense ({100 * dense:.2f} %)")
    _draw_phases(axes, phases)
    sparsity_axis(axes, [100 * phase.sparsity for phase in phases])
    _set_y(axes, phases, dense)

    if titled:
        axes.set_title(textwrap.fill(title(summary), 75), fontsize=11, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        result.legend(loc="outside lower center", ncols=3 if size[0] >= 7 else 2, frameon=False, fontsize=9)
    return result


def _draw_phases(axes: Axes, phases: Sequence[PhaseResult]) -> None:
    x = np.array([100 * phase.sparsity for phase in phases])

    def line(values: list[float | None], label: str, **style: object) -> None:
        y = _percent(values)
        if np.isfinite(y).any():
            axes.plot(x, y, label=label, **style)

    if any(len(phase.candidates) > 1 for phase in phases):
        dots = [(100 * phase.sparsity, value) for phase in phases for value in phase.candidates if value is not None]
        if dots:
            axes.scatter(
                [sparsity for sparsity, _ in dots],
                _percent([value for _, value in dots]),
                color=BLUE,
                alpha=0.45,
                s=22,
                linewidths=0,
                label="candidates",
            )
        line([phase.mean for phase in phases], "mean candidate", color=BLUE, marker="o", markersize=4)
        line([phase.best for phase in phases], "best candidate", color=SKY, marker="^", markersize=5)
    else:
        line([phase.mean for phase in phases], "IMP", color=BLUE, marker="o", markersize=5)
    ensemble = [phase.ensemble for phase in phases]
    line(ensemble, "prediction ensemble", color=GREEN, marker="D", markersize=3, linewidth=1, linestyle=":")
    soup = [phase.soup for phase in phases]
    line(soup, "soup", color=VERMILION, marker="s", markersize=6, linewidth=2.8, zorder=3)


def _percent(fractions: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if fraction is None else 100 * fraction for fraction in fractions])


def _log_left(sparsity: np.ndarray) -> np.ndarray:
    """Maps sparsity in per cent to minus the logarithm of the share that is left; 100 % stays finite."""
    return -np.log(np.clip(1 - np.asarray(sparsity) / 100, 1e-6, None))


def _sparsity(log_left: np.ndarray) -> np.ndarray:
    return 100 * (1 - np.exp(-np.asarray(log_left)))


def sparsity_axis(axes: Axes, sparsities: Sequence[float]) -> None:
    """Makes the x axis one of sparsity in per cent, logarithmic in the share of weights that are left.

    Args:
        axes: the axes.
        sparsities: where the ticks are, per cent.
    """
    axes.set_xlabel("sparsity of the prunable weights (%)")
    axes.set_xscale("function", functions=(_log_left, _sparsity))
    positions = _log_left(np.array([0.0, *sparsities]))
    width = max(positions.max(), 0.1)
    axes.set_xlim(*_sparsity(np.array([-0.04, 1.06]) * width))
    ticks = _apart([0.0, *sparsities], _LEAST_TICK_DISTANCE * width)
    axes.set_xticks(ticks, _tick_labels(ticks))
    axes.set_xticks([], minor=True)


def _apart(sparsities: Sequence[float], distance: float) -> list[float]:
    """Keeps the ticks whose labels have room, the sparsest first."""
    kept: list[float] = []
    for sparsity in sorted(sparsities, reverse=True):
        if not kept or _log_left(kept[-1]) - _log_left(sparsity) >= distance:
            kept.append(sparsity)
    return kept[::-1]


def _tick_labels(ticks: Sequence[float]) -> list[str]:
    """Spells ticks with as few decimals, one at least, as tell them apart from each other and from 100."""
    for decimals in (1, 2, 3):
        labels = ["0" if tick == 0 else f"{tick:.{decimals}f}" for tick in ticks]
        rounded_up = any(float(label) == 100 > tick for label, tick in zip(labels, ticks, strict=True))
        if len(set(labels)) == len(labels) and not rounded_up:
            break
    return labels


def _set_y(axes: Axes, phases: Sequence[PhaseResult], dense: float | None) -> None:
    axes.set_ylabel("test accuracy (%)")
    shown = [(*phase.candidates, phase.mean, phase.best, phase.soup, phase.ensemble) for phase in phases]
    values = _percent([dense, *(value for phase in shown for value in phase)])
    values = values[np.isfinite(values)]
    if not values.size:
        axes.set_ylim(0, 100)
        return
    span = max(np.ptp(values), _LEAST_Y_SPAN)
    middle = (values.min() + values.max()) / 2
    low, high = middle - 0.58 * span, middle + 0.58 * span
    # Room for a marker at either end of the scale, but no ticks beyond 0 and 100.
    axes.set_ylim(max(low, -0.03 * span), min(high, 100 + 0.03 * span))
