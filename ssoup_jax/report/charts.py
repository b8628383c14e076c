"""Charts inside a page: plain SVG of matplotlib, which is there already, needs no script and no network, and prints.

One drawing serves light and dark: its colours are replaced by the page's variables of the same names.
"""

import io
import logging
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

COLOURS = {
    "ink": "#000000",
    "muted": "#555555",
    "rule": "#dddddd",
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
}
"""Names of the page's variables and what matplotlib draws with in their place (Okabe and Ito's palette)."""

MEMBERS = ("blue", "vermilion", "green", "purple", "orange", "sky")
"""The colours that members take in turn."""

SIZE = (4.2, 2.8)
"""Inches; at this width a letter is as high on a phone as the text around it."""

_NAMES = {value: name for name, value in COLOURS.items()}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Line:
    """A curve: its points, the name of its colour, and whether it is dashed."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False


def svg(figure: Figure, name: str, label: str) -> Markup:
    """Draws a figure as SVG for the inside of a page.

    Args:
        figure: drawn with the values of `COLOURS`.
        name: no other chart of the page has; what the SVG names in itself depends on it.
        label: what it shows, for those who do not see it.

    Returns:
        The element `svg`, as wide as its place.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    written = io.StringIO()
    # Text stays text, which takes the page's font; and the same figure is the same SVG, always.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font lacks
        figure.savefig(written, format="svg", transparent=True, metadata=_NO_METADATA)
    _, _, found = written.getvalue().partition("<svg")
    found = re.sub(r"<defs>\s*<style.*?</defs>", "", found, count=1, flags=re.S)
    found = re.sub(r' (?:width|height)="[\d.]+pt"', "", found, count=2)
    found = re.sub(r"font-family: [^;\"]*(?:; )?", "", found)
    found = re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda match: _variable(match[0]), found)
    # What is not referred to needs no name, and each name may be in a page once.
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", found))
    found = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", found)
    return Markup('<svg role="img" aria-label="{}" ').format(label) + Markup(re.sub(r"\s*\n\s*", " ", found).strip())


def _variable(colour: str) -> str:
    return f"var(--{_NAMES[colour]})" if colour in _NAMES else colour


def panel(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Makes an empty figure, of that many inches, that finds room for whatever stands around its axes."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def curves(lines: Sequence[Line], *, log: bool = False) -> Figure:
    """Draws curves over epochs.

    Args:
        lines: what is drawn, the last on top; values that are not finite are gaps.
        log: whether the values differ by so much that their logarithms are shown; those that have none are gaps then.

    Returns:
        The figure, without any title.
    """
    figure = Figure(figsize=SIZE)
    FigureCanvasAgg(figure)
    # A layout that looks for room itself costs three times the drawing.
    axes = figure.add_axes((0.15, 0.17, 0.83, 0.8))
    for line in lines:
        y = np.array(line.y, float)
        # A curve of one point would not be seen.
        marker = "o" if len(line.x) == 1 else None
        style = "--" if line.dashed else "-"
        axes.plot(line.x, y, style, color=COLOURS[line.colour], linewidth=1.4, marker=marker, markersize=4)
    if log:
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.7)
    axes.set_axisbelow(True)
    return figure


def spread(lines: Sequence[Line]) -> float:
    """Returns how often the smallest positive value goes into the largest; 1 without any."""
    values = [value for line in lines for value in line.y if math.isfinite(value) and value > 0]
    return max(values) / min(values) if values else 1.0
