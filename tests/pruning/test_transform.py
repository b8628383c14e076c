"""Pruned weights are +0.0 after every step, whatever optimizer comes before the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax import trees
from ssoup_jax.errors import SettingsError
from ssoup_jax.pruning import apply_mask, dense_form, keep_masked_zero, mask_gradients, masked

N_STEPS = 4

OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "coupled decay": optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "not finite": optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.sqrt(-u) / 0, updates)),
}

MASK = {"conv": {"kernel": np.arange(24).reshape(2, 2, 2, 3) % 3 > 0, "bias": np.ones(3, bool)}}

# Made once, so that each is compiled once.
MASKED = {name: optax.chain(optimizer, keep_masked_zero(MASK)) for name, optimizer in OPTIMIZERS.items()}

# The same with a bias that is never pruned.
WITH_NONE = {"conv": {"kernel": MASK["conv"]["kernel"], "bias": None}}


def random_tree(seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda kept: jnp.asarray(random.standard_normal(kept.shape), jnp.float32), MASK)


def gradients():
    return trees.stack([random_tree(seed) for seed in range(1, N_STEPS + 1)])


def trajectory(optimizer, params, grads):
    """Returns the params after each step: `[steps, ...]`."""

    def step(carry, grad):
        params, state = carry
        # Adam's step counter needs optax's own promotion; lax.select in the mask is strict under either.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.lax.scan(step, (params, optimizer.init(params)), grads)[1]


def assert_plus_zero_where_masked(params, mask):
    for leaf, kept in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
        pruned = np.asarray(leaf)[..., ~np.asarray(kept)]
        np.testing.assert_array_equal(pruned, 0)
        assert not np.signbit(pruned).any()


def one_by_one(*args):
    """`trajectory`, one operation after the other."""
    with jax.disable_jit():
        return trajectory(*args)


compiled = jax.jit(trajectory, static_argnums=0)
either_way = pytest.mark.parametrize("run", [one_by_one, compiled], ids=["plain", "jit"])


# What the pruned places hold before the first step: nothing the user sets should matter.
STARTS = {
    "masked": lambda params: apply_mask(params, MASK),
    "negative zeros": lambda params: jax.tree.map(lambda w, m: jnp.where(m, w, -0.0), params, MASK),
    "not yet masked": lambda params: params,
    "subnormal": lambda params: jax.tree.map(lambda w, m: jnp.where(m, w, 1e-40), params, MASK),
    "largest float": lambda params: jax.tree.map(lambda w, m: jnp.where(m, w, 3.4e38), params, MASK),
}


@either_way
@pytest.mark.parametrize("optimizer", MASKED.values(), ids=MASKED)
def test_pruned_weights_are_zero_after_every_step(optimizer, run):
    assert_plus_zero_where_masked(run(optimizer, random_tree(0), gradients()), MASK)


@either_way
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_pruned_weights_are_zero_wherever_they_start(start, run):
    assert_plus_zero_where_masked(run(MASKED["coupled decay"], start(random_tree(0)), gradients()), MASK)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "not finite"])
def test_kept_weights_move_as_without_a_mask(name):
    found = one_by_one(MASKED[name], random_tree(0), gradients())
    free = one_by_one(OPTIMIZERS[name], random_tree(0), gradients())
    for own, expected, kept in zip(*map(jax.tree.leaves, (found, free, MASK)), strict=True):
        np.testing.assert_array_equal(np.asarray(own)[..., kept], np.asarray(expected)[..., kept])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]), exponent=st.integers(-30, 30))
def test_any_mask_and_any_scale(seed, density, exponent):
    random = np.random.default_rng(seed)
    mask = jax.tree.map(lambda kept: random.random(kept.shape) < density, MASK)
    params = jax.tree.map(lambda leaf: leaf * np.float32(10.0**exponent), random_tree(seed))
    transform = keep_masked_zero(mask)
    updates, _ = transform.update(random_tree(seed + 1), transform.init(params), params)
    assert_plus_zero_where_masked(optax.apply_updates(params, updates), mask)
    for found, given_, kept in zip(*map(jax.tree.leaves, (updates, random_tree(seed + 1), mask)), strict=True):
        np.testing.assert_array_equal(np.asarray(found)[kept], np.asarray(given_)[kept])


@pytest.mark.parametrize("name", ["coupled decay", "adamw"])
def test_one_mask_serves_a_stack_of_members(name):
    m = 3
    params = trees.stack([random_tree(seed) for seed in range(m)])
    found = jax.jit(jax.vmap(lambda p: trajectory(MASKED[name], p, gradients())))(params)
    for leaf, shape in zip(jax.tree.leaves(found), [kept.shape for kept in jax.tree.leaves(MASK)], strict=True):
        assert leaf.shape == (m, N_STEPS, *shape)
    assert_plus_zero_where_masked(found, MASK)
    for member in range(m):
        alone = compiled(MASKED[name], random_tree(member), gradients())
        # The batched program may round differently in the last place.
        for stacked, single in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(np.asarray(stacked)[member], single, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "not finite"])
def test_a_masked_optimizer_has_the_state_of_its_own_and_the_steps_of_the_chain(name):
    optimizer, params = masked(OPTIMIZERS[name], MASK), random_tree(0)
    own, found = OPTIMIZERS[name].init(params), optimizer.init(params)
    assert jax.tree.structure(found) == jax.tree.structure(own)
    with jax.numpy_dtype_promotion("standard"):
        _, after = optimizer.update(random_tree(1), found, params)
    assert jax.tree.structure(after) == jax.tree.structure(own)
    found, expected = (one_by_one(one, params, gradients()) for one in (optimizer, MASKED[name]))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_never_pruned_moves_as_without_a_mask(name):
    found, free = (
        one_by_one(one, random_tree(0), gradients()) for one in (masked(OPTIMIZERS[name], WITH_NONE), OPTIMIZERS[name])
    )
    np.testing.assert_array_equal(found["conv"]["bias"], free["conv"]["bias"])
    assert_plus_zero_where_masked(found["conv"]["kernel"], WITH_NONE["conv"]["kernel"])


def test_a_masked_optimizer_hands_extra_arguments_on():
    def update(updates, state, params=None, *, loss):
        return jax.tree.map(lambda u: u * loss, updates), state

    scaled = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    updates, _ = masked(scaled, WITH_NONE).update(random_tree(1), optax.EmptyState(), random_tree(0), loss=2.0)
    np.testing.assert_array_equal(updates["conv"]["bias"], 2 * random_tree(1)["conv"]["bias"])


def test_another_mask_does_not_recompile():
    @jax.jit
    def step(params, grads, mask):
        optimizer = optax.chain(optax.sgd(0.1), keep_masked_zero(mask))
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    for mask in (MASK, jax.tree.map(np.logical_not, MASK)):
        assert_plus_zero_where_masked(step(random_tree(0), random_tree(1), mask), mask)
    assert step._cache_size() == 1


def test_it_has_no_state_and_takes_extra_arguments():
    transform, params = keep_masked_zero(MASK), random_tree(0)
    state = transform.init(params)
    assert jax.tree.leaves(state) == []
    updates, after = transform.update(random_tree(1), state, params, loss=1.0)
    assert after == state
    assert_plus_zero_where_masked(optax.apply_updates(params, updates), MASK)


def test_update_needs_the_params():
    transform = keep_masked_zero(MASK)
    with pytest.raises(SettingsError, match="keep_masked_zero needs the current weights"):
        transform.update(random_tree(0), transform.init(random_tree(0)))


KERNEL, BIAS = MASK["conv"]["kernel"], MASK["conv"]["bias"]
ALLOWED = r"allowed: bool\[2, 2, 2, 3\], the shape of its weights, or None"
MISFITS = {
    "shape": ({"conv": {"bias": BIAS, "kernel": KERNEL[:1]}}, rf"conv/kernel is bool\[1, 2, 2, 3\]; {ALLOWED}"),
    "dtype": ({"conv": {"bias": BIAS, "kernel": 1.0 * KERNEL}}, rf"conv/kernel is float64\[2, 2, 2, 3\]; {ALLOWED}"),
    "missing": ({"conv": {"kernel": KERNEL}}, "conv/bias is nothing; "),
    "too many": ({**MASK, "fc": BIAS}, r"fc is bool\[3\]; the params have no leaf of that name"),
    "no leaf": ({"conv": None}, "conv/bias is nothing; "),
    "container": ({"conv": freeze(MASK["conv"])}, "has not the structure of the params: "),
}


USES = {
    "last": lambda mask: keep_masked_zero(mask).update(random_tree(1), (), random_tree(0)),
    "first": lambda mask: mask_gradients(mask).update(random_tree(1), (), random_tree(0)),
    "both": lambda mask: masked(optax.sgd(0.1), mask).update(random_tree(1), (), random_tree(0)),
    "traced": lambda mask: jax.jit(keep_masked_zero(mask).update)(random_tree(1), (), random_tree(0)),
    "apply_mask": lambda mask: apply_mask(random_tree(0), mask),
}


@pytest.mark.parametrize(("mask", "says"), MISFITS.values(), ids=MISFITS)
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_mask_that_does_not_fit_is_named_by_its_first_difference(mask, says, use):
    with pytest.raises(SettingsError, match=f"^mask: {says}"):
        use(mask)


WHOLE = {
    "clipping": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
    "lars": optax.lars(0.1),
    "lamb": optax.lamb(0.1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_looks_at_whole_gradients_sees_no_pruned_weight(name):
    optimizer = masked(WHOLE[name], MASK)
    params, gradient = apply_mask(random_tree(0), MASK), random_tree(1)
    huge = jax.tree.map(lambda g, kept: jnp.where(kept, g, jnp.float32(1e6)), gradient, MASK)
    with jax.numpy_dtype_promotion("standard"):
        found, small = (optimizer.update(g, optimizer.init(params), params)[0] for g in (huge, gradient))
        unmasked, _ = WHOLE[name].update(huge, optimizer.init(params), params)
    for one, other in zip(*map(jax.tree.leaves, (found, small)), strict=True):
        np.testing.assert_array_equal(one, other)
    kept = np.asarray(MASK["conv"]["kernel"])
    assert not np.allclose(unmasked["conv"]["kernel"][kept], found["conv"]["kernel"][kept], rtol=1e-2)


def test_gradients_of_pruned_weights_are_zero_and_others_stay():
    found, _ = mask_gradients(WITH_NONE).update(random_tree(1), optax.EmptyState())
    expected = apply_mask(random_tree(1), WITH_NONE)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["coupled decay", "adamw", "clipping"])
def test_weights_of_half_precision_stay_zero_under_updates_of_single_precision(name):
    def narrow(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)

    inner = (OPTIMIZERS | WHOLE)[name]
    rate = optax.stateless(lambda updates, _: jax.tree.map(lambda u: u.astype(jnp.float32) * 0.5, updates))
    optimizer, params = masked(optax.chain(inner, rate), MASK), narrow(random_tree(0))
    state = optimizer.init(params)
    for seed in range(1, N_STEPS):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(narrow(random_tree(seed)), state, params)
            params = optax.apply_updates(params, updates)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert_plus_zero_where_masked(jax.tree.map(np.float32, params), MASK)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_apply_mask(transform, dtype):
    params = {"kernel": jnp.array([[1, -2, 3], [-4, jnp.nan, -jnp.inf]], dtype), "bias": jnp.array([-0.0, 7], dtype)}
    mask = {"kernel": np.array([[True, False, False], [True, False, False]]), "bias": np.ones(2, bool)}
    found = transform(apply_mask)(params, mask)
    assert found["kernel"].dtype == dtype
    np.testing.assert_array_equal(np.float32(found["kernel"]), np.float32([[1, 0, 0], [-4, 0, 0]]))
    np.testing.assert_array_equal(np.signbit(np.float32(found["kernel"])), [[False] * 3, [True, False, False]])
    np.testing.assert_array_equal(found["bias"], params["bias"])


def test_apply_mask_leaves_alone_what_is_never_pruned():
    found, expected = (apply_mask(random_tree(0), mask) for mask in (WITH_NONE, dense_form(WITH_NONE, random_tree(0))))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_apply_mask_on_a_stack():
    params = trees.stack([random_tree(0), random_tree(1)])
    found = jax.vmap(apply_mask, in_axes=(0, None))(params, MASK)
    assert_plus_zero_where_masked(found, MASK)
    for leaf, given_, kept in zip(*map(jax.tree.leaves, (found, params, MASK)), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf)[..., kept], np.asarray(given_)[..., kept])
