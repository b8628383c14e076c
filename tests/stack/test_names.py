"""Names of executors, read and refused, and the rule that chooses one."""

import itertools

import jax
import pytest

from ssoup_jax.errors import SettingsError
from ssoup_jax.stack import names

FULL = ["map", "vmap", "unroll", "loop", "vmap:1", "unroll:12", "shard:map", "shard:unroll", "shard:vmap:3"]


@pytest.mark.parametrize(
    ("execution", "expected"),
    [
        ("map", ("map", None, False)),
        ("loop", ("loop", None, False)),
        ("vmap:1", ("vmap", 1, False)),
        ("unroll:12", ("unroll", 12, False)),
        ("shard:unroll", ("unroll", None, True)),
        ("shard:vmap:3", ("vmap", 3, True)),
    ],
)
def test_names_are_read_and_written(execution, expected):
    assert names.parse(execution) == expected
    assert str(names.parse(execution)) == execution


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ("vmp", "unknown value 'vmp'; allowed: auto, measured, map, .*did you mean 'vmap'"),
        ("", "unknown value ''"),
        ("Map", "unknown value 'Map'; .*did you mean 'map'"),
        ("meassured", "unknown value 'meassured'; .*did you mean 'measured'"),
        ("map:2", "unknown value 'map:2'"),
        ("loop:2", "unknown value 'loop:2'"),
        ("auto:2", "unknown value 'auto:2'"),
        ("measured:2", "unknown value 'measured:2'"),
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
    for refuse in (names.check, names.parse, lambda name: names.rule(name, "cpu", 1, True, 3)):
        with pytest.raises(SettingsError, match=f"^execution: {message}") as caught:
            refuse(execution)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("execution", [*FULL, *names.CHOSEN])
def test_right_names_are_taken_without_a_backend(monkeypatch, execution):
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("a backend was started"))
    names.check(execution)


@pytest.mark.parametrize("execution", names.CHOSEN)
def test_a_name_that_stands_for_another_is_no_executor_yet(execution):
    with pytest.raises(SettingsError, match=f"^execution: '{execution}' is no executor by itself; [^\n]*$"):
        names.parse(execution)


@pytest.mark.parametrize(
    ("backend", "n_devices", "convolutional", "m", "auto", "shard"),
    [
        ("cpu", 1, True, 1, "loop", "shard:map"),
        ("cpu", 1, True, 5, "loop", "shard:map"),
        ("cpu", 4, False, 5, "shard:map", "shard:map"),
        ("gpu", 1, True, 1, "loop", "shard:map"),
        ("gpu", 1, True, 5, "unroll", "shard:unroll"),
        ("gpu", 1, False, 5, "vmap", "shard:vmap"),
        ("gpu", 8, True, 5, "shard:unroll", "shard:unroll"),
        ("gpu", 8, True, 1, "loop", "shard:map"),
        ("tpu", 1, True, 5, "vmap", "shard:vmap"),
        ("tpu", 8, True, 5, "shard:vmap", "shard:vmap"),
    ],
)
def test_the_rule_goes_by_backend_network_and_m(backend, n_devices, convolutional, m, auto, shard):
    assert names.rule("auto", backend, n_devices, convolutional, m) == auto
    assert names.rule("shard", backend, n_devices, convolutional, m) == shard
    for execution in FULL:
        assert names.rule(execution, backend, n_devices, convolutional, m) == execution


@pytest.mark.parametrize("execution", ["auto", "shard"])
def test_the_rule_always_ends_at_an_executor(execution):
    for arguments in itertools.product(("cpu", "gpu", "tpu"), (1, 4), (False, True), (1, 2, 9)):
        found = names.rule(execution, *arguments)
        assert str(names.parse(found)) == found


@pytest.mark.parametrize(
    ("backend", "n_devices", "m", "expected"),
    [
        ("cpu", 1, 3, ("loop", "map", "unroll")),
        ("gpu", 1, 3, ("vmap", "unroll", "map", "loop")),
        ("gpu", 1, 9, ("vmap", "unroll", "map", "loop", "unroll:5")),
        ("tpu", 1, 3, ("vmap", "unroll", "map", "loop")),
        ("cpu", 1, 1, ("loop",)),
        ("gpu", 8, 1, ("loop",)),
        ("gpu", 8, 5, ("shard:vmap", "vmap")),
        ("gpu", 2, 5, ("shard:vmap", "shard:unroll", "shard:map", "vmap")),
        ("cpu", 2, 5, ("shard:map", "shard:unroll", "loop")),
    ],
)
def test_candidates_are_executors(backend, n_devices, m, expected):
    found = names.candidates(backend, n_devices, m)
    assert found == expected
    assert [str(names.parse(name)) for name in found] == list(found)
