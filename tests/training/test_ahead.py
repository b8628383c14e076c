"""What a training compiles, and when: the full batch's program and the partial one's, before the first step."""

import threading

import jax
import numpy as np
import pytest

from ssoup_jax.models.simple import Simple
from ssoup_jax.pruning.masks import full_mask
from ssoup_jax.stack import executors
from ssoup_jax.training import loop, step
from ssoup_jax.training.hyper import window
from ssoup_jax.trees import member
from tests.training import tiny

PROGRAM = {"map": "_mapped", "loop": "_single", "vmap": "_batched", "unroll": "_batched"}


def started(hidden: int, m: int = tiny.M):
    """A task that no other test trains, for each number of hidden units, and a stack at its start."""
    model = Simple(10, hidden=hidden)
    variables = tiny.variables(model, m)
    mask = full_mask(member(variables, 0).params)
    return tiny.task(model), step.init(tiny.task(model), tiny.hyper().values, variables, mask)


def hyper(n_steps):
    m = len(n_steps)
    return tiny.hyper(n_steps, peaks=(0.05,) * m, decays=(0.0,) * m, seeds=tuple(range(m)))


@pytest.mark.parametrize(("execution", "hidden"), [("map", 3), ("loop", 4), ("vmap", 5), ("unroll", 6)])
def test_a_partial_batch_is_compiled_beside_the_full_one_and_nothing_later(compiled, execution, hidden):
    task, state = started(hidden)
    counts = []
    loop.train(
        task,
        tiny.feed(),
        state,
        hyper((8, 8, 8)),
        tiny.BATCH_SIZE,
        execution,
        lambda progress, _: counts.append(compiled().count(PROGRAM[execution])),
    )
    assert counts[0] == 2
    assert not any(counts[1:])


@pytest.mark.parametrize(
    ("n_images", "n_steps", "expected"),
    [
        (32, 4, [1]),  # no batch is partial
        (40, 2, [1]),  # training ends before it
        (8, 2, [1]),  # every batch is
        (40, 3, [2]),
    ],
)
def test_only_what_will_run_is_compiled(compiled, n_images, n_steps, expected):
    task, state = started(20 + n_steps + n_images)
    counts = []
    loop.train(
        task,
        tiny.feed(tiny.digits()[2][:n_images]),
        state,
        hyper((n_steps,) * 3),
        tiny.BATCH_SIZE,
        "map",
        lambda progress, _: counts.append(compiled().count("_mapped")),
    )
    assert [count for count in counts if count] == expected


def test_one_program_serves_every_number_of_members_under_loop(compiled):
    for m, expected in ((1, 2), (3, 0), (2, 0)):
        task, state = started(7, m)
        loop.train(task, tiny.feed(), state, hyper((5,) * m), tiny.BATCH_SIZE, "loop")
        assert compiled().count("_single") == expected


def test_the_two_programs_are_compiled_at_once(monkeypatch):
    both, names = threading.Barrier(2, timeout=60), set()
    compile_ = executors.compiled

    def meet(*args):
        both.wait()  # passes only if the other one is under way
        names.add(threading.current_thread().name)
        return compile_(*args)

    monkeypatch.setattr(executors, "compiled", meet)
    task, state = started(8)
    loop.train(task, tiny.feed(), state, hyper((4, 4, 4)), tiny.BATCH_SIZE, "map")
    assert len(names) == 2


def test_compiling_computes_nothing_and_keeps_the_state():
    task, state = started(9)
    held = executors.hold("map", state)
    before = jax.device_get(held)
    found = hyper((4, 4, 4))
    block = next(tiny.feed().training(found.keys, 0, tiny.BATCH_SIZE))
    inputs = step.Inputs(block.batches, found.constants, window(found.schedules, 0, 2), found.key_data)
    shared = step.Shared(block.examples, *(np.int32(number) for number in (0, 0, 2)))
    (program,) = executors.compiled("map", executors.bind(step.train_steps, task), shared, held, inputs)
    assert isinstance(program, jax.stages.Compiled)
    tiny.assert_equal(jax.device_get(held), before)
