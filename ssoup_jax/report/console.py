"""The console: lines, tables and the live progress of a stage, on a terminal or in a log file."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import IO

import jax
import numpy as np
import rich.console
from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segments
from rich.table import Column, Table
from rich.text import Text

from ssoup_jax.errors import printable
from ssoup_jax.report.board import Board, duration

Update = Callable[..., None]

_NO_FIGURES: Mapping[str, object] = MappingProxyType({})
_FILE_WIDTH = 240
_BAR_INTERVAL = 0.25
_REFRESHES = 4  # a second


def format_figures(figures: Mapping[str, object]) -> str:
    """Spells named figures as one text: `'loss 0.031, 5200 images/s'`.

    Args:
        figures: numbers, texts, or arrays of numbers such as `[m]` losses; NumPy and JAX values are
            welcome. A name with a slash is a rate and follows its value as a unit. None is left out.

    Returns:
        The text; empty without figures.
    """
    texts = {name: _value(value) for name, value in figures.items() if value is not None}
    return ", ".join(f"{text} {name}" if "/" in name else f"{name} {text}" for name, text in texts.items())


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    # device_get, because implicit transfers are an error under a transfer guard.
    array = np.asarray(jax.device_get(value))
    return " ".join(_number(number) for number in array.ravel().tolist())


def _number(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


class Console:
    """Prints lines, tables and the progress of stages.

    On a terminal a stage is a live bar, beneath it the board; elsewhere it is a plain line every few seconds.

    Args:
        stream: where to print; standard output when None.
        terminal: whether the stream is an interactive terminal; asked of the stream when None.
        interval: least time between two progress lines of a stage without a terminal, in seconds.
        clock: returns the time in seconds.

    Attributes:
        board: what the stage in training is at.
    """

    def __init__(
        self,
        stream: IO[str] | None = None,
        *,
        terminal: bool | None = None,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        stream = sys.stdout if stream is None else stream
        terminal = stream.isatty() if terminal is None else terminal
        self._rich = rich.console.Console(
            file=stream, force_terminal=terminal, width=None if terminal else _FILE_WIDTH, markup=False, emoji=False
        )
        self._interactive = self._rich.is_interactive
        self._interval = _BAR_INTERVAL if self._interactive else interval
        self._clock = clock
        self._bars: Progress | None = None
        self._live: Live | None = None
        self.board = Board(clock)

    def line(self, text: str) -> None:
        """Prints one line; above the bar while a stage is live."""
        self._rich.print(printable(text), highlight=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """Prints a table at its natural width, so that no figure is cropped; a narrow terminal wraps its lines."""
        wide = self._rich.options.update(max_width=max(self._rich.width, _FILE_WIDTH))
        self._rich.print(Segments(self._rich.render(table, wide)), soft_wrap=True)

    @contextmanager
    def stage(self, title: str, n_steps: int, first_step: int = 0) -> Iterator[Update]:
        """Shows the progress of a stage and ends it with one line that tells its time and last figures.

        An exception passes through after the bar is gone and one line has said where the stage stopped.

        Args:
            title: what is going on, such as `'IMP phase 1 (3 members)'`.
            n_steps: steps of the whole stage.
            first_step: steps that an earlier, interrupted process has done already.

        Yields:
            `update(step, figures)`: `step` counts the finished steps, `figures` is what `format_figures`
            takes. Cheap to call at every step: values on a device are fetched only when they are shown.
        """
        started = self._clock()
        latest, latest_figures, next_show = first_step, _NO_FIGURES, started

        shown = self._bar(title, n_steps, first_step) if self._interactive else self._lines(title, n_steps, started)
        with shown as show:

            def update(step: int, figures: Mapping[str, object] = _NO_FIGURES) -> None:
                nonlocal latest, latest_figures, next_show
                latest, latest_figures = step, figures
                now = self._clock()
                if now >= next_show or step >= n_steps:
                    next_show = now + self._interval
                    show(step, format_figures(figures))

            try:
                yield update
            except BaseException:
                # Without figures: fetching them from a device that has failed would hide the first error.
                ending = f"stopped at step {latest}/{n_steps} after {duration(self._clock() - started)}"
                raise
            else:
                steps = f"{n_steps} steps" if latest >= n_steps else f"{latest} of {n_steps} steps"
                ending = _join(f"{steps} in {duration(self._clock() - started)}", format_figures(latest_figures))
            finally:
                self.line(f"{title}: {ending}")

    @contextmanager
    def _lines(self, title: str, n_steps: int, started: float) -> Iterator[Callable[[int, str], None]]:
        def show(step: int, figures: str) -> None:
            self.line(f"{title}: {_join(f'step {step}/{n_steps}', figures, duration(self._clock() - started))}")

        yield show

    @contextmanager
    def _bar(self, title: str, n_steps: int, first_step: int) -> Iterator[Callable[[int, str], None]]:
        # Stages may nest, a terminal holds one live display: the outermost stage owns it.
        owner = self._live is None
        if owner:
            self._bars = _progress(self._rich)
            self._live = Live(
                Group(self._bars, self.board), console=self._rich, transient=True, refresh_per_second=_REFRESHES
            )
            self._live.start()
        bars, live = self._bars, self._live
        task = bars.add_task(title, total=n_steps, completed=first_step, figures="")

        def show(step: int, figures: str) -> None:
            bars.update(task, completed=step, figures=figures)
            live.refresh()

        try:
            yield show
        finally:
            bars.remove_task(task)
            if owner:
                live.stop()
                self._bars = self._live = None


class _Figures(ProgressColumn):
    """The figures of a stage; the one column that gives way when the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


def _progress(console: rich.console.Console) -> Progress:
    def rigid() -> Column:
        return Column(no_wrap=True)

    return Progress(
        TextColumn("{task.description}", markup=False, table_column=rigid()),
        BarColumn(bar_width=max(8, min(40, console.width // 8)), table_column=rigid()),
        MofNCompleteColumn(table_column=rigid()),
        TimeElapsedColumn(table_column=rigid()),
        TextColumn("eta", table_column=rigid()),
        TimeRemainingColumn(table_column=rigid()),
        _Figures(),
        console=console,
    )


def _join(*texts: str) -> str:
    return ", ".join(text for text in texts if text)
