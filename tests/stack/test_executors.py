"""All ways to execute a stack do the same for every member."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import trees
from ssoup_jax.errors import SettingsError
from ssoup_jax.models.simple import Simple
from ssoup_jax.pruning.prunable import full_mask
from ssoup_jax.stack import executors
from ssoup_jax.training import optimizer
from ssoup_jax.training.state import TrainState
from ssoup_jax.training.step import Inputs, Shared, train_steps
from tests.training import tiny

EXECUTIONS = ["map", "vmap", "unroll", "loop", "vmap:1", "vmap:2", "unroll:2"]


def grow(shared, state, inputs):
    """Cheap stand-in for training: every number tells which member, which shared value and which inputs made it."""
    new = jax.tree.map(lambda leaf: leaf * inputs["rate"] + shared, state)
    return new, {"total": new["a"].sum(), "rates": jnp.full(2, inputs["rate"])}


def cheap(m=4):
    state = {"a": jnp.arange(3.0 * m).reshape(m, 3) + 0.1, "b": [jnp.arange(float(m)) - 1.7]}
    return state, {"rate": jnp.linspace(0.3, 2.0, m)}


def block(execution, size=2, m=tiny.M, simple=False):
    """What `executors.run` takes for the first `size` steps of a tiny problem; members differ in everything."""
    examples, _, own = tiny.digits()
    orders = [np.random.default_rng(seed).permutation(own)[: size * tiny.BATCH_SIZE] for seed in range(m)]
    shared = Shared(examples, None, jnp.float32(0.9), jnp.int32(5), jnp.int32(0), jnp.int32(size))
    inputs = Inputs(
        batches=jnp.asarray(np.stack(orders).reshape(m, size, tiny.BATCH_SIZE)),
        learning_rates=jnp.linspace(0.1, 0.01, m * size).reshape(m, size),
        weight_decay=jnp.linspace(0, 1e-2, m),
        key=jax.random.split(jax.random.key(3), m),
    )
    model = Simple(10, hidden=16, conv=executors.convolution(execution)) if simple else None
    problem = tiny.problem(model, conv=executors.convolution(execution))
    variables = tiny.variables(model, m)
    shared = shared.replace(mask=full_mask(trees.member(variables.params, 0)) if simple else tiny.mask())
    return executors.bind(train_steps, problem), shared, TrainState(variables, optimizer.init(variables.params)), inputs


@functools.cache
def trained(execution):
    return jax.device_get(executors.run(execution, *block(execution)))


@functools.cache
def one_by_one(simple, m):
    """What single-member calls of the plain function do."""
    fn, shared, state, inputs = block("map", m=m, simple=simple)
    step = jax.jit(fn)
    return [jax.device_get(step(shared, *trees.member((state, inputs), i))) for i in range(m)]


def check_training(execution, m, active, simple):
    fn, shared, state, inputs = block(execution, m=m, simple=simple)
    before = jax.device_get(state)
    found = jax.device_get(executors.run(execution, fn, shared, state, inputs, active and np.array(active)))
    expected = one_by_one(simple, m)
    for i in range(m):
        if active is None or i in active:
            # Batched operations sum in another order: some roundings of 6e-8 each, on numbers of about 1, in two steps.
            tiny.assert_close(trees.member(found, i), expected[i], rtol=2e-6, atol=1e-6)
        else:
            tiny.assert_equal(trees.member(found[0], i), trees.member(before, i))
            assert not any(np.any(leaf[i]) for leaf in jax.tree.leaves(found[1]))


@pytest.mark.parametrize("execution", ["vmap", "unroll", "loop"])
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


@pytest.mark.slow
@pytest.mark.parametrize("simple", [False, True])
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(("m", "active"), [(1, None), (2, None), (3, None), (3, [2]), (5, None), (5, [0, 2, 3])])
def test_all_executors_train_alike(execution, m, active, simple):
    check_training(execution, m, active, simple)


@pytest.mark.parametrize("index", range(tiny.M))
def test_under_map_a_member_does_not_depend_on_its_stack(index):
    fn, shared, state, inputs = block("map")
    own = jax.tree.map(lambda leaf: leaf[index : index + 1], (state, inputs))
    tiny.assert_equal(
        trees.member(executors.run("map", fn, shared, *own), 0),
        # Both programs loop over one and the same subprogram, so not even the rounding differs.
        trees.member(trained("map"), index),
    )


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(
    ("m", "active"),
    [(1, None), (2, [1]), (3, None), (4, [0, 1, 2, 3]), (5, [0, 1, 3]), (5, [4, 1])],
)
def test_only_active_members_change(execution, m, active):
    state, inputs = cheap(m)
    before = jax.tree.map(np.array, state)
    selected = None if active is None else np.array(active)
    found, outputs = executors.run(execution, grow, jnp.float32(0.25), state, inputs, selected)
    for i in range(m):
        own, rate = trees.member(before, i), trees.member(inputs, i)
        output = trees.member(outputs, i)
        if active is None or i in active:
            expected = grow(np.float32(0.25), own, rate)
            # A fused multiply-add rounds once instead of twice.
            tiny.assert_close((trees.member(found, i), output), expected, rtol=3e-7, atol=1e-7)
        else:
            tiny.assert_equal(trees.member(found, i), own)
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(output))


@pytest.mark.parametrize(
    ("execution", "m", "chunks"),
    [
        ("vmap:3", 7, [3, 2, 2]),
        ("vmap:4", 6, [3, 3]),
        ("vmap:4", 4, [4]),
        ("vmap:9", 5, [5]),
        ("unroll:2", 5, [2, 2, 1]),
        ("vmap:1", 3, [1, 1, 1]),
    ],
)
def test_chunks_are_as_equal_as_can_be(monkeypatch, execution, m, chunks):
    seen = []
    batched = executors._batched
    monkeypatch.setattr(executors, "_batched", lambda *a: seen.append(a[-1].tolist()) or batched(*a))
    executors.run(execution, grow, jnp.float32(0.25), *cheap(m))
    assert [len(chunk) for chunk in seen] == chunks
    assert [index for chunk in seen for index in chunk] == list(range(m))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_second_call_compiles_nothing(execution, caplog):
    active = np.array([0, 2])
    executors.run(execution, grow, jnp.float32(0.5), *cheap(), active)
    with jax.log_compiles():
        jax.jit(lambda x: x + 1)(jnp.float32(1))
        assert "Compiling" in caplog.text, "the log shows compilations"
        state, inputs = cheap()
        inputs = jax.tree.map(lambda leaf: 3 * leaf, inputs)
        shared, active = jnp.float32(-1), np.array([1, 2])
        caplog.clear()
        executors.run(execution, grow, shared, state, inputs, active)
    assert "Compiling" not in caplog.text


@pytest.mark.parametrize("execution", ["map", "loop"])
def test_loops_over_members_serve_any_number_of_them(execution, caplog):
    executors.run(execution, grow, jnp.float32(0.5), *cheap())
    arguments = [cheap() for _ in range(3)]
    with jax.log_compiles():
        for n, (state, inputs) in enumerate(arguments, start=1):
            executors.run(execution, grow, np.float32(0.5), state, inputs, np.arange(n))
    assert "Compiling jit(_mapped)" not in caplog.text


def test_bound_functions_are_one_object():
    model = tiny.problem().model
    assert executors.bind(grow, tiny.problem()) is executors.bind(grow, tiny.problem())
    assert executors.bind(grow, tiny.problem()) is not executors.bind(grow, tiny.problem(model.clone(n_classes=9)))


def programs(caplog) -> int:
    return sum("Compiling jit(_" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("execution", "expected"),
    # A chunk's program serves every chunk of its size: 3, then 2 and 1.
    [("map", 1), ("loop", 1), ("vmap", 3), ("unroll", 3), ("vmap:1", 1), ("vmap:2", 2), ("shard:map", 3)],
)
def test_one_program_for_each_shape(caplog, execution, expected):
    def fresh(shared, state, inputs):
        return grow(shared, state, inputs)

    stacks = [cheap(3) for _ in range(6)]
    with jax.log_compiles():
        for active in ([0, 1, 2], [0, 2], [1]):
            for _ in range(2):
                executors.run(execution, fresh, np.float32(0.5), *stacks.pop(), np.array(active))
    assert programs(caplog) == expected


@pytest.mark.parametrize(("backend", "expected"), [("cpu", "map"), ("gpu", "vmap"), ("tpu", "vmap")])
def test_auto_goes_by_the_backend(monkeypatch, backend, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert executors.resolve("auto") == expected
    assert executors.resolve("shard") == f"shard:{expected}"
    assert executors.convolution("auto") == "plain"
    for execution in EXECUTIONS:
        assert executors.resolve(execution) == execution


@pytest.mark.parametrize(
    ("execution", "expected"),
    [
        ("map", ("map", None, False)),
        ("vmap:1", ("vmap", 1, False)),
        ("unroll:12", ("unroll", 12, False)),
        ("shard:unroll", ("unroll", None, True)),
        ("shard:vmap:3", ("vmap", 3, True)),
    ],
)
def test_names_are_read_and_written(execution, expected):
    assert executors.parse(execution) == expected
    assert str(executors.parse(execution)) == execution


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ("vmp", "unknown value 'vmp'; allowed: auto, map, .*did you mean 'vmap'"),
        ("", "unknown value ''"),
        ("Map", "unknown value 'Map'; .*did you mean 'map'"),
        ("map:2", "unknown value 'map:2'"),
        ("loop:2", "unknown value 'loop:2'"),
        ("auto:2", "unknown value 'auto:2'"),
        ("shard:", "unknown value 'shard:'"),
        ("shard:auto", "unknown value 'shard:auto'"),
        ("shard:loop", "unknown value 'shard:loop'"),
        ("shardmap", "unknown value 'shardmap'"),
        ("vmap:0", "found 'vmap:0'; after 'vmap' comes a number of members, at least 1"),
        ("unroll:-1", "found 'unroll:-1'; after 'unroll' comes a number of members, at least 1"),
        ("vmap:", "found 'vmap:'; after 'vmap' comes a number of members, at least 1"),
        ("vmap:\u0663", "found 'vmap:\u0663'; after 'vmap' comes"),
        ("shard:vmap:x", "found 'shard:vmap:x'; after 'vmap' comes"),
        ("vmap:2\n", "unknown value"),
    ],
)
def test_wrong_names_are_refused_in_one_line(execution, message):
    for refuse in (executors.check, executors.parse, executors.resolve, executors.convolution):
        with pytest.raises(SettingsError, match=f"^execution: {message}") as caught:
            refuse(execution)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("execution", [*EXECUTIONS, "auto", "unroll:7", "shard", "shard:map", "shard:unroll:2"])
def test_right_names_are_taken_without_a_backend(monkeypatch, execution):
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("a backend was started"))
    executors.check(execution)


def test_every_execution_has_its_convolution():
    for execution in EXECUTIONS:
        assert executors.convolution(execution) == ("unroll" if "unroll" in execution else "plain")


def test_what_is_shared_is_placed_once():
    array = jnp.arange(3.0)
    assert executors.place("vmap", array) is array
    spread = executors.place("shard", array)
    assert executors.place("shard:vmap", spread).unsafe_buffer_pointer() == spread.unsafe_buffer_pointer()
