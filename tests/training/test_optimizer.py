"""Masked SGD against `torch.optim.SGD`, alive."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssoup_jax.pruning.transform import masked
from ssoup_jax.training import optimizer

N_STEPS = 6
SHAPES = {"bias": (3,), "kernel": (4, 3)}


def draw(seed: int, *leading: int):
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((*leading, *shape)).astype(np.float32) for name, shape in SHAPES.items()}


def random_mask(seed: int):
    return {"bias": np.ones(3, bool), "kernel": np.random.default_rng(seed).random((4, 3)) < 0.5}


@jax.jit
def trajectory(params, gradients, rates, weight_decay, momentum, mask):
    """Returns the params after each step, `[steps, ...]`."""

    def step(carry, inputs):
        params, opt_state = carry
        gradient, rate = inputs
        chain = masked(optimizer.sgd(rate, weight_decay, momentum), mask)
        updates, opt_state = chain.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    opt_state = optimizer.sgd(*jnp.zeros(3)).init(params)
    return jax.lax.scan(step, (params, opt_state), (gradients, rates))[1]


def torch_trajectory(params, gradients, rates, weight_decay, momentum, nesterov):
    own = {name: torch.nn.Parameter(torch.from_numpy(leaf.copy())) for name, leaf in params.items()}
    sgd = torch.optim.SGD(own.values(), lr=1.0, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    steps = []
    for i, rate in enumerate(rates):
        sgd.param_groups[0]["lr"] = rate
        for name, parameter in own.items():
            parameter.grad = torch.from_numpy(gradients[name][i].copy())
        sgd.step()
        steps.append({name: parameter.detach().numpy().copy() for name, parameter in own.items()})
    return {name: np.stack([step[name] for step in steps]) for name in params}


def run(seed, rates, weight_decay, momentum, mask):
    params, gradients = draw(seed), draw(seed + 1, len(rates))
    scalars = [jnp.float32(value) for value in (weight_decay, momentum)]
    found = trajectory(params, gradients, np.float32(rates), *scalars, mask)
    return params, gradients, jax.device_get(found)


RATES = st.lists(st.floats(0, 0.5, width=32), min_size=N_STEPS, max_size=N_STEPS)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rates=RATES,
    weight_decay=st.sampled_from([0.0, 1e-4, 5e-4, 0.1]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
)
@example(seed=0, rates=[0.1] * N_STEPS, weight_decay=0.0, momentum=0.9)
@example(seed=0, rates=[0.1] * N_STEPS, weight_decay=0.1, momentum=0.9)
def test_steps_are_torchs(seed, rates, weight_decay, momentum):
    mask = random_mask(seed + 2)
    params, gradients, found = run(seed, rates, weight_decay, momentum, mask)
    # torch allows Nesterov only with momentum; without, the two variants are one.
    nesterov = weight_decay > 0 and momentum > 0
    expected = torch_trajectory(params, gradients, rates, weight_decay, momentum, nesterov)
    for name, kept in mask.items():
        # Dozens of roundings of float32, 6e-8 each, on values of up to 20.
        np.testing.assert_allclose(found[name][:, kept], expected[name][:, kept], rtol=0, atol=5e-6)
        # By its bits, because -0.0 is equal to 0.0.
        assert not found[name][:, ~kept].view(np.int32).any()


@pytest.mark.parametrize(("weight_decay", "nesterov"), [(0.0, False), (1e-30, True)])
def test_nesterov_exactly_when_decay_is_positive(weight_decay, nesterov):
    # A decay of 1e-30 changes no weight of float32: what it changes is the variant.
    rates = [0.1] * N_STEPS
    params, gradients, found = run(0, rates, weight_decay, 0.9, jax.tree.map(np.ones_like, random_mask(0)))
    same = torch_trajectory(params, gradients, rates, 0.0, 0.9, nesterov=False)
    assert np.allclose(found["bias"], same["bias"], atol=1e-5) != nesterov
    if nesterov:
        expected = torch_trajectory(params, gradients, rates, 1e-30, 0.9, nesterov=True)
        np.testing.assert_allclose(found["bias"], expected["bias"], rtol=1e-6, atol=1e-5)


def test_the_first_state_does_not_depend_on_the_hyperparameters():
    params = draw(0)
    one = optimizer.sgd(*np.float32([0, 0, 0])).init(params)
    other = optimizer.sgd(*np.float32([0.1, 1e-4, 0.9])).init(params)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert [leaf.shape for leaf in jax.tree.leaves(one)] == list(SHAPES.values())
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((one, other)))
