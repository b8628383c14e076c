"""`python -m ssoup_jax.inspect`: says what a workdir or an artifact holds and whether it is whole.

Reads only, also while a run is going on.
"""

import contextlib
import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ssoup_jax.commands import provenance, watch
from ssoup_jax.commands.command_line import Parser, answer, expanded, spelled
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import names
from ssoup_jax.storage import lock, manifest
from ssoup_jax.storage.layout import CHECKPOINT, RECORD, Workdir, partial_of, step_of

_LARGE = 200 * 2**20


@dataclass(frozen=True)
class Found:
    """A stage, or what is left of one.

    Attributes:
        name: its folder's name, or the stage's while it is not finished.
        kind: 'Dense', 'IMP' or 'Ensemble'; None: cannot be told.
        phase: 1-based; 0 for the dense model.
        member: the `split_val`, of an IMP stage.
        state: 'finished', 'running', 'stopped', 'damaged', 'set aside' or, where it has no stage's name, 'foreign'.
        step: of the newest checkpoint, while it is not finished.
        n_steps: how many it takes, where the checkpoint says so.
        bytes: size on the disk.
        test_accuracy: fraction.
        sparsity: fraction of the prunable weights that are zero.
        problem: what is damaged.
        provenance: where it came from, as its record says; see `docs/records.md`.
    """

    name: str
    kind: str | None = None
    phase: int | None = None
    member: int | float | None = None
    state: str = "finished"
    step: int | None = None
    n_steps: int | None = None
    bytes: int = 0
    test_accuracy: float | None = None
    sparsity: float | None = None
    problem: str | None = None
    provenance: dict[str, Any] | None = None


def survey(path: Path, verify: bool = True, on_bytes: Callable[[int], None] = lambda count: None) -> list[Found]:
    """Looks at all that a workdir holds, or at one artifact.

    Args:
        path: a workdir or a folder of its `artifacts`.
        verify: compare every file with its manifest.
        on_bytes: told how many bytes have been compared, file by file.

    Returns:
        What was found, phase by phase.

    Raises:
        SettingsError: it is neither.
    """
    workdir = Workdir(path)
    if workdir.artifacts.is_dir():
        folders = sorted(workdir.artifacts.iterdir())
        found = [_artifact(folder, verify, on_bytes) for folder in folders if not folder.name.startswith(".")]
        found += _unfinished(workdir, [folder.name for folder in folders], verify, on_bytes)
        return sorted(found, key=lambda one: (one.phase is None, one.phase or 0, one.kind == "Ensemble", one.name))
    if (path / manifest.NAME).is_file() or (path / RECORD).is_file():
        return [_artifact(path, verify, on_bytes, inside=False)]
    reason = (
        f"neither a workdir (no artifacts in it) nor an artifact (no {manifest.NAME})" if path.is_dir() else "no folder"
    )
    raise SettingsError(f"{path}: {reason}")


def _artifact(folder: Path, verify: bool, on_bytes: Callable[[int], None], inside: bool = True) -> Found:
    found = replace(_stage(folder.name), bytes=size(folder))
    if manifest.is_aside(folder):
        return replace(found, state="set aside")
    if found.kind is None and inside:
        return replace(found, state="foreign")
    try:
        if verify:
            manifest.check(folder, on_bytes)
        elif not manifest.present(folder):
            raise manifest.Damaged(folder, f"{manifest.NAME!a} is missing")
        record = manifest.read_json(folder / RECORD)
    except manifest.Damaged as error:
        return replace(found, state="damaged", problem=error.problem)
    except RunError as error:
        return replace(found, state="damaged", problem=str(error).removeprefix(f"{folder}: "))
    return replace(
        found,
        member=_number(record.get("split_val")),
        test_accuracy=_number(_entry(record, "metrics", "test", "accuracy")),
        sparsity=_number(_entry(record, "sparsity", "prunable")),
        provenance=provenance.of(record),
    )


def _unfinished(workdir: Workdir, there: list[str], verify: bool, on_bytes: Callable[[int], None]) -> Iterator[Found]:
    """Yields the stages that have begun, with their newest checkpoints, and damaged checkpoints."""
    steps: dict[str, tuple[int, int | None]] = {}
    groups = workdir.all_checkpoints
    for group in sorted(groups.iterdir()) if groups.is_dir() else ():
        for folder in sorted(group.iterdir()) if group.is_dir() else ():
            step = step_of(folder.name)
            if step is None:
                continue
            try:
                if verify:
                    manifest.check(folder, on_bytes)
                info = manifest.read_json(folder / CHECKPOINT).get("info")
            except RunError as error:
                if not folder.exists():  # a newer one has taken its place meanwhile
                    continue
                problem = error.problem if isinstance(error, manifest.Damaged) else str(error)
                yield Found(
                    f"{_clean(group.name)}/{folder.name}", None, state="damaged", problem=problem, bytes=size(folder)
                )
                continue
            stages, n_steps = (_entry(info, key) for key in ("stages", "n_steps"))
            for name in stages if isinstance(stages, list) else [group.name]:
                if isinstance(name, str):
                    steps[name] = step, n_steps if type(n_steps) is int else None
    begun = {name for name in map(partial_of, there) if name is not None}
    for name in sorted((begun | steps.keys()) - set(there)):
        if names.read(name) is None:
            continue
        step, n_steps = steps.get(name, (None, None))
        holder = lock.holder(workdir.lock(name))
        state = "running" if holder is not None and holder.may_live else "stopped"
        partial = size(workdir.partial(name))
        yield replace(_stage(name), state=state, step=step, n_steps=n_steps, bytes=partial)


def size(folder: Path) -> int:
    """Adds up the bytes of a folder's files; links are not followed, what vanishes meanwhile is left out."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _stage(name: str) -> Found:
    read = names.read(name)
    return Found(_clean(name)) if read is None else Found(name, read.kind, read.phase)


def _entry(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 1e300 or math.isnan(value):
        return None
    return value


def _clean(name: str) -> str:
    """Leaves no character that could steer a terminal."""
    return ascii(name)[1:-1]


def table(found: list[Found]) -> Table:
    """Lays out what was found for people."""
    out = Table("stage", "state", "folder", box=None, pad_edge=False)
    for title in ("size", "test accuracy", "sparsity"):
        out.add_column(title, justify="right")
    for one in found:
        title = "" if one.kind is None else names.title(one.kind, one.phase, one.member)
        figures = spelled(one.bytes), _percent(one.test_accuracy), _percent(one.sparsity)
        out.add_row(title, state(one), one.name, *figures)
    return out


def state(one: Found) -> str:
    """Says how far a stage is: `'finished'`, `'running, step 20 of 63'`."""
    if one.step is None:
        return one.state
    return f"{one.state}, step {one.step}" + ("" if one.n_steps is None else f" of {one.n_steps}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def main(arguments: list[str]) -> int:
    """Prints what PATH holds; returns the exit code: 0 done, 1 damage was found, 2 PATH cannot be looked at."""
    parser = Parser(prog="python -m ssoup_jax.inspect", description="Says what a workdir or an artifact holds.")
    parser.add_argument("path", type=expanded, metavar="PATH", help="a workdir, or a folder under its artifacts/")
    parser.add_argument("--json", action="store_true", help="for programs; one JSON object")
    parser.add_argument("--no-verify", action="store_true", help="do not compare every file with its manifest")
    parser.add_argument(
        "--watch",
        type=watch.seconds,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="show what is going on, again and again until Ctrl-C; files are not compared",
    )
    parser.set_defaults(run=_run)
    return answer(parser, arguments)


def _run(options: Namespace) -> int:
    if options.watch is not None:
        return watch.run(options.path, lambda: survey(options.path, verify=False), table, options.watch, options.json)
    with _progress(options.path) as on_bytes:
        found = survey(options.path, not options.no_verify, on_bytes)
    total = size(options.path)
    damaged = [one for one in found if one.state == "damaged"]
    if options.json:
        stages = [asdict(one) for one in found]
        print(json.dumps({"path": str(options.path), "bytes": total, "stages": stages}, indent=2))
    else:
        console = watch.console()
        console.print(table(found))
        for line in provenance.lines([one.provenance for one in found if one.provenance is not None]):
            console.print(line, soft_wrap=True)
        for one in damaged:
            console.print(f"damaged: {one.name}: {one.problem}", soft_wrap=True)
        checked = "" if options.no_verify or damaged else "; every file is as it was stored"
        stages = f"{len(found)} stage{'s' * (len(found) != 1)}"
        console.print(f"{stages}, {spelled(total)}{checked}", soft_wrap=True)
    return 1 if damaged else 0


@contextlib.contextmanager
def _progress(path: Path) -> Iterator[Callable[[int], None]]:
    """Shows a bar on standard error when there is much to compare and somebody to see it."""
    workdir = Workdir(path)
    stored = [workdir.artifacts, workdir.all_checkpoints] if workdir.artifacts.is_dir() else [path]
    total = sum(map(size, stored))
    if total < _LARGE or not sys.stderr.isatty():
        yield lambda count: None
        return
    columns = TextColumn("comparing"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=total)
        yield lambda count: bars.advance(task, count)
