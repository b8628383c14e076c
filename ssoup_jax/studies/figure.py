"""A study as a picture: accuracy against sparsity, a panel for each table and m, with bands of one deviation."""

import os
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ssoup_jax.report.plot import BLUE, GREEN, GREY, SKY, VERMILION, sparsity_axis
from ssoup_jax.studies.table import Table

_STYLES = {
    "SMS": (VERMILION, "s", "-"),
    "best candidate": (SKY, "^", "-"),
    "mean candidate": (BLUE, "o", "-"),
    "IMP_mx": ("#CC79A7", "v", "--"),
    "IMP-RePrune": ("#E69F00", "X", "none"),
    "IMP-AVG": ("#9A8C00", "P", "none"),
    "IMP": (GREY, "d", "--"),
    "one-shot": ("#000000", "*", "none"),
    "prediction ensemble": (GREEN, "D", ":"),
}
"""Colour, marker and line of each row; Okabe and Ito's palette."""


def save(tables: Sequence[Table], path: str | os.PathLike) -> None:
    """Draws tables and writes them as a PNG of 150 dots per inch."""
    figure(tables).savefig(path, format="png", dpi=150)


def figure(tables: Sequence[Table]) -> Figure:
    """Draws tables.

    Args:
        tables: of a study; panels of one table share their y axis.

    Returns:
        The figure.
    """
    members = [list(dict.fromkeys(column.m for column in table.columns)) for table in tables]
    width, height = max(map(len, members)), len(tables)
    result = Figure(figsize=(1 + 4.2 * width, 0.8 + 3.4 * height), layout="constrained")
    FigureCanvasAgg(result)
    panels = result.subplots(height, width, squeeze=False, sharey="row")
    for line, table, ms in zip(panels, tables, members, strict=True):
        for axes, m in zip(line, ms, strict=False):
            _draw(axes, table, m)
        for axes in line[len(ms) :]:
            axes.set_axis_off()
        line[0].set_ylabel("test accuracy (%)")
    shown = {}
    for axes in panels.flat:
        handles, labels = axes.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    n_columns = 4 if width > 1 else 2  # a panel is two names wide
    result.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=n_columns, frameon=False, fontsize=9)
    return result


def _draw(axes: Axes, table: Table, m: int | None) -> None:
    columns = [column for column in table.columns if column.m == m]
    for row, entries in table.rows.items():
        found = [entries[column] for column in columns if column in entries and entries[column].figures]
        if not found:
            continue
        x = np.array([100 * entry.sparsity for entry in found])
        mean = np.array([100 * entry.figures.mean for entry in found])
        std = np.array([100 * (entry.figures.std or 0) for entry in found])
        color, marker, line = _STYLES[row]
        axes.plot(x, mean, label=row, color=color, marker=marker, linestyle=line, markersize=5, linewidth=1.6)
        if len(found) > 1:
            axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.13, linewidth=0)
        else:
            axes.errorbar(x, mean, std, color=color, capsize=3)
    known = sorted({100 * sparsity for sparsity in table.sparsities.values() if sparsity is not None})
    if known:
        sparsity_axis(axes, known)
        axes.set_xlim(left=known[0] - 0.15 * (known[-1] - known[0]) if len(known) > 1 else 0)
    varied = f", {table.varied}" if table.varied else ""
    heading = f"goal {100 * table.goal:g} %{varied}" + ("" if m is None else f", m = {m}")
    axes.set_title(textwrap.fill(heading, 44), fontsize=10, parse_math=False)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
