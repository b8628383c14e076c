"""All ways to execute a stack do the same for every member."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import trees
from ssoup_jax.models.simple import Simple
from ssoup_jax.pruning.masks import full_mask
from ssoup_jax.stack import executors
from ssoup_jax.stack.held import Apart, together
from ssoup_jax.training import step
from ssoup_jax.training.step import Inputs, Shared, TrainState, train_steps
from tests.training import tiny

EXECUTIONS = ["map", "vmap", "unroll", "loop", "vmap:1", "vmap:2", "unroll:2"]


def grow(shared, state, inputs):
    """Cheap stand-in for training: every number tells which member, which shared value and which inputs made it."""
    new = jax.tree.map(lambda leaf: leaf * inputs["rate"] + shared, state)
    return new, {"total": new["a"].sum(), "rates": jnp.full(2, inputs["rate"])}


def cheap(m=4):
    state = {"a": jnp.arange(3.0 * m).reshape(m, 3) + 0.1, "b": [jnp.arange(float(m)) - 1.7]}
    return state, {"rate": jnp.linspace(0.3, 2.0, m)}


def block(size=2, m=tiny.M, simple=False):
    """What `executors.run` takes for the first `size` steps of a tiny task; members differ in everything."""
    examples, _, own = tiny.digits()
    orders = [np.random.default_rng(seed).permutation(own)[: size * tiny.BATCH_SIZE] for seed in range(m)]
    shared = Shared(examples, *(jnp.int32(number) for number in (5, 0, size)))
    inputs = Inputs(
        batches=np.stack(orders).reshape(m, size, tiny.BATCH_SIZE),
        constants={"weight_decay": np.linspace(0, 1e-2, m, dtype=np.float32), "momentum": np.full(m, 0.9, np.float32)},
        schedules={"learning_rate": np.linspace(0.1, 0.01, m * size, dtype=np.float32).reshape(m, size)},
        key=jax.device_get(jax.random.key_data(jax.random.split(jax.random.key(3), m))),
    )
    model = Simple(10, hidden=16) if simple else None
    variables = tiny.variables(model, m)
    mask = full_mask(trees.member(variables.params, 0)) if simple else tiny.mask()
    state = step.init(tiny.task(model), [*inputs.constants, *inputs.schedules], variables, mask)
    return executors.bind(train_steps, tiny.task(model)), shared, state, inputs


def ran(execution, *arguments):
    """Runs and puts everything on the host, leaves `[m, ...]`."""
    state, outputs = executors.run(execution, *arguments)
    return jax.device_get((together(state), outputs))


@functools.cache
def trained(execution):
    return ran(execution, *block())


@functools.cache
def one_by_one(simple, m):
    """What single-member calls of the plain function do."""
    fn, shared, state, inputs = block(m=m, simple=simple)
    alone = jax.jit(fn)
    return [jax.device_get(alone(shared, *trees.member((state, inputs), i))) for i in range(m)]


def check_training(execution, m, active, simple):
    fn, shared, state, inputs = block(m=m, simple=simple)
    before = jax.device_get(state)
    found = ran(execution, fn, shared, state, inputs, active and np.array(active))
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
    assert len(set(figures["loss"][:, 0])) == tiny.M
    assert figures["loss"].shape == (tiny.M, 2)
    found = trained(execution)
    if execution == "loop":
        # The same subprogram of one member, started from outside.
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
    fn, shared, state, inputs = block()
    own = jax.tree.map(lambda leaf: leaf[index : index + 1], (state, inputs))
    tiny.assert_equal(
        trees.member(ran("map", fn, shared, *own), 0),
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
    found, outputs = ran(execution, grow, jnp.float32(0.25), state, inputs, selected)
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


def test_bound_functions_are_one_object():
    model = tiny.classifier().model
    assert executors.bind(grow, tiny.task()) is executors.bind(grow, tiny.task())
    assert executors.bind(grow, tiny.task()) is not executors.bind(grow, tiny.task(model.clone(n_classes=9)))


def programs(caplog) -> int:
    return sum(record.message.startswith(("Compiling jit(_", "Compiling jit(sharded")) for record in caplog.records)


@pytest.mark.parametrize(
    ("execution", "expected"),
    # A chunk's program serves every chunk of its size: 3, then 2 and 1.
    [("map", 1), ("loop", 1), ("vmap", 3), ("unroll", 3), ("vmap:1", 1), ("vmap:2", 2), ("1x1:map", 3)],
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


def test_what_is_shared_is_placed_once():
    array = jnp.arange(3.0)
    assert executors.place("vmap", array) is array
    spread = executors.place("1x1:map", array)
    assert executors.place("1x1:vmap", spread).unsafe_buffer_pointer() == spread.unsafe_buffer_pointer()


@pytest.mark.parametrize("execution", ["map", "loop"])
def test_loops_over_members_serve_any_number_of_active_ones(execution, compiled):
    executors.run(execution, grow, jnp.float32(0.5), *cheap())
    compiled()
    for n in (1, 2, 3):
        executors.run(execution, grow, jnp.float32(0.5), *cheap(), np.arange(n))
    assert not {"_mapped", "_single"} & set(compiled())


def test_one_program_of_a_loop_serves_every_stack(compiled):
    def fresh(shared, state, inputs):
        return grow(shared, state, inputs)

    for m, expected in ((1, 1), (3, 0), (5, 0)):
        executors.run("loop", fresh, jnp.float32(0.5), *cheap(m))
        assert compiled().count("_single") == expected


def leaves(held):
    return jax.tree.leaves(list(held) if isinstance(held, Apart) else held)


def pointer(leaf):
    return leaf.unsafe_buffer_pointer()


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_what_is_held_is_what_comes_back_and_is_not_moved_again(execution):
    state, inputs = cheap()
    before = jax.tree.map(np.array, state)
    held = executors.hold(execution, state)
    assert isinstance(held, Apart) == (execution == "loop")
    again = executors.hold(execution, held)
    assert [pointer(leaf) for leaf in leaves(again)] == [pointer(leaf) for leaf in leaves(held)]
    tiny.assert_equal(jax.device_get(together(held)), before)
    found, _ = executors.run(execution, grow, jnp.float32(0.25), held, executors.hold(execution, inputs))
    assert jax.tree.structure(found) == jax.tree.structure(held)


def test_a_stack_changes_hands_between_executors():
    found = executors.hold("map", cheap()[0])
    for execution in ("loop", "vmap:2", "map", "loop"):
        found, _ = executors.run(execution, grow, jnp.float32(0.25), found, cheap()[1])
    expected = jax.tree.map(np.array, cheap()[0])
    for _ in range(4):
        expected, _ = ran("map", grow, jnp.float32(0.25), expected, cheap()[1])
    # A fused multiply-add rounds once instead of twice, four times over.
    tiny.assert_close(together(found), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("active", [None, [1], [0, 3, 2]])
def test_what_is_compiled_is_what_runs(execution, active, compiled):
    def fresh(shared, state, inputs):
        return grow(shared, state, inputs)

    arguments = fresh, jnp.float32(0.5), *cheap(), active and np.array(active)
    before = jax.tree.map(np.array, arguments[2])
    programs = executors.compiled(execution, *arguments)
    assert len(programs) == compiled().count(PROGRAMS.get(execution, "_batched"))
    assert len(programs) == (2 if (execution, active) in TWO_WIDTHS else 1)
    # Nothing was computed or donated.
    tiny.assert_equal(jax.device_get(arguments[2]), before)
    executors.run(execution, *arguments)
    assert not {"_mapped", "_single", "_batched"} & set(compiled())


PROGRAMS = {"map": "_mapped", "loop": "_single"}
TWO_WIDTHS = [("vmap:2", [0, 3, 2]), ("unroll:2", [0, 3, 2])]


@pytest.mark.parametrize("execution", ["unroll", "unroll:2", "vmap"])
def test_unrolled_members_have_convolutions_of_their_own(execution):
    (program,) = executors.compiled(execution, *block(m=2))
    groups = {int(found) for found in re.findall(r"feature_group_count=(\d+)", program.as_text())}
    assert (groups - {1} != set()) == (execution == "vmap")


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_stack_without_a_state_has_outputs(execution):
    inputs = {"rate": jnp.linspace(0.3, 2.0, 3)}
    state, outputs = executors.run(execution, doubled, jnp.float32(2), (), inputs)
    assert state == ()
    np.testing.assert_array_equal(outputs, 2 * np.asarray(inputs["rate"]))


def doubled(shared, state, inputs):
    return state, shared * inputs["rate"]
