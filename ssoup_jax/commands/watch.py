"""`python -m ssoup_jax.inspect WORKDIR --watch`: what a workdir holds and what trains there, again and again.

Reads only: the run says what it is at in small files under `live/`, and its lock says whether it is still there.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich.console
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from ssoup_jax.errors import RunError, SettingsError, printable
from ssoup_jax.report import board
from ssoup_jax.storage import lock
from ssoup_jax.storage.layout import Workdir

_FILE_WIDTH = 240
_LARGEST = 2**20  # bytes of what a run says that it is at


def seconds(text: str) -> float:
    """Reads the time between two looks.

    Raises:
        ArgumentTypeError: it is none, or too short.
    """
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 86400:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: seconds, from 0.1 on")
    return found


def console() -> rich.console.Console:
    """Returns where things are printed as they are."""
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return rich.console.Console(markup=False, emoji=False, highlight=False, width=width)


def run(
    path: Path,
    look: Callable[[], Sequence[Any]],
    table: Callable[[Sequence[Any]], RenderableType],
    every: float,
    as_json: bool,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Shows what a workdir holds until Ctrl-C.

    On a terminal the picture is drawn anew; elsewhere one comes after the other, as JSON a line each.

    Args:
        path: the workdir.
        look: finds its stages.
        table: lays them out.
        every: seconds between two looks.
        as_json: for programs.
        wait: lets the time pass.

    Returns:
        The exit code.

    Raises:
        SettingsError: it is no workdir.
    """
    if not Workdir(path).artifacts.is_dir():
        raise SettingsError(f"{path}: no workdir, which is what can be watched; {path / 'artifacts'} is not there")
    found: Sequence[Any] = []
    screen = console()
    shown = Live(console=screen, auto_refresh=False) if screen.is_interactive and not as_json else None
    with contextlib.suppress(KeyboardInterrupt), shown or contextlib.nullcontext():
        while True:
            with contextlib.suppress(OSError, RunError):  # what was there a moment ago; the next look will find it
                found = look()
            running = list(live(path))
            if as_json:
                print(json.dumps({"stages": [asdict(one) for one in found], "live": running}), flush=True)
            elif shown:
                shown.update(picture(table(found), running, screen.width), refresh=True)
            else:
                screen.print(picture(table(found), running, screen.width))
            wait(every)
    return 0


def live(path: Path) -> Iterator[dict[str, Any]]:
    """Yields what the runs that hold the locks of a workdir say that they are at."""
    workdir = Workdir(path)
    for file in sorted(workdir.all_live.glob("*.json")):
        try:
            with file.open("rb") as opened:
                content = json.loads(opened.read(_LARGEST))
        except (OSError, ValueError, RecursionError):
            continue
        stages = content.get("stages") if isinstance(content, dict) else None
        if not isinstance(stages, list) or not stages or not isinstance(stages[0], str) or "/" in stages[0]:
            continue
        holder = lock.holder(workdir.lock(stages[0]))
        # What a killed process has left says nothing of now.
        if holder is not None and holder.may_live:
            yield content


def picture(stages: RenderableType, running: Sequence[dict[str, Any]], width: int) -> RenderableType:
    """Lays out stages, and beneath them what is in training."""
    parts = [stages]
    for content in running:
        title, step, n_steps = (content.get(name) for name in ("title", "step", "n_steps"))
        updated = content.get("updated")
        line = f"{_text(title)}: step {_text(step)} of {_text(n_steps)}, as of {_text(updated)}"
        parts += [Text(), Text(line), board.rendered(content, width)]
    return Group(*parts)


def _text(value: Any) -> str:
    usable = isinstance(value, str | int) and not (isinstance(value, int) and abs(value) >= 10**18)
    return printable(str(value))[:200] if usable else "?"
