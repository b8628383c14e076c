"""A problem so small that its programs compile in seconds; all tests of training share their shapes, hence programs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ssoup_jax import models, trees
from ssoup_jax.data import sources
from ssoup_jax.data.augment import Transform
from ssoup_jax.data.feeds import Resident, resident
from ssoup_jax.models.layers import Linear, Network, flatten
from ssoup_jax.pruning.prunable import full_mask, is_prunable
from ssoup_jax.training import loop, optimizer
from ssoup_jax.training.state import TrainState, Variables
from ssoup_jax.training.step import Problem

M = 3
N = 40
BATCH_SIZE = 16
STEPS_PER_EPOCH = 3  # 16, 16 and 8 images
IMAGE_SHAPE = (8, 8, 1)


class Tiny(Network):
    """Everything that makes training hard to repeat: a convolution, BatchNorm and dropout."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.conv_layer()(4, 3, 2, padding=1, use_bias=False, name="conv1")(x)
        x = nn.relu(self.norm_layer(train)(name="bn1")(x))
        x = self.dropout_layer(train)(0.2)(flatten(x))
        return Linear(self.n_classes, name="fc")(x)


@functools.cache
def digits():
    """All digits on the device, the positions of each split, and the `N` training positions that the tests use."""
    feed = resident(sources.load("digits"))
    return feed.examples, feed.positions, feed.positions["train"][:N]


def feed(positions=None, **options) -> Resident:
    """Returns the feed whose training split is the given positions, the tests' own by default."""
    examples, splits, own = digits()
    return Resident(examples, splits | {"train": own if positions is None else positions}, **options)


def problem(model: Network | None = None, conv: str = "plain", transform: Transform | None = None) -> Problem:
    """Returns the problem."""
    return Problem(model or Tiny(10, conv=conv), transform or Transform())


def variables(model: Network | None = None, m: int = M) -> Variables:
    """Returns a stack whose members differ in every number."""
    model = model or problem().model
    shapes = Variables(*jax.eval_shape(lambda: models.init(model, jax.random.key(0), IMAGE_SHAPE)))
    random = np.random.default_rng(7)

    def fill(path, leaf):
        normal = random.standard_normal((m, *leaf.shape)).astype(np.float32)
        if is_prunable(path):
            return jnp.asarray(normal / np.float32(np.sqrt(np.prod(leaf.shape[:-1]))))
        around = np.float32(trees.path_name(path[-1:]) in ("scale", "var"))
        return jnp.asarray(around + np.float32(0.1) * normal)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def state(members: slice = slice(None)) -> TrainState:
    """Returns a fresh stack, or some of its members; training donates it."""
    own = jax.tree.map(lambda leaf: leaf[members], variables())
    return TrainState(own, optimizer.init(own.params))


def mask(seed: int = 0):
    """Prunes half of the prunable weights at random."""
    random = np.random.default_rng(seed)

    def draw(path, kept):
        return random.random(kept.shape) < 0.5 if is_prunable(path) else kept

    return jax.tree_util.tree_map_with_path(draw, full_mask(trees.member(variables(), 0).params))


def recipe(n_steps=(8, 4, 2), peaks=(0.05, 0.1, 0.02), decays=(0.0, 1e-3, 1e-2), seeds=(0, 1, 2)) -> loop.Recipe:
    """Returns a recipe whose members differ in everything and whose rates change at every step."""
    return loop.Recipe(
        learning_rates=[np.linspace(peak, peak / 10, n) for peak, n in zip(peaks, n_steps, strict=True)],
        weight_decays=list(decays),
        keys=jnp.stack([jax.random.key(seed) for seed in seeds]),
        momentum=0.9,
        batch_size=BATCH_SIZE,
        names=[f"member {'abc'[i]}" for i in range(len(n_steps))],
    )


def alone(recipe_: loop.Recipe, index: int) -> loop.Recipe:
    """Returns the recipe of one member."""
    own = slice(index, index + 1)
    fields = ("learning_rates", "weight_decays", "keys", "names")
    return dataclasses.replace(recipe_, **{name: getattr(recipe_, name)[own] for name in fields})


def given(order) -> dict:
    """Returns the option of `feed` for orders that are given by epoch."""
    return {"order": lambda keys, epoch, n: order(epoch)}


def train(recipe_: loop.Recipe, members: slice = slice(None), execution: str = "map", feed_=None, **options):
    """Trains the stack under the mask; returns the trained state and the losses."""
    found = loop.train(problem(), feed_ or feed(), state(members), mask(), recipe_, execution, **options)
    return found[:2]


def assert_equal(found, expected):
    """Two trees agree bit for bit."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=trees.path_name(path))


def assert_close(found, expected, **tolerance):
    """Two trees agree within a tolerance."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, err_msg=trees.path_name(path), **tolerance)
