"""Names of executors, read and refused, and the rule that chooses one."""

import itertools

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssoup_jax.errors import SettingsError
from ssoup_jax.stack import names
from ssoup_jax.stack.names import HEAVY, Load

FULL = ["map", "vmap", "unroll", "loop", "vmap:1", "unroll:12", "4x1:map", "2x2:unroll", "1x4:vmap:3"]
STANDING_FOR_ANOTHER = [*names.CHOSEN, "shard:map", "shard:unroll", "shard:vmap:3"]


@pytest.mark.parametrize(
    ("execution", "expected"),
    [
        ("map", ("map", None, None)),
        ("loop", ("loop", None, None)),
        ("vmap:1", ("vmap", 1, None)),
        ("unroll:12", ("unroll", 12, None)),
        ("2x4:unroll", ("unroll", None, (2, 4))),
        ("16x1:vmap:3", ("vmap", 3, (16, 1))),
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
        ("2x:map", "unknown value '2x:map'"),
        ("0x2:map", "unknown value '0x2:map'"),
        ("2x2:loop", "unknown value '2x2:loop'"),
        ("2x2", "unknown value '2x2'"),
        ("vmap:0", "found 'vmap:0'; after 'vmap' comes a number of members, at least 1"),
        ("unroll:-1", "found 'unroll:-1'; after 'unroll' comes a number of members, at least 1"),
        ("vmap:", "found 'vmap:'; after 'vmap' comes a number of members, at least 1"),
        ("vmap:\u0663", "found 'vmap:\u0663'; after 'vmap' comes"),
        ("shard:vmap:x", "found 'shard:vmap:x'; after 'vmap' comes"),
        ("vmap:2\n", "unknown value"),
    ],
)
def test_wrong_names_are_refused_in_one_line(execution, message):
    for refuse in (names.check, names.parse, lambda name: names.rule(name, "cpu", 1, Load(3))):
        with pytest.raises(SettingsError, match=f"^execution: {message}") as caught:
            refuse(execution)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("execution", [*FULL, *STANDING_FOR_ANOTHER])
def test_right_names_are_taken_without_a_backend(monkeypatch, execution):
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("a backend was started"))
    names.check(execution)


@pytest.mark.parametrize("execution", STANDING_FOR_ANOTHER)
def test_a_name_that_stands_for_another_is_no_executor_yet(execution):
    with pytest.raises(SettingsError, match=f"^execution: '{execution}' is no executor by itself; [^\n]*$"):
        names.parse(execution)


@pytest.mark.parametrize(
    ("backend", "n_devices", "load", "auto", "shard"),
    [
        ("cpu", 1, Load(1), "loop", "1x1:map"),
        ("cpu", 1, Load(1, multiply_adds=HEAVY), "loop", "1x1:map"),
        ("cpu", 1, Load(5, multiply_adds=HEAVY - 1), "loop", "1x1:map"),
        ("cpu", 1, Load(5, multiply_adds=HEAVY), "map", "1x1:map"),
        ("cpu", 4, Load(5), "4x1:map", "4x1:map"),
        ("cpu", 4, Load(5, batch_size=64), "1x4:map", "1x4:map"),
        ("gpu", 1, Load(1, True), "loop", "1x1:map"),
        ("gpu", 1, Load(5, True), "unroll", "1x1:unroll"),
        ("gpu", 1, Load(5), "vmap", "1x1:vmap"),
        ("gpu", 8, Load(5, True, 64), "1x8:unroll", "1x8:unroll"),
        ("gpu", 8, Load(16, True, 64), "8x1:unroll", "8x1:unroll"),
        ("gpu", 8, Load(4, True, 64), "4x2:map", "4x2:map"),
        ("gpu", 8, Load(1, True, 64), "1x8:map", "1x8:map"),
        ("tpu", 1, Load(5, True), "vmap", "1x1:vmap"),
        ("tpu", 8, Load(16, True), "8x1:vmap", "8x1:vmap"),
    ],
)
def test_the_rule_goes_by_backend_devices_and_load(backend, n_devices, load, auto, shard):
    assert names.rule("auto", backend, n_devices, load) == auto
    assert names.rule("shard", backend, n_devices, load) == shard


@pytest.mark.parametrize("execution", [name for name in FULL if "x" not in name])
def test_a_full_name_stays(execution):
    for backend, n_devices in itertools.product(("cpu", "gpu", "tpu"), (1, 4)):
        assert names.rule(execution, backend, n_devices, Load(3)) == execution


def test_the_executor_of_a_mesh_can_be_named_and_the_mesh_left_open():
    assert names.rule("shard:vmap:3", "cpu", 4, Load(8)) == "4x1:vmap:3"
    assert names.rule("2x2:unroll", "cpu", 4, Load(8, batch_size=4)) == "2x2:unroll"


@pytest.mark.parametrize("execution", ["auto", "measured", "shard", "shard:vmap:2"])
def test_the_rule_always_ends_at_an_executor(execution):
    for backend, n_devices, conv, m in itertools.product(("cpu", "gpu", "tpu"), (1, 4), (False, True), (1, 2, 9)):
        found = names.rule(execution, backend, n_devices, Load(m, conv, 12, HEAVY))
        assert str(names.parse(found)) == found


@pytest.mark.parametrize(
    ("n_devices", "m", "batch_size", "expected"),
    [
        (1, 3, 64, (1, 1)),
        (4, 1, 64, (1, 4)),
        (4, 3, 64, (1, 4)),  # four groups would leave one idle, two half of the second round
        (4, 4, 64, (4, 1)),
        (4, 8, 64, (4, 1)),
        (4, 2, 64, (2, 2)),
        (4, 3, 66, (4, 1)),  # 66 is not cut into four, and two groups of two take as long as four of one
        (4, 3, None, (4, 1)),
        (6, 3, 64, (3, 2)),
        (8, 10, 256, (2, 4)),
        (4, 1, 2, (2, 2)),
    ],
)
def test_a_mesh_idles_the_least_and_then_cuts_the_least(n_devices, m, batch_size, expected):
    assert names.mesh_for(n_devices, m, batch_size) == expected


@given(st.integers(1, 64), st.integers(1, 20), st.integers(1, 512))
def test_every_mesh_uses_every_device_and_cuts_evenly(n_devices, m, batch_size):
    groups, cut = names.mesh_for(n_devices, m, batch_size)
    assert groups * cut == n_devices
    assert batch_size % cut == 0


@pytest.mark.parametrize(
    ("mesh", "batch_size", "message"),
    [
        ("3x2", 64, "mesh: found '3x2'; 4 devices allow 4x1, 2x2, 1x4"),
        ("2x1", 64, "mesh: found '2x1'; 4 devices allow 4x1, 2x2, 1x4"),
        (
            "1x4",
            66,
            "mesh: '1x4' cuts a batch of 66 into 4 unequal parts; the nearest batch_size that it divides is 64",
        ),
        (
            "1x4",
            67,
            "mesh: '1x4' cuts a batch of 67 into 4 unequal parts; the nearest batch_size that it divides is 68",
        ),
        ("1x4", 1, "mesh: '1x4' cuts a batch of 1 into 4 unequal parts; the nearest batch_size that it divides is 4"),
        ("2x2", None, "mesh: found '2x2'; this task's batches cannot be cut, so the mesh is 4x1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_in_one_line(mesh, batch_size, message):
    with pytest.raises(SettingsError) as caught:
        names.check_mesh(names.parse_mesh(mesh), 4, batch_size)
    assert str(caught.value) == message


@pytest.mark.parametrize(("mesh", "batch_size"), [("4x1", None), ("4x1", 7), ("2x2", 64), ("1x4", 4)])
def test_a_mesh_that_fits_is_taken(mesh, batch_size):
    names.check_mesh(names.parse_mesh(mesh), 4, batch_size)
    load = Load(3, batch_size=batch_size)
    assert names.rule("auto", "cpu", 4, load, names.parse_mesh(mesh)) == f"{mesh}:map"


@pytest.mark.parametrize("mesh", ["", "2", "2x", "x2", "0x4", "2x4x1", "2X4", "-1x4", "two"])
def test_what_is_no_mesh_is_refused_in_one_line(mesh):
    with pytest.raises(SettingsError, match=f"^mesh: found '{mesh}'; allowed: members x data, such as '2x4'$"):
        names.parse_mesh(mesh)


@pytest.mark.parametrize(
    ("backend", "n_devices", "m", "expected"),
    [
        ("cpu", 1, 3, ("loop", "map", "unroll")),
        ("gpu", 1, 3, ("vmap", "unroll", "map", "loop")),
        ("gpu", 1, 9, ("vmap", "unroll", "map", "loop", "unroll:5")),
        ("tpu", 1, 3, ("vmap", "unroll", "map", "loop")),
        ("cpu", 1, 1, ("loop",)),
        ("gpu", 8, 1, ("1x8:map",)),
        ("gpu", 8, 5, ("1x8:vmap", "1x8:unroll", "1x8:map")),
        ("gpu", 2, 2, ("2x1:map",)),
        ("cpu", 2, 6, ("2x1:map", "2x1:unroll")),
    ],
)
def test_candidates_are_executors(backend, n_devices, m, expected):
    found = names.candidates(backend, n_devices, Load(m, True, 64))
    assert found == expected
    assert [str(names.parse(name)) for name in found] == list(found)
