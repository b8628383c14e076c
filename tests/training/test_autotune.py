"""When measuring pays, what is chosen, what is remembered; figures are injected, but for one real stack."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax.errors import RunError
from ssoup_jax.stack import executors
from ssoup_jax.training import autotune
from ssoup_jax.training.autotune import Choice, Remembered
from tests.training import tiny

NAMES = ("map", "unroll", "loop")


class Machine:
    """Measures as told: seconds to compile at first, and seconds per step, one after another."""

    def __init__(self, **figures):
        self.figures = {name: (own[0], list(own[1:])) for name, own in figures.items()}
        self.calls = []

    def __call__(self, execution):
        compile_seconds, steps = self.figures[execution]
        if isinstance(compile_seconds, Exception):
            raise compile_seconds
        first = execution not in self.calls
        self.calls.append(execution)
        return compile_seconds if first else 0.0, steps.pop(0) if len(steps) > 1 else steps[0]


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"map": 1.0, "unroll": 0.8, "loop": 0.9}, "unroll"),
        ({"map": 1.0, "unroll": 1.2, "loop": 0.5}, "loop"),
        ({"map": 1.0, "unroll": 1.1, "loop": 1.2}, "map"),
        # Three percent are noise, four are not.
        ({"map": 1.0, "unroll": 0.98, "loop": 1.2}, "map"),
        ({"map": 1.0, "unroll": 0.96, "loop": 1.2}, "unroll"),
    ],
)
def test_the_fastest_is_taken_and_the_best_guess_among_equals(figures, expected):
    found = autotune.choose(NAMES, Machine(**{name: (1.0, step) for name, step in figures.items()}), 10_000)
    assert found == Choice(expected, figures, "")


def test_the_median_of_interleaved_rounds_counts():
    machine = Machine(map=(1.0, 1.0), unroll=(1.0, 0.5, 1.2, 1.2), loop=(1.0, 0.9, 0.9, 0.1))
    # One lucky round makes none the fastest; what is far behind is not measured again.
    found = autotune.choose(("map", "loop"), machine, 10_000)
    assert (found.execution, found.seconds_per_step) == ("loop", {"map": 1.0, "loop": 0.9})
    assert machine.calls == ["map", "loop"] * 3
    machine = Machine(map=(1.0, 1.0), unroll=(1.0, 0.9, 1.2, 1.2), loop=(1.0, 1.3))
    found = autotune.choose(NAMES, machine, 10_000)
    assert (found.execution, found.seconds_per_step) == ("map", {"map": 1.0, "unroll": 1.2, "loop": 1.3})
    assert machine.calls == ["map", "unroll", "loop", "map", "unroll", "map", "unroll"]


@pytest.mark.parametrize(
    ("stage_steps", "step_seconds", "compile_seconds", "called"),
    [
        # 10 s of training: a compilation of 20 s cannot pay.
        (1000, 0.01, 20.0, ["map"]),
        # 200 s leave 20 for choosing: enough to try a second that compiles in 18, not a third.
        (1000, 0.2, 18.0, ["map", "unroll", "map"]),
        (1000, 0.2, 8.0, ["map", "unroll", "loop", "map", "unroll", "loop"]),
        (1000, 0.2, 0.1, ["map", "unroll", "loop"] * 3),
        # Too short even for the steps that would be timed.
        (29, 100.0, 0.0, []),
        (30, 100.0, 0.0, ["map"]),
        (0, 1.0, 0.0, []),
    ],
)
def test_measuring_must_pay(stage_steps, step_seconds, compile_seconds, called):
    machine = Machine(**dict.fromkeys(NAMES, (compile_seconds, step_seconds)))
    found = autotune.choose(NAMES, machine, stage_steps)
    assert machine.calls == called
    untried = [name for name in NAMES if name not in machine.calls]
    assert (found.execution, found.complete) == ("map", not untried)
    if untried:
        assert found.reason == f"{stage_steps} steps are too few to try {', '.join(untried[-2:])}"


@pytest.mark.parametrize("stage_steps", [10, 100, 1000, 10_000])
@pytest.mark.parametrize("compile_seconds", [0.0, 0.3, 5.0, 60.0])
@pytest.mark.parametrize("step_seconds", [0.001, 0.1, 2.0])
def test_choosing_takes_a_small_share_of_the_stage(stage_steps, compile_seconds, step_seconds):
    machine = Machine(**dict.fromkeys(NAMES, (compile_seconds, step_seconds)))
    autotune.choose(NAMES, machine, stage_steps)
    spent = len(machine.calls) * autotune.PROBE_STEPS * step_seconds
    spent += compile_seconds * (len(set(machine.calls)) - 1 if machine.calls else 0)
    # Sums of a few numbers, each rounded.
    assert spent <= autotune.SHARE * stage_steps * step_seconds * (1 + 1e-9)


def test_one_candidate_is_not_measured():
    assert autotune.choose(("map",), Machine(), 10**6) == Choice("map", {}, "")


def out_of_memory():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes\nmany\nlines")


@pytest.mark.parametrize("error", [out_of_memory(), MemoryError("no room"), NotImplementedError("no such rule")])
@pytest.mark.parametrize("failing", NAMES)
def test_a_candidate_that_fails_is_left_out(error, failing):
    lines = []
    steps = {"map": 1.0, "unroll": 0.8, "loop": 0.6}
    machine = Machine(**{name: (error if name == failing else 0.1, steps[name]) for name in NAMES})
    found = autotune.choose(NAMES, machine, 10_000, lines.append)
    del steps[failing]
    assert found == Choice(min(steps, key=steps.get), steps, "")
    (line,) = lines
    assert line.startswith(f"execution: {failing} failed: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert "\n" not in line


def test_all_failing_is_an_error_of_one_line():
    machine = Machine(**dict.fromkeys(NAMES, (out_of_memory(), 1.0)))
    with pytest.raises(RunError, match=r"^execution: every way .*; loop failed: JaxRuntimeError: RESOURCE[^\n]*$"):
        autotune.choose(NAMES, machine, 10_000)


def test_a_mistake_in_the_program_is_not_hidden():
    with pytest.raises(TypeError, match="mistake"):
        autotune.choose(NAMES, Machine(map=(TypeError("mistake"), 1.0)), 10_000)


@pytest.mark.parametrize(
    ("backend", "n_devices", "m", "expected"),
    [
        ("cpu", 1, 3, ("map", "unroll", "loop")),
        ("gpu", 1, 3, ("vmap", "unroll", "map")),
        ("gpu", 1, 9, ("vmap", "unroll", "map", "unroll:5")),
        ("tpu", 1, 3, ("vmap", "map")),
        ("cpu", 1, 1, ("map",)),
        ("gpu", 8, 1, ("vmap",)),
        ("gpu", 8, 5, ("shard:vmap", "vmap")),
        ("gpu", 2, 5, ("shard:vmap", "shard:unroll", "shard:map", "vmap")),
        ("cpu", 2, 5, ("shard:map", "shard:unroll", "map")),
    ],
)
def test_candidates_begin_with_the_best_guess(backend, n_devices, m, expected):
    found = autotune.candidates(backend, n_devices, m)
    assert found == expected
    assert [str(executors.parse(name)) for name in found] == list(found)


def decide(path, machine, candidates=NAMES, key="a key", stage_steps=10_000):
    lines = []
    return autotune.decide(candidates, machine, stage_steps, lines.append, Remembered(path), key), lines


def usual():
    return Machine(map=(1.0, 0.47), unroll=(1.0, 0.41), loop=(1.0, 0.52))


def test_a_choice_is_remembered(tmp_path):
    path = tmp_path / "runs" / "execution.json"
    found, lines = decide(path, usual())
    assert lines == [f"execution: unroll 0.41 s/step (map 0.47, loop 0.52; kept in {path})"]
    untouched = Machine()
    again, lines = decide(path, untouched)
    assert (again, untouched.calls) == (found, [])
    assert lines == [f"execution: unroll 0.41 s/step (map 0.47, loop 0.52; from {path})"]
    assert [file.name for file in path.parent.iterdir()] == ["execution.json"]


def test_another_key_is_another_choice(tmp_path):
    path = tmp_path / "execution.json"
    decide(path, usual())
    other = Machine(map=(1.0, 0.1), unroll=(1.0, 0.2), loop=(1.0, 0.3))
    assert decide(path, other, key="another")[0].execution == "map"
    assert decide(path, Machine())[0].execution == "unroll"


def test_a_choice_without_all_candidates_is_not_remembered(tmp_path):
    path = tmp_path / "execution.json"
    found, lines = decide(path, usual(), stage_steps=30)
    assert found.execution == "map"
    assert lines == ["execution: map 0.47 s/step (30 steps are too few to try unroll, loop)"]
    found, lines = decide(path, Machine(), candidates=("map",))
    assert (found.execution, lines) == ("map", ["execution: map"])
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        '{"a key": ',
        "[]",
        "[" * 100_000,
        "\x00",
        *(
            json.dumps({"a key": entry})
            for entry in [
                None,
                3,
                [],
                {},
                {"execution": "map"},
                {"execution": ["map"], "seconds_per_step": {"map": 1.0}},
                {"execution": "map", "seconds_per_step": {}},
                {"execution": "map", "seconds_per_step": {"map": "1.0"}},
                {"execution": "map", "seconds_per_step": {"map": True}},
                {"execution": "map", "seconds_per_step": {"map": -1.0}},
                {"execution": "map", "seconds_per_step": {"map": float("nan")}},
                {"execution": "map", "seconds_per_step": {"map": 1.0, "\x1b[2J": 1.0}},
                {"execution": "vmap", "seconds_per_step": {"vmap": 1.0}},
            ]
        ),
    ],
)
def test_what_cannot_be_used_is_measured_again(tmp_path, content):
    path = tmp_path / "execution.json"
    path.write_text(content)
    found, lines = decide(path, usual())
    assert found.execution == "unroll"
    assert [len(line.splitlines()) for line in lines] == [1, 1] or content == json.dumps({"a key": None})
    assert str(path) in lines[0]
    assert decide(path, Machine())[0] == found


def test_what_others_wrote_stays(tmp_path):
    path = tmp_path / "execution.json"
    path.write_text(json.dumps({"another": {"anything": 1}}))
    decide(path, usual())
    assert json.loads(path.read_text()).keys() == {"another", "a key"}


def test_the_key_names_all_that_speed_depends_on():
    usual = ("ResNet20", (32, 32, 3), 128, 3, "float32", False)
    others = [
        (*usual[:index], value, *usual[index + 1 :])
        for index, value in enumerate(["ResNet8", (32, 32, 1), 64, 5, "bfloat16", True])
    ]
    keys = [autotune.key(*values) for values in [usual, *others]]
    assert len(set(keys)) == 7
    for part in (jax.devices()[0].device_kind, f"x{len(jax.devices())}", jax.__version__):
        assert part in keys[0]


def test_a_real_stack_is_measured_and_left_alone(caplog):
    examples, _, own = tiny.digits()
    recipe, state = tiny.recipe(n_steps=(4, 0, 4)), tiny.state()
    before = jax.device_get(state)
    batches = jnp.asarray(np.stack([own[:32].reshape(2, 16)] * 3))
    measure = autotune.measure_step(
        lambda execution: tiny.problem(conv=executors.convolution(execution)),
        examples,
        state,
        tiny.mask(),
        recipe,
        batches,
    )
    with jax.log_compiles():
        first_compile, step_seconds = measure("map")
        again_compile, _ = measure("map")
    # Two members, two steps, one program; what the second call needs is there.
    assert len(re.findall(r"Compiling jit\(_mapped\)", caplog.text)) <= 1
    assert 0 < step_seconds < first_compile + 10
    assert again_compile < first_compile
    tiny.assert_equal(jax.device_get(state), before)
    # The stage itself then compiles nothing more.
    caplog.clear()
    with jax.log_compiles():
        tiny.train(recipe, feed_=tiny.feed(own[:32]))
    assert not re.findall(r"Compiling jit\(_mapped\)", caplog.text)
