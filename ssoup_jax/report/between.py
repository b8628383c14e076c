"""What lies between models as a part of a page: barriers of every line, loss and error along them, and the plane."""

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from ssoup_jax.errors import SettingsError
from ssoup_jax.report import barriers, charts, html, typed
from ssoup_jax.report.typed import Between

_WHEN = {"before": "BatchNorm mixed", "after": "BatchNorm recalibrated"}
_PLANE = (4.2, 3.6)  # inches, see `charts.SIZE`
_LEGEND = html.legend(zip(("blue", "vermilion"), _WHEN.values(), strict=True)) + html.paragraph(
    "thin: each line; thick: their mean; dotted: the mean on the other images", "note"
)


def between(found: Mapping[str, Any]) -> Markup:
    """What the files of barriers hold, by their names; what is of another form is shown as it is."""
    return html.join(_file(name, content) for name, content in found.items())


def _file(name: str, content: Any) -> Markup:
    try:
        checked = typed.between(content)
    except SettingsError:
        return html.folded(name, html.nested(content))
    lines, plane = (html.charts(charts) for charts in (_lines(name, content, checked), _plane(name, content)))
    return html.join([_table(checked), _LEGEND if lines else "", lines, plane])


def _table(found: Between) -> Markup:
    rows = []
    for line in found.lines:
        for when, label in _WHEN.items():
            barrier = (line.barrier.get(when) or {}).get("test")
            if barrier:
                ends = " to ".join(map(str, line.ends))
                only = line.barrier.get("after") is None
                rows.append(
                    [
                        f"phase {found.phase}, {line.of} {ends}",
                        "-" if line.distance is None else f"{line.distance:.3g}",
                        "-" if only else label,
                        *(_height(barrier, metric) for metric in ("loss", "error")),
                    ]
                )
    heads = ["between", "L2", "points on\nthe line", "barrier,\ntest loss", "barrier,\ntest error %"]
    return html.table(heads, rows, "a barrier is the worst point of a line above the mean of its ends")


def _height(barrier: Mapping[str, typed.Barrier], metric: str) -> str:
    height = barrier[metric].height if metric in barrier else None
    return "-" if height is None else f"{100 * height:.2f}" if metric == "error" else f"{height:.4f}"


def _lines(name: str, content: Any, found: Between) -> Iterable[tuple[Markup, str]]:
    for kind in ("members", "soups"):
        lines = [line for line in content["lines"] if line["of"] == kind]
        for metric, unit in (("loss", ""), ("error", " in %")):
            if lines:
                caption = f"Phase {found.phase}, between {kind}: {metric}{unit}"
                figure, axes = charts.panel()
                barriers.draw_lines(axes, lines, content["splits"], metric)
                axes.set_ylabel("")
                axes.set_xlabel("from one to another")
                yield charts.svg(figure, f"{name} {kind} {metric}", caption), caption


def _plane(name: str, content: Any) -> Iterable[tuple[Markup, str]]:
    plane = content.get("plane")
    for when, label in _WHEN.items():
        if plane and plane.get(when):
            one = {key: value for key, value in plane.items() if key not in _WHEN} | {when: plane[when]}
            figure, axes = charts.panel(_PLANE)
            barriers.draw_plane(figure, [axes], one, content["members"])
            axes.set_title("")
            caption = f"Phase {content['phase']}, test loss between three members, {label}"
            yield charts.svg(figure, f"{name} plane {when}", caption), caption
