"""Logits against the model itself, and scores of a whole split against those of its logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import metrics, trees
from ssoup_jax.data import sources
from ssoup_jax.data.augment import Transform
from ssoup_jax.data.streaming import Streaming
from ssoup_jax.models.simple import Simple
from ssoup_jax.stack import executors
from ssoup_jax.training import evaluate
from tests.training import tiny

# Augmentation would show, and so would a missing normalisation.
TRANSFORM = Transform(pad=2, flip=True, mean=(0.3,), std=(0.5,))
CLASSIFIER = tiny.classifier(transform=TRANSFORM)
BLOCK_SIZE = 16


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK_SIZE", BLOCK_SIZE)


def arguments(positions, execution="map", variables=None):
    return CLASSIFIER, tiny.feed(positions), variables or tiny.variables(), "train", execution


def logits(positions, execution="map"):
    blocks = jax.device_get([own for _, own in evaluate.logits_by_block(*arguments(positions, execution))])
    return np.concatenate(blocks, axis=1)[:, : len(positions)]


def labels(positions):
    return jax.device_get(tiny.digits()[0].labels)[positions]


def close(expected):
    # Sums of float32 logits and confidences, in another order.
    return pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("execution", ["map", "vmap", "unroll", "loop"])
@pytest.mark.parametrize("n", [1, 32, 40])
def test_logits_are_the_models(n, execution):
    examples, positions, _ = tiny.digits()
    own = positions["test"][5 : 5 + n]
    images = (np.float32(examples.images)[own] / np.float32(255) - np.float32(0.3)) / np.float32(0.5)
    images = images.reshape(n, *tiny.IMAGE_SHAPE)
    variables = tiny.variables()
    found = logits(own, execution)
    assert (found.dtype, found.shape) == (np.float32, (tiny.M, n, 10))
    for i in range(tiny.M):
        direct = CLASSIFIER.model.apply(trees.member(variables, i).as_flax(), images, train=False)
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


@pytest.mark.parametrize("execution", ["map", "vmap", "unroll", "loop", "1x1:map"])
@pytest.mark.parametrize("n", [1, 32, 40])
def test_scores_are_those_of_the_logits(n, execution):
    own = tiny.digits()[1]["test"][5 : 5 + n]
    outputs = logits(own, execution)
    found = evaluate.score(*arguments(own, execution))
    assert len(found) == tiny.M
    for scores, of_member in zip(found, outputs, strict=True):
        assert scores == close(metrics.prediction_metrics(of_member, labels(own)))
    assert evaluate.ensemble_score(*arguments(own, execution)) == close(metrics.ensemble_metrics(outputs, labels(own)))


def test_an_ensemble_of_equal_members_scores_as_one():
    own = tiny.digits()[1]["val"][:40]
    equal = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], tiny.M, axis=0), tiny.variables())
    first, *others = evaluate.score(*arguments(own, variables=equal))
    assert all(scores == first for scores in others)
    assert evaluate.ensemble_score(*arguments(own, variables=equal)) == close(first)


@pytest.mark.parametrize("scores", [evaluate.score, evaluate.ensemble_score])
def test_nothing_grows_with_the_split(monkeypatch, scores):
    """Whatever the programs return and the host fetches has the size of a block, or of the sums."""
    own, sizes = tiny.digits()[1]["train"][: 20 * BLOCK_SIZE], []

    def watched(function):
        def call(*args):
            result = function(*args)
            sizes.extend(np.size(leaf) for leaf in jax.tree.leaves(result))
            return result

        return call

    monkeypatch.setattr(evaluate.executors, "run", watched(executors.run))
    monkeypatch.setattr(evaluate, "_add_to_ensemble", watched(evaluate._add_to_ensemble))
    monkeypatch.setattr(jax, "device_get", watched(jax.device_get))
    arguments_ = arguments(own)
    assert arguments_[1].sizes["train"] == len(own)
    sizes.clear()
    scores(*arguments_)
    assert sizes and max(sizes) <= tiny.M * BLOCK_SIZE * 10 < tiny.M * len(own)


def test_the_host_fetches_once(monkeypatch):
    fetched, get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(tree) or get(tree))
    counts = []
    for n in (BLOCK_SIZE, 20 * BLOCK_SIZE):
        given = arguments(tiny.digits()[1]["train"][:n])
        fetched.clear()
        evaluate.score(*given)
        counts.append(len(fetched))
    assert counts[0] == counts[1]


def test_the_variables_stay_usable():
    variables = tiny.variables()
    before = jax.device_get(variables)
    evaluate.score(CLASSIFIER, tiny.feed(), variables, "train", "map")
    tiny.assert_equal(jax.device_get(variables), before)


def test_a_model_without_batchnorm():
    model = Simple(10, hidden=16)
    examples, positions, _ = tiny.digits()
    own, variables = positions["val"][:20], tiny.variables(model, m=2)
    images = jnp.asarray(np.float32(examples.images)[own] / np.float32(255)).reshape(20, *tiny.IMAGE_SHAPE)
    found = evaluate.score(tiny.classifier(model), tiny.feed(own), variables, "train", "map")
    for scores, params in zip(found, trees.unstack(variables.params), strict=True):
        # Dropout would change every value.
        direct = model.apply({"params": params}, images, train=False)
        assert scores == pytest.approx(metrics.prediction_metrics(direct, labels(own)), rel=1e-5, abs=1e-5)


def test_the_training_split_is_scored_where_that_is_cheap():
    on_device = tiny.feed()
    streamed = Streaming(sources.load("digits"), None, workers=0, steps_per_block=1, skip_undecodable=False)
    without, everything = ("val", "test"), ("train", "val", "test")
    assert evaluate.splits(None, on_device) == everything and evaluate.splits(None, streamed) == without
    for feed in (on_device, streamed):
        assert evaluate.splits(True, feed) == everything and evaluate.splits(False, feed) == without


def test_streamed_images_score_as_those_on_the_device():
    streamed = Streaming(sources.load("digits"), None, workers=0, steps_per_block=1, skip_undecodable=False)
    variables = tiny.variables()
    for scores in (evaluate.score, evaluate.ensemble_score):
        on_device = scores(CLASSIFIER, tiny.feed(), variables, "val", "map")
        assert scores(CLASSIFIER, streamed, variables, "val", "map") == on_device
