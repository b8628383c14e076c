"""Trains a stack: epochs cut into blocks of batches, blocks into chunks of steps, one dispatch a chunk."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax.data.feeds import Block, Feed, n_batches
from ssoup_jax.errors import RunError
from ssoup_jax.stack import executors
from ssoup_jax.training.state import TrainState
from ssoup_jax.training.step import Inputs, Problem, Shared, train_steps
from ssoup_jax.trees import PyTree

CHUNK_SECONDS = 1.0
ON_DIVERGENCE = ("exclude", "fail")


@dataclass(frozen=True)
class Recipe:
    """How each member of a stack is trained; every entry is data to the compiled step.

    Attributes:
        learning_rates: one array of rates per member; its length is the member's number of steps.
        weight_decays: one per member.
        keys: typed PRNG keys `[m]`; members with equal keys see the same batches, augmentation and dropout.
        momentum: shared by all.
        batch_size: images per step; the last batch of an epoch may be smaller.
        names: what to call each member in an error.
    """

    learning_rates: list[np.ndarray]
    weight_decays: list[float]
    keys: jax.Array
    momentum: float
    batch_size: int
    names: list[str]

    @property
    def n_steps(self) -> np.ndarray:
        """Each member's number of steps, int `[m]`."""
        return np.array([len(rates) for rates in self.learning_rates])


@dataclass(frozen=True)
class Progress:
    """What a chunk of steps did.

    Attributes:
        step: steps taken by the longest-running member.
        epoch: 0-based epoch these steps belong to.
        epoch_done: whether they end it.
        active: indices of the members that took them, int `[k]`.
        taken: how many of them each active member took, int `[k]`; fewer than all where it diverged.
        losses: training loss of each step, per active member, float32 `[k, steps]`.
        accuracies: share of correct predictions of each step, per active member, float32 `[k, steps]`.
        learning_rates: of each step, per active member, float32 `[k, steps]`.
        batch_size: images per step and member.
        seconds: wall time.
    """

    step: int
    epoch: int
    epoch_done: bool
    active: np.ndarray
    taken: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray
    learning_rates: np.ndarray
    batch_size: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Images trained on, all active members together."""
        return self.losses.size * self.batch_size / self.seconds


@dataclass(frozen=True)
class Snapshot:
    """All that a later call needs to go on from here; everything else follows from the recipe and the step.

    Attributes:
        step: steps taken by the longest-running member.
        state: the stack's; the next chunk of steps takes its buffers, so copy what is to last.
        diverged: each sick member's step whose loss, or whose update, was not finite.
    """

    step: int
    state: TrainState
    diverged: dict[int, int] = field(default_factory=dict)


def train(
    problem: Problem,
    feed: Feed,
    start: TrainState | Snapshot,
    mask: PyTree,
    recipe: Recipe,
    execution: str,
    on_chunk: Callable[[Progress, Snapshot], None] = lambda progress, snapshot: None,
    on_divergence: str = "fail",
) -> tuple[TrainState, np.ndarray, dict[int, int]]:
    """Trains all members of a stack to the end of their own schedules; shorter ones stop exactly there.

    Args:
        problem: architecture and transform.
        feed: has the training images.
        start: the stack's state, leaves `[m, ...]`, or where an earlier call was; its state is donated.
        mask: one member's structure and shapes; shared by all.
        recipe: how each member is trained.
        execution: see `executors.run`.
        on_chunk: called after every chunk of steps, about once a second; what it raises ends the training.
        on_divergence: one of `ON_DIVERGENCE`, for a member whose loss or weights are no longer finite. `'exclude'`
            stops that member; the others go on as if nothing had happened, bit for bit.

    Returns:
        The trained stack; its training losses before each update, float32 `[m, T]`, NaN where a member had finished
        and for steps before the start; and the diverged members, see `Snapshot`.

    Raises:
        RunError: a member diverged, and that is to be a failure; names the member and the step.
    """
    start = start if isinstance(start, Snapshot) else Snapshot(0, start)
    step, state, diverged = start.step, start.state, dict(start.diverged)
    n_steps, per_epoch = recipe.n_steps, n_batches(len(feed.labels["train"]), recipe.batch_size)
    rates = np.zeros((len(n_steps), total := int(n_steps.max())), np.float32)
    for row, member_rates in zip(rates, recipe.learning_rates, strict=True):
        row[: len(member_rates)] = member_rates
    losses = np.full(rates.shape, np.nan, np.float32)
    fn = executors.bind(train_steps, problem)
    mask = executors.place(execution, jax.device_put(mask))
    decays, momentum = jax.device_put((np.asarray(recipe.weight_decays, np.float32), np.float32(recipe.momentum)))
    pace, compiled, source, examples = _Pace(), set(), None, None
    with contextlib.closing(_blocks(feed, recipe, step, total, per_epoch)) as blocks:
        for epoch, block in blocks:
            if block.examples is not source:
                source, examples = block.examples, executors.place(execution, block.examples)
            n_slots, batch_size = block.batches.shape[1:]
            window = jax.device_put(_window(rates, step - block.first, n_slots))
            inputs = Inputs(batches=block.batches, learning_rates=window, weight_decay=decays, key=recipe.keys)
            first = block.first
            while first < block.last and step < total:
                running = np.flatnonzero(n_steps > step)
                active = np.array([i for i in running if i not in diverged], int)
                if execution in executors.INDEPENDENT:
                    # Elsewhere the number of members decides the program, hence the others' last bits.
                    running = active
                if not len(active):
                    return state, losses, diverged
                count = min(pace.count, block.last - first, int(n_steps[running].min()) - step)
                shared = Shared(
                    examples, mask, momentum, *jax.device_put((np.int32(step), np.int32(first), np.int32(count)))
                )
                if (block.batches.shape, len(running)) not in compiled:
                    # A run of no steps compiles the program and changes nothing, so that no timing includes it.
                    nothing = shared.replace(n_steps=jax.device_put(np.int32(0)))
                    state, _ = executors.run(execution, fn, nothing, state, inputs, running)
                    compiled.add((block.batches.shape, len(running)))
                with pace.timing(count):
                    state, figures = executors.run(execution, fn, shared, state, inputs, running)
                    figures = jax.device_get(figures)
                taken = slice(step, step + count)
                first, step = first + count, step + count
                losses[active, taken] = figures.loss[active, :count]
                diverged |= _sick(losses[:, taken], taken.start, active)
                diverged |= _sick_at_the_end(state, step, n_steps, [i for i in active if i not in diverged])
                if diverged and on_divergence == "fail":
                    index, when = min(diverged.items(), key=lambda item: item[1])
                    raise RunError(_says(recipe.names[index], when, losses[index, when - 1]))
                progress = Progress(
                    step,
                    epoch,
                    step == total or step % per_epoch == 0,
                    active,
                    np.array([min(diverged.get(int(i), step), step) for i in active]) - taken.start,
                    losses[active, taken],
                    figures.accuracy[active, :count],
                    rates[active, taken],
                    batch_size,
                    pace.seconds,
                )
                on_chunk(progress, Snapshot(step, state, dict(diverged)))
    return state, losses, diverged


def _blocks(feed: Feed, recipe: Recipe, step: int, total: int, per_epoch: int) -> Iterator[tuple[int, Block]]:
    """Yields each epoch's blocks from the given step on, with the epoch; nothing is read for steps beyond the last."""
    while step < total:
        epoch, batch = divmod(step, per_epoch)
        with contextlib.closing(feed.training(recipe.keys, epoch, recipe.batch_size, batch)) as blocks:
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


def _window(rates: np.ndarray, start: int, length: int) -> np.ndarray:
    """Cuts `[m, length]` out of the rates, zeros beyond the last step."""
    window = np.zeros((rates.shape[0], length), np.float32)
    found = rates[:, start : start + length]
    window[:, : found.shape[1]] = found
    return window


def _sick(losses: np.ndarray, taken: int, active: np.ndarray) -> dict[int, int]:
    """Finds each active member's first step whose loss is not finite."""
    sick = ~np.isfinite(losses)
    return {int(i): taken + int(sick[i].argmax()) + 1 for i in active if sick[i].any()}


def _sick_at_the_end(state: TrainState, step: int, n_steps: np.ndarray, active: list[int]) -> dict[int, int]:
    """Finds the members whose last update left a weight that is not finite, which no loss will ever show."""
    ending = [i for i in active if n_steps[i] == step]
    finite = np.asarray(_all_finite(state.variables)) if ending else []
    return {int(i): step for i in ending if not finite[i]}


def _says(name: str, step: int, loss: float) -> str:
    if np.isfinite(loss):
        return f"{name}: a weight is not finite after its last step, {step}"
    return f"{name}: training loss is {loss} at step {step}"


@jax.jit
@jax.vmap
def _all_finite(tree: PyTree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
