"""The loss of the experiments, and losses of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax.data.feeds import Examples
from ssoup_jax.errors import SettingsError
from ssoup_jax.training import classify
from tests.training import tiny

LOSSES = """
import jax.numpy as jnp

def squared(logits, labels):
    return ((logits - jnp.eye(logits.shape[1])[labels]) ** 2).sum(1)

def mean(logits, labels):
    return squared(logits, labels).mean()

def logits_only(logits):
    return logits.mean()

def rows(logits, labels):
    return logits

def count(logits, labels):
    return (logits.argmax(1) == labels).sum()

def raises(logits, labels):
    raise RuntimeError("lost")

def pair(logits, labels):
    return mean(logits, labels), {}
"""


def loss_of(name):
    """The loss of the tests' network on a few digits."""
    task = classify.task(tiny.classifier(), loss=classify.loss_named(name))
    examples, _, own = tiny.digits()
    batch = Examples(examples.images[own[:8]], examples.labels[own[:8]])
    variables = jax.tree.map(lambda leaf: leaf[0], tiny.variables())
    return task.loss(variables.params, variables.collections, batch, jax.random.key(0))


def test_a_loss_of_ones_own_takes_the_place_of_cross_entropy_and_nothing_else(own_module):
    own_module(LOSSES)
    usual, (stats, figures) = loss_of(None)
    each, (same_stats, same_figures) = loss_of("mine:squared")
    one, _ = loss_of("mine:mean")
    tiny.assert_equal((same_stats, same_figures), (stats, figures))
    assert each == one, "the mean over the batch is taken"
    assert float(each) != float(usual)


def test_tasks_of_equal_parts_are_one_so_that_programs_are_shared(own_module):
    own_module(LOSSES)
    classifier = tiny.classifier()
    assert classify.task(classifier) is classify.task(classifier, loss=classify.loss_named(None))
    one, other = (classify.task(classifier, loss=classify.loss_named("mine:mean")) for _ in range(2))
    assert one is other is not classify.task(classifier)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("logits_only", "loss: mine:logits_only takes (logits); allowed: (logits, labels), in this order"),
        ("rows", "loss: mine:rows makes float32[2, 10] of 2 images; allowed: one float, or one for each image"),
        ("count", "loss: mine:count makes int32[] of 2 images; allowed: one float, or one for each image"),
        ("raises", "loss: mine:raises raised RuntimeError: lost"),
        ("pair", "loss: mine:pair makes tuple of 2 images; allowed: one float, or one for each image"),
        ("men", "loss: unknown value 'mine:men'; allowed: mine:squared, mine:mean, "),
    ],
)
def test_what_is_no_loss_is_one_line(own_module, name, expected):
    own_module(LOSSES)
    with pytest.raises(SettingsError) as error:
        classify.try_loss(f"mine:{name}", 10)
    assert str(error.value).startswith(expected)


def test_cross_entropy_is_by_hand():
    logits = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 1])
    found = classify.loss_named(None)(jnp.asarray(logits), labels)
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), labels]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
