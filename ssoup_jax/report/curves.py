"""The figures of every epoch as a part of a page: a chart for each quantity and stage, a line for each member."""

import re
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from ssoup_jax.report import charts, html
from ssoup_jax.report.charts import MEMBERS, Line
from ssoup_jax.report.contents import Rows
from ssoup_jax.report.typed import Experiment, Model

_SPLITS = ("train", "val", "test")
_FIRST = ("loss", "accuracy")
_NO_CURVE = re.compile(r"epoch|step|(.*_)?seconds|.*per_second.*")
_LOG_FROM = 20  # times the smallest value
_MOST_NAMED = 12  # members in a legend


def curves(experiment: Experiment, found: Mapping[str, Rows]) -> Markup:
    """The figures of every epoch: a chart for each quantity and stage, a line for each member."""
    groups = [("Dense", [experiment.dense])] if experiment.dense else []
    groups += [(f"Phase {phase.phase}", phase.candidates) for phase in experiment.phases]
    names = {name for rows in found.values() for row in rows for name in row if not _NO_CURVE.fullmatch(name)}
    quantities = sorted({_quantity(name) for name in names}, key=lambda q: (_FIRST.index(q) if q in _FIRST else 9, q))
    shown = {quantity: list(_charts(quantity, names, groups, found)) for quantity in quantities}
    more = [chart for quantity in quantities if quantity not in _FIRST for chart in shown[quantity]]
    members = max((models for _, models in groups), key=len, default=[])
    first = [html.charts(shown[quantity]) for quantity in _FIRST if quantity in shown]
    return html.join(
        [_who(members, names) if first or more else "", *first, html.folded("more curves", html.charts(more))]
    )


def _quantity(name: str) -> str:
    split, _, rest = name.partition("_")
    return rest if split in _SPLITS and rest else name


def _who(members: Sequence[Model], names: Iterable[str]) -> Markup:
    named = [model for model in members if model.split_val is not None]
    entries = [(MEMBERS[i % len(MEMBERS)], f"member {model.split_val:g}") for i, model in enumerate(named)]
    both = any(name.startswith("val_") for name in names)
    return html.legend(entries if 1 < len(entries) <= _MOST_NAMED else []) + html.paragraph(
        "solid: training; dashed: validation" if both else "on training batches, as they were trained on", "note"
    )


def _charts(
    quantity: str, names: Iterable[str], groups: Sequence[tuple[str, Sequence[Model]]], found: Mapping[str, Rows]
) -> Iterable[tuple[Markup, str]]:
    own = sorted(name for name in names if _quantity(name) == quantity)
    per_cent = "accuracy" in quantity or quantity.startswith("sparsity")
    for title, models in groups:
        lines = []
        for index, model in enumerate(models):
            rows = found.get(model.artifact or "", [])
            for name in own:
                points = [(row.get("epoch", number), row[name]) for number, row in enumerate(rows, 1) if name in row]
                if points:
                    x, y = zip(*points, strict=True)
                    y = [100 * value for value in y] if per_cent else y
                    colour = MEMBERS[index % len(MEMBERS)] if model.split_val is not None else "muted"
                    lines.append(Line(x, y, colour, dashed=name.startswith("val_")))
        if lines:
            log = quantity == "loss" and charts.spread(lines) >= _LOG_FROM
            caption = f"{title}: {quantity.replace('_', ' ')}" + (" in %" if per_cent else "")
            yield charts.svg(charts.curves(lines, log=log), f"{title} {quantity}", f"{caption}, by epoch"), caption
