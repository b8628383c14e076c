"""Masked optimizers against `torch.optim`, alive, and LARS against its formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssoup_jax.errors import SettingsError
from ssoup_jax.pruning.transform import masked
from ssoup_jax.training import optimizer
from ssoup_jax.training.optimizer import OPTIMIZERS

N_STEPS = 6
SHAPES = {"bias": (3,), "kernel": (4, 3)}


def draw(seed: int, *leading: int):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((*leading, *shape)).astype(np.float32) for name, shape in SHAPES.items()}


def random_mask(seed: int):
    return {"bias": np.ones(3, bool), "kernel": np.random.default_rng(seed).random((4, 3)) < 0.5}


def nothing_pruned():
    return {name: np.ones(shape, bool) for name, shape in SHAPES.items()}


@functools.partial(jax.jit, static_argnums=0)
def trajectory(name, params, gradients, rates, weight_decay, momentum, mask):
    """Returns the params after each step, `[steps, ...]`."""

    def step(carry, inputs):
        params, opt_state = carry
        gradient, rate = inputs
        chain = masked(OPTIMIZERS[name](rate, weight_decay, momentum), mask)
        updates, opt_state = chain.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    opt_state = OPTIMIZERS[name](*jnp.zeros(3)).init(params)
    return jax.lax.scan(step, (params, opt_state), (gradients, rates))[1]


def torch_optimizer(name, parameters, weight_decay, momentum):
    if name == "SGD":
        # torch allows Nesterov only with momentum; without, the two variants are one.
        nesterov = weight_decay > 0 and momentum > 0
        return torch.optim.SGD(parameters, lr=1.0, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[name]
    return kind(parameters, lr=1.0, betas=(momentum, 0.999), weight_decay=weight_decay)


def torch_trajectory(params, gradients, rates, make):
    own = {name: torch.nn.Parameter(torch.from_numpy(leaf.copy())) for name, leaf in params.items()}
    stepped = make(own.values())
    steps = []
    for i, rate in enumerate(rates):
        stepped.param_groups[0]["lr"] = rate
        for name, parameter in own.items():
            parameter.grad = torch.from_numpy(gradients[name][i].copy())
        stepped.step()
        steps.append({name: parameter.detach().numpy().copy() for name, parameter in own.items()})
    return {name: np.stack([step[name] for step in steps]) for name in params}


def run(name, seed, rates, weight_decay, momentum, mask):
    params, gradients = draw(seed), draw(seed + 1, len(rates))
    scalars = [jnp.float32(value) for value in (weight_decay, momentum)]
    found = trajectory(name, params, gradients, np.float32(rates), *scalars, mask)
    return params, gradients, jax.device_get(found)


RATES = st.lists(st.floats(0, 0.5, width=32), min_size=N_STEPS, max_size=N_STEPS)
DECAYS = st.sampled_from([0.0, 1e-4, 5e-4, 0.1])
MOMENTA = st.sampled_from([0.0, 0.5, 0.9])


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rates=RATES, weight_decay=DECAYS, momentum=MOMENTA)
@example(seed=0, rates=[0.1] * N_STEPS, weight_decay=0.0, momentum=0.9)
@example(seed=0, rates=[0.1] * N_STEPS, weight_decay=0.1, momentum=0.9)
def test_steps_are_torchs(name, seed, rates, weight_decay, momentum):
    mask = random_mask(seed + 2)
    params, gradients, found = run(name, seed, rates, weight_decay, momentum, mask)

    def make(parameters):
        return torch_optimizer(name, parameters, weight_decay, momentum)

    # Decay and momentum of Adam act on what a weight has seen while it was there; a pruned one sees nothing.
    seen = {key: gradients[key] * mask[key] for key in gradients}
    expected = torch_trajectory({key: params[key] * mask[key] for key in params}, seen, rates, make)
    for leaf, kept in mask.items():
        # Dozens of roundings of float32, 6e-8 each, on values of up to 20; optax takes 1 - 0.999 ** t in float32, too,
        # which is 2e-5 of Adam's step of about the rate.
        atol = 5e-6 if name == "SGD" else 5e-6 + 2e-5 * sum(rates)
        np.testing.assert_allclose(found[leaf][:, kept], expected[leaf][:, kept], rtol=0, atol=atol)


def lars_by_hand(params, gradients, rates, weight_decay, momentum):
    """Algorithm 1 of You, Gitman and Ginsburg (2017), with the decayed gradient's norm as one number.

    Weights that are zero stay so, and their gradients are not looked at.
    """
    own = {name: np.float64(leaf) for name, leaf in params.items()}
    velocity = {name: np.zeros(leaf.shape) for name, leaf in own.items()}
    steps = []
    for i, rate in enumerate(rates):
        for name, weight in own.items():
            gradient = np.float64(gradients[name][i]) * (params[name] != 0)
            if weight.ndim > 1:
                gradient = gradient + weight_decay * weight
                norms = np.linalg.norm(weight), np.linalg.norm(gradient)
                gradient = gradient * (0.001 * norms[0] / norms[1] if all(norms) else 1)
            velocity[name] = momentum * velocity[name] + rate * gradient
            own[name] = weight - velocity[name]
        steps.append(dict(own))
    return {name: np.stack([step[name] for step in steps]) for name in params}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), rates=RATES, weight_decay=DECAYS, momentum=MOMENTA)
def test_steps_of_lars_are_those_of_its_formulas(seed, rates, weight_decay, momentum):
    mask, gradients = random_mask(seed + 2), draw(seed + 1, len(rates))
    params = {name: leaf * mask[name] for name, leaf in draw(seed).items()}  # norms are those of what is there
    found = trajectory("LARS", params, gradients, *map(np.float32, (rates, weight_decay, momentum)), mask)
    expected = lars_by_hand(params, gradients, rates, weight_decay, momentum)
    for leaf, kept in mask.items():
        np.testing.assert_allclose(found[leaf][:, kept], expected[leaf][:, kept], rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), rates=RATES, weight_decay=DECAYS, momentum=MOMENTA)
def test_pruned_weights_are_zero_after_every_step(name, seed, rates, weight_decay, momentum):
    mask = random_mask(seed)
    _, _, found = run(name, seed, rates, weight_decay, momentum, mask)
    # By its bits, because -0.0 is equal to 0.0.
    assert not found["kernel"][:, ~mask["kernel"]].view(np.int32).any()
    assert np.isfinite(found["kernel"]).all()


@pytest.mark.parametrize(("weight_decay", "nesterov"), [(0.0, False), (1e-30, True)])
def test_nesterov_exactly_when_decay_is_positive(weight_decay, nesterov):
    # A decay of 1e-30 changes no weight of float32: what it changes is the variant.
    rates = [0.1] * N_STEPS
    params, gradients, found = run("SGD", 0, rates, weight_decay, 0.9, nothing_pruned())

    def make(parameters, decay=0.0):
        return torch_optimizer("SGD", parameters, decay, 0.9)

    same = torch_trajectory(params, gradients, rates, make)
    assert np.allclose(found["bias"], same["bias"], atol=1e-5) != nesterov
    if nesterov:
        expected = torch_trajectory(params, gradients, rates, functools.partial(make, decay=1e-30))
        np.testing.assert_allclose(found["bias"], expected["bias"], rtol=1e-6, atol=1e-5)


def test_decay_is_coupled_in_adam_and_decoupled_in_adamw():
    # With a gradient of nothing but decay Adam takes a step of the rate, AdamW one of rate * decay * weight.
    params, nothing = draw(0), {name: np.zeros((1, *shape), np.float32) for name, shape in SHAPES.items()}
    for name, expected in (("Adam", np.sign(params["bias"])), ("AdamW", 0.1 * params["bias"])):
        found = trajectory(name, params, nothing, np.float32([0.5]), *np.float32([0.1, 0.9]), nothing_pruned())
        np.testing.assert_allclose(found["bias"][0], params["bias"] - 0.5 * expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_state_does_not_depend_on_the_hyperparameters(name):
    params = draw(0)
    one = OPTIMIZERS[name](*np.float32([0, 0, 0])).init(params)
    other = OPTIMIZERS[name](*np.float32([0.1, 1e-4, 0.9])).init(params)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((one, other)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_half_precision_weights_keeps_its_dtypes(name):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), draw(0))
    made = OPTIMIZERS[name](*jnp.float32([0.1, 1e-4, 0.9]))
    before = made.init(params)
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        _, after = made.update(params, before, params)
    assert [leaf.dtype for leaf in jax.tree.leaves(after)] == [leaf.dtype for leaf in jax.tree.leaves(before)]


def test_sgd_has_one_buffer_for_each_weight():
    assert [leaf.shape for leaf in jax.tree.leaves(optimizer.sgd(*np.float32([0, 0, 0])).init(draw(0)))] == list(
        SHAPES.values()
    )


OWN = """
import optax

def lion(learning_rate, weight_decay):
    return optax.lion(learning_rate, weight_decay=weight_decay)

def made(learning_rate):
    return 3

def raises(learning_rate):
    raise RuntimeError("no steps")

def rate(lr):
    return optax.sgd(lr)

def growing(learning_rate):
    return optax.GradientTransformation(lambda params: (), lambda updates, state, params: (updates, (updates,)))

def fewer(learning_rate):
    return optax.GradientTransformation(lambda params: (), lambda updates, state, params: (updates["kernel"], state))
"""


def test_an_optimizer_of_ones_own_is_given_what_it_asks_for(own_module):
    own_module(OWN)
    values = jnp.float32([0.1, 0.5, 0.9])
    params, gradients = draw(0), draw(1)
    found, expected = optimizer.named("mine:lion")(*values), optax.lion(values[0], weight_decay=values[1])
    (update, _), (wanted, _) = (own.update(gradients, own.init(params), params) for own in (found, expected))
    jax.tree.map(np.testing.assert_array_equal, update, wanted)
    assert optimizer.named("mine:lion") is optimizer.named("mine:lion"), "programs are shared"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("made", "optimizer: mine:made returns a int; allowed: an optax optimizer"),
        ("raises", "optimizer: mine:raises raised RuntimeError: no steps"),
        ("rate", "optimizer: mine:rate takes (lr); allowed: (learning_rate), and weight_decay, momentum where it"),
        ("growing", "optimizer: mine:growing: its state does not keep its structure"),
        ("fewer", "optimizer: mine:fewer: an update does not keep its structure: "),
        ("lyon", "optimizer: unknown value 'mine:lyon'; allowed: mine:lion, "),
    ],
)
def test_an_optimizer_of_ones_own_that_takes_no_step_is_one_line(own_module, name, expected):
    own_module(OWN)
    with pytest.raises(SettingsError) as error:
        optimizer.try_out(f"mine:{name}", draw(0))
    assert str(error.value).startswith(expected)


def test_a_name_that_is_unknown_is_answered_with_the_nearest():
    with pytest.raises(SettingsError, match=r"optimizer: unknown value 'adamW'; .*did you mean 'AdamW'\?"):
        optimizer.named("adamW")
