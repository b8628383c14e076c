"""All ways to execute a stack do the same for every member."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import trees
from ssoup_jax.training import members
from ssoup_jax.training.state import TrainState
from ssoup_jax.training.step import Inputs, Shared, train_steps
from tests.training import tiny

EXECUTIONS = [name for name in members.EXECUTIONS if name != "auto"]


def grow(shared, state, inputs):
    """Cheap stand-in for training: every number tells which member, which shared value and which inputs made it."""
    new = jax.tree.map(lambda leaf: leaf * inputs["rate"] + shared, state)
    return new, {"total": new["a"].sum(), "rates": jnp.full(2, inputs["rate"])}


def cheap(m=4):
    state = {"a": jnp.arange(3.0 * m).reshape(m, 3) + 0.1, "b": [jnp.arange(float(m)) - 1.7]}
    return state, {"rate": jnp.linspace(0.3, 2.0, m)}


def block(execution, size=2):
    """What `members.run` takes for the first `size` steps of the tiny problem; members differ in everything."""
    examples, _, own = tiny.digits()
    recipe = tiny.recipe(n_steps=(size,) * tiny.M)
    orders = [np.random.default_rng(seed).permutation(own)[: size * tiny.BATCH_SIZE] for seed in range(tiny.M)]
    shared = Shared(examples, tiny.mask(), jnp.float32(0.9), jnp.int32(5), jnp.int32(0), jnp.int32(size))
    inputs = Inputs(
        batches=jnp.asarray(np.stack(orders).reshape(tiny.M, size, tiny.BATCH_SIZE)),
        learning_rates=jnp.asarray(np.stack(recipe.learning_rates), jnp.float32),
        weight_decay=jnp.float32(recipe.weight_decays),
        key=recipe.keys,
    )
    problem = tiny.problem(conv=members.convolution(execution))
    return members.bind(train_steps, problem), shared, tiny.state(), inputs


@functools.cache
def trained(execution):
    return jax.device_get(members.run(execution, *block(execution)))


@pytest.mark.parametrize("execution", [name for name in EXECUTIONS if name != "map"])
def test_training_is_the_same_whatever_executes_it(execution):
    state, figures = trained("map")
    assert isinstance(state, TrainState)
    assert len(set(figures.loss[:, 0])) == tiny.M
    assert figures.loss.shape == (tiny.M, 2)
    found = trained(execution)
    if execution == "loop":
        # It is the program of 'map', started once for each member.
        tiny.assert_equal(found, (state, figures))
    else:
        # Batched operations sum in another order: some roundings of 6e-8 each, on numbers of about 1, in two steps.
        tiny.assert_close(found, (state, figures), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("index", range(tiny.M))
def test_under_map_a_member_does_not_depend_on_its_stack(index):
    fn, shared, state, inputs = block("map")
    own = jax.tree.map(lambda leaf: leaf[index : index + 1], (state, inputs))
    tiny.assert_equal(
        trees.member(members.run("map", fn, shared, *own), 0),
        # Both programs loop over one and the same subprogram, so not even the rounding differs.
        trees.member(trained("map"), index),
    )


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("active", [None, [0, 1, 2, 3], [2], [1, 3], [0, 1, 3]])
def test_only_active_members_change(execution, active):
    state, inputs = cheap()
    before = jax.tree.map(np.array, state)
    selected = None if active is None else np.array(active)
    found, outputs = members.run(execution, grow, jnp.float32(0.25), state, inputs, selected)
    for i in range(4):
        own, rate = trees.member(before, i), trees.member(inputs, i)
        output = trees.member(outputs, i)
        if active is None or i in active:
            expected = grow(np.float32(0.25), own, rate)
            # A fused multiply-add rounds once instead of twice.
            tiny.assert_close((trees.member(found, i), output), expected, rtol=3e-7, atol=1e-7)
        else:
            tiny.assert_equal(trees.member(found, i), own)
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(output))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_second_call_compiles_nothing(execution, caplog):
    active = np.array([0, 2])
    members.run(execution, grow, jnp.float32(0.5), *cheap(), active)
    with jax.log_compiles():
        jax.jit(lambda x: x + 1)(jnp.float32(1))
        assert "Compiling" in caplog.text, "the log shows compilations"
        state, inputs = cheap()
        inputs = jax.tree.map(lambda leaf: 3 * leaf, inputs)
        shared, active = jnp.float32(-1), np.array([1, 2])
        caplog.clear()
        members.run(execution, grow, shared, state, inputs, active)
    assert "Compiling" not in caplog.text


@pytest.mark.parametrize("execution", ["map", "loop"])
def test_loops_over_members_serve_any_number_of_them(execution, caplog):
    members.run(execution, grow, jnp.float32(0.5), *cheap())
    arguments = [cheap() for _ in range(3)]
    with jax.log_compiles():
        for n, (state, inputs) in enumerate(arguments, start=1):
            members.run(execution, grow, np.float32(0.5), state, inputs, np.arange(n))
    assert "Compiling jit(_mapped)" not in caplog.text


def test_bound_functions_are_one_object():
    model = tiny.problem().model
    assert members.bind(grow, tiny.problem()) is members.bind(grow, tiny.problem())
    assert members.bind(grow, tiny.problem()) is not members.bind(grow, tiny.problem(model.clone(n_classes=9)))


@pytest.mark.parametrize(("backend", "expected"), [("cpu", "map"), ("gpu", "vmap"), ("tpu", "vmap")])
def test_auto_goes_by_the_backend(monkeypatch, backend, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert members.resolve("auto") == expected
    for execution in EXECUTIONS:
        assert members.resolve(execution) == execution


def test_every_execution_has_its_convolution():
    assert {name: members.convolution(name) for name in EXECUTIONS} == {
        "map": "plain",
        "vmap": "plain",
        "unroll": "unroll",
        "loop": "plain",
    }
