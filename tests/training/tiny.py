"""A problem so small that its programs compile in seconds; all tests of training share their shapes, hence programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ssoup_jax import trees
from ssoup_jax.data import sources
from ssoup_jax.data.augment import Transform
from ssoup_jax.data.feeds import Resident, resident
from ssoup_jax.models.layers import Linear, Network, flatten
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.masks import full_mask, is_kernel
from ssoup_jax.training import classify, loop, step
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.hyper import Hyper, per_step
from ssoup_jax.training.step import TrainState
from ssoup_jax.training.task import Task

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


def classifier(model: Network | None = None, transform: Transform | None = None) -> Classifier:
    """Returns the network and how it sees images."""
    return Classifier(model or Tiny(10), transform or Transform(), IMAGE_SHAPE)


def task(model: Network | None = None) -> Task:
    """Returns what is trained."""
    return classify.task(classifier(model))


def variables(model: Network | None = None, m: int = M) -> Variables:
    """Returns a stack whose members differ in every number."""
    shapes = jax.eval_shape(classifier(model).init, jax.random.key(0))
    random = np.random.default_rng(7)

    def fill(path, leaf):
        normal = random.standard_normal((m, *leaf.shape)).astype(np.float32)
        if is_kernel(trees.path_name(path)):
            return jnp.asarray(normal / np.float32(np.sqrt(np.prod(leaf.shape[:-1]))))
        around = np.float32(trees.path_name(path[-1:]) in ("scale", "var"))
        return jnp.asarray(around + np.float32(0.1) * normal)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def state(members: slice = slice(None)) -> TrainState:
    """Returns a fresh stack, or some of its members, on the host."""
    own = jax.tree.map(lambda leaf: leaf[members], variables())
    return step.init(task(), ("learning_rate", "weight_decay", "momentum"), own, mask())


def mask(seed: int = 0):
    """Prunes half of the prunable weights at random."""
    random = np.random.default_rng(seed)
    full = full_mask(trees.member(variables(), 0).params)
    return jax.tree.map(lambda kept: random.random(kept.shape) < 0.5, full)


def hyper(n_steps=(8, 4, 2), peaks=(0.05, 0.1, 0.02), decays=(0.0, 1e-3, 1e-2), seeds=(0, 1, 2)) -> Hyper:
    """Returns hyperparameters in all of which members differ, but for the momentum; rates change at every step."""
    rates = [np.linspace(peak, peak / 10, n) for peak, n in zip(peaks, n_steps, strict=True)]
    return Hyper(
        values={
            "learning_rate": per_step(rates),
            "weight_decay": np.array(decays),
            "momentum": np.full(len(n_steps), 0.9),
        },
        n_steps=np.array(n_steps),
        keys=jnp.stack([jax.random.key(seed) for seed in seeds]),
        names=[f"member {'abc'[i]}" for i in range(len(n_steps))],
    )


def alone(hyper_: Hyper, index: int) -> Hyper:
    """Returns the hyperparameters of one member."""
    own = slice(index, index + 1)
    n_steps = hyper_.n_steps[own]
    values = {
        name: value[own] if value.ndim == 1 else value[own, : n_steps[0]] for name, value in hyper_.values.items()
    }
    return Hyper(values, n_steps, hyper_.keys[own], hyper_.names[own])


def given(order) -> dict:
    """Returns the option of `feed` for orders that are given by epoch."""
    return {"order": lambda keys, epoch, n: order(epoch)}


def train(hyper_: Hyper, members: slice = slice(None), execution: str = "map", feed_=None, **options):
    """Trains the stack under the mask; returns the trained state and the losses."""
    found = loop.train(task(), feed_ or feed(), state(members), hyper_, BATCH_SIZE, execution, **options)
    return found.state, found.losses


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
