"""Which leaves are prunable, on the names that flax itself gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from ssoup_jax.pruning import full_mask, is_prunable, prunable_leaves


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(4, (3, 3), name="stem")(x)))
        return nn.Dense(5, name="head")(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 6, 6, 3)))["params"]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def test_kernels_are_prunable_from_first_to_last_layer(params):
    names = {"head/kernel": (144, 5), "stem/kernel": (3, 3, 3, 4)}
    assert {name: leaf.shape for name, leaf in prunable_leaves(params).items()} == names


def test_leaves_come_in_tree_order_and_are_the_very_arrays(params):
    tree_order = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    for found, expected in zip(prunable_leaves(params).values(), tree_order, strict=True):
        assert found is expected


def test_frozen_params_and_stacks_have_the_same_prunable_leaves(params):
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    assert list(prunable_leaves(freeze(params))) == list(prunable_leaves(stacked)) == list(prunable_leaves(params))


@pytest.mark.parametrize(
    ("path", "prunable"),
    [
        (("conv", "kernel"), True),
        (("block", "conv", "kernel"), True),
        (("kernel",), True),
        (("conv", "bias"), False),
        (("norm", "scale"), False),
        (("kernel", "bias"), False),
        (("conv", "kernel_scale"), False),
        (("conv", "subkernel"), False),
        ((), False),
    ],
)
def test_only_the_last_key_decides(path, prunable):
    assert is_prunable(tuple(jax.tree_util.DictKey(key) for key in path)) is prunable


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_full_mask_has_the_structure_and_shapes_of_the_params(params, transform):
    mask = transform(full_mask)(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    for kept, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(params), strict=True):
        assert kept.shape == leaf.shape
        assert kept.dtype == bool
        assert np.all(kept)
