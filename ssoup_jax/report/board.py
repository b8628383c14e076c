"""What training is at: each member's latest figures side by side, and how long it will still take.

For the live console, and as JSON for whoever watches from elsewhere; both show the same.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ssoup_jax.errors import printable
from ssoup_jax.report.trackers import Line, Record, Run

ROWS = ("epoch", "loss", "accuracy", "val loss", "val accuracy")
"""The figures that are shown of a member, in their order."""

_MARGIN = 20  # characters of the names of rows, and of how many members are left out
_LONGEST_LABEL, _GAP = 12, 2


def duration(seconds: float) -> str:
    """Spells a time span for people: `'0.4 s'`, `'12 s'`, `'2 min 05 s'`, `'3 h 20 min'`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_rest:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Board:
    """Keeps what the stack in training is at; a tracker, which is told of its epochs.

    Times are estimates from this process's own pace in this stage, and decide nothing.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._clear()

    def close(self) -> None:
        """Ends a stage: nothing is in training."""
        self._clear()

    def _clear(self) -> None:
        self._title, self._runs, self._n_steps = "", [], []
        self._figures: dict[str, dict[str, float]] = {}
        self._step = self._to_come = 0
        self._first: tuple[float, int] | None = None

    def begin(self, title: str, runs: Sequence[Run], n_steps: Sequence[int], to_come: int) -> None:
        """Begins a stage.

        Args:
            title: what is going on.
            runs: its members.
            n_steps: how many steps each takes.
            to_come: steps of all members of all stages after it.
        """
        self._clear()
        self._title, self._runs, self._n_steps, self._to_come = title, list(runs), list(map(int, n_steps)), to_come
        self._figures = {run.name: {} for run in runs}

    def chunk(self, step: int, figures: Mapping[int, Mapping[str, float]]) -> None:
        """Takes in some steps.

        Args:
            step: steps taken by the longest-running member.
            figures: means over these steps by name, of each member that took them, by its place.
        """
        self._step = step
        # The first one is no measure: programs were compiled before it.
        self._first = self._first or (self._clock(), self._taken(step))
        for index, own in figures.items():
            self._figures[self._runs[index].name].update(own)

    def start(self, run: Run) -> None:
        """Does nothing: a stage begins with all its members."""

    def log(self, run: Run, line: Line) -> None:
        """Takes in an epoch."""
        own = self._figures.get(run.name)
        if own is not None:
            val = line.get("val") or {}
            found = {"epoch": line["epoch"], "val loss": val.get("loss"), "val accuracy": val.get("accuracy")}
            own.update({name: value for name, value in found.items() if value is not None})

    def summary(self, run: Run, record: Record) -> None:
        """Does nothing: the console has a line for it."""

    def finish(self, run: Run, finished: bool) -> None:
        """Does nothing, see `close`."""

    def left(self) -> tuple[float, float] | None:
        """Returns how many seconds this stage, and the whole launch, will still train; None: nobody knows yet."""
        if self._first is None:
            return None
        seconds, taken = self._clock() - self._first[0], self._taken(self._step) - self._first[1]
        if taken <= 0 or seconds <= 0:
            return None
        missing = sum(self._n_steps) - self._taken(self._step)
        return missing * seconds / taken, (missing + self._to_come) * seconds / taken

    def content(self) -> dict[str, Any]:
        """Returns all of it, ready for JSON; see `docs/records.md`."""
        left = self.left()
        return {
            "title": self._title,
            "stages": [run.name for run in self._runs],
            "members": _labels(self._runs),
            "step": self._step,
            "n_steps": max(self._n_steps, default=0),
            "figures": [dict(self._figures[run.name]) for run in self._runs],
            "stage_seconds_left": left and left[0],
            "seconds_left": left and left[1],
        }

    def __rich_console__(self, console, options):
        """Shows it beneath the bar of its stage."""
        if self._runs:
            yield rendered(self.content(), options.max_width)

    def _taken(self, step: int) -> int:
        return sum(min(step, own) for own in self._n_steps)


def rendered(content: Mapping[str, Any], width: int) -> RenderableType:
    """Lays out what `Board.content` returned; of members for which there is no room, how many they are.

    Args:
        content: of a board, or of a file that may hold anything.
        width: columns of the terminal.
    """
    members, figures = _list(content.get("members")), _list(content.get("figures"))
    shown = max(1, min(len(members), (width - _MARGIN) // (_LONGEST_LABEL + _GAP)))
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    table.add_column("member", no_wrap=True)
    for label in members[:shown]:
        table.add_column(_text(label)[:_LONGEST_LABEL], justify="right", no_wrap=True)
    if len(members) > shown:
        table.add_column(f"+ {len(members) - shown}", justify="right", no_wrap=True)
    columns = [own if isinstance(own, Mapping) else {} for own in figures[:shown]]
    for name in ROWS:
        if any(name in own for own in columns):
            table.add_row(name, *(_figure(name, own.get(name)) for own in columns))
    times = [
        f"{what}: {duration(seconds)} left"
        for what, key in (("stage", "stage_seconds_left"), ("all", "seconds_left"))
        if (seconds := _seconds(content.get(key))) is not None
    ]
    return Group(table, Text(", ".join(times)))


def _labels(runs: Sequence[Run]) -> list[str]:
    """Returns what members are called, with their run where several train side by side: `'2/0'`."""
    own = [run.kind.lower() if run.member is None else str(run.member) for run in runs]
    run_ids = [run.config.get("run_id") for run in runs]
    return own if len(set(run_ids)) < 2 else [f"{run_id}/{one}" for run_id, one in zip(run_ids, own, strict=True)]


def _figure(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return ""
    if name == "epoch":
        return f"{value:.0f}"
    return f"{value:.2%}" if "accuracy" in name and math.isfinite(value) else f"{value:.4g}"


def _list(node: Any) -> list:
    return node if isinstance(node, list) else []


def _seconds(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
    return value if usable else None


def _text(value: Any) -> str:
    return printable(str(value)) if isinstance(value, str | int | float) else "?"
