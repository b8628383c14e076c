"""One member, pure: a training step and a run of consecutive steps."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ssoup_jax import rows, trees
from ssoup_jax.keys import derive
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.masks import dense_form
from ssoup_jax.pruning.transform import masked
from ssoup_jax.stack import memory
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree

Figures = dict[str, jax.Array]
"""Figures of a training batch before its update: its loss, and those of the task, float32."""


@struct.dataclass
class TrainState:
    """What training changes: one member's state, or with a leading axis `[m, ...]` on every leaf, the stack's.

    Attributes:
        variables: the model's numbers.
        opt_state: the optimizer's.
        mask: False where a weight is pruned; structure and shapes of the params. Part of the state, so that a method
            may change it in training.
    """

    variables: Variables
    opt_state: PyTree
    mask: PyTree


@struct.dataclass
class Shared:
    """What all members of a stack share.

    Attributes:
        examples: what batches are taken from, leaves `[N, ...]`.
        first_step: number of steps taken before this run of steps, int32 `[]`; it decides the random numbers.
        first_batch: the batch of the block to begin with, int32 `[]`.
        n_steps: how many steps to take, int32 `[]`, at most the number of batches in the block.
    """

    examples: PyTree
    first_step: jax.Array
    first_batch: jax.Array
    n_steps: jax.Array


@struct.dataclass
class Inputs:
    """What one member has to itself; every value may differ between members without a new program.

    Attributes:
        batches: positions in the examples, int32 `[S, B]`: the batches of a block.
        constants: hyperparameters by name, float32 `[]`.
        schedules: hyperparameters by name, one value for each batch of the block, float32 `[S]`.
        key: data of the PRNG key that decides what is random, uint32 `[...]`.
    """

    batches: jax.Array
    constants: dict[str, jax.Array]
    schedules: dict[str, jax.Array]
    key: jax.Array


def init(task: Task, hyper: Iterable[str], variables: Variables, mask: PyTree) -> TrainState:
    """Returns a stack before its first step.

    Args:
        task: what is trained.
        hyper: names of the hyperparameters; the optimizer's state does not depend on their values.
        variables: the members', leaves `[m, ...]`.
        mask: shared by all, structure and shapes of one member's params; None where nothing is ever pruned.

    Returns:
        The state, on the host.
    """
    return trees.stack([init_member(task, hyper, own, mask) for own in trees.unstack(jax.device_get(variables))])


def init_member(task: Task, hyper: Iterable[str], variables: Variables, mask: PyTree) -> TrainState:
    """Returns one member before its first step, see `init`; its variables without a leading axis."""
    variables, mask = jax.device_get((variables, mask))
    opt_state = jax.device_get(_init(task, tuple(hyper))(variables.params))
    # With a select on every leaf the compiler rounds all updates alike, whatever is prunable.
    return TrainState(variables, opt_state, dense_form(mask, variables.params))


def state_bytes(task: Task, hyper: Iterable[str], like: Variables) -> int:
    """Returns the size of one member's state.

    Args:
        task: what is trained.
        hyper: names of the hyperparameters.
        like: shapes and dtypes of its variables.
    """
    opt_state = jax.eval_shape(_init(task, tuple(hyper)), like.params)
    n_weights = sum(leaf.size for leaf in jax.tree.leaves(like.params))
    return memory.n_bytes((like, opt_state)) + n_weights * jnp.dtype(bool).itemsize


@functools.cache
def _init(task: Task, hyper: tuple[str, ...]):
    return jax.jit(lambda params: task.optimizer(**dict.fromkeys(hyper, jnp.float32(0))).init(params))


def train_step(
    task: Task,
    state: TrainState,
    batch: PyTree,
    hyper: dict[str, jax.Array],
    key: jax.Array,
    axis: str | None = None,
) -> tuple[TrainState, Figures]:
    """Takes one step under the mask.

    Args:
        task: what is trained.
        state: one member's.
        batch: leaves `[B, ...]`.
        hyper: this step's hyperparameters by name, float32 `[]`.
        key: this step's typed PRNG key `[]`.
        axis: mesh axis over which gradients, collections and figures are averaged.

    Returns:
        The new state and the batch's figures, `[]` each.
    """
    params, collections = state.variables.params, state.variables.collections

    def loss_fn(params):
        return task.loss(params, collections, batch, key)

    (loss, (collections, figures)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    loss, collections, figures, gradients = rows.mean((loss, collections, figures, gradients), axis)
    optimizer = masked(task.optimizer(**hyper), state.mask)
    updates, opt_state = optimizer.update(gradients, state.opt_state, params)
    variables = Variables(optax.apply_updates(params, updates), collections)
    return state.replace(variables=variables, opt_state=opt_state), {"loss": loss, **figures}


def train_steps(
    task: Task, shared: Shared, state: TrainState, inputs: Inputs, axis: str | None = None
) -> tuple[TrainState, Figures]:
    """Takes `shared.n_steps` consecutive steps through a block of batches.

    The number of steps is data: one program serves every chunk of a block, however long.

    Args:
        task: what is trained.
        shared: what all members share.
        state: one member's.
        inputs: that member's batches, hyperparameters and key.
        axis: mesh axis whose devices share every batch, if any do: each takes its rows, and a batch that they do not
            divide is everyone's.

    Returns:
        The new state and the figures of the steps, `[S]` each; entry i belongs to the i-th step taken, those never
        reached are zero.
    """
    n_slots, batch_size = inputs.batches.shape
    if rows.divide(batch_size, axis):
        task = task.cut(axis)

    @jax.jit
    def step(state: TrainState, i: jax.Array) -> tuple[TrainState, Figures]:
        slot = shared.first_batch + i
        batch = rows.take(shared.examples, inputs.batches[slot], axis)
        hyper = inputs.constants | {name: values[slot] for name, values in inputs.schedules.items()}
        key = derive(jax.random.wrap_key_data(inputs.key), "step", shared.first_step + i)
        return train_step(task, state, batch, hyper, key, axis)

    def body(i, carry):
        state, figures = carry
        state, taken = step(state, i)
        return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), figures, taken)

    one = jax.eval_shape(step, state, jnp.int32(0))[1]
    figures = jax.tree.map(lambda leaf: jnp.zeros((n_slots, *leaf.shape), leaf.dtype), one)
    return jax.lax.fori_loop(0, shared.n_steps, body, (state, figures))
