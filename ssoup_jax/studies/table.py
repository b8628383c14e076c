"""From cells to tables: one for each goal and whatever else differs, in the form of the published ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssoup_jax.studies import published, statistics
from ssoup_jax.studies.cells import Cell
from ssoup_jax.studies.methods import DENSE, ROWS
from ssoup_jax.studies.published import Published
from ssoup_jax.studies.statistics import Difference, Spread

OURS = "SMS"
"""The row that the others are compared with."""

NOT_COMPARED = ("prediction ensemble", "IMP-AVG")
"""Rows that no row is bold against: they are m networks in one, or denser than the goal."""


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        phase: 1-based.
        m: number of members; None in a study without any.
    """

    phase: int
    m: int | None


@dataclass(frozen=True)
class Entry:
    """What a table has in one place.

    Attributes:
        figures: mean and deviation of the test accuracy, fractions; None: no run has it.
        sparsity: mean over the runs; None likewise.
        of_ours: how much better `OURS` is, run by run; None where there is nothing to compare.
        published: the figure of the paper; None: there is none.
        by_run: the figures themselves.
        is_best: whether it is better than every other row of the column, each by an interval above zero.
    """

    figures: Spread | None
    sparsity: float | None
    of_ours: Difference | None
    published: Published | None
    by_run: Mapping[int, float]
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        goal: sparsity after the last phase.
        varied: what else differs from other tables; empty: nothing.
        columns: of figures.
        sparsities: for each phase the share of zeros, as it came out.
        rows: entries by the row's name and column, in the order in which they are shown.
        dense: test accuracy of the dense models; None: nobody has kept it.
        n_runs: the most runs that any entry has.
        missing: a line for every figure that is not there.
    """

    goal: float
    varied: str
    columns: tuple[Column, ...]
    sparsities: Mapping[int, float]
    rows: Mapping[str, Mapping[Column, Entry]]
    dense: Spread | None
    n_runs: int
    missing: tuple[str, ...]


def tables(study: Mapping[str, Any], cells: Sequence[Cell]) -> list[Table]:
    """Makes the tables of a study.

    Args:
        study: what a file of results says of it.
        cells: of all runs.

    Returns:
        One for each goal and whatever else differs, in the order of the cells.
    """
    keys = dict.fromkeys((cell.goal, cell.varied) for cell in cells)
    return [
        _table(study["settings"], goal, varied, [cell for cell in cells if (cell.goal, cell.varied) == (goal, varied)])
        for goal, varied in keys
    ]


def _table(settings: Mapping[str, Any], goal: float, varied: str, cells: list[Cell]) -> Table:
    dense = [cell.test["accuracy"] for cell in cells if cell.row == DENSE and not cell.missing]
    cells = [cell for cell in cells if cell.row != DENSE]
    phases = sorted({cell.phase for cell in cells})
    members = sorted({cell.m for cell in cells if cell.m is not None}) or [None]
    columns = tuple(Column(phase, m) for phase in phases for m in members)
    # A row without members is the same in the columns of all m.
    placed = {
        (row, column): [cell for cell in cells if cell.row == row and _stands_in(cell, column)]
        for row in dict.fromkeys(sorted((cell.row for cell in cells), key=ROWS.index))
        for column in columns
    }
    by_run = {
        place: {cell.run: cell.test["accuracy"] for cell in found if not cell.missing}
        for place, found in placed.items()
    }
    place_of = (settings["dataset"], settings["arch"], goal, len(phases))
    rows: dict[str, dict[Column, Entry]] = {}
    for (row, column), found in placed.items():
        if not found:
            continue
        values = by_run[row, column]
        ours = by_run.get((OURS, column), {})
        known = published.find(*place_of, row, column.phase, found[0].m)
        rows.setdefault(row, {})[column] = Entry(
            figures=statistics.spread(list(values.values())),
            sparsity=_mean(cell.sparsity for cell in found if not cell.missing),
            of_ours=None if row == OURS else statistics.difference(ours, values),
            published=known if not varied else None,
            by_run=values,
            is_best=_is_best(row, column, by_run),
        )
    return Table(
        goal=goal,
        varied=varied,
        columns=columns,
        sparsities={phase: _sparsity_of(phase, cells) for phase in phases},
        rows=rows,
        dense=statistics.spread(dense),
        n_runs=max(map(len, by_run.values())),
        missing=tuple(_missing(cells)),
    )


def _stands_in(cell: Cell, column: Column) -> bool:
    return cell.phase == column.phase and cell.m in (None, column.m)


def _is_best(row: str, column: Column, by_run: Mapping[tuple[str, Column], dict[int, float]]) -> bool:
    rivals = {
        other: values for (other, at), values in by_run.items() if at == column and other not in (row, *NOT_COMPARED)
    }
    compared = [statistics.difference(by_run[row, column], values) for values in rivals.values() if values]
    return row not in NOT_COMPARED and bool(compared) and all(one is not None and one.is_better for one in compared)


def _sparsity_of(phase: int, cells: Iterable[Cell]) -> float | None:
    return _mean(
        cell.sparsity for cell in cells if cell.phase == phase and not cell.missing and cell.row not in NOT_COMPARED
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _missing(cells: Iterable[Cell]) -> list[str]:
    """Names what is not there, runs with the same hole together."""
    holes: dict[tuple[str, str], list[int]] = {}
    for cell in cells:
        if cell.missing:
            members = "" if cell.m is None else f", m = {cell.m}"
            holes.setdefault((f"{cell.row}{members}, phase {cell.phase}", cell.missing), []).append(cell.run)
    return [f"{what}: {why} (run {', '.join(map(str, runs))})" for (what, why), runs in holes.items()]
