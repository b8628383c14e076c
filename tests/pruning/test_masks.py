"""Masks and what they say is prunable, on the names that flax itself gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze
from flax.traverse_util import unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.pruning import dense_form, from_dense_form, full_mask, is_kernel, prunable_leaves, restrict
from ssoup_jax.pruning.masks import read_patterns


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(4, (3, 3), name="stem")(x)))
        return nn.Dense(5, name="head")(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 6, 6, 3)))["params"]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def leaves(mask):
    """All leaves of a mask, those that are None too."""
    return jax.tree.leaves(mask, is_leaf=lambda leaf: leaf is None)


def test_kernels_are_prunable_from_first_to_last_layer(params):
    names = {"head/kernel": (144, 5), "stem/kernel": (3, 3, 3, 4)}
    found = prunable_leaves(params, full_mask(params))
    assert {name: leaf.shape for name, leaf in found.items()} == names


def test_leaves_come_in_tree_order_and_are_the_very_arrays(params):
    tree_order = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    for found, expected in zip(prunable_leaves(params, full_mask(params)).values(), tree_order, strict=True):
        assert found is expected


def test_frozen_params_and_stacks_have_the_same_prunable_leaves(params):
    stacked, names = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params), ["head/kernel", "stem/kernel"]
    for tree in (params, stacked, freeze(params)):
        assert list(prunable_leaves(tree, full_mask(tree))) == names
    assert list(prunable_leaves(stacked, full_mask(params))) == names


def test_a_mask_picks_from_itself_and_from_all_forms_of_masks(params):
    mask = full_mask(params)
    for tree in (mask, dense_form(mask, params)):
        found = prunable_leaves(tree, mask)
        assert list(found) == ["head/kernel", "stem/kernel"]
        assert all(np.all(leaf) for leaf in found.values())
    with pytest.raises(ValueError, match="None"):
        prunable_leaves(restrict(mask, only="head/*"), mask)


@pytest.mark.parametrize(
    ("name", "prunable"),
    [
        ("conv/kernel", True),
        ("block/conv/kernel", True),
        ("kernel", True),
        ("conv/bias", False),
        ("norm/scale", False),
        ("kernel/bias", False),
        ("conv/kernel_scale", False),
        ("conv/subkernel", False),
        ("", False),
    ],
)
def test_only_the_last_key_decides(name, prunable):
    assert is_kernel(name) is prunable


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_full_mask_keeps_all_that_is_prunable_and_has_nothing_elsewhere(params, transform):
    mask = transform(full_mask)(params)
    # What None stands for, all True.
    assert jax.tree.structure(dense_form(mask, params)) == jax.tree.structure(params)
    assert [leaf is None for leaf in leaves(mask)] == [leaf.ndim < 2 for leaf in jax.tree.leaves(params)]
    for name, kept in prunable_leaves(mask, mask).items():
        assert kept.shape == prunable_leaves(params, mask)[name].shape
        assert kept.dtype == bool
        assert np.all(kept)


def test_masks_need_nothing_of_the_params_but_their_shapes(params):
    shapes = jax.eval_shape(lambda: params)
    for found, expected in (
        (full_mask(shapes), full_mask(params)),
        (dense_form(full_mask(shapes), shapes), dense_form(full_mask(params), params)),
    ):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


def test_another_filter_makes_other_leaves_prunable(params):
    mask = full_mask(params, prunable=lambda name: name.startswith("norm/"))
    assert list(prunable_leaves(params, mask)) == ["norm/bias", "norm/scale"]


NAMES = ("head", "layer1_0/conv1", "layer1_0/conv2", "layer1_1/conv1", "layer2_0/conv1", "stem")


def network():
    """A mask of a network with blocks."""
    flat = {(*name.split("/"), "kernel"): np.ones(2, bool) for name in NAMES}
    return unflatten_dict(flat | {(*path[:-1], "bias"): None for path in flat} | {("norm", "scale"): None})


@pytest.mark.parametrize(
    ("only", "except_", "expected"),
    [
        (None, None, NAMES),
        ("*", None, NAMES),
        ("layer1_*", None, ("layer1_0/conv1", "layer1_0/conv2", "layer1_1/conv1")),
        ("layer1_*/conv1/kernel", None, ("layer1_0/conv1", "layer1_1/conv1")),
        ("layer?_0/*", None, ("layer1_0/conv1", "layer1_0/conv2", "layer2_0/conv1")),
        ("head/kernel , stem/*", None, ("head", "stem")),
        (None, "head/kernel", NAMES[1:]),
        (None, "[hs]*/kernel", NAMES[1:-1]),
        ("layer1_*", "*/conv2/*", ("layer1_0/conv1", "layer1_1/conv1")),
        # What is left out twice is no mistake.
        ("layer1_*", "head/*, layer1_1/*", ("layer1_0/conv1", "layer1_0/conv2")),
    ],
)
def test_patterns_choose_layers(only, except_, expected):
    mask = network()
    found = restrict(mask, only, except_)
    assert list(prunable_leaves(mask, found)) == [f"{name}/kernel" for name in expected]
    assert len(leaves(found)) == len(leaves(mask)), "the structure stays"
    for name, leaf in prunable_leaves(found, found).items():
        assert leaf is prunable_leaves(mask, mask)[name]


@pytest.mark.parametrize(
    ("only", "except_", "message"),
    [
        ("layer3_*", None, "prune_only: pattern 'layer3_*' matches no prunable parameter; the nearest is 'layer"),
        ("heads/kernel", None, "prune_only: pattern 'heads/kernel' matches no prunable parameter; the nearest is 'h"),
        ("Head/kernel", None, "prune_only: pattern 'Head/kernel' matches no prunable parameter; the nearest is 'head"),
        ("head/*, stam/*", None, "prune_only: pattern 'stam/*' matches no prunable parameter; the nearest is 'stem"),
        (None, "head", "prune_except: pattern 'head' matches no prunable parameter; the nearest is 'head/kernel'"),
        (None, "norm/scale", "prune_except: pattern 'norm/scale' matches no prunable parameter; the nearest is"),
        (None, "head/bias", "prune_except: pattern 'head/bias' matches no prunable parameter; the nearest is 'head"),
        (None, "*", "prune_except: found '*'; it leaves no parameter to prune"),
        ("head/*", "head/*", "prune_except: found 'head/*'; it leaves no parameter to prune"),
        ("", None, "prune_only: found ''; allowed: patterns over parameter names, separated by commas"),
        (None, "a,,b", "prune_except: found 'a,,b'; allowed: patterns over parameter names, separated by commas"),
    ],
)
def test_patterns_that_mean_nothing(only, except_, message):
    with pytest.raises(SettingsError) as error:
        restrict(network(), only, except_)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_network_without_kernels_has_no_nearest_name():
    with pytest.raises(SettingsError, match=r"^prune_only: pattern '\*' matches no prunable parameter$"):
        restrict({"norm": {"scale": None}}, only="*")


@settings(max_examples=50, deadline=None)
@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=len(NAMES) - 1))
def test_only_some_and_except_the_others_are_the_same(names):
    def text(chosen):
        return ", ".join(f"{name}/kernel" for name in chosen)

    some, others = restrict(network(), only=text(names)), restrict(network(), except_=text(set(NAMES) - names))
    assert list(prunable_leaves(some, some)) == list(prunable_leaves(others, others))


def test_patterns_are_read_without_their_blanks():
    assert read_patterns("prune_only", " a/* ,b") == ("a/*", "b")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_stored_form_holds_the_whole_mask(seed):
    random = np.random.default_rng(seed)
    params = {"a": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}, "b": {"kernel": np.ones(4)}, "scale": np.ones(2)}
    mask = jax.tree.map(lambda leaf: random.random(leaf.shape) < 0.5, full_mask(params))
    stored = dense_form(mask, params)
    assert jax.tree.map(np.shape, stored) == jax.tree.map(np.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {np.dtype(bool)}
    assert stored["a"]["bias"].all() and stored["scale"].all()
    found = from_dense_form(stored, full_mask(params))
    assert jax.tree.structure(found) == jax.tree.structure(mask)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(mask), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stored_mask_that_prunes_a_bias_is_refused():
    params = {"a": {"kernel": np.ones(2), "bias": np.ones(2)}}
    stored = {"a": {"kernel": np.ones(2, bool), "bias": np.array([True, False])}}
    with pytest.raises(RunError, match=r"^mask: a/bias has pruned weights"):
        from_dense_form(stored, full_mask(params))
