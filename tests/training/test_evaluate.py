"""Logits of a whole split against the model itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import trees
from ssoup_jax.data.augment import Transform
from ssoup_jax.models.simple import Simple
from ssoup_jax.stack import executors
from ssoup_jax.training import evaluate
from tests.training import tiny

# Augmentation would show, and so would a missing normalisation.
TRANSFORM = Transform(pad=2, flip=True, mean=(0.3,), std=(0.5,))
BLOCK_SIZE = 16


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK_SIZE", BLOCK_SIZE)


def logits(positions, execution="map"):
    problem = tiny.problem(conv=executors.convolution(execution), transform=TRANSFORM)
    return evaluate.logits(problem, tiny.feed(positions), tiny.variables(), "train", execution)


@pytest.mark.parametrize("execution", ["map", "vmap", "unroll", "loop"])
@pytest.mark.parametrize("n", [1, 32, 40])
def test_logits_are_the_models(n, execution):
    examples, positions, _ = tiny.digits()
    own = positions["test"][5 : 5 + n]
    images = (np.float32(examples.images)[own] / np.float32(255) - np.float32(0.3)) / np.float32(0.5)
    variables = tiny.variables()
    found = logits(own, execution)
    assert (type(found), found.dtype, found.shape) == (np.ndarray, np.float32, (tiny.M, n, 10))
    for i in range(tiny.M):
        direct = tiny.problem().model.apply(trees.member(variables, i).collections(), images, train=False)
        # Other shapes are summed in another order: some roundings of 6e-8 each, on values of about 1.
        np.testing.assert_allclose(found[i], direct, rtol=2e-6, atol=1e-6)


def test_padding_does_not_show():
    _, positions, _ = tiny.digits()
    split = positions["val"][:BLOCK_SIZE]
    padded = logits(split[:5])
    # One program and one shape: an image's logits do not depend on what fills the block.
    np.testing.assert_array_equal(padded, logits(split)[:, :5])


def test_the_order_of_the_split_is_the_order_of_the_logits():
    _, positions, _ = tiny.digits()
    split = positions["val"][:40]
    order = np.random.default_rng(0).permutation(40)
    # As above, an image's logits do not depend on its block.
    np.testing.assert_array_equal(logits(split[order]), logits(split)[:, order])


def test_the_variables_stay_usable():
    variables = tiny.variables()
    before = jax.device_get(variables)
    evaluate.logits(tiny.problem(transform=TRANSFORM), tiny.feed(), variables, "train", "map")
    tiny.assert_equal(jax.device_get(variables), before)


def test_a_model_without_batchnorm():
    model = Simple(10, hidden=16)
    examples, positions, _ = tiny.digits()
    variables = tiny.variables(model, m=2)
    found = evaluate.logits(tiny.problem(model), tiny.feed(positions["val"][:20]), variables, "train", "map")
    images = jnp.asarray(np.float32(examples.images)[positions["val"][:20]] / np.float32(255))
    for i in range(2):
        direct = model.apply({"params": trees.member(variables.params, i)}, images, train=False)
        # Dropout would change every value. Tolerance as above.
        np.testing.assert_allclose(found[i], direct, rtol=2e-6, atol=1e-6)
