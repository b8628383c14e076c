"""The page of a study, in one file that needs no other: `table.html`."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ssoup_jax.report import charts, html
from ssoup_jax.studies import figure, formats
from ssoup_jax.studies.table import OURS, Table
from ssoup_jax.version import VERSION


def page(study: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """Makes the page of a study.

    Args:
        study: what a file of results says of it.
        tables: its tables.

    Returns:
        HTML: the whole file.
    """
    picture = charts.svg(
        figure.figure(tables), "accuracy", "test accuracy against sparsity, for every row of the tables"
    )
    sections = {f"table{number}": _table(f"table{number}", one) for number, one in enumerate(tables, start=1)}
    links = {name: f"Goal {100 * one.goal:g} % {one.varied}" for name, one in zip(sections, tables, strict=True)}
    settings = html.pairs(html.flat(study["settings"]))
    return html.document(
        f"{study['settings']['arch']} on {study['name']}",
        [
            html.paragraph(study["description"]),
            html.links(links),
            *sections.values(),
            html.section("accuracy", "Accuracy against sparsity", html.charts([(picture, "")], large=True)),
            html.section("settings", "Settings", html.folded("all settings", settings)),
        ],
        f"made by ssoup_jax {VERSION} from files of results",
    )


def _table(name: str, table: Table) -> Markup:
    heads = [formats.heading(table, column).replace(", ", "\n") for column in table.columns]
    title = formats.title(table)
    parts = [
        html.table(["", *heads], formats.figures(table, bold=Markup("<b>{}</b>").format)),
        html.table([f"{OURS} minus", *heads], formats.differences(table)),
        *(html.paragraph(line, "note") for line in formats.notes(table, "bold")),
    ]
    return html.section(name, title[0].upper() + title[1:], *parts)
