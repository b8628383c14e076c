"""One member, pure: a training step and a run of consecutive steps."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from ssoup_jax.data.augment import Transform, augment
from ssoup_jax.data.feeds import Examples
from ssoup_jax.keys import derive
from ssoup_jax.training import optimizer
from ssoup_jax.training.state import TrainState, Variables
from ssoup_jax.trees import PyTree


class Problem(NamedTuple):
    """What is fixed when the program is compiled: the architecture and the transform of its images."""

    model: nn.Module
    transform: Transform


@struct.dataclass
class Shared:
    """What all members of a stack share.

    Attributes:
        examples: the images and labels, on the device.
        mask: structure and shapes of one member's params.
        momentum: float32 `[]`.
        first_step: number of steps taken before this run of steps, int32 `[]`; it decides the random numbers.
        first_batch: the batch of the block to begin with, int32 `[]`.
        n_steps: how many steps to take, int32 `[]`, at most the number of batches in the block.
    """

    examples: Examples
    mask: PyTree
    momentum: jax.Array
    first_step: jax.Array
    first_batch: jax.Array
    n_steps: jax.Array


@struct.dataclass
class Inputs:
    """What one member has to itself; every value may differ between members without a new program.

    Attributes:
        batches: positions in the examples, int32 `[S, B]`: the batches of a block.
        learning_rates: one rate for each batch of the block, float32 `[S]`.
        weight_decay: float32 `[]`.
        key: decides augmentation and dropout, typed PRNG key `[]`.
    """

    batches: jax.Array
    learning_rates: jax.Array
    weight_decay: jax.Array
    key: jax.Array


@struct.dataclass
class StepFigures:
    """Figures of the training batch before its update: mean loss and share of correct predictions, float32."""

    loss: jax.Array
    accuracy: jax.Array


def forward_train(problem: Problem, variables: Variables, images: jax.Array, key: jax.Array, collection="batch_stats"):
    """Forwards a training batch in train mode, augmented.

    Args:
        problem: architecture and transform.
        variables: one member's.
        images: uint8 `[B, H, W, C]`.
        key: typed PRNG key `[]`, for augmentation and dropout.
        collection: what BatchNorm is to report: `'batch_stats'` (moving average) or `'batch_moments'` (this batch's).

    Returns:
        Logits float32 `[B, n_classes]` and the collection, `{}` where the model has none.
    """
    logits, updated = problem.model.apply(
        variables.collections(),
        augment(problem.transform, derive(key, "augment"), images),
        train=True,
        rngs={"dropout": derive(key, "dropout")},
        mutable=[collection],
    )
    return logits, updated.get(collection, {})


def train_step(
    problem: Problem,
    examples: Examples,
    mask: PyTree,
    state: TrainState,
    batch: jax.Array,
    learning_rate: jax.Array,
    weight_decay: jax.Array,
    momentum: jax.Array,
    key: jax.Array,
) -> tuple[TrainState, StepFigures]:
    """Takes one step of masked SGD.

    Args:
        problem: architecture and transform.
        examples: the images and labels.
        mask: False where a weight stays zero.
        state: one member's.
        batch: positions in the examples, int32 `[B]`.
        learning_rate: float32 `[]`.
        weight_decay: float32 `[]`.
        momentum: float32 `[]`.
        key: this step's typed PRNG key `[]`.

    Returns:
        The new state and the batch's figures, `[]` each.
    """
    labels = examples.labels[batch]

    def loss_fn(params):
        variables = state.variables.replace(params=params)
        logits, batch_stats = forward_train(problem, variables, examples.images[batch], key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, (batch_stats, jnp.mean(logits.argmax(-1) == labels))

    params = state.variables.params
    (loss, (batch_stats, accuracy)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    chain = optimizer.sgd(learning_rate, weight_decay, momentum, mask)
    updates, opt_state = chain.update(gradients, state.opt_state, params)
    new = TrainState(Variables(optax.apply_updates(params, updates), batch_stats), opt_state)
    return new, StepFigures(loss, accuracy)


def train_steps(problem: Problem, shared: Shared, state: TrainState, inputs: Inputs) -> tuple[TrainState, StepFigures]:
    """Takes `shared.n_steps` consecutive steps through a block of batches.

    The number of steps is data: one program serves every chunk of a block, however long.

    Args:
        problem: architecture and transform.
        shared: what all members share.
        state: one member's.
        inputs: that member's batches, rates and key.

    Returns:
        The new state and the figures of the steps, `[S]` each; entry i belongs to the i-th step taken, those never
        reached are zero.
    """
    n_slots = inputs.batches.shape[0]
    figures = StepFigures(jnp.zeros(n_slots, jnp.float32), jnp.zeros(n_slots, jnp.float32))

    def body(i, carry):
        state, figures = carry
        slot = shared.first_batch + i
        state, taken = train_step(
            problem,
            shared.examples,
            shared.mask,
            state,
            inputs.batches[slot],
            inputs.learning_rates[slot],
            inputs.weight_decay,
            shared.momentum,
            derive(inputs.key, "step", shared.first_step + i),
        )
        return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), figures, taken)

    return jax.lax.fori_loop(0, shared.n_steps, body, (state, figures))
