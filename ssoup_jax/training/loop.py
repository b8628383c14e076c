"""Trains a stack: epochs cut into blocks of batches, blocks into chunks of steps, one dispatch a chunk."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax.data.batches import Examples, cut, epoch_order, n_batches
from ssoup_jax.errors import RunError
from ssoup_jax.training import members
from ssoup_jax.training.state import TrainState
from ssoup_jax.training.step import Inputs, Problem, Shared, train_steps
from ssoup_jax.trees import PyTree

CHUNK_SECONDS = 1.0


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
        losses: training loss of each step, per active member, float32 `[k, steps]`.
        accuracies: share of correct predictions of each step, per active member, float32 `[k, steps]`.
        learning_rate: rate of the last step, per active member, float32 `[k]`.
        batch_size: images per step and member.
        seconds: wall time.
    """

    step: int
    epoch: int
    epoch_done: bool
    active: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray
    learning_rate: np.ndarray
    batch_size: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Images trained on, all active members together."""
        return self.losses.size * self.batch_size / self.seconds


def train(
    problem: Problem,
    examples: Examples,
    state: TrainState,
    mask: PyTree,
    recipe: Recipe,
    positions: np.ndarray,
    execution: str,
    on_chunk: Callable[[Progress], None] = lambda progress: None,
    order: Callable[[int], np.ndarray] | None = None,
) -> tuple[TrainState, np.ndarray]:
    """Trains all members of a stack to the end of their own schedules; shorter ones stop exactly there.

    Args:
        problem: architecture and transform.
        examples: all images and labels.
        state: the stack's, leaves `[m, ...]`; donated.
        mask: one member's structure and shapes; shared by all.
        recipe: how each member is trained.
        positions: the training split, int32 `[n]` positions in `examples`.
        execution: see `members.run`.
        on_chunk: called after every chunk of steps, about once a second.
        order: gives an epoch's order, `[m, n]` positions in `positions`, in place of the one drawn from the keys.

    Returns:
        The trained stack and its training losses before each update, float32 `[m, T]`, NaN where a member had
        finished.

    Raises:
        RunError: a member's loss or weights are no longer finite; names the member and the step.
    """
    n_steps = recipe.n_steps
    total = int(n_steps.max())
    rates = np.zeros((len(n_steps), total), np.float32)
    for row, member_rates in zip(rates, recipe.learning_rates, strict=True):
        row[: len(member_rates)] = member_rates
    losses = np.full(rates.shape, np.nan, np.float32)
    fn = members.bind(train_steps, problem)
    mask = jax.device_put(mask)
    pace = _Pace()
    compiled = set()
    per_epoch = n_batches(len(positions), recipe.batch_size)
    step = 0
    for epoch in range(-(-total // per_epoch)):
        drawn = epoch_order(recipe.keys, jnp.int32(epoch), len(positions)) if order is None else order(epoch)
        for block in cut(positions[np.asarray(drawn)], recipe.batch_size):
            inputs = Inputs(
                batches=jnp.asarray(block),
                learning_rates=jnp.asarray(_window(rates, step, block.shape[1])),
                weight_decay=jnp.asarray(recipe.weight_decays, jnp.float32),
                key=recipe.keys,
            )
            first = 0
            while first < block.shape[1] and step < total:
                active = np.flatnonzero(n_steps > step)
                count = min(pace.count, block.shape[1] - first, int(n_steps[active].min()) - step)
                shared = Shared(
                    examples, mask, jnp.float32(recipe.momentum), jnp.int32(step), jnp.int32(first), jnp.int32(count)
                )
                if (block.shape, len(active)) not in compiled:
                    # A run of no steps compiles the program and changes nothing, so that no timing includes it.
                    nothing = shared.replace(n_steps=jnp.int32(0))
                    state, _ = members.run(execution, fn, nothing, state, inputs, active)
                    compiled.add((block.shape, len(active)))
                with pace.timing(count):
                    state, figures = members.run(execution, fn, shared, state, inputs, active)
                    figures = jax.device_get(figures)
                chunk_losses = figures.loss[active, :count]
                losses[active, step : step + count] = chunk_losses
                _check_finite(chunk_losses, step, active, recipe.names)
                first, step = first + count, step + count
                on_chunk(
                    Progress(
                        step,
                        epoch,
                        step == total or step % per_epoch == 0,
                        active,
                        chunk_losses,
                        figures.accuracy[active, :count],
                        rates[active, step - 1],
                        block.shape[2],
                        pace.seconds,
                    )
                )
    _check_weights(state, n_steps, recipe.names)
    return state, losses


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


def _check_finite(losses: np.ndarray, step: int, active: np.ndarray, names: list[str]) -> None:
    bad = np.argwhere(~np.isfinite(losses.T))
    if len(bad):
        offset, row = bad[0]
        raise RunError(f"{names[active[row]]}: training loss is {losses[row, offset]} at step {step + offset + 1}")


def _check_weights(state: TrainState, n_steps: np.ndarray, names: list[str]) -> None:
    for index in np.flatnonzero(~np.asarray(_all_finite(state.variables))):
        raise RunError(f"{names[index]}: a weight is not finite after its last step, {n_steps[index]}")


@jax.jit
@jax.vmap
def _all_finite(tree: PyTree) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
