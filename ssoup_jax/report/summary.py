"""The summary of a run: the figures of its phases, and what the soups gained."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich import box
from rich.table import Table

from ssoup_jax.errors import printable

SPLITS = ("train", "val", "test", "ood")

_LONGEST_NAME = 120  # characters of a data set's name in a title

_FIGURE_COLUMNS = (
    "sparsity\n%",
    "dense",
    "candi-\ndates",
    "mean\ncand.",
    "best\ncand.",
    "soup",
    "soup -\nmean",
    "soup -\nbest",
    "predict.\nensemble",
    "ingre-\ndients",
    "speed-up",
)
_OOD_COLUMNS = ("OOD:\ndense", "mean\ncand.", "soup")

GAINS = "soup - mean, soup - best: what the soup gained over its candidates, in percentage points"
"""What is to be said beside `cells`."""

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class PhaseResult:
    """The test figures of one phase; accuracies and sparsity are fractions, None where absent."""

    phase: int
    sparsity: float | None
    candidates: tuple[float | None, ...]
    mean: float | None
    best: float | None
    soup: float | None
    ensemble: float | None
    n_ingredients: int | None
    speedup: float | None
    ood: tuple[float | None, float | None]  # mean over the candidates, and the soup


def phase_results(summary: Summary) -> list[PhaseResult]:
    """Reads the test figures of every phase out of a summary, in its order."""
    return [_phase_result(phase) for phase in summary.get("phases") or []]


def _phase_result(phase: Mapping[str, Any]) -> PhaseResult:
    candidates = phase.get("candidates") or []
    mean, best = mean_and_max(candidates)
    soup = phase.get("soup")
    ingredients = dig(soup, "ingredients")
    speedups = [dig(model, "flops", "speedup") for model in (soup, *candidates)]
    return PhaseResult(
        phase=phase["phase"],
        sparsity=dig(phase, "sparsity", "prunable"),
        candidates=tuple(dig(candidate, "test", "accuracy") for candidate in candidates),
        mean=dig(phase.get("candidates_mean") or mean, "test", "accuracy"),
        best=dig(phase.get("candidates_max") or best, "test", "accuracy"),
        soup=dig(soup, "test", "accuracy"),
        ensemble=dig(phase, "prediction_ensemble", "test", "accuracy"),
        n_ingredients=None if ingredients is None else len(ingredients),
        speedup=next((speedup for speedup in speedups if speedup is not None), None),
        ood=(dig(phase.get("candidates_mean") or mean, "ood", "accuracy"), dig(soup, "ood", "accuracy")),
    )


def dig(node: object, *keys: str) -> Any:
    """Follows keys into nested mappings; None as soon as one is missing."""
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def mean_and_max(candidates: Sequence[Mapping[str, Any]]) -> tuple[dict, dict]:
    """Averages and maximises the metrics of a phase's candidates.

    Args:
        candidates: mappings with a mapping of metrics under some of `SPLITS`; a metric that is None or
            not finite is left out of both figures.

    Returns:
        mean and maximum as `{split: {metric: value}}`, over every split and metric that any candidate
        has; None where no candidate has a value. The maximum of a loss is the worst one.
    """
    return _over(candidates, fmean), _over(candidates, max)


def _over(candidates: Sequence[Mapping[str, Any]], reduce: Callable[[list], float]) -> dict:
    result = {}
    for split in SPLITS:
        reports = [candidate[split] for candidate in candidates if candidate.get(split) is not None]
        names = list(dict.fromkeys(name for report in reports for name in report))
        if reports:
            result[split] = {name: _reduce((report.get(name) for report in reports), reduce) for name in names}
    return result


def _reduce(values: Iterable[float | None], reduce: Callable[[list], float]) -> float | None:
    values = [value for value in values if value is not None and math.isfinite(value)]
    return reduce(values) if values else None


def title(summary: Summary) -> str:
    """Names the experiment in one line: `'cifar10, ResNet18, m = 3 by pruned_seed'`; empty without settings."""
    settings = summary.get("settings") or {}
    m, by = settings.get("n_splits_total"), _differ_in(summary)
    members = None if m is None else f"m = {m}" + (f" by {by}" if by and m > 1 else "")
    parts = (_short(str(settings.get("dataset") or "")), settings.get("arch"), members)
    return printable(", ".join(str(part) for part in parts if part))


def _differ_in(summary: Summary) -> str | None:
    """Says what the members differ in."""
    settings = summary.get("settings") or {}
    if not settings.get("members") and not settings.get("pool"):
        return settings.get("ensemble_by")
    own = [candidate.get("member") or {} for phase in summary.get("phases") or () for candidate in phase["candidates"]]
    return ", ".join(dict.fromkeys(name for one in own for name in one))


def _short(name: str) -> str:
    """Leaves out the middle of a name too long for a title, such as that of a data set in many folders."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:20]}...{name[20 - _LONGEST_NAME :]}"


def cells(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Spells the figures at a glance: a row for the dense model, then a row per phase.

    Args:
        summary: a run's summary.

    Returns:
        The heads of the columns, which may have line breaks, and the rows. Accuracies are test accuracies in per cent,
        gains are percentage points of the soup over its candidates, `-` stands for what the summary does not have.
        Accuracies out of distribution (OOD) are means over the corruptions; they are there if there are any.
    """
    phases, dense = phase_results(summary), dig(summary, "dense", "ood", "accuracy")
    corrupted = any(figure is not None for phase in phases for figure in phase.ood) or dense is not None
    heads = ["phase", *_FIGURE_COLUMNS, *(_OOD_COLUMNS if corrupted else ())]

    def ood(*figures: float | None) -> list[str]:
        return [percent(figure) for figure in figures] if corrupted else []

    absent = ["-"] * (len(_FIGURE_COLUMNS) - 2)
    # One that comes from a file may be pruned already.
    sparsity, accuracy = dig(summary, "dense", "sparsity", "prunable"), dig(summary, "dense", "test", "accuracy")
    rows = [["dense", percent(sparsity or 0.0), percent(accuracy), *absent, *ood(dense, None, None)]]
    for phase in phases:
        rows.append(
            [
                str(phase.phase),
                percent(phase.sparsity),
                "-",
                str(len(phase.candidates)) if phase.candidates else "-",
                percent(phase.mean),
                percent(phase.best),
                percent(phase.soup),
                gain(phase.soup, phase.mean),
                gain(phase.soup, phase.best),
                percent(phase.ensemble),
                _ingredients(phase),
                "-" if phase.speedup is None else f"{phase.speedup:.2f}x",
                *ood(None, *phase.ood),
            ]
        )
    return heads, rows


def table(summary: Summary) -> Table:
    """Lays out `cells` for a terminal.

    Args:
        summary: a run's summary.

    Returns:
        The table, with a title and a line that explains the gains.
    """
    result = Table(
        title=f"{title(summary)}: test accuracy in %".removeprefix(": "),
        title_justify="left",
        caption=GAINS,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    (first, *others), rows = cells(summary)
    result.add_column(first)
    for name in others:
        result.add_column(name, justify="right")
    for row in rows:
        result.add_row(*row)
    return result


def percent(fraction: float | None) -> str:
    """Spells a fraction in per cent, without the sign: `'99.17'`; `'-'` for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _points(value: float, base: float) -> float:
    """Percentage points between two fractions, free of the rounding of their subtraction."""
    return round(100 * (value - base), 9)


def gain(value: float | None, base: float | None) -> str:
    """Spells what a fraction is above another, in percentage points: `'+0.28'`; `'-'` where one is None."""
    if value is None or base is None:
        return "-"
    # Adding 0.0 turns the negative zero that rounding leaves into a plain one.
    return f"{round(_points(value, base), 2) + 0.0:+.2f}"


def _ingredients(phase: PhaseResult) -> str:
    if phase.n_ingredients is None:
        return "-"
    return f"{phase.n_ingredients} of {len(phase.candidates)}" if phase.candidates else str(phase.n_ingredients)
