"""A table as people and programs read it: text, Markdown, LaTeX, CSV, JSON."""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.table import Table as RichTable

from ssoup_jax.errors import printable
from ssoup_jax.studies.statistics import CONFIDENCE, Difference, Spread
from ssoup_jax.studies.table import OURS, Column, Entry, Table

_ABSENT = "-"


def title(table: Table) -> str:
    """Says in one line what a table is of."""
    varied = f", {printable(table.varied)}" if table.varied else ""
    runs = f"{table.n_runs} run{'s' * (table.n_runs != 1)}"
    return f"goal {100 * table.goal:g} %{varied}: test accuracy in per cent, mean and deviation over {runs}"


def notes(table: Table, mark: str = "*") -> list[str]:
    """Returns the lines below a table: how to read it, and what is missing.

    Args:
        table: the table.
        mark: how the best figures are marked.
    """
    lines = [
        f"{OURS} minus: paired differences over runs in percentage points, with the {CONFIDENCE:.0%} interval of their "
        "mean (Student's t)",
        f"{mark}: better than every other method in its column, each by an interval above zero",
    ]
    if table.dense:
        lines.insert(0, f"dense: {_spread(table.dense)}{_of_fewer(table.dense, table)}")
    if any(entry.figures and entry.figures.n < table.n_runs for _, _, entry in _places(table)):
        lines.append(f"(n=...): fewer than {table.n_runs} runs")
    if table.missing:
        lines += ["missing:", *(f"  {printable(line)}" for line in table.missing)]
    return lines


def rich_tables(table: Table) -> list[RichTable]:
    """Returns the table and that of the differences for a terminal."""
    made = []
    for name, lines in (("", figures(table, _starred)), (f"{OURS} minus", differences(table))):
        shown = RichTable(box=box.SIMPLE_HEAD)
        shown.add_column(name)
        for column in table.columns:
            shown.add_column(heading(table, column).replace(", ", "\n"), justify="right")
        for line in lines:
            shown.add_row(*line)
        made += [shown] if lines else []
    return made


def markdown(tables: Sequence[Table]) -> str:
    """Returns tables as Markdown."""
    parts = []
    for table in tables:
        parts.append(f"### {title(table)[0].upper()}{title(table)[1:]}")
        for name, lines in (("", figures(table, _bold_markdown)), (f"{OURS} minus", differences(table))):
            if lines:
                heads = [name, *(heading(table, column) for column in table.columns)]
                rule = ["---", *["---:"] * len(table.columns)]
                parts.append("\n".join(_pipes(line) for line in (heads, rule, *lines)))
        parts.append("\n".join(f"- {line.strip()}" for line in notes(table, "bold")))
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """Returns tables as LaTeX, for the package booktabs."""
    parts = []
    for table in tables:
        lines = [f"% {line}" for line in (title(table), *notes(table, "bold"))]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
        heads = ["", *(_escape(heading(table, column)) for column in table.columns)]
        body = [
            [_escape(line[0]), *(_escape_figure(entry) for entry in line[1:])]
            for line in figures(table, lambda text: f"<b>{text}")
        ]
        lines += [_ampersands(heads), r"\midrule", *map(_ampersands, body), r"\bottomrule", r"\end{tabular}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_csv(tables: Sequence[Table]) -> str:
    """Returns every entry of tables as a line of figures, accuracies as fractions."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_flat(tables[0], *_places(tables[0])[0])), lineterminator="\n")
    writer.writeheader()
    for table in tables:
        writer.writerows(_flat(table, *place) for place in _places(table))
    return out.getvalue()


def as_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Returns tables as plain values, accuracies as fractions, with the figures of every run."""
    return [
        {
            "goal": table.goal,
            "varied": table.varied,
            "sparsities": table.sparsities,
            "dense": table.dense and dataclasses.asdict(table.dense),
            "n_runs": table.n_runs,
            "missing": table.missing,
            "entries": [
                {"row": row, **dataclasses.asdict(column), **_plain(entry)} for row, column, entry in _places(table)
            ],
        }
        for table in tables
    ]


def _plain(entry: Entry) -> dict[str, Any]:
    found = dataclasses.asdict(entry)
    return found | {"published": entry.published._asdict() if entry.published else None}


def _flat(table: Table, row: str, column: Column, entry: Entry) -> dict[str, Any]:
    figures, ours, known = entry.figures, entry.of_ours, entry.published
    return {
        "goal": table.goal,
        "varied": table.varied,
        "row": row,
        "phase": column.phase,
        "m": column.m,
        "sparsity": entry.sparsity,
        "mean": figures and figures.mean,
        "std": figures and figures.std,
        "n": figures.n if figures else 0,
        "ours_minus": ours and ours.mean,
        "low": ours and ours.low,
        "high": ours and ours.high,
        "published_mean": known and known.mean,
        "published_std": known and known.std,
    }


def _places(table: Table) -> list[tuple[str, Column, Entry]]:
    return [(row, column, entry) for row, entries in table.rows.items() for column, entry in entries.items()]


def heading(table: Table, column: Column) -> str:
    """Says of which sparsity and m a column is."""
    sparsity = table.sparsities[column.phase]
    where = f"phase {column.phase}" if sparsity is None else f"{100 * sparsity:.1f} %"
    return where if column.m is None else f"{where}, m = {column.m}"


def figures(table: Table, bold: Callable[[str], str]) -> list[list[str]]:
    """Spells a table: the name of each row and its figures, and below it the published ones where there are any.

    Args:
        table: the table.
        bold: marks the best figures.
    """
    lines = []
    for row, entries in table.rows.items():
        found = [(column, entries.get(column)) for column in table.columns]
        lines.append([row, *(_figure(table, column, entry, bold) for column, entry in found)])
        if any(entry.published for entry in entries.values()):
            known = [(entries.get(column) or _NOTHING).published for column in table.columns]
            spelt = [f"{100 * one.mean:.2f} ± {100 * one.std:.2f}" if one else _ABSENT for one in known]
            lines.append([f"  published: {row}", *spelt])
    return lines


_NOTHING = Entry(None, None, None, None, {})


def _figure(table: Table, column: Column, entry: Entry | None, bold: Callable[[str], str]) -> str:
    if entry is None or entry.figures is None:
        return _ABSENT
    found, usual = entry.figures, table.sparsities[column.phase]
    text = bold(_spread(found)) if entry.is_best else _spread(found)
    text += _of_fewer(found, table)
    if entry.sparsity is not None and usual is not None and abs(entry.sparsity - usual) > 5e-4:
        text += f" (at {100 * entry.sparsity:.1f} %)"
    return text


def _spread(found: Spread) -> str:
    return f"{100 * found.mean:.2f}" + ("" if found.std is None else f" ± {100 * found.std:.2f}")


def _of_fewer(found: Spread, table: Table) -> str:
    return f" (n={found.n})" if found.n < table.n_runs else ""


def differences(table: Table) -> list[list[str]]:
    """Spells the paired differences: the name of each row and how much better `OURS` is, with the interval."""
    lines = []
    for row, entries in table.rows.items():
        found = [(entries.get(column) or _NOTHING).of_ours for column in table.columns]
        if any(found):
            lines.append([row, *map(_difference, found)])
    return lines


def _difference(found: Difference | None) -> str:
    if found is None:
        return _ABSENT
    if found.low is None:
        return f"{100 * found.mean:+.2f}"
    return f"{100 * found.mean:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


def _starred(text: str) -> str:
    return f"* {text}"


def _bold_markdown(text: str) -> str:
    return f"**{text}**"


def _pipes(line: Sequence[str]) -> str:
    return f"| {' | '.join(printable(text).strip().replace('|', chr(92) + '|') for text in line)} |"


def _ampersands(line: Sequence[str]) -> str:
    return f"{' & '.join(line)} \\\\"


def _escape(text: str) -> str:
    return text.strip().replace("_", r"\_").replace("%", r"\%")


def _escape_figure(text: str) -> str:
    is_bold, text = text.startswith("<b>"), text.removeprefix("<b>")
    figure, paren, rest = text.partition(" (")
    figure = f"\\textbf{{{figure}}}" if is_bold else figure
    return (figure + paren + _escape(rest)).replace("±", r"$\pm$")
