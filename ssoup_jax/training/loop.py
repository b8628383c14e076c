"""Trains a stack: epochs cut into blocks of batches, blocks into chunks of steps, one dispatch a chunk."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax.data.feeds import Block, Feed, Part, n_batches
from ssoup_jax.errors import Diverged
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.stack import executors
from ssoup_jax.stack.held import Apart, Held, Spread, together
from ssoup_jax.stack.names import INDEPENDENT, parse
from ssoup_jax.training.ahead import Ahead
from ssoup_jax.training.hyper import Hyper, window
from ssoup_jax.training.step import Inputs, Shared, TrainState, train_steps
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree

CHUNK_SECONDS = 1.0
ON_DIVERGENCE = ("exclude", "fail")


@dataclass(frozen=True)
class Progress:
    """What a chunk of steps did.

    Attributes:
        step: steps taken by the longest-running member.
        epoch: 0-based epoch these steps belong to.
        epoch_done: whether they end it.
        active: indices of the members that took them, int `[k]`.
        taken: how many of them each active member took, int `[k]`; fewer than all where it diverged.
        figures: of each step by name, per active member, float32 `[k, steps]`; `loss` is the training loss.
        schedules: hyperparameters of each step by name, per active member, float32 `[k, steps]`.
        batch_size: examples per step and member.
        seconds: wall time.
        execution: full name of the executor.
    """

    step: int
    epoch: int
    epoch_done: bool
    active: np.ndarray
    taken: np.ndarray
    figures: dict[str, np.ndarray]
    schedules: dict[str, np.ndarray]
    batch_size: int
    seconds: float
    execution: str

    @property
    def images_per_second(self) -> float:
        """Examples trained on, all active members together."""
        return self.figures["loss"].size * self.batch_size / self.seconds


@dataclass(frozen=True)
class Snapshot:
    """All that a later call needs to go on from here; everything else follows from the hyperparameters and the step.

    Attributes:
        step: steps taken by the longest-running member.
        state: the stack's, leaves `[m, ...]` or as its executor holds it, see `held.together`; the next chunk takes
            its buffers, so copy what is to last.
        diverged: each sick member's step whose loss, or whose update, was not finite.
    """

    step: int
    state: Held
    diverged: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A stack after its training.

    Attributes:
        state: leaves `[m, ...]`, or spread over a mesh, see `held.Spread`.
        losses: training losses before each update, float32 `[m, T]`; NaN where a member had finished and for steps
            before the start.
        diverged: see `Snapshot`.
    """

    state: Held
    losses: np.ndarray
    diverged: dict[int, int]


def train(
    task: Task,
    feed: Feed,
    start: TrainState | Snapshot,
    hyper: Hyper,
    batch_size: int,
    execution: str,
    on_chunk: Callable[[Progress, Snapshot], None] = lambda progress, snapshot: None,
    on_divergence: str = "fail",
    on_line: Callable[[str], None] = lambda line: None,
    pod: Pod = ALONE,
) -> Trained:
    """Trains all members of a stack to the end of their own schedules; shorter ones stop exactly there.

    Args:
        task: what is trained.
        feed: has the training examples.
        start: the stack's state, leaves `[m, ...]`, or where an earlier call was; its state is donated.
        hyper: what the members differ in, and how many steps each takes.
        batch_size: examples per step; the last batch of an epoch may be smaller.
        execution: full name of an executor; where it does not fit into memory, the next smaller one trains.
        on_chunk: called after every chunk of steps, about once a second; what it raises ends the training.
        on_divergence: one of `ON_DIVERGENCE`, for a member whose loss or weights are no longer finite. `'exclude'`
            stops that member; the others go on as if nothing had happened, bit for bit.
        on_line: told what does not fit.
        pod: the processes that train it together; process 0's clock decides how many steps a chunk has.

    Returns:
        The trained stack.

    Raises:
        Diverged: a member diverged, and that is to be a failure; names the member and the step.
        SettingsError: no executor fits into memory.
    """
    start = start if isinstance(start, Snapshot) else Snapshot(0, start)
    step, state, diverged = start.step, executors.hold(execution, start.state), dict(start.diverged)
    n_steps, per_epoch = np.asarray(hyper.n_steps), n_batches(feed.sizes["train"], batch_size)
    total, schedules = int(n_steps.max()), hyper.schedules
    losses = np.full((len(n_steps), total), np.nan, np.float32)
    fn = executors.bind(train_steps, task, axis=executors.over(execution))
    part = executors.part(execution, len(n_steps))
    pace, programs, source, examples = _Pace(), None, None, None
    with contextlib.closing(_blocks(feed, hyper, batch_size, step, total, per_epoch, part)) as blocks:
        for epoch, block in blocks:
            if block.examples is not source:
                source, examples = block.examples, executors.place(execution, block.examples)
            n_slots, n_examples = block.batches.shape[1:]
            rates = window(schedules, step - block.first, n_slots)
            inputs, placed = Inputs(block.batches, hyper.constants, rates, hyper.key_data), None
            first = block.first
            while first < block.last and step < total:
                running = np.flatnonzero(n_steps > step)
                active = np.array([i for i in running if i not in diverged], int)
                if parse(execution).name in INDEPENDENT:
                    # Elsewhere the number of members decides the program, hence the others' last bits.
                    running = active
                if not len(active):
                    return Trained(_result(state), losses, diverged)
                count = pod.agree(min(pace.count, block.last - first, int(n_steps[running].min()) - step))
                counters = jax.device_put((np.int32(step), np.int32(first), np.int32(count)))
                shared = Shared(examples, *counters)
                if programs is None:
                    programs = Ahead(fn, _rest(feed, batch_size, block, step, total))
                    execution = programs.fit(execution, shared, state, inputs, running, on_line)
                programs.compile(execution, shared, state, inputs, running)
                placed = executors.hold(execution, inputs) if placed is None else placed
                with pace.timing(count):
                    state, figures = executors.run(execution, fn, shared, state, placed, running)
                    figures = jax.device_get(figures)
                taken = slice(step, step + count)
                first, step = first + count, step + count
                losses[active, taken] = figures["loss"][active, :count]
                diverged |= _sick(losses[:, taken], taken.start, active)
                ending = [i for i in active if n_steps[i] == step and i not in diverged]
                diverged |= _sick_at_the_end(execution, state, step, ending)
                if diverged and on_divergence == "fail":
                    index, when = min(diverged.items(), key=lambda item: item[1])
                    raise Diverged(_says(hyper.names[index], when, losses[index, when - 1]))
                progress = Progress(
                    step,
                    epoch,
                    step == total or step % per_epoch == 0,
                    active,
                    np.array([min(diverged.get(int(i), step), step) for i in active]) - taken.start,
                    {name: values[active, :count] for name, values in figures.items()},
                    {name: values[active, taken] for name, values in schedules.items()},
                    n_examples,
                    pace.seconds,
                    execution,
                )
                on_chunk(progress, Snapshot(step, state, dict(diverged)))
    return Trained(_result(state), losses, diverged)


def _result(state: Held) -> Held:
    return state if isinstance(state, Spread) else together(state)


def _rest(feed: Feed, batch_size: int, block: Block, step: int, total: int) -> int:
    """Returns the size of the partial batch of the same examples that is sure to come after a block; 0: none is."""
    return feed.sizes["train"] % batch_size if feed.whole and step + block.last - block.first < total else 0


def _blocks(
    feed: Feed, hyper: Hyper, batch_size: int, step: int, total: int, per_epoch: int, part: Part | None
) -> Iterator[tuple[int, Block]]:
    """Yields each epoch's blocks from the given step on, with the epoch; nothing is read for steps beyond the last."""
    while step < total:
        epoch, batch = divmod(step, per_epoch)
        with contextlib.closing(feed.training(hyper.keys, epoch, batch_size, batch, part)) as blocks:
            for block in blocks:
                yield epoch, block
                step += block.last - block.first
                if step >= total:
                    break


class _Pace:
    """Chooses how many steps one dispatch takes, so that progress and a request to stop are seen about once a second.

    One slow dispatch must not hold up many, so the count only doubles from one to the next.
    """

    def __init__(self):
        self.count = 1
        self.seconds = 0.0

    def timing(self, count: int) -> "_Pace":
        self._taken = count
        return self

    def __enter__(self):
        self._start = time.perf_counter()

    def __exit__(self, *exception):
        self.seconds = time.perf_counter() - self._start
        affordable = int(CHUNK_SECONDS * self._taken / self.seconds)
        self.count = max(1, min(2 * self.count, affordable))


def _sick(losses: np.ndarray, taken: int, active: np.ndarray) -> dict[int, int]:
    """Finds each active member's first step whose loss is not finite."""
    sick = ~np.isfinite(losses)
    return {int(i): taken + int(sick[i].argmax()) + 1 for i in active if sick[i].any()}


def _sick_at_the_end(execution: str, state: Held, step: int, ending: list[int]) -> dict[int, int]:
    """Finds the members whose last update left a weight that is not finite, which no loss will ever show."""
    if not ending:
        return {}
    if isinstance(state, Apart):
        finite = {i: _all_finite(state[i].variables) for i in ending}
    elif isinstance(state, Spread):
        finite = jax.device_get(executors.run(execution, _finite_of, (), (), state, np.array(ending))[1])
    else:
        finite = np.asarray(_each_finite(state.variables))
    return {i: step for i in ending if not finite[i]}


def _says(name: str, step: int, loss: float) -> str:
    if np.isfinite(loss):
        return f"{name}: a weight is not finite after its last step, {step}"
    return f"{name}: training loss is {loss} at step {step}"


@jax.jit
def _all_finite(tree: PyTree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


_each_finite = jax.jit(jax.vmap(_all_finite))


def _finite_of(shared: tuple, nothing: tuple, state: TrainState) -> tuple[tuple, jax.Array]:
    return nothing, _all_finite(state.variables)
