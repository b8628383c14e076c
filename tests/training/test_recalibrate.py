"""Recalibrated statistics against NumPy, from what each BatchNorm layer is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import models, trees
from ssoup_jax.data.augment import Transform, augment
from ssoup_jax.keys import derive
from ssoup_jax.models.layers import Conv
from ssoup_jax.models.variables import Variables
from ssoup_jax.training import classify, recalibrate
from tests.training import tiny

AUGMENTED = Transform(pad=1, flip=True)
# Three batches of 16, 16 and 8; two full ones for the network that takes longer to compile.
CASES = {"Tiny": (None, tiny.N), "ResNet8": (models.build("ResNet8", 10, tiny.IMAGE_SHAPE), 32)}


def keys():
    return jax.random.split(jax.random.key(3), tiny.M)


@functools.cache
def case(name):
    """The classifier, a stack of it with statistics that mean nothing, and the positions."""
    model, n = CASES[name]
    return tiny.classifier(model, AUGMENTED), tiny.variables(model), tiny.digits()[2][:n]


def recalibrated(name="Tiny", method="moving", fraction=None, execution="map"):
    classifier, stack, positions = case(name)
    return recalibrate.recalibrate(
        classify.task(classifier),
        tiny.feed(positions),
        stack,
        batch_size=tiny.BATCH_SIZE,
        fraction=fraction,
        method=method,
        keys=keys(),
        execution=execution,
    )


@functools.partial(jax.jit, static_argnums=0)
def convolved(classifier, variables, images, key):
    """What every convolution hands to its BatchNorm in train mode, for one batch."""
    _, updated = classifier.model.apply(
        variables.as_flax(),
        augment(classifier.transform, derive(key, "augment"), images.reshape(-1, *tiny.IMAGE_SHAPE)),
        train=True,
        rngs={"dropout": derive(key, "dropout")},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, Conv),
    )
    return updated["intermediates"]


@functools.cache
def batch_moments(name):
    """Each batch's mean and unbiased variance, float64, by member, batch and layer."""
    classifier, stack, positions = case(name)
    images = tiny.digits()[0].images
    found = []
    for i in range(tiny.M):
        own = trees.member(stack, i)
        per_batch = []
        for number, first in enumerate(range(0, len(positions), tiny.BATCH_SIZE)):
            batch = images[positions[first : first + tiny.BATCH_SIZE]]
            outputs = convolved(classifier, own, batch, derive(keys()[i], number))
            moments = {}
            for path, x in jax.tree_util.tree_leaves_with_path(outputs):
                layer = trees.path_name(path).split("/__call__")[0].replace("conv", "bn")
                flat = np.float64(x).reshape(-1, x.shape[-1])
                moments[f"{layer}/mean"] = flat.mean(axis=0)
                moments[f"{layer}/var"] = flat.var(axis=0, ddof=1)
            per_batch.append(moments)
        found.append(per_batch)
    return found


def by_layer(stack, member):
    stats = trees.member(stack.collections["batch_stats"], member)
    return {trees.path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(stats)}


def expected(name, member, method, n_batches):
    moments = batch_moments(name)[member][:n_batches]
    if method == "exact":
        return {layer: np.mean([batch[layer] for batch in moments], axis=0) for layer in moments[0]}
    stats = {layer: np.full_like(first, layer.endswith("var")) for layer, first in moments[0].items()}
    for batch in moments:
        stats = {layer: 0.9 * old + 0.1 * batch[layer] for layer, old in stats.items()}
    return stats


@pytest.mark.parametrize(
    ("name", "method", "fraction", "n_batches"),
    [
        *(("Tiny", method, *own) for method in recalibrate.METHODS for own in [(None, 3), (1.0, 3), (0.7, 2)]),
        ("ResNet8", "exact", None, 2),
    ],
)
def test_statistics_are_numpys(name, method, fraction, n_batches):
    found = recalibrated(name, method, fraction)
    for i in range(tiny.M):
        stats, reference = by_layer(found, i), expected(name, i, method, n_batches)
        assert stats.keys() == reference.keys()
        for layer, values in reference.items():
            # Float32 sums over some hundred values of size 1, behind up to nine layers that round as well.
            np.testing.assert_allclose(stats[layer], values, rtol=2e-5, atol=2e-6, err_msg=layer)


@pytest.mark.parametrize("method", recalibrate.METHODS)
def test_only_the_statistics_change(method):
    _, stack, _ = case("Tiny")
    before = jax.device_get(stack)
    found = recalibrated("Tiny", method)
    assert found.params is stack.params
    tiny.assert_equal(jax.device_get(stack), before)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("method", recalibrate.METHODS)
def test_without_a_batch_the_statistics_are_reset(method):
    for i in range(tiny.M):
        for layer, values in by_layer(recalibrated("Tiny", method, fraction=0.3), i).items():
            np.testing.assert_array_equal(values, float(layer.endswith("var")), err_msg=layer)


@pytest.mark.parametrize(("execution", "method"), [("vmap", "moving"), ("loop", "exact")])
def test_executions_agree(execution, method):
    # Batched operations may sum in another order: some roundings of 6e-8 each.
    tiny.assert_close(
        recalibrated("Tiny", method, fraction=0.7, execution=execution).collections,
        recalibrated("Tiny", method, fraction=0.7).collections,
        rtol=2e-6,
        atol=1e-6,
    )


def test_none_leaves_everything_alone():
    _, stack, _ = case("Tiny")
    assert recalibrated("Tiny", method=None) is stack


@pytest.mark.parametrize("method", recalibrate.METHODS)
def test_a_model_without_batchnorm_is_returned_as_it_is(method):
    model = models.build("Simple", 10, tiny.IMAGE_SHAPE)
    stack = Variables({"fc1": {"kernel": jnp.ones((3, 64, 512))}}, {})
    found = recalibrate.recalibrate(
        tiny.task(model),
        tiny.feed(),
        stack,
        batch_size=16,
        fraction=1.0,
        method=method,
        keys=keys(),
        execution="map",
    )
    assert found is stack


@pytest.mark.parametrize(
    ("fraction", "n_batches"),
    [
        (None, 79),
        (0.0, 0),
        (0.001, 0),
        (1 / 79, 1),
        (0.5, 39),
        (0.999, 78),
        (1.0, 79),
        # What the reference cannot use means all of them.
        (1.5, 79),
        (-0.1, 79),
        (float("nan"), 79),
    ],
)
def test_number_of_batches(fraction, n_batches):
    assert recalibrate.n_recalibration_batches(5000, 64, fraction) == n_batches
