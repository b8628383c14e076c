"""Selectors against hand-written masks and against plain Python sorting."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.pruning import (
    SELECTORS,
    Selector,
    allocation,
    full_mask,
    phase_amount,
    prune_count,
    restrict,
    scores,
    select,
)

KEY = jax.random.key(0)


def tree(*kernels, dtype=np.float32):
    """A model of linear layers `a`, `b`, ...; each has a bias smaller than any weight, which must not count."""
    return {
        name: {"kernel": np.asarray(kernel, dtype), "bias": np.zeros(3, dtype)}
        for name, kernel in zip("abcdefgh", kernels, strict=False)
    }


def mask_of(*kernels):
    return {
        name: {"kernel": np.asarray(kernel, bool), "bias": None}
        for name, kernel in zip("abcdefgh", kernels, strict=False)
    }


def on_host(tree):
    """The kernels of params or a mask as NumPy arrays, on which nothing is compiled for each new shape."""
    return {f"{name}/kernel": np.asarray(layer["kernel"]) for name, layer in tree.items()}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert f.dtype == bool
        np.testing.assert_array_equal(f, e)


T, F = True, False
INF = float("inf")

# name: (selector, kernels, mask before or None for full, amount, mask after)
HAND_WRITTEN = {
    "smallest over all layers": (
        "global",
        ([[1, 2], [3, 4]], [[0.5, 5], [0.25, 6]]),
        None,
        0.5,
        ([[F, F], [T, T]], [[F, T], [F, T]]),
    ),
    "smallest in each layer": (
        "uniform",
        ([[1, 2], [3, 4]], [[0.5, 5], [0.25, 6]]),
        None,
        0.5,
        ([[F, F], [T, T]], [[F, T], [F, T]]),
    ),
    "global may empty a layer": (
        "global",
        ([[0.1, 0.2]], [[3, 4]]),
        None,
        0.5,
        ([[F, F]], [[T, T]]),
    ),
    "uniform takes from every layer": (
        "uniform",
        ([[0.1, 0.2]], [[3, 4]]),
        None,
        0.5,
        ([[F, T]], [[F, T]]),
    ),
    "uniform rounds in each layer": ("uniform", ([[1, 2, 3]], [[1, 2, 3]]), None, 0.5, ([[F, F, T]],) * 2),
    "global rounds once": ("global", ([[1, 2, 3]], [[1, 2, 3]]), None, 0.5, ([[F, F, T]], [[F, T, T]])),
    "sign is ignored": ("global", ([[-3, -0.1, 0.2, -0.3]],), None, 0.5, ([[T, F, F, T]],)),
    "ties go by index": ("global", ([[2, -1], [1, 1]], [[-1, 1]]), None, 0.5, ([[T, F], [F, F]], [[T, T]])),
    "ties in C order": ("global", ([[1, -1], [1, 1]],), None, 0.5, ([[F, F], [T, T]],)),
    "-0.0 ties with 0": ("global", ([[5, 0.0, -0.0, 0.0]],), None, 0.5, ([[T, F, F, T]],)),
    "-0.0 before 0 by index": ("global", ([[5, -0.0, 0.0, 1]],), None, 0.25, ([[T, F, T, T]],)),
    "pruned weights do not count": (
        "global",
        ([[0, 0, 1, 2]], [[0, 4, 5, 6]]),
        ([[F, F, T, T]], [[F, T, T, T]]),
        0.4,
        ([[F, F, F, F]], [[F, T, T, T]]),
    ),
    "a pruned weight never comes back": (
        "global",
        ([[9, 8, 1, 2]],),
        ([[F, F, T, T]],),
        0.5,
        ([[F, F, F, T]],),
    ),
    "a pruned weight may be NaN": (
        "uniform",
        ([[np.nan, 3, 1, 2]],),
        ([[F, T, T, T]],),
        1 / 3,
        ([[F, T, F, T]],),
    ),
    "infinities go last": ("global", ([[INF, 3e38, -INF, 1]],), None, 0.75, ([[F, F, T, F]],)),
    "subnormals are not zero": ("global", ([[1e-45, 0, 3e-45, 2e-39]],), None, 0.5, ([[F, F, T, T]],)),
    "nothing": ("global", ([[1, 2, 3]],), None, 0.1, ([[T, T, T]],)),
    "nothing left to take": ("global", ([[1, 2, 3]],), ([[F, F, F]],), 0.9, ([[F, F, F]],)),
    "everything": ("global", ([[1, 2, 3]], [[4]]), None, 1.0, ([[F, F, F]], [[F]])),
    "everything, at random": ("random", ([[1, 2, 3]], [[4]]), None, 1.0, ([[F, F, F]], [[F]])),
}


@pytest.mark.parametrize(("selector", "kernels", "before", "amount", "after"), HAND_WRITTEN.values(), ids=HAND_WRITTEN)
@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_hand_written_masks(selector, kernels, before, amount, after, where):
    params = jax.tree.map(where, tree(*kernels))
    mask = full_mask(params) if before is None else jax.tree.map(where, mask_of(*before))
    found = select(selector, params, mask, amount, KEY)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    assert_same(found, mask_of(*after))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64])
def test_any_float_dtype(dtype):
    found = select("global", tree([[-1, 3], [2, 0.5]], dtype=dtype), mask_of([[T, T], [T, T]]), 0.5, KEY)
    assert_same(found, mask_of([[F, T], [T, F]]))


def test_neither_params_nor_mask_are_changed():
    params, mask = tree([[-1, 3], [2, 0.5]]), mask_of([[T, T], [T, T]])
    for name in SELECTORS:
        select(name, params, mask, 0.5, KEY)
    np.testing.assert_array_equal(params["a"]["kernel"], np.float32([[-1, 3], [2, 0.5]]))
    assert mask["a"]["kernel"].all()


@pytest.mark.parametrize(
    ("amount", "n_kept", "expected"),
    [(0.5, 5, 2), (0.5, 3, 2), (0.5, 7, 4), (0.5, 1, 0), (0.1, 3, 0), (0.0, 10, 0), (1.0, 10, 10), (0.3, 0, 0)],
)
def test_prune_count_rounds_halves_to_even(amount, n_kept, expected):
    assert prune_count(amount, n_kept) == expected
    assert prune_count(np.float64(amount), np.int64(n_kept)) == expected


@pytest.mark.parametrize(
    ("goal", "n_phases", "expected"), [(0.75, 2, 0.5), (0.875, 3, 0.5), (0.5, 1, 0.5), (0.0, 4, 0.0), (1.0, 2, 1.0)]
)
def test_phase_amount(goal, n_phases, expected):
    assert phase_amount(goal, n_phases) == expected


@pytest.mark.parametrize(
    ("goal", "n_phases", "pruned", "expected"),
    [(0.75, 1, 0.5, 0.5), (0.875, 2, 0.5, 0.5), (0.96875, 2, 0.875, 0.5), (0.5, 3, 0.5, 0.0), (0.9, 3, 0.0, None)],
)
def test_phase_amount_of_what_is_left_where_some_is_pruned_already(goal, n_phases, pruned, expected):
    assert phase_amount(goal, n_phases, pruned) == (phase_amount(goal, n_phases) if expected is None else expected)


@given(st.integers(50, 5000), st.integers(1, 6), st.floats(0, 0.95), st.floats(0.01, 1))
def test_phases_lead_to_the_goal_from_wherever_they_start(n_weights, n_phases, pruned, way):
    kept = n_weights - round(pruned * n_weights)
    pruned = 1 - kept / n_weights
    goal = pruned + way * (0.999 - pruned)
    for _ in range(n_phases):
        kept -= prune_count(phase_amount(goal, n_phases, pruned), kept)
    # Each phase rounds to a whole weight, and those after it scale what that missed down.
    assert abs(kept - (1 - goal) * n_weights) <= 0.5 * n_phases


# The sparsities after each of three phases that the method's paper names.
@pytest.mark.parametrize(("goal", "after"), [(0.98, (0.728, 0.926, 0.98)), (0.9, (0.536, 0.785, 0.9))])
def test_three_phases_reach_the_goal(goal, after):
    params = tree(np.random.default_rng(0).standard_normal((250, 40)))
    mask = full_mask(params)
    for sparsity in after:
        mask = select("global", params, mask, phase_amount(goal, 3), KEY)
        # The paper gives three digits, some of them rounded, some cut off; 10,000 weights resolve 1e-4.
        assert 1 - np.mean(np.asarray(mask["a"]["kernel"])) == pytest.approx(sparsity, abs=1e-3)


@st.composite
def cases(draw):
    """A tree with many ties and zeros of both signs, a mask with holes, and an amount."""
    shape = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)
    shapes = draw(st.lists(shape, min_size=1, max_size=4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 3, 10, 1000]))
    # The second factor makes half of the zeros -0.0.
    kernels = [random.integers(0, levels, shape, endpoint=True) * random.choice([-1.0, 1.0], shape) for shape in shapes]
    density = draw(st.sampled_from([0.0, 0.5, 1.0]))
    holes = [random.random(shape) < density for shape in shapes]
    return tree(*kernels), mask_of(*holes), draw(st.floats(0, 1))


def lowest(weights, mask, amount):
    """Names `(tensor, index)` of the weights that a full sort by magnitude, then position, puts first."""
    ranked = sorted(
        (abs(value), position, index)
        for position, name in enumerate(weights)
        for index, value in enumerate(weights[name].ravel().tolist())
        if mask[name].ravel()[index]
    )
    names = list(weights)
    return {(names[position], index) for _, position, index in ranked[: round(amount * len(ranked))]}


def lost(before, after):
    """Names `(tensor, index)` of what the selector took."""
    return {(name, index.item()) for name in before for index in np.flatnonzero(before[name] & ~after[name])}


@settings(max_examples=50, deadline=None)
@given(cases())
def test_global_takes_what_a_full_sort_would(case):
    params, mask, amount = case
    weights, before = on_host(params), on_host(mask)
    after = on_host(select("global", params, mask, amount, KEY))
    assert lost(before, after) == lowest(weights, before, amount)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_uniform_takes_what_a_full_sort_of_each_layer_would(case):
    params, mask, amount = case
    weights, before = on_host(params), on_host(mask)
    after = on_host(select("uniform", params, mask, amount, KEY))
    expected = [lowest({name: weights[name]}, before, amount) for name in weights]
    assert lost(before, after) == set().union(*expected)


@settings(max_examples=50, deadline=None)
@given(cases(), st.sampled_from(list(SELECTORS)))
def test_masks_shrink_by_exact_counts_and_touch_nothing_else(case, name):
    params, mask, amount = case
    found = select(name, params, mask, amount, KEY)
    assert jax.tree.structure(found) == jax.tree.structure(mask)
    before, after = on_host(mask), on_host(found)
    groups = [[layer] for layer in before] if name == "uniform" else [list(before)]
    for group in groups:
        n_kept = sum(before[layer].sum() for layer in group)
        assert sum(after[layer].sum() for layer in group) == n_kept - round(amount * n_kept)
    for layer, kept in after.items():
        assert kept.shape == before[layer].shape
        assert not np.any(kept & ~before[layer])
    assert all(layer["bias"] is None for layer in found.values())


@settings(max_examples=50, deadline=None)
@given(cases(), st.sampled_from(["global", "uniform"]))
def test_no_pruned_magnitude_exceeds_a_kept_one(case, name):
    params, mask, amount = case
    before, after = on_host(mask), on_host(select(name, params, mask, amount, KEY))
    weights = {layer: np.abs(leaf) for layer, leaf in on_host(params).items()}
    groups = [[layer] for layer in before] if name == "uniform" else [list(before)]
    for group in groups:
        kept = np.concatenate([weights[layer][after[layer]] for layer in group])
        taken = np.concatenate([weights[layer][before[layer] & ~after[layer]] for layer in group])
        if kept.size and taken.size:
            assert taken.max() <= kept.min()


def test_random_depends_on_the_key_and_not_on_the_weights():
    ones, others = tree(np.ones((8, 8))), tree(np.arange(64.0).reshape(8, 8))
    mask = full_mask(ones)
    first = select("random", ones, mask, 0.5, KEY)
    assert_same(select("random", others, mask, 0.5, KEY), first)
    again = select("random", ones, mask, 0.5, jax.random.key(1))
    assert np.any(np.asarray(again["a"]["kernel"]) != np.asarray(first["a"]["kernel"]))


def test_random_prunes_every_place_equally_often():
    params, n_keys = tree(np.zeros((2, 5)), np.zeros((1, 10))), 400
    mask = mask_of(np.ones((2, 5)), [[T, F] * 5])
    times = np.zeros(20)
    for seed in range(n_keys):
        kept = on_host(select("random", params, mask, 0.4, jax.random.key(seed)))
        times += ~np.concatenate([leaf.ravel() for leaf in kept.values()])
    allowed = np.array([True] * 10 + [True, False] * 5)
    np.testing.assert_array_equal(times[~allowed], n_keys)
    # 6 of 15 each time: 160 expected, standard deviation 9.8; five of them, for fixed keys.
    np.testing.assert_allclose(times[allowed], 0.4 * n_keys, atol=49)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("bad", [np.nan, -np.nan])
def test_nan_weights_are_an_error_that_names_the_tensor(name, bad):
    params = tree([[1, 2, 3]], [[1, bad, bad]])
    with pytest.raises(RunError, match="b/kernel holds NaN in 2 of 3 weights"):
        select(name, params, full_mask(params), 0.5, KEY)


def test_nan_outside_the_prunable_leaves_is_not_this_package_s_business():
    params = tree([[1, 2]])
    params["a"]["bias"] = np.full(3, np.nan)
    assert_same(select("global", params, full_mask(params), 0.5, KEY), mask_of([[F, T]]))


@pytest.mark.parametrize(
    ("selector", "left", "after"),
    [
        ("global", "a/*, c/*", ([[F, F, F], [F, T, T]], [[T, T]], [[F, T]])),
        ("global", "b/*", ([[F, T, T], [T, T, T]], [[F, T]], [[T, T]])),
        ("uniform", "a/*, c/*", ([[F, F, F], [T, T, T]], [[T, T]], [[F, T]])),
    ],
)
def test_layers_that_are_left_out_keep_their_weights_and_do_not_count(selector, left, after):
    params = tree([[0, 1, 2], [4, 5, 6]], [[0.1, 0.2]], [[3, 9]])
    mask = mask_of([[F, T, T], [T, T, T]], [[T, T]], [[T, T]])
    found = select(selector, params, mask, 0.5, KEY, among=restrict(mask, only=left))
    assert_same(found, mask_of(*after))


@settings(max_examples=50, deadline=None)
@given(cases(), st.sampled_from(list(SELECTORS)), st.data())
def test_what_is_left_out_stays_as_it_is_and_the_others_are_pruned_as_if_alone(case, name, data):
    params, mask, amount = case
    chosen = data.draw(st.sets(st.sampled_from(sorted(params)), min_size=1))
    among = restrict(mask, only=",".join(f"{layer}/kernel" for layer in chosen))
    found = select(name, params, mask, amount, KEY, among=among)
    assert jax.tree.structure(found) == jax.tree.structure(mask)
    alone = [{layer: node[layer] for layer in params if layer in chosen} for node in (params, mask)]
    expected = on_host(mask) | on_host(select(name, *alone, amount, KEY))
    for layer, kept in on_host(found).items():
        np.testing.assert_array_equal(kept, expected[layer])


def test_nan_in_a_layer_that_is_left_out_does_not_matter():
    params = tree([[1, 2]], [[np.nan, 1]])
    mask = full_mask(params)
    found = select("global", params, mask, 0.5, KEY, among=restrict(mask, except_="b/kernel"))
    assert_same(found, mask_of([[F, T]], [[T, T]]))


def test_a_new_selector_is_one_entry(monkeypatch):
    monkeypatch.setitem(SELECTORS, "random in each layer", Selector(scores.random, allocation.uniform))
    params = tree(np.ones((8, 5)), np.full((2, 3), 1e6))
    mask = full_mask(params)
    found = on_host(select("random in each layer", params, mask, 0.5, KEY))
    assert [np.count_nonzero(kept) for kept in found.values()] == [20, 3]
    others = tree(np.arange(40.0).reshape(8, 5), np.zeros((2, 3)))
    assert_same(select("random in each layer", others, mask, 0.5, KEY), mask_of(*found.values()))
    again = on_host(select("random in each layer", params, mask, 0.5, jax.random.key(1)))
    assert np.any(again["a/kernel"] != found["a/kernel"])


def test_unknown_selector():
    params = tree([[1, 2]])
    allowed = "global, uniform, random, MODULE:NAME"
    message = f"pruning_selector: unknown value 'globl'; allowed: {allowed}; did you mean 'global'?"
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        select("globl", params, full_mask(params), 0.5, KEY)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", SELECTORS)
def test_amounts_outside_0_to_1(name, amount):
    params = tree([[1, 2]])
    with pytest.raises(SettingsError, match=f"amount to prune: found {amount}"):
        select(name, params, full_mask(params), amount, KEY)


@pytest.mark.parametrize(
    ("goal", "n_phases", "setting"), [(1.5, 2, "goal_sparsity"), (-0.1, 2, "goal_sparsity"), (0.5, 0, "n_phases")]
)
def test_phase_amount_refuses_values_outside_its_range(goal, n_phases, setting):
    with pytest.raises(SettingsError, match=f"^{setting}: found"):
        phase_amount(goal, n_phases)


@pytest.mark.parametrize("pruned", [0.6, 1.0, -0.1])
def test_phase_amount_refuses_a_goal_that_is_passed_already(pruned):
    with pytest.raises(SettingsError, match=rf"^goal_sparsity: found 0.5; {pruned} of the weights are pruned already"):
        phase_amount(0.5, 2, pruned)


def test_a_model_without_kernels():
    params = {"norm": {"scale": np.ones(3)}}
    with pytest.raises(RunError, match="no convolution or linear kernel"):
        select("global", params, full_mask(params), 0.5, KEY)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((1, 2), bool), "mask: a/kernel is bool[1, 2]; allowed: bool[2, 2]"),
        (np.ones((2, 2), np.float32), "mask: a/kernel is float32[2, 2]; allowed: bool[2, 2]"),
    ],
)
def test_a_mask_that_does_not_fit(kernel, message):
    mask = {"a": {"kernel": kernel, "bias": None}}
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}"):
        select("global", tree([[1, 2], [3, 4]]), mask, 0.5, KEY)


def test_a_mask_of_another_model():
    with pytest.raises(SettingsError, match=r"^mask: b/bias is nothing; allowed: bool\[3\]"):
        select("global", {"b": tree([[1, 2]])["a"]}, mask_of([[T, T]]), 0.5, KEY)
