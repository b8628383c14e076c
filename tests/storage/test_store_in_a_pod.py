"""In a pod process 0 alone looks and writes; what it finds, and what goes wrong, is everyone's."""

import errno
import os
import shutil
import subprocess
import sys
import weakref

import jax
import pytest

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.storage import late, lock
from ssoup_jax.storage import store as module
from ssoup_jax.storage.store import Store
from tests.pod.threads import together
from tests.storage.test_lock import HOLD, ROOT
from tests.storage.test_store import MEMBERS, NAME, RECORD, assert_same_bits, model

SIZE = 3


@pytest.fixture
def workdir(tmp_path):
    """Returns a function `(pod) -> workdir`: process 0's, and for the others one that nobody is ever to look at."""
    yield lambda pod: tmp_path / "runs" if pod.leads else tmp_path / "never" / str(pod.index)
    assert not (tmp_path / "never").exists()


def test_process_0_finds_and_writes_for_all(workdir, tmp_path):
    def act(pod):
        store = Store(workdir(pod), pod=pod)
        found = [store.has(NAME)]
        folder = store.begin(NAME)
        if pod.leads:
            (folder / "metrics.jsonl").write_text("{}\n")
        store.finish([NAME], [model()], [RECORD if pod.leads else {}])
        store.recover()
        store.discard_checkpoints([NAME])
        return [*found, store.has(NAME), store.record(NAME)]

    assert together(SIZE, act)[0] == [[False, True, RECORD]] * SIZE
    tree, record = Store(tmp_path / "runs").load(NAME, model())
    assert_same_bits(tree, model())
    assert record == RECORD


def test_all_walk_through_the_members_in_step_and_hold_one_at_a_time(workdir, tmp_path):
    def act(pod):
        store, most = Store(workdir(pod), pod=pod), 0
        for name in MEMBERS:
            store.begin(name)

        def fetched():
            nonlocal most
            alive = []
            for number in range(len(MEMBERS)):
                # A member that lies elsewhere comes by a collective, which takes every process.
                assert pod.everyone(number) == [number] * SIZE
                tree = model(first=float(number))
                alive.append(weakref.ref(tree["params"]["fc"]["kernel"]))
                yield tree
                del tree
                most = max(most, sum(one() is not None for one in alive))

        store.finish(MEMBERS, fetched(), [RECORD] * len(MEMBERS))
        return most

    # When the next is asked for, the one before is still at hand.
    assert max(together(SIZE, act)[0]) <= 1
    store = Store(tmp_path / "runs")
    kernels = [store.load(name, model())[0]["params"]["fc"]["kernel"] for name in MEMBERS]
    assert [kernel[0, 0] for kernel in kernels] == [0, 1, 2]


@pytest.mark.parametrize("failing", range(len(MEMBERS)))
def test_a_disk_that_fails_for_one_member_is_one_line_for_all_once_all_have_come_through(
    workdir, tmp_path, monkeypatch, failing
):
    write = module.artifact_folder.write

    def full(folder, tree, record):
        if MEMBERS[failing] in folder.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")
        write(folder, tree, record)

    monkeypatch.setattr(module.artifact_folder, "write", full)
    walked = [0] * SIZE

    def act(pod):
        store = Store(workdir(pod), pod=pod)
        for name in MEMBERS:
            store.begin(name)

        def fetched():
            for _ in MEMBERS:
                pod.wait()
                walked[pod.index] += 1
                yield model()

        store.finish(MEMBERS, fetched(), [RECORD] * len(MEMBERS))

    found, _ = together(SIZE, act)
    line = f"{', '.join(MEMBERS)}: cannot be stored (No space left on device: there); finished stages are intact"
    assert [(type(error), str(error)) for error in found] == [(RunError, line)] * SIZE
    assert walked == [len(MEMBERS)] * SIZE
    assert not any(Store(tmp_path / "runs").has(name) for name in MEMBERS)


def test_a_workdir_that_cannot_be_written_is_one_line_for_all(tmp_path):
    (tmp_path / "file").touch()
    found, _ = together(SIZE, lambda pod: Store(tmp_path / "file", pod=pod))
    assert {(type(error), str(error)) for error in found} == {
        (SettingsError, f"workdir: cannot write to {tmp_path / 'file'}: Not a directory")
    }


def test_damage_is_told_once(workdir, tmp_path):
    store, told = Store(tmp_path / "runs"), []
    store.begin(NAME)
    store.finish([NAME], [model()], [RECORD])
    (store.path(NAME) / "record.json").write_text("{}")

    def act(pod):
        store = Store(workdir(pod), told.append, pod)
        with pytest.raises(RunError, match="start again to redo it"):
            store.record(NAME)
        return store.has(NAME)

    assert together(SIZE, act)[0] == [False] * SIZE
    assert len(told) == 1


def test_each_process_loads_what_it_needs_without_a_word(tmp_path, monkeypatch):
    store = Store(tmp_path)
    for number, name in enumerate(MEMBERS):
        store.begin(name)
        store.finish([name], [model(first=float(number))], [RECORD])
    hidden, waited = store.path(MEMBERS[2]).rename(tmp_path / "hidden"), []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 5:
            hidden.rename(store.path(MEMBERS[2]))

    monkeypatch.setattr(late.wait_for, "__defaults__", (1.0, sleep))

    def act(pod):
        own = Store(tmp_path, pod=pod)
        if pod.index == 1:
            return None
        tree, record = own.load(MEMBERS[pod.index], jax.eval_shape(model))
        assert record == RECORD
        return tree["params"]["fc"]["kernel"][0, 0]

    assert together(SIZE, act)[0] == [0.0, None, 2.0]
    assert len(waited) == 5, "a network file system shows late what another machine has written"
    shutil.rmtree(store.path(MEMBERS[1]))
    found, _ = together(2, lambda pod: Store(tmp_path, pod=pod).load(MEMBERS[1], model()))
    assert "is not there or was damaged" in str(found[0])
    assert "must be one folder that all processes share" in str(found[1])


def test_process_0_holds_the_locks_and_the_others_wait_for_its_word(workdir, tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "runs"), "a"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout.readline() == "held\n"
        told = []

        def act(pod):
            def wait(line):
                told.append((line, pod.progress.patient))
                other.stdin.close()
                assert other.wait(10) == 0

            with lock.hold([workdir(pod) / "a.lock"], wait, 0.01, pod):
                pod.wait()
                found = other.poll(), lock.holder(tmp_path / "runs/a.lock").pid, pod.progress.patient
                pod.wait()
            return found

        assert together(SIZE, act)[0] == [(0, os.getpid(), 0)] * SIZE
    # However long it takes, nobody is taken for stuck.
    assert [patient for _, patient in told] == [1]
    assert lock.holder(tmp_path / "runs/a.lock") is None


def test_a_lock_that_cannot_be_made_is_one_line_for_all(tmp_path):
    (tmp_path / "file").touch()

    def act(pod):
        with lock.hold([tmp_path / "file" / "a.lock"], pytest.fail, pod=pod):
            pytest.fail("held")

    found, _ = together(SIZE, act)
    assert {type(error) for error in found} == {RunError}
    assert len({str(error) for error in found}) == 1
