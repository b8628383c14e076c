"""A checkpoint comes back bit for bit, or is not used."""

import errno
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ssoup_jax.errors import RunError
from ssoup_jax.models.variables import Variables
from ssoup_jax.storage import checkpoints as module
from ssoup_jax.storage.checkpoints import Checkpoints
from ssoup_jax.training.step import TrainState

NASTY = np.array([np.nan, -0.0, 1e-45, np.inf, -np.inf, 3.4e38], np.float32)


def state(value=1.0):
    """A state of every kind of leaf that training has, an empty one included."""
    params = {"fc/1": {"kernel": jnp.full((2, 3), value, jnp.float32), "bias": jnp.asarray(NASTY)}}
    momentum = ({"count": jnp.int32(7)}, (), [jnp.asarray([1.5, -0.0], ml_dtypes.bfloat16)])
    mask = {"fc/1": {"kernel": jnp.array([[True, False, True]]), "bias": None}}
    return TrainState(Variables(params, {}), (*momentum, jnp.zeros((0, 2), jnp.uint8)), mask)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


@pytest.fixture
def told():
    return []


@pytest.fixture
def checkpoints(tmp_path, told):
    made = Checkpoints(tmp_path / "group", on_damage=told.append)
    yield made
    made._writer.shutdown()


def names(checkpoints):
    return sorted(path.name for path in checkpoints._folder.iterdir())


def test_comes_back_bit_for_bit_as_plain_arrays(checkpoints, told):
    checkpoints.save(12, state(), {"epoch": 3, "losses": [0.5, float("nan")]})
    step, loaded, info = checkpoints.latest(jax.eval_shape(state))
    assert step == 12
    assert info == {"epoch": 3, "losses": [0.5, None]}
    assert_same_bits(loaded, state())
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded))
    assert told == []


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        arrays.arrays(
            st.sampled_from([np.dtype(np.uint32), np.dtype(np.uint16), np.dtype(np.bool_), np.dtype(np.int8)]),
            arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_bits_survive(tmp_path_factory, leaves):
    # The same bits as floating numbers: NaNs with a payload, denormals, both zeros.
    floats = {np.dtype(np.uint32): np.float32, np.dtype(np.uint16): ml_dtypes.bfloat16}
    tree = [leaf.view(floats.get(leaf.dtype, leaf.dtype)) for leaf in leaves] + [np.float32(1)]
    checkpoints = Checkpoints(tmp_path_factory.mktemp("any"))
    checkpoints.save(1, tree, {})
    assert_same_bits(checkpoints.latest(tree)[1], tree)
    checkpoints.close()


def test_the_state_may_be_donated_as_soon_as_save_returns(checkpoints, monkeypatch):
    go, write = threading.Event(), module.write_folder

    def late(*arguments):
        assert go.wait(10)
        write(*arguments)

    monkeypatch.setattr(module, "write_folder", late)
    tree = {"w": jnp.arange(10000, dtype=jnp.float32)}
    expected = np.array(tree["w"])
    checkpoints.save(1, tree, {})
    overwritten = jax.jit(lambda tree: {"w": tree["w"] * 0 - 1}, donate_argnums=0)(tree)
    assert tree["w"].is_deleted()
    jax.block_until_ready(overwritten)
    go.set()
    np.testing.assert_array_equal(checkpoints.latest(overwritten)[1]["w"], expected)


def test_host_memory_may_be_changed_as_soon_as_save_returns(checkpoints):
    tree = {"w": np.zeros(10**6, np.float32)}
    checkpoints.save(1, tree, {})
    tree["w"] += 1
    assert not checkpoints.latest(tree)[1]["w"].any()


def test_keeps_the_newest(checkpoints):
    for step in (1, 20, 3, 100000000):
        checkpoints.save(step, state(step), {})
    checkpoints.wait()
    assert names(checkpoints) == ["step-00000020", "step-100000000"]
    assert checkpoints.latest(state())[0] == 100000000


def test_the_same_step_again_replaces_it(checkpoints):
    checkpoints.save(5, state(1.0), {})
    checkpoints.save(5, state(2.0), {})
    assert_same_bits(checkpoints.latest(state())[1], state(2.0))
    assert names(checkpoints) == ["step-00000005"]


def test_nothing_saved_is_nothing_found(checkpoints):
    assert checkpoints.latest(state()) is None
    checkpoints.wait()
    checkpoints.close()


@pytest.mark.parametrize("leaf", [jax.random.key(0), 1.5, "text"])
def test_what_is_no_plain_array_is_refused(checkpoints, leaf):
    with pytest.raises(TypeError, match="plain arrays only"):
        checkpoints.save(1, {"a": jnp.zeros(1), "b": leaf}, {})


def test_a_damaged_one_is_set_aside_and_the_one_before_is_taken(checkpoints, told):
    checkpoints.save(1, state(1.0), {"n": 1})
    checkpoints.save(2, state(2.0), {"n": 2})
    checkpoints.wait()
    (checkpoints._folder / "step-00000002" / module.CHECKPOINT).write_text("{}")
    step, loaded, info = checkpoints.latest(state())
    assert (step, info) == (1, {"n": 1})
    assert_same_bits(loaded, state(1.0))
    assert names(checkpoints) == ["damaged-2-1", "step-00000001"]
    (line,) = told
    assert line.startswith("checkpoint of step 2 is not used: 'checkpoint.json' has 2 bytes")
    assert "\n" not in line


OTHER = {
    "structure": lambda tree: {"params": tree},
    "shape": lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((5, *leaf.shape), leaf.dtype), tree),
    "dtype": lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float16), tree),
    "fewer leaves": lambda tree: tree.variables,
}


@pytest.mark.parametrize("case", OTHER)
def test_one_of_another_state_is_not_used(checkpoints, told, case):
    checkpoints.save(1, state(), {})
    assert checkpoints.latest(OTHER[case](jax.eval_shape(state))) is None
    (line,) = told
    assert "not of this state: leaf" in line
    assert "\n" not in line


def test_one_under_the_name_of_another_step_is_not_used(checkpoints, told):
    checkpoints.save(1, state(), {})
    checkpoints.wait()
    shutil.copytree(checkpoints._folder / "step-00000001", checkpoints._folder / "step-00000009")
    assert checkpoints.latest(state())[0] == 1
    assert "not of step 9" in told[0]


def test_what_is_no_checkpoint_is_left_alone(checkpoints, told):
    checkpoints.save(1, state(), {})
    checkpoints.wait()
    (checkpoints._folder / "notes.txt").touch()
    (checkpoints._folder / "step-latest").mkdir()
    (checkpoints._folder / "step-00000007").touch()
    assert checkpoints.latest(state())[0] == 1
    assert names(checkpoints) == ["damaged-7-1", "notes.txt", "step-00000001", "step-latest"]
    assert len(told) == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".step-00000003.partial/state", ".step-00000001.removed/state"):
        (tmp_path / name).mkdir(parents=True)
    assert Checkpoints(tmp_path).latest(state()) is None
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_is_said_at_the_next_call_and_earlier_ones_stay(checkpoints, monkeypatch):
    checkpoints.save(1, state(1.0), {})
    checkpoints.wait()

    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with monkeypatch.context() as patched:
        patched.setattr(module.manifest, "write", full)
        checkpoints.save(2, state(2.0), {})
        with pytest.raises(RunError, match=r"step 2 cannot be written \(No space left on device") as error:
            checkpoints.save(3, state(3.0), {})
    assert "\n" not in str(error.value)
    assert names(checkpoints) == ["step-00000001"], "the half of it must not fill the disk"
    assert_same_bits(checkpoints.latest(state())[1], state(1.0))
    checkpoints.save(4, state(4.0), {})
    assert checkpoints.latest(state())[0] == 4


def test_a_disk_without_room_is_seen_before_orbax_writes(checkpoints, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 100))
    monkeypatch.setattr(module.ocp, "save", lambda *_, **__: pytest.fail("Orbax was asked to write"))
    checkpoints.save(1, state(), {})
    with pytest.raises(RunError, match="No space left on device"):
        checkpoints.wait()


def test_a_folder_that_went_away_is_said(checkpoints, monkeypatch):
    def gone(folder, *_, **__):
        shutil.rmtree(folder.parent)
        folder.mkdir(parents=True)

    monkeypatch.setattr(module.ocp, "save", gone)
    checkpoints.save(1, state(), {})
    with pytest.raises(RunError, match="was removed while it was written"):
        checkpoints.wait()
    assert names(checkpoints) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    checkpoints = Checkpoints(tmp_path / "file" / "group")
    checkpoints.save(1, state(), {})
    with pytest.raises(RunError, match="Not a directory"):
        checkpoints.close()


def with_a_mask(value=1.0):
    return {"state": state(value), "mask": jnp.array([True, False])}


def test_each_of_several_forms_comes_back_in_its_own(checkpoints, told):
    checkpoints.save(1, state(1.0), {"n": 1})
    step, loaded, info = checkpoints.latest(jax.eval_shape(with_a_mask), jax.eval_shape(state))
    assert (step, info) == (1, {"n": 1})
    assert_same_bits(loaded, state(1.0))
    checkpoints.save(2, with_a_mask(2.0), {"n": 2})
    step, loaded, info = checkpoints.latest(jax.eval_shape(with_a_mask), jax.eval_shape(state))
    assert (step, info) == (2, {"n": 2})
    assert_same_bits(loaded, with_a_mask(2.0))
    assert told == []


def test_one_of_none_of_the_forms_is_set_aside_with_what_is_not_of_the_first(checkpoints, told):
    checkpoints.save(1, {"else": jnp.zeros(3)}, {})
    assert checkpoints.latest(with_a_mask(), state()) is None
    (line,) = told
    assert "['else', 'float32(3,)']" in line
    assert "wanted ['mask', 'bool(2,)']" in line
