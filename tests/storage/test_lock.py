"""One process at a time, whatever becomes of the others."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssoup_jax.errors import RunError
from ssoup_jax.storage import lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from ssoup_jax.storage.lock import hold
with hold([Path(sys.argv[1], f"{name}.lock") for name in sys.argv[2].split(",")], print, 0.01):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start():
    """Starts processes that hold locks until their standard input ends."""
    processes = []

    def go(folder, names):
        command = [sys.executable, "-c", HOLD, str(folder), names]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield go
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def held(process):
    return process.stdout.readline() == "held\n"


def test_a_second_process_waits_and_says_once_for_whom(tmp_path, start, monkeypatch):
    first = start(tmp_path, "dense-a")
    assert held(first)
    told, polls = [], []

    def poll(seconds):
        polls.append(seconds)
        if len(polls) == 3:
            first.stdin.close()
            first.wait(10)

    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=poll))
    with lock.hold([tmp_path / "dense-a.lock"], told.append):
        assert len(polls) == 3
    (line,) = told
    assert line.startswith(f"waiting for dense-a: held by process {first.pid} on {os.uname().nodename} since 20")


def test_a_lock_dies_with_its_holder(tmp_path, start):
    first = start(tmp_path, "dense-a,dense-b")
    assert held(first)
    second = start(tmp_path, "dense-b")
    assert f"held by process {first.pid}" in second.stdout.readline()
    assert lock.holder(tmp_path / "dense-b.lock").may_live
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    assert held(second)
    signed = lock.holder(tmp_path / "dense-a.lock")
    assert signed.pid == first.pid
    assert not signed.may_live
    assert lock.holder(tmp_path / "dense-b.lock").pid == second.pid


def test_locks_asked_for_in_any_order_do_not_block_each_other_for_good(tmp_path, start):
    names = [f"stage-{i}" for i in range(20)]
    processes = [start(tmp_path, ",".join(order)) for order in (names, names[::-1], names[::-1])]
    for process in processes:
        process.stdin.close()
    for process in processes:
        assert process.wait(20) == 0


def test_other_locks_are_free(tmp_path, start):
    assert held(start(tmp_path, "dense-a"))
    with lock.hold([tmp_path / "dense-b.lock"], lambda line: pytest.fail(line)):
        pass


def test_a_signal_ends_the_wait(tmp_path, start):
    assert held(start(tmp_path, "dense-a"))

    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    previous = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        started = time.monotonic()
        with pytest.raises(Alarm), lock.hold([tmp_path / "dense-a.lock"], lambda line: None, 30.0):
            pytest.fail("held twice")
        assert time.monotonic() - started < 10
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_files_stay_and_nobody_is_named_after_release(tmp_path):
    first, second = tmp_path / "locks/a.lock", tmp_path / "locks/b.lock"
    with lock.hold([second, first, first], pytest.fail):
        assert lock.holder(first).pid == os.getpid()
        inode = first.stat().st_ino
    assert lock.holder(first) is None
    with lock.hold([first], pytest.fail):
        assert first.stat().st_ino == inode


def test_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), lock.hold([tmp_path / "a.lock"], pytest.fail):
        raise RuntimeError
    with lock.hold([tmp_path / "a.lock"], pytest.fail):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    told = []
    with lock.hold([tmp_path / "a.lock", tmp_path / "b.lock"], told.append):
        pass
    (line,) = told
    assert line.startswith("warning: ")
    assert os.strerror(number) in line


def test_a_lock_file_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "a.lock").symlink_to("/etc/passwd")
    for folder in (tmp_path / "file", tmp_path):
        with pytest.raises(RunError, match="cannot be locked") as error, lock.hold([folder / "a.lock"], pytest.fail):
            pytest.fail("held")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "\udcff", '{"host": 1, "pid": 2, "since": 3}', "[" * 900]
    + [json.dumps({"host": "a", "pid": pid, "since": "b"}) for pid in (-1, 0, 2**31, True, "1", 1.5)],
)
def test_whatever_stands_in_a_lock_file_is_not_believed(tmp_path, content):
    (tmp_path / "a.lock").write_text(content, errors="surrogateescape")
    assert lock.holder(tmp_path / "a.lock") is None


def test_a_name_cannot_steer_the_terminal(tmp_path):
    (tmp_path / "a.lock").write_text(json.dumps({"host": "\x1b[2J\n", "pid": 1, "since": "\x07"}))
    assert str(lock.holder(tmp_path / "a.lock")).isprintable()


def test_who_does_not_wait_holds_nothing_where_another_holds_one(tmp_path, start):
    first = start(tmp_path, "b")
    assert held(first)
    paths = [tmp_path / f"{name}.lock" for name in ("a", "b", "c")]
    with lock.hold(paths, pytest.fail, wait=False) as mine:
        assert mine is False
        with lock.hold([paths[0], paths[2]], pytest.fail, wait=False) as free:
            assert free is True, "not even those that were free"
    first.stdin.close()
    first.wait()
    with lock.hold(paths, pytest.fail, wait=False) as mine:
        assert mine is True
