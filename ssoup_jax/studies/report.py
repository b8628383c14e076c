"""What a study leaves behind: its files of results and the table in every form."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssoup_jax.report.console import Console
from ssoup_jax.storage import atomic
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.studies import formats, table
from ssoup_jax.studies.cells import Cell
from ssoup_jax.studies.table import Table

TABLE, PICTURE = "table", "table.png"
"""The table's files are called `table.txt`, `.md`, `.tex`, `.csv`, `.json` and `.html`."""


def report(folder: Path, study: Mapping[str, Any], cells: Sequence[Cell], console: Console) -> list[Table]:
    """Makes the tables of a study, prints them and writes them in every form.

    Args:
        folder: where; it exists.
        study: what a file of results says of it.
        cells: of all runs.
        console: where the tables are shown.

    Returns:
        The tables.
    """
    made = table.tables(study, cells)
    printed = io.StringIO()
    _show(Console(printed, terminal=False), made)
    heading = f"# {study['settings']['arch']} on {study['name']}"
    texts = {
        ".txt": printed.getvalue(),
        ".md": "\n\n".join([heading, study["description"], formats.markdown(made)]),
        ".tex": formats.latex(made),
        ".csv": formats.as_csv(made),
    }
    for ending, text in texts.items():
        with atomic.replacing(folder / f"{TABLE}{ending}") as beside:
            beside.write_text(text, encoding="utf-8")
    write_json(folder / f"{TABLE}.json", formats.as_json(made))
    # Needed at the end only, and their libraries slow down every start.
    from ssoup_jax.studies import figure, page

    with atomic.replacing(folder / PICTURE) as beside:
        figure.save(made, beside)
    with atomic.replacing(folder / f"{TABLE}.html") as beside:
        beside.write_text(page.page(study, made), encoding="utf-8")
    _show(console, made)
    return made


def _show(console: Console, tables: Sequence[Table]) -> None:
    for one in tables:
        console.line(formats.title(one))
        for shown in formats.rich_tables(one):
            console.table(shown)
        for line in formats.notes(one):
            console.line(line)
