"""A checkpoint comes back bit for bit, whoever wrote and whoever reads its members, or is not used."""

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ssoup_jax.errors import RunError
from ssoup_jax.models.variables import Variables
from ssoup_jax.storage import checkpoints as module
from ssoup_jax.storage.checkpoints import Checkpoints
from ssoup_jax.training.step import TrainState
from tests.pod.threads import together

NASTY = np.array([np.nan, -0.0, 1e-45, np.inf, -np.inf, 3.4e38], np.float32)
STACKED = Path(__file__).parent / "stored" / "stacked"


def state(value=1.0):
    """A member of every kind of leaf that training has, an empty one included."""
    params = {"fc/1": {"kernel": jnp.full((2, 3), value, jnp.float32), "bias": jnp.asarray(NASTY)}}
    momentum = ({"count": jnp.int32(7)}, (), [jnp.asarray([1.5, -0.0], ml_dtypes.bfloat16)])
    mask = {"fc/1": {"kernel": jnp.array([[True, False, True]]), "bias": None}}
    return TrainState(Variables(params, {}), (*momentum, jnp.zeros((0, 2), jnp.uint8)), mask)


def pair(value=1.0):
    """Two members that differ."""
    return {0: state(value), 1: state(-value)}


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


def latest(checkpoints, *forms, m=2, wanted=(0, 1)):
    like, *older = forms or [state()]
    return checkpoints.latest(like, m, wanted, *older)


def test_comes_back_bit_for_bit_as_plain_arrays(checkpoints, told):
    checkpoints.save(12, pair(), 2, {"epoch": 3, "losses": [0.5, float("nan")]})
    step, loaded, info = checkpoints.latest(jax.eval_shape(state), 2, [1, 0])
    assert step == 12
    assert info == {"epoch": 3, "losses": [0.5, None]}
    assert_same_bits(loaded, pair())
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded))
    assert told == []


BITS = [np.dtype(np.uint32), np.dtype(np.uint16), np.dtype(np.bool_), np.dtype(np.int8), np.dtype(np.int64)]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        arrays.arrays(st.sampled_from(BITS), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
        min_size=1,
        max_size=4,
    )
)
def test_any_bits_survive(tmp_path_factory, leaves):
    # The same bits as floating numbers: NaNs with a payload, denormals, both zeros.
    floats = {np.dtype(np.uint32): np.float32, np.dtype(np.uint16): ml_dtypes.bfloat16}
    floats |= {np.dtype(np.int8): ml_dtypes.float8_e4m3fn}
    tree = [leaf.view(floats.get(leaf.dtype, leaf.dtype)) for leaf in leaves] + [leaves[0].T, np.float32(1)]
    with Checkpoints(tmp_path_factory.mktemp("any")) as checkpoints:
        checkpoints.save(1, {0: tree}, 1, {})
        assert_same_bits(checkpoints.latest(tree, 1, [0])[1][0], tree)


@st.composite
def pods(draw):
    """Draws how many members there are, who writes each of them, and who reads which."""
    m, writers, readers = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    owners = draw(st.lists(st.integers(0, writers - 1), min_size=m, max_size=m))
    wanted = draw(st.lists(st.lists(st.integers(0, m - 1), unique=True), min_size=readers, max_size=readers))
    return writers, owners, wanted


@settings(max_examples=30, deadline=None)
@given(pods())
def test_any_processes_read_what_any_others_wrote(tmp_path_factory, drawn):
    writers, owners, wanted = drawn
    folder, m = tmp_path_factory.mktemp("pod") / "group", len(owners)

    def write(pod):
        with Checkpoints(folder, pod=pod) as checkpoints:
            for step in (1, 2, 3):
                own = {index: state(step + index) for index, owner in enumerate(owners) if owner == pod.index}
                checkpoints.save(step, own, m, {"by": pod.index})

    def read(pod):
        with Checkpoints(folder, pod=pod) as checkpoints:
            return checkpoints.latest(state(), m, wanted[pod.index])

    found, client = together(writers, write)
    assert found == [None] * writers
    assert not any("told" in key for key in client.values)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    for own, result in zip(wanted, together(len(wanted), read)[0], strict=True):
        step, loaded, info = result
        assert (step, info, set(loaded)) == (3, {"by": 0}, set(own))
        assert_same_bits(loaded, {index: state(3 + index) for index in own})


def test_one_process_and_several_write_the_same_files(tmp_path):
    for size in (1, 3):

        def write(pod, size=size):
            with Checkpoints(tmp_path / str(size), pod=pod) as checkpoints:
                own = {index: state(index) for index in range(4) if index % size == pod.index}
                checkpoints.save(7, own, 4, {"n": 1})

        assert together(size, write)[0] == [None] * size
    one, three = (
        {path.relative_to(tmp_path / size): path.read_bytes() for path in (tmp_path / size).rglob("*.*")}
        for size in ("1", "3")
    )
    assert len(one) == 4 + 2
    assert one == three


def test_a_process_reads_the_members_that_it_wants_and_no_others(checkpoints, monkeypatch):
    checkpoints.save(1, pair(), 2, {})
    read, load = [], module.parts.load_file
    monkeypatch.setattr(module.parts, "load_file", lambda path: read.append(path.name) or load(path))
    assert latest(checkpoints, wanted=[1])[1].keys() == {1}
    assert read == ["member-01.safetensors"]
    assert latest(checkpoints, wanted=[])[1] == {}
    assert len(read) == 1


def test_there_is_no_checkpoint_before_all_have_written(tmp_path, monkeypatch):
    go, folder, write = threading.Event(), tmp_path / "group", module.parts.write

    def slow(partial, index, tree):
        assert index < 2 or go.wait(10)
        return write(partial, index, tree)

    monkeypatch.setattr(module.parts, "write", slow)

    def act(pod):
        with Checkpoints(folder, pod=pod) as checkpoints:
            checkpoints.save(4, {pod.index: state()}, 3, {})
            if pod.leads:
                until = time.monotonic() + 10
                while len(list(folder.glob(".step-*/member-*"))) < 2:
                    assert time.monotonic() < until
                time.sleep(0.1)  # whoever waited for nobody would be done by now
                left = sorted(path.name for path in folder.rglob("*"))
                go.set()
                return left

    assert together(3, act)[0][0] == [".step-00000004.partial", "member-00.safetensors", "member-01.safetensors"]
    assert len(list((folder / "step-00000004").iterdir())) == 3 + 2


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_owners_failure_is_everyones_and_earlier_ones_stay(tmp_path, monkeypatch, failing):
    write = module.parts.write

    def full(folder, index, tree):
        if index == failing and "00000002" in folder.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")
        return write(folder, index, tree)

    monkeypatch.setattr(module.parts, "write", full)

    def act(pod):
        with Checkpoints(tmp_path / "group", pod=pod) as checkpoints:
            checkpoints.save(1, {pod.index: state(1.0)}, 3, {})
            checkpoints.save(2, {pod.index: state(2.0)}, 3, {})
            with pytest.raises(RunError) as error:
                checkpoints.save(3, {pod.index: state(3.0)}, 3, {})
            # The same step, once there is room again.
            monkeypatch.setattr(module.parts, "write", write)
            before = checkpoints.latest(state(), 3, [])[0]
            checkpoints.save(2, {pod.index: state(4.0)}, 3, {})
        return str(error.value), before, checkpoints.latest(state(), 3, [0])

    for line, before, (step, loaded, _) in together(3, act)[0]:
        assert line == (
            f"{tmp_path / 'group'}: the checkpoint of step 2 cannot be written (process {failing}: No space left on "
            "device: there); earlier ones are intact"
        )
        assert (before, step) == (1, 2)
        assert_same_bits(loaded[0], state(4.0))


@pytest.mark.parametrize("own", [{0: state()}, {0: state(), 2: state()}, {}])
def test_a_member_without_an_owner_is_no_checkpoint(checkpoints, own):
    checkpoints.save(1, own, 2, {})
    with pytest.raises(RunError, match="of 2 members there are"):
        checkpoints.wait()
    assert names(checkpoints) == []


def test_a_member_that_cannot_be_read_for_now_is_said_and_not_set_aside(checkpoints, monkeypatch):
    checkpoints.save(1, pair(), 2, {})

    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path.name)

    monkeypatch.setattr(module.parts, "load_file", fail)
    with pytest.raises(RunError, match=r"cannot be read \(Input/output error: member-00.safetensors\); delete"):
        latest(checkpoints)
    assert names(checkpoints) == ["step-00000001"]


def stored_member(index, mask=True):
    """Numbers whose every bit matters; what `stored/stacked` was written from, by a version that stored one stack."""
    bits = np.array([0x7FC00001, 0x80000000, 0x00000001, 0x7F800000, 0x3F800000, 0xBF000000 + index], np.uint32)
    kernel, bias = bits.view(np.float32).reshape(2, 3), np.array([1e-3, -1, index], np.float32)
    params = {"fc/1": {"kernel": kernel, "bias": bias}}
    trace = {"fc/1": {"kernel": kernel.astype(ml_dtypes.bfloat16), "bias": np.zeros((0, 3), np.float32)}}
    stats = {"bn": {"mean": np.array([0.5 + index], np.float32)}}
    tree = {"variables": {"params": params, "batch_stats": stats}, "opt_state": ({"trace": trace}, (), np.int32(7))}
    kept = {"fc/1": {"kernel": np.array([[True, False, True], [True, True, bool(index)]]), "bias": np.ones(3, bool)}}
    return tree | ({"mask": kept} if mask else {})


@pytest.mark.parametrize(("step", "mask"), [(12, True), (3, False)])
@pytest.mark.parametrize("readers", [1, 2])
def test_what_was_stored_as_one_stack_is_read_member_by_member(tmp_path, step, mask, readers):
    shutil.copytree(STACKED / f"step-{step:08d}", tmp_path / "group" / f"step-{step:08d}")
    told = []

    def act(pod):
        with Checkpoints(tmp_path / "group", on_damage=told.append, pod=pod) as checkpoints:
            return checkpoints.latest(stored_member(0), 3, [2, pod.index], stored_member(0, mask=False))

    for index, (when, loaded, info) in enumerate(together(readers, act)[0]):
        assert (when, info) == (step, {"stages": ["a", "b", "c"], "n_steps": 20, "value": step})
        assert_same_bits(loaded, {member: stored_member(member, mask) for member in (2, index)})
    assert told == []


def test_a_stack_of_other_members_is_set_aside(tmp_path, told):
    shutil.copytree(STACKED, tmp_path / "group")
    with Checkpoints(tmp_path / "group", on_damage=told.append) as checkpoints:
        assert checkpoints.latest(stored_member(0), 2, [0], stored_member(0, mask=False)) is None
    assert len(told) == 2
    assert "['mask/fc/1/bias', 'bool(3, 3)'], wanted ['mask/fc/1/bias', 'bool(2, 3)']" in told[0]


def test_the_state_may_be_donated_as_soon_as_save_returns(checkpoints, monkeypatch):
    go, write = threading.Event(), module.parts.write

    def late(*arguments):
        assert go.wait(10)
        return write(*arguments)

    monkeypatch.setattr(module.parts, "write", late)
    tree = {"w": jnp.arange(10000, dtype=jnp.float32)}
    expected = np.array(tree["w"])
    checkpoints.save(1, {0: tree}, 1, {})
    overwritten = jax.jit(lambda tree: {"w": tree["w"] * 0 - 1}, donate_argnums=0)(tree)
    assert tree["w"].is_deleted()
    jax.block_until_ready(overwritten)
    go.set()
    np.testing.assert_array_equal(checkpoints.latest(overwritten, 1, [0])[1][0]["w"], expected)


def test_host_memory_may_be_changed_as_soon_as_save_returns(checkpoints):
    tree = {"w": np.zeros(10**6, np.float32)}
    checkpoints.save(1, {0: tree}, 1, {})
    tree["w"] += 1
    assert not checkpoints.latest(tree, 1, [0])[1][0]["w"].any()


def test_keeps_the_newest(checkpoints):
    for step in (1, 20, 3, 100000000):
        checkpoints.save(step, pair(step), 2, {})
    checkpoints.wait()
    assert names(checkpoints) == ["step-00000020", "step-100000000"]
    assert latest(checkpoints)[0] == 100000000


def test_the_same_step_again_replaces_it(checkpoints):
    checkpoints.save(5, pair(1.0), 2, {})
    checkpoints.save(5, pair(2.0), 2, {})
    assert_same_bits(latest(checkpoints)[1], pair(2.0))
    assert names(checkpoints) == ["step-00000005"]


def test_nothing_saved_is_nothing_found(checkpoints):
    assert latest(checkpoints) is None
    checkpoints.wait()
    with checkpoints:
        pass


@pytest.mark.parametrize("leaf", [jax.random.key(0), 1.5, "text"])
def test_what_is_no_plain_array_is_refused(checkpoints, leaf):
    with pytest.raises(TypeError, match="plain arrays only"):
        checkpoints.save(1, {0: {"a": jnp.zeros(1), "b": leaf}}, 1, {})


def test_a_damaged_one_is_set_aside_and_the_one_before_is_taken(checkpoints, told):
    checkpoints.save(1, pair(1.0), 2, {"n": 1})
    checkpoints.save(2, pair(2.0), 2, {"n": 2})
    checkpoints.wait()
    (checkpoints._folder / "step-00000002" / module.CHECKPOINT).write_text("{}")
    step, loaded, info = latest(checkpoints)
    assert (step, info) == (1, {"n": 1})
    assert_same_bits(loaded, pair(1.0))
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
    checkpoints.save(1, pair(), 2, {})
    assert latest(checkpoints, OTHER[case](jax.eval_shape(state))) is None
    (line,) = told
    assert "not of this state: leaf" in line
    assert "\n" not in line


def test_one_under_the_name_of_another_step_is_not_used(checkpoints, told):
    checkpoints.save(1, pair(), 2, {})
    checkpoints.wait()
    shutil.copytree(checkpoints._folder / "step-00000001", checkpoints._folder / "step-00000009")
    assert latest(checkpoints)[0] == 1
    assert "not of step 9" in told[0]


def test_what_is_no_checkpoint_is_left_alone(checkpoints, told):
    checkpoints.save(1, pair(), 2, {})
    checkpoints.wait()
    (checkpoints._folder / "notes.txt").touch()
    (checkpoints._folder / "step-latest").mkdir()
    (checkpoints._folder / "step-00000007").touch()
    assert latest(checkpoints)[0] == 1
    assert names(checkpoints) == ["damaged-7-1", "notes.txt", "step-00000001", "step-latest"]
    assert len(told) == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".step-00000003.partial/state", ".step-00000001.removed/state"):
        (tmp_path / name).mkdir(parents=True)
    found, _ = together(2, lambda pod: latest(Checkpoints(tmp_path, pod=pod)))
    assert found == [None] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_is_said_at_the_next_call_and_earlier_ones_stay(checkpoints, monkeypatch):
    checkpoints.save(1, pair(1.0), 2, {})
    checkpoints.wait()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")

    for name in ("describe", "write"):  # of a member's file, and of the manifest
        with monkeypatch.context() as patched:
            patched.setattr(module.manifest, name, full)
            checkpoints.save(2, pair(2.0), 2, {})
            with pytest.raises(RunError, match=r"step 2 cannot be written \(No space left on device") as error:
                checkpoints.save(3, pair(3.0), 2, {})
        assert "\n" not in str(error.value)
        assert names(checkpoints) == ["step-00000001"], "the half of it must not fill the disk"
    assert_same_bits(latest(checkpoints)[1], pair(1.0))
    checkpoints.save(4, pair(4.0), 2, {})
    assert latest(checkpoints)[0] == 4


def test_the_last_write_is_waited_for_and_its_failure_said(tmp_path, monkeypatch):
    write = module.parts.write
    monkeypatch.setattr(module.parts, "write", lambda *arguments: time.sleep(0.1) or write(*arguments))
    with Checkpoints(tmp_path / "group") as checkpoints:
        checkpoints.save(1, pair(), 2, {})
    assert names(checkpoints) == ["step-00000001"]
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Not a directory"), Checkpoints(tmp_path / "file" / "group") as checkpoints:
        checkpoints.save(1, pair(), 2, {})


def test_an_error_is_not_hidden_by_that_of_a_write_and_the_write_is_waited_for(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "group", tmp_path / "group"):
        with pytest.raises(ZeroDivisionError), Checkpoints(folder) as checkpoints:
            checkpoints.save(1, pair(), 2, {})
            raise ZeroDivisionError
    assert names(checkpoints) == ["step-00000001"]


def test_who_fails_alone_waits_for_nobody(tmp_path):
    def act(pod):
        with Checkpoints(tmp_path / "group", pod=pod) as checkpoints:
            if pod.index == 1:
                raise ZeroDivisionError
            checkpoints.save(1, {pod.index: state()}, 2, {})
            raise KeyError

    started = time.monotonic()
    found, client = together(2, act)
    assert [type(error) for error in found] == [KeyError, ZeroDivisionError]
    assert time.monotonic() - started < 30  # of the minute that the store here waits
    # Ends the thread that still waits for the other process; in earnest it ends with its own.
    client.key_value_set("ssoup/told/group/1/1", json.dumps({"error": "gone"}))


def with_a_mask(value=1.0):
    return {"state": state(value), "mask": jnp.array([True, False])}


def test_each_of_several_forms_comes_back_in_its_own(checkpoints, told):
    forms = jax.eval_shape(with_a_mask), jax.eval_shape(state)
    checkpoints.save(1, pair(1.0), 2, {"n": 1})
    step, loaded, info = latest(checkpoints, *forms)
    assert (step, info) == (1, {"n": 1})
    assert_same_bits(loaded, pair(1.0))
    checkpoints.save(2, {0: with_a_mask(2.0)}, 1, {"n": 2})
    step, loaded, info = latest(checkpoints, *forms, m=1, wanted=[0])
    assert (step, info) == (2, {"n": 2})
    assert_same_bits(loaded, {0: with_a_mask(2.0)})
    assert told == []


def test_members_of_different_forms_are_no_checkpoint(checkpoints, told):
    checkpoints.save(1, {0: with_a_mask(), 1: state()}, 2, {})
    assert latest(checkpoints, with_a_mask(), state()) is None
    assert "not of this state: leaf" in told[0]


def test_one_of_none_of_the_forms_is_set_aside_with_what_is_not_of_the_first(checkpoints, told):
    checkpoints.save(1, {0: {"else": jnp.zeros(3)}}, 1, {})
    assert latest(checkpoints, with_a_mask(), state(), m=1, wanted=[0]) is None
    (line,) = told
    assert "['else', 'float32(3,)']" in line
    assert "wanted ['mask', 'bool(2,)']" in line


@pytest.mark.parametrize("m", [1, 3])
def test_one_of_another_number_of_members_is_not_used(checkpoints, told, m):
    checkpoints.save(1, pair(), 2, {})
    assert latest(checkpoints, m=m, wanted=[0]) is None
    assert f"of 2 members, wanted {m}" in told[0]


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None])
def test_a_file_that_was_no_member_when_it_was_stored_is_damage(checkpoints, told, content):
    checkpoints.save(1, pair(), 2, {})
    checkpoints.wait()
    folder = checkpoints._folder / "step-00000001"
    file = folder / "member-01.safetensors"
    if content is None:  # well formed, and of somebody else
        save_file({"w": np.ones(3)}, file)
    else:
        file.write_bytes(content)
    module.manifest.write(folder)
    assert latest(checkpoints) is None
    (line,) = told
    assert "member-01.safetensors is no part of a checkpoint" in line
    assert line.isprintable()


def test_a_member_says_by_itself_what_it_holds(checkpoints):
    checkpoints.save(1, {0: {"b": [np.float32(3)], "a": np.arange(2, dtype=np.int8)}}, 1, {})
    checkpoints.wait()
    file = checkpoints._folder / "step-00000001" / "member-00.safetensors"
    assert {name: array.tolist() for name, array in load_file(file).items()} == {"00000/a": [0, 1], "00001/b/0": 3.0}
    with safe_open(file, "numpy") as opened:
        assert json.loads(opened.metadata()["leaves"]) == [["a", "int8(2,)"], ["b/0", "float32()"]]
