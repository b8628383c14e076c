"""What is chosen by measuring, and what is remembered; figures are injected, but for one real stack."""

import json

import jax
import numpy as np
import pytest

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.stack import memory
from ssoup_jax.training import measured
from ssoup_jax.training.measured import Remembered
from tests.training import tiny

NAMES = ("map", "unroll", "loop")


class Machine:
    """Measures as told, seconds per step one after another; an error is raised."""

    def __init__(self, **figures):
        self.figures = {name: list(own) if isinstance(own, list) else [own] for name, own in figures.items()}
        self.calls = []

    def __call__(self, execution):
        self.calls.append(execution)
        own = self.figures[execution]
        found = own.pop(0) if len(own) > 1 else own[0]
        if isinstance(found, Exception):
            raise found
        return found


def choose(machine, candidates=NAMES, path=None, key="a key"):
    lines = []
    found = measured.choose(candidates, machine, lines.append, path and Remembered(path), key)
    return found, lines


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
def test_the_fastest_is_taken_and_the_first_among_equals(figures, expected):
    machine = Machine(**figures)
    found, lines = choose(machine)
    assert found == expected
    # Every candidate is measured equally often, in turn.
    assert machine.calls == [*NAMES] * measured.ROUNDS
    others = ", ".join(f"{name} {own:.2g}" for name, own in figures.items() if name != expected)
    assert lines == [f"execution: {expected} {figures[expected]:.2g} s/step ({others})"]


def test_the_median_of_interleaved_rounds_counts():
    # One lucky round makes none the fastest, and one unlucky round none the slowest.
    found, lines = choose(Machine(map=1.0, unroll=[1.2, 0.1, 1.2], loop=[0.9, 7.0, 0.9]))
    assert (found, lines) == ("loop", ["execution: loop 0.9 s/step (map 1, unroll 1.2)"])


def test_one_candidate_is_not_measured(tmp_path):
    path = tmp_path / "execution.json"
    machine = Machine()
    assert choose(machine, ("loop",), path) == ("loop", [])
    assert not machine.calls
    assert not path.exists()


def out_of_memory():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes\nmany\nlines")


@pytest.mark.parametrize(
    "error",
    [out_of_memory(), MemoryError("no room"), NotImplementedError("no such rule"), SettingsError("does not fit")],
)
@pytest.mark.parametrize("failing", NAMES)
@pytest.mark.parametrize("late", [False, True])
def test_a_candidate_that_fails_is_left_out(error, failing, late):
    steps = {"map": 1.0, "unroll": 0.8, "loop": 0.6}
    machine = Machine(**steps | {failing: [0.1, error] if late else error})
    found, lines = choose(machine)
    del steps[failing]
    assert found == min(steps, key=steps.get)
    assert machine.calls.count(failing) == 1 + late
    line, last = lines
    assert line.startswith(f"execution: {failing} failed: {type(error).__name__}: {str(error).splitlines()[0]}")
    assert "\n" not in line
    assert failing not in last


def test_all_failing_is_an_error_of_one_line():
    with pytest.raises(RunError, match=r"^execution: every way .*; loop failed: JaxRuntimeError: RESOURCE[^\n]*$"):
        choose(Machine(**dict.fromkeys(NAMES, out_of_memory())))


def test_a_mistake_in_the_program_is_not_hidden():
    with pytest.raises(TypeError, match="mistake"):
        choose(Machine(map=TypeError("mistake")))


def usual():
    return Machine(map=0.47, unroll=0.41, loop=0.52)


def test_a_choice_is_remembered(tmp_path):
    path = tmp_path / "runs" / "execution.json"
    found, lines = choose(usual(), path=path)
    assert lines == [f"execution: unroll 0.41 s/step (map 0.47, loop 0.52; kept in {path})"]
    untouched = Machine()
    again, lines = choose(untouched, path=path)
    assert (again, untouched.calls) == (found, [])
    assert lines == [f"execution: unroll 0.41 s/step (map 0.47, loop 0.52; from {path})"]
    assert [file.name for file in path.parent.iterdir()] == ["execution.json"]


def test_another_key_is_another_choice(tmp_path):
    path = tmp_path / "execution.json"
    choose(usual(), path=path)
    other = Machine(map=0.1, unroll=0.2, loop=0.3)
    assert choose(other, path=path, key="another")[0] == "map"
    assert choose(Machine(), path=path)[0] == "unroll"


def test_what_a_choice_remembers_must_be_a_candidate(tmp_path):
    path = tmp_path / "execution.json"
    choose(usual(), path=path)
    found, lines = choose(Machine(map=0.47, loop=0.5), ("map", "loop"), path)
    assert found == "map"
    assert lines[0] == f"execution: {path} has no usable choice for 'a key'; measured again"


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
    found, lines = choose(usual(), path=path)
    assert found == "unroll"
    assert [len(line.splitlines()) for line in lines] == [1, 1] or content == json.dumps({"a key": None})
    assert str(path) in lines[0]
    assert choose(Machine(), path=path)[0] == found


def test_what_others_wrote_stays(tmp_path):
    path = tmp_path / "execution.json"
    path.write_text(json.dumps({"another": {"anything": 1}}))
    choose(usual(), path=path)
    assert json.loads(path.read_text()).keys() == {"another", "a key"}


def test_the_machine_names_all_that_speed_depends_on():
    for part in (jax.devices()[0].device_kind, f"x{len(jax.devices())}", jax.__version__):
        assert part in measured.machine()


@pytest.mark.parametrize(("execution", "program"), [("map", "_mapped"), ("loop", "_single"), ("vmap", "_batched")])
def test_a_real_stack_is_measured_and_left_alone(compiled, execution, program):
    positions = tiny.digits()[2][:32]
    # Under vmap the number of members is a matter of the program.
    hyper, state = tiny.hyper(n_steps=(4, 4 * (execution == "vmap"), 4)), tiny.state()
    before = jax.tree.map(np.array, state)
    seconds = measured.probe(tiny.task(), tiny.feed(positions), state, hyper, tiny.BATCH_SIZE)
    assert 0 < seconds(execution) < 10
    assert compiled().count(program) <= 1
    assert 0 < seconds(execution) < 10
    assert program not in compiled(), "what the second call needs is there"
    tiny.assert_equal(state, before)
    # So is what the stage itself needs.
    tiny.train(hyper, execution=execution, feed_=tiny.feed(positions))
    assert program not in compiled()


def test_what_does_not_fit_is_not_measured(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda sharded: 10)
    seconds = measured.probe(tiny.task(), tiny.feed(), tiny.state(), tiny.hyper(), tiny.BATCH_SIZE)
    with pytest.raises(RunError, match=r"^execution: every way .*; loop failed: SettingsError: .* 'loop' needs"):
        measured.choose(("map", "loop"), seconds, lambda line: None)
