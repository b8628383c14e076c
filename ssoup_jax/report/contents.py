"""What a page is made from: a summary, and what lies in the workdir beside it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssoup_jax.errors import SettingsError, one_line
from ssoup_jax.report import typed
from ssoup_jax.report.summary import Summary
from ssoup_jax.report.typed import Experiment
from ssoup_jax.storage.layout import METRICS, SUMMARY, Workdir

Rows = list[dict[str, float]]

BARRIERS = "barriers*.json"
"""The files beside a summary that say what lies between models."""


@dataclass(frozen=True)
class Contents:
    """What a page is made from.

    Attributes:
        summary: as it was written.
        experiment: the same, checked and typed.
        curves: figures of every epoch by the name of the artifact; one without them is not there.
        barriers: what each file of barriers holds, by its name.
        note: what is to be said of the workdir; empty: nothing.
    """

    summary: Summary
    experiment: Experiment
    curves: Mapping[str, Rows]
    barriers: Mapping[str, Any]
    note: str = ""


def read(folder: Path) -> dict[str, Any]:
    """Reads the summary of a folder.

    Args:
        folder: a workdir, or that of one experiment in it.

    Returns:
        What `summary.json` holds.

    Raises:
        SettingsError: there is none, or it cannot be read.
    """
    path = folder / SUMMARY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: not a summary: {one_line(error)}") from None
    return found


def gather(summary: Summary, folder: Path, note: str = "") -> Contents:
    """Finds what belongs to a summary.

    Args:
        summary: of this version or an older one.
        folder: where it lies: a workdir, or that of one experiment in it.
        note: what is to be said of the workdir.

    Returns:
        All that a page is made from; what is not there, or cannot be read, is left out.

    Raises:
        SettingsError: the summary holds a value that cannot be meant.
    """
    experiment = typed.experiment(summary)
    workdir = Workdir(folder) if (folder / "artifacts").is_dir() else Workdir(folder.parent.parent)
    names = [model.artifact for model in models(experiment) if model.artifact is not None]
    # A name is a folder's, whatever a summary says.
    curves = {name: rows(workdir.artifact(name) / METRICS) for name in names if Path(name).name == name}
    barriers = {path.name: _json(path) for place in _places(folder, workdir) for path in sorted(place.glob(BARRIERS))}
    return Contents(
        summary,
        experiment,
        {name: own for name, own in curves.items() if own},
        {name: own for name, own in barriers.items() if own is not None},
        note,
    )


def _places(folder: Path, workdir: Workdir) -> list[Path]:
    """Lists where files of an experiment lie: a summary in the workdir itself is a copy of that of one experiment."""
    own = _bytes(folder / SUMMARY)
    same = [place for place in sorted(workdir.experiments()) if place != folder and _bytes(place / SUMMARY) == own]
    return [folder, *(same if own is not None else ())]


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def models(experiment: Experiment) -> list[typed.Model]:
    """Lists all models of an experiment, in the order in which they came about."""
    found = [experiment.dense]
    for phase in experiment.phases:
        found += [*phase.candidates, phase.soup]
    return [model for model in found if model is not None]


def rows(path: Path) -> Rows:
    """Reads a file of JSON lines: of each line its numbers, `{"val": {"loss": 1.0}}` as `val_loss`; no empty lines."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the last one, while it is being written
            continue
        found.append(dict(_numbers(row)))
    return [row for row in found if row]


def _numbers(row: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items() if isinstance(row, dict) else ():
        if type(value) in (int, float):
            yield f"{prefix}{name}", value
        else:
            yield from _numbers(value, f"{prefix}{name}_")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
