"""Processes of a pod that go, each in its own way, and the one line with which the others end."""

import signal
import socket
import threading

import pytest

from ssoup_jax.pod.lifeline import Lifeline
from tests.pod.processes import Processes

KEPT = "finished stages and checkpoints are kept; start all again"
HEARTBEAT = 2.0  # of `worker.py`
AT_ONCE = 1.0  # seconds, on a busy machine; it takes 0.05


def pod(what, *arguments, size=3):
    return Processes(size, ["tests/pod/worker.py", "{index}", "{size}", "{address}", what, *arguments])


def named(index):
    return f"process {index} ({socket.gethostname()})"


def others(ends, victim):
    return [ended for index, ended in enumerate(ends) if index != victim]


@pytest.mark.parametrize("what", ["idle", "busy"])
@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_is_named_at_once(what, victim):
    with pod(what) as processes:
        processes.wait_for("ready")
        processes.send(signal.SIGKILL, victim)
        ends = processes.end(20)
    assert ends[victim].code == -signal.SIGKILL
    for ended in others(ends, victim):
        assert (ended.code, ended.err) == (1, f"error: {named(victim)} is gone; {KEPT}\n")
        assert ended.seconds < AT_ONCE


@pytest.mark.parametrize("victim", [0, 2])
def test_a_process_that_is_held_is_gone_after_the_heartbeat_and_ends_when_it_is_let_go(victim):
    with pod("idle") as processes:
        processes.wait_for("ready")
        processes.send(signal.SIGSTOP, victim)
        processes.wait_for_ends(2, 20)
        processes.send(signal.SIGCONT, victim)
        ends = processes.end(20)
    for ended in others(ends, victim):
        # Judged a quarter of a heartbeat late at most; process 0 waits 3 s for the others to leave.
        assert -0.1 - 1.25 * HEARTBEAT - 3 < ended.seconds < 0
        assert (ended.code, ended.err) == (1, f"error: {named(victim)} is gone: no word for 2 s; {KEPT}\n")
    assert ends[victim].code == 1
    assert ends[victim].err.count("\n") == 1
    assert ends[victim].seconds < HEARTBEAT


def test_a_process_that_lives_but_does_not_go_on_is_named():
    with pod("stuck", 1) as processes:
        processes.wait_for("ready")
        ends = processes.end(20)
    expected = f"error: {named(1)} has not gone on for 0.0166667 minutes; {KEPT}\n"
    assert [(ended.code, ended.err) for ended in ends] == [(1, expected)] * 3


def test_what_may_take_long_may_and_nothing_else():
    with pod("patient", size=2) as processes:
        ends = processes.end(20)
    expected = f"error: no process has gone on for 0.0166667 minutes; {KEPT}\n"
    assert [(ended.code, ended.out, ended.err) for ended in ends] == [(1, "still there\n", expected)] * 2


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(("kind", "code", "line"), [("run", 1, "disk: full"), ("settings", 2, "mesh: no")])
def test_an_error_of_one_is_the_one_line_of_all(victim, kind, code, line):
    with pod("fails", victim, kind) as processes:
        ends = processes.end(20)
    assert [ended.code for ended in ends] == [code] * 3
    assert ends[victim].err == (f"error: {named(victim)}: {line}\n" if victim else f"error: {line}\n")
    assert {ended.err for ended in others(ends, victim)} == {f"error: {named(victim)}: {line}\n"}


def test_an_error_that_is_nobodys_fault_shows_where_it_is_and_only_there():
    with pod("fails", 2, "bug") as processes:
        ends = processes.end(20)
    line = f"error: {named(2)}: KeyError: 'x'\n"
    assert [ended.code for ended in ends] == [1] * 3
    assert [ended.err for ended in ends[:2]] == [line] * 2
    assert ends[2].err.startswith("Traceback")
    assert ends[2].err.endswith(line)


def test_who_has_done_its_work_is_not_missed():
    with pod("parts") as processes:
        ends = processes.end(20)
    assert [(ended.code, ended.err) for ended in ends] == [(0, "")] * 3


def test_process_0_outlasts_the_others():
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    first, second = Lifeline(0, ("a", "b"), {1: ours}, 60.0), Lifeline(1, ("a", "b"), {0: theirs}, 60.0)
    for lifeline in (first, second):
        lifeline.start()
    waiting = threading.Thread(target=lambda: (first.part(), first.outlast()))
    waiting.start()
    second.part()
    waiting.join(0.3)
    assert waiting.is_alive()
    theirs.close()  # as the system does when a process has ended
    waiting.join(10)
    assert not waiting.is_alive()
    ours.close()
