"""The finished cells of a study: one file of results for each run, from which alone the table can be made."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssoup_jax.config import Settings
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.specs import Stage
from ssoup_jax.storage.json_files import to_json, write_json
from ssoup_jax.studies.grid import Point
from ssoup_jax.studies.methods import Row

FORMAT = 1

HOW = {
    *("shard", "execution", "mesh", "stack_members", "remat"),
    *("checkpoint_every", "stop_signals", "trackers", "evaluate_every"),
}
"""Settings that change no figure of a table by more than rounding."""

_MAY_DIFFER = {"run_id", "study", "dataset", "data_dir", *HOW}
"""Settings that may differ between files of one table; what the data are is in their fingerprint."""


@dataclass(frozen=True)
class Cell:
    """One figure of a table, of one run.

    Attributes:
        row: the name of its row.
        run: its `run_id`.
        m: number of members; None: the row depends on none.
        goal: sparsity after the last phase.
        phase: whose column it stands in.
        varied: what else differs, as text; empty: nothing.
        stages: names of the artifacts that it is read from.
        sparsity: share of the prunable weights that is zero; None where the cell is missing.
        val: metrics on the validation images; None likewise.
        test: metrics on the test images; None likewise.
        missing: why there are no figures; None: there are.
    """

    row: str
    run: int
    m: int | None
    goal: float
    phase: int
    varied: str
    stages: tuple[str, ...]
    sparsity: float | None = None
    val: Mapping[str, float] | None = None
    test: Mapping[str, float] | None = None
    missing: str | None = None


def collect(
    rows: Iterable[tuple[Point, Row]],
    record_of: Callable[[Stage], Mapping[str, Any] | None],
    failed: Mapping[str, str],
) -> list[Cell]:
    """Reads the cells of a study out of the records of its stages.

    Args:
        rows: of every point of the grid.
        record_of: returns a stage's record; None: it is not finished.
        failed: why stages failed, by their names.
    """
    cells = []
    for point, row in rows:
        names = tuple(stage.name for stage in row.stages)
        found = [record_of(stage) for stage in row.stages]
        reasons = [failed[name] for name in names if name in failed]
        if reasons or None in found:
            figures = {"missing": reasons[0] if reasons else "not finished"}
        else:
            figures = row.read(found)
            if figures["test"] is None:
                figures = {"missing": _diverged(found)}
        varied = ", ".join(f"{name}={value}" for name, value in point.varied)
        place = {"row": row.name, "run": point.run, "m": point.m, "goal": point.goal, "phase": row.phase}
        cells.append(Cell(**place, varied=varied, stages=names, **to_json(figures)))
    return cells


def _diverged(found: Sequence[Mapping[str, Any]]) -> str:
    steps = [record["diverged"] for record in found if record.get("diverged") is not None]
    return f"diverged at step {steps[0]}" if steps else "has no figures"


def write(folder: Path, settings: Settings, cells: Sequence[Cell], about: Mapping[str, Any]) -> list[Path]:
    """Writes the cells of each run into `run-<run_id>.json`.

    Args:
        folder: where; it exists.
        settings: the study's.
        cells: of all runs.
        about: what else is worth keeping, such as the data's fingerprint, the machine and the versions.

    Returns:
        The files.
    """
    paths = []
    for run in dict.fromkeys(cell.run for cell in cells):
        own = [dataclasses.asdict(cell) for cell in cells if cell.run == run]
        paths.append(folder / f"run-{run}.json")
        write_json(paths[-1], {"format": FORMAT, "settings": settings.record(), "run": run, **about, "cells": own})
    return paths


def read(paths: Sequence[Path]) -> tuple[dict[str, Any], list[Cell]]:
    """Reads files of results, and sees to it that they belong into one table.

    Args:
        paths: files, or folders of `run-*.json`.

    Returns:
        What the first of them says of the study, and the cells of all; of a cell that several have, the one that is
        not missing.

    Raises:
        SettingsError: no file, one that is none of results, or two that differ in data, settings or a figure.
    """
    files = [file for path in paths for file in (sorted(path.glob("run-*.json")) if path.is_dir() else [path])]
    if not files:
        raise SettingsError(f"results: found no run-*.json in {', '.join(map(str, paths))}")
    first, cells = None, {}
    for file in files:
        found = _read(file)
        first = first or found
        _check_alike(files[0], first, file, found)
        for values in found["cells"]:
            cell = Cell(**values | {"stages": tuple(values["stages"])})
            place = (cell.row, cell.run, cell.m, cell.goal, cell.phase, cell.varied)
            known = cells.setdefault(place, cell)
            if known.missing:
                cells[place] = cell
            elif not cell.missing and cell != known:
                raise SettingsError(f"results: {file}: {_spell(cell)} differs from what another file has for it")
    return first, list(cells.values())


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"results: {file}: cannot be read ({error})") from None
    if not isinstance(found, dict) or not {"format", "settings", "run", "data", "cells"} <= found.keys():
        raise SettingsError(f"results: {file}: is no file of a study's results")
    if found["format"] != FORMAT:
        raise SettingsError(f"results: {file}: has format {found['format']}; this version reads {FORMAT}")
    return found


def _check_alike(first_file: Path, first: Mapping[str, Any], file: Path, found: Mapping[str, Any]) -> None:
    if found["data"] != first["data"]:
        raise SettingsError(f"results: {file}: has other data than {first_file}")
    ours, theirs = (one["settings"] for one in (first, found))
    for name in sorted({*ours, *theirs} - _MAY_DIFFER):
        if ours.get(name) != theirs.get(name):
            raise SettingsError(
                f"results: {file}: has {name}={theirs.get(name)!r}, {first_file} has {name}={ours.get(name)!r}"
            )


def _spell(cell: Cell) -> str:
    members = "" if cell.m is None else f", m = {cell.m}"
    return f"{cell.row}{members}, goal {cell.goal}, phase {cell.phase}, run {cell.run}"
