"""Chooses the executor of a stack by measuring every candidate, where the setting asks for that; in one process."""

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssoup_jax.data.feeds import Feed
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.stack import executors, memory
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.training.hyper import Hyper, window
from ssoup_jax.training.step import Inputs, Shared, TrainState, train_steps
from ssoup_jax.training.task import Task

ROUNDS = 3
"""How often each executor is measured; the median counts."""

PROBE_STEPS = 3

GAIN = 0.03
"""By how much another executor must beat the first one; less than that is noise."""


@dataclass(frozen=True)
class Choice:
    """Which executor trains a stack, and what was measured.

    Attributes:
        execution: its full name.
        seconds_per_step: of the stack, by executor.
    """

    execution: str
    seconds_per_step: dict[str, float]

    def line(self, note: str) -> str:
        """Says it in one line, with a note on where it is kept."""
        others = [f"{name} {own:.2g}" for name, own in self.seconds_per_step.items() if name != self.execution]
        return (
            f"execution: {self.execution} {self.seconds_per_step[self.execution]:.2g} s/step "
            f"({'; '.join(filter(None, [', '.join(others), note]))})"
        )


class Remembered:
    """Choices of earlier stages and runs, in a small JSON file by what they depend on."""

    def __init__(self, path: Path):
        self.path = path

    def get(self, key: str, candidates: Sequence[str], on_line: Callable[[str], None]) -> Choice | None:
        """Returns the choice for `key`, if there is one of these candidates; what cannot be read is told in a line."""
        entry = self._read(on_line).get(key)
        if entry is None:
            return None
        choice = _choice(entry, candidates)
        if choice is None:
            on_line(f"execution: {self.path} has no usable choice for {key!r}; measured again")
        return choice

    def put(self, key: str, choice: Choice) -> None:
        """Adds a choice; the file is complete at any time."""
        entry = {"execution": choice.execution, "seconds_per_step": choice.seconds_per_step}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self._read(lambda line: None) | {key: entry})

    def _read(self, on_line: Callable[[str], None]) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            on_line(f"execution: {self.path} cannot be read and is begun anew: {type(error).__name__}")
            return {}
        if not isinstance(found, dict):
            on_line(f"execution: {self.path} holds no choices and is begun anew")
            return {}
        return found


def machine() -> str:
    """Names the devices and the version of JAX, which the speed of an executor depends on."""
    devices = jax.devices()
    return f"{devices[0].device_kind} x{len(devices)}, jax {jax.__version__}"


def choose(
    candidates: Sequence[str],
    seconds: Callable[[str], float],
    on_line: Callable[[str], None],
    remembered: Remembered | None = None,
    key: str = "",
) -> str:
    """Takes the remembered choice, or measures all candidates and takes the fastest; says so in one line.

    Args:
        candidates: full names of executors; the first one is taken where the others gain less than `GAIN`.
        seconds: measures one, see `probe`; not called where the choice is remembered.
        on_line: told the choice and its figures, and which candidate failed.
        remembered: the earlier choices, if any are kept.
        key: all that the choice depends on.

    Returns:
        Full name of the executor.

    Raises:
        RunError: every candidate failed.
    """
    if len(candidates) == 1:
        return candidates[0]
    known = None if remembered is None else remembered.get(key, candidates, on_line)
    choice = known or _fastest(candidates, seconds, on_line)
    if remembered is not None and known is None:
        remembered.put(key, choice)
    note = "" if remembered is None else f"{'kept in' if known is None else 'from'} {remembered.path}"
    on_line(choice.line(note))
    return choice.execution


def _fastest(candidates: Sequence[str], seconds: Callable[[str], float], on_line: Callable[[str], None]) -> Choice:
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    failure = ""
    # In turn, so that a slow minute of the machine does not fall on one of them alone.
    for _ in range(ROUNDS):
        for execution in list(figures):
            try:
                figures[execution].append(seconds(execution))
            except (jax.errors.JaxRuntimeError, MemoryError, NotImplementedError, SettingsError) as error:
                failure = f"{execution} failed: {type(error).__name__}: {error}".splitlines()[0][:200]
                on_line(f"execution: {failure}; left out")
                del figures[execution]
    if not figures:
        raise RunError(f"execution: every way to run the stack failed; {failure}")
    medians = {name: statistics.median(own) for name, own in figures.items()}
    first, fastest = next(iter(medians)), min(medians, key=medians.__getitem__)
    return Choice(fastest if medians[fastest] < (1 - GAIN) * medians[first] else first, medians)


def probe(task: Task, feed: Feed, state: TrainState, hyper: Hyper, batch_size: int) -> Callable[[str], float]:
    """Makes the function that times an executor on a stack's own first steps, whose program is then the stack's.

    Training is not disturbed: steps are taken on a copy of the state, and no random number depends on them.

    Args:
        task: what is trained.
        feed: has the training examples.
        state: the stack's as training begins, leaves `[m, ...]` on the host; left alone.
        hyper: what the members differ in.
        batch_size: examples per step.

    Returns:
        `execution -> seconds per step of the stack`, compilation apart.
    """
    with contextlib.closing(feed.training(hyper.keys, 0, batch_size)) as blocks:
        block = next(blocks)
    active = np.flatnonzero(np.asarray(hyper.n_steps) > 0)
    n_steps = min(PROBE_STEPS, block.last)
    rates = window(hyper.schedules, 0, block.batches.shape[1])
    inputs = Inputs(block.batches, hyper.constants, rates, hyper.key_data)
    counters = jax.device_put((np.int32(0), np.int32(0), np.int32(n_steps)))

    def seconds(execution: str) -> float:
        shared = Shared(executors.place(execution, block.examples), *counters)
        held, fn = executors.hold(execution, state), executors.bind(train_steps, task, axis=executors.over(execution))
        if memory.fit(execution, fn, shared, held, inputs, active) != execution:
            raise MemoryError(f"{execution} does not fit")
        started = time.perf_counter()
        jax.block_until_ready(jax.tree.leaves(executors.run(execution, fn, shared, held, inputs, active)[1]))
        return (time.perf_counter() - started) / n_steps

    return seconds


def _choice(entry: Any, candidates: Sequence[str]) -> Choice | None:
    """Reads what a file holds for one key; None if that is no choice among the candidates."""
    if not isinstance(entry, dict):
        return None
    execution, figures = entry.get("execution"), entry.get("seconds_per_step")
    if not isinstance(execution, str) or not isinstance(figures, dict) or execution not in figures:
        return None
    for name, seconds in figures.items():
        if name not in candidates or type(seconds) not in (int, float) or not 0 < seconds < math.inf:
            return None
    return Choice(execution, figures)
