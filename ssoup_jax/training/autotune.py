"""Chooses the executor of a stage by measuring it, where the stage is long enough for that to pay."""

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax.data.feeds import Examples
from ssoup_jax.errors import RunError
from ssoup_jax.stack import executors
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.training.state import TrainState
from ssoup_jax.training.step import Inputs, Problem, Shared, train_steps
from ssoup_jax.trees import PyTree

if TYPE_CHECKING:
    from ssoup_jax.training.loop import Recipe

SHARE = 0.1
"""How much of a stage's estimated time may be spent on choosing."""

ROUNDS = 3
"""How often an executor that is close to the fastest is measured; the median counts."""

CLOSE = 1.25
"""How many times slower than the fastest an executor may be and is still measured again."""

GAIN = 0.03
"""By how much another executor must beat the best guess; less than that is noise."""

PROBE_STEPS = 3

Measure = Callable[[str], tuple[float, float]]
"""Compiles an executor's program if need be and runs it: (seconds to compile, seconds per step of the stack)."""


@dataclass(frozen=True)
class Choice:
    """How a stage is executed, and why.

    Attributes:
        execution: full name of the executor, see `executors.run`.
        seconds_per_step: what was measured, by executor; empty where there was nothing to choose.
        reason: why this one and not another.
        complete: whether every candidate was tried, so that the choice is worth remembering.
    """

    execution: str
    seconds_per_step: dict[str, float]
    reason: str
    complete: bool = True

    def line(self, note: str = "") -> str:
        """Says it in one line, with a note on where it is kept, if it is."""
        own = self.seconds_per_step.get(self.execution)
        figure = "" if own is None else f" {own:.2g} s/step"
        others = ", ".join(
            f"{name} {seconds:.2g}" for name, seconds in self.seconds_per_step.items() if name != self.execution
        )
        details = "; ".join(filter(None, [others, self.reason, note]))
        return f"execution: {self.execution}{figure}" + (f" ({details})" if details else "")


def candidates(backend: str, n_devices: int, m: int) -> tuple[str, ...]:
    """Lists the executors that are worth measuring, the best guess first.

    Args:
        backend: `'cpu'`, `'gpu'` or `'tpu'`.
        n_devices: number of devices.
        m: number of members.
    """
    best = "map" if backend == "cpu" else "vmap"
    if m == 1:
        return (best,)
    names = {"cpu": ("map", "unroll", "loop"), "gpu": ("vmap", "unroll", "map")}.get(backend, ("vmap", "map"))
    if backend == "gpu" and m > 4:
        names += (f"unroll:{-(-m // 2)}",)
    if n_devices == 1:
        return names
    # A device that runs a single member runs it in one and the same way under every name.
    spread = [f"shard:{name}" for name in names if name != "loop" and ":" not in name] if m > n_devices else []
    return (*(spread or [f"shard:{best}"]), best)


def choose(
    candidates: Sequence[str], measure: Measure, stage_steps: int, on_line: Callable[[str], None] = lambda line: None
) -> Choice:
    """Measures executors while that can pay and takes the fastest.

    Another candidate is tried only while all that choosing costs stays within `SHARE` of what the stage is estimated to
    take; it is expected to compile as long as the first one did, whose own compilation costs nothing extra: its program
    is needed anyway, unless another one wins.

    Args:
        candidates: full names of executors, the best guess first.
        measure: tries one; called again for one that was tried, it compiles nothing.
        stage_steps: number of steps of the stage.
        on_line: told which candidate failed.

    Returns:
        The choice.

    Raises:
        RunError: every candidate failed.
    """
    if len(candidates) == 1:
        return Choice(candidates[0], {}, "")
    if SHARE * stage_steps < PROBE_STEPS:
        return Choice(candidates[0], {}, _too_short(stage_steps, candidates[1:]), complete=False)
    figures: dict[str, list[float]] = {}
    compile_seconds, spent, tried, failure = 0.0, 0.0, 0, ""

    def affordable(seconds: float) -> bool:
        return spent + seconds <= SHARE * stage_steps * min(map(statistics.median, figures.values()))

    for execution in candidates:
        if figures and not affordable(compile_seconds + PROBE_STEPS * min(map(min, figures.values()))):
            break
        tried += 1
        try:
            own_compile_seconds, step_seconds = measure(execution)
        except (jax.errors.JaxRuntimeError, MemoryError, NotImplementedError) as error:
            failure = f"{execution} failed: {type(error).__name__}: {error}".splitlines()[0][:200]
            on_line(f"execution: {failure}; left out")
            spent += compile_seconds
            continue
        spent += PROBE_STEPS * step_seconds + (own_compile_seconds if figures else 0)
        compile_seconds = compile_seconds or own_compile_seconds
        figures[execution] = [step_seconds]
    if not figures:
        raise RunError(f"execution: every way to run the stack failed; {failure}")
    close = [name for name, own in figures.items() if own[0] <= CLOSE * min(figures.values())[0]]
    # In turn, so that a slow minute of the machine does not fall on one of them alone.
    for execution in (ROUNDS - 1) * close if len(close) > 1 else []:
        if affordable(PROBE_STEPS * figures[execution][0]):
            _, step_seconds = measure(execution)
            figures[execution].append(step_seconds)
            spent += PROBE_STEPS * step_seconds
    seconds = {name: statistics.median(own) for name, own in figures.items()}
    first, fastest = next(iter(seconds)), min(seconds, key=seconds.__getitem__)
    skipped = candidates[tried:]
    return Choice(
        fastest if seconds[fastest] < (1 - GAIN) * seconds[first] else first,
        seconds,
        _too_short(stage_steps, skipped) if skipped else "",
        complete=not skipped,
    )


def _too_short(stage_steps: int, skipped: Sequence[str]) -> str:
    return f"{stage_steps} steps are too few to try {', '.join(skipped)}"


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
            return None
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


def key(arch: str, image_shape: tuple[int, int, int], batch_size: int, m: int, dtype: str, remat: bool) -> str:
    """Names all that the speed of an executor depends on, the devices and the version of JAX included."""
    devices = jax.devices()
    shape = "x".join(map(str, image_shape))
    return (
        f"{devices[0].device_kind} x{len(devices)}, jax {jax.__version__}, {arch} on {shape}, batch {batch_size}, "
        f"{m} members, {dtype}{', remat' * remat}"
    )


def decide(
    candidates: Sequence[str],
    measure: Measure,
    stage_steps: int,
    on_line: Callable[[str], None],
    remembered: Remembered | None = None,
    key: str = "",
) -> Choice:
    """Takes the remembered choice or chooses, says so in one line, and remembers a choice among all candidates.

    Args:
        candidates: see `choose`, as for `measure` and `stage_steps`.
        measure: not called where the choice is remembered.
        stage_steps: number of steps of the stage.
        on_line: told the choice and its figures.
        remembered: the earlier choices, if any are kept.
        key: what the choice depends on, see `key`.

    Returns:
        The choice.
    """
    known = None if remembered is None or len(candidates) == 1 else remembered.get(key, candidates, on_line)
    choice, note = known, "from"
    if choice is None:
        choice, note = choose(candidates, measure, stage_steps, on_line), "kept in"
    keep = remembered is not None and choice.complete and len(candidates) > 1
    if keep and known is None:
        remembered.put(key, choice)
    on_line(choice.line(f"{note} {remembered.path}" if keep else ""))
    return choice


def measure_step(
    problem_for: Callable[[str], Problem],
    examples: Examples,
    state: TrainState,
    mask: PyTree,
    recipe: "Recipe",
    batches: np.ndarray | jax.Array,
    n_steps: int = PROBE_STEPS,
) -> Measure:
    """Makes the function that tries an executor on a stage's own shapes, so that its program is the stage's program.

    Training is not disturbed: steps are taken on a copy of the state, at learning rate 0, and no random number depends
    on them.

    Args:
        problem_for: the problem for an executor, whose convolution is `members.convolution(execution)`.
        examples: the images and labels that `batches` points into.
        state: the stack's as the stage begins, leaves `[m, ...]`; left alone.
        mask: one member's.
        recipe: how the stage trains.
        batches: the stage's first block, int32 `[m, S, B]`.
        n_steps: how many steps are timed at most.

    Returns:
        `execution -> (seconds to compile, seconds per step)`; compiling counts in full where a program that was kept
        on disk spared it, so that it says what another program may cost.
    """
    m, length, _ = batches.shape
    active = np.flatnonzero(recipe.n_steps > 0)
    n_steps = min(n_steps, length)
    inputs = Inputs(
        batches=jnp.asarray(batches),
        learning_rates=jnp.zeros((m, length), jnp.float32),
        weight_decay=jnp.asarray(recipe.weight_decays, jnp.float32),
        key=recipe.keys,
    )

    def measure(execution: str) -> tuple[float, float]:
        fn = executors.bind(train_steps, problem_for(execution))
        own, on_device = executors.place(execution, (mask, examples))
        shared = Shared(on_device, own, jnp.float32(recipe.momentum), jnp.int32(0), jnp.int32(0), jnp.int32(0))

        def take(count: int, state: TrainState) -> tuple[TrainState, float]:
            started = time.perf_counter()
            done = executors.run(execution, fn, shared.replace(n_steps=jnp.int32(count)), state, inputs, active)
            return jax.block_until_ready(done)[0], time.perf_counter() - started

        with _spared_compilation() as spared:
            copy, compile_seconds = take(0, _copied(state))
        _, seconds = take(n_steps, copy)
        return compile_seconds + sum(spared), seconds / n_steps

    return measure


@jax.jit
def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


@contextlib.contextmanager
def _spared_compilation() -> Iterator[list[float]]:
    """Collects how many seconds of compiling were spared by programs kept on disk."""
    spared: list[float] = []

    def listen(event: str, seconds: float, **_) -> None:
        if event == "/jax/compilation_cache/compile_time_saved_sec":
            spared.append(max(0.0, seconds))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield spared
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


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
    return Choice(execution, figures, "")
