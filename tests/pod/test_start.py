"""Real pods of real processes with JAX: they agree, find what differs, stop together and end when one is gone."""

import signal
import socket

import pytest

from tests.pod.processes import Processes

HOST = socket.gethostname()
KEPT = "finished stages and checkpoints are kept; start all again"
STOPPED = "finished stages and checkpoints are kept; the same command goes on from there"


def pod(what, *arguments, size=3, **how):
    return Processes(size, ["tests/pod/worker.py", "{index}", "{size}", "{address}", what, *arguments], **how)


def lines(out):
    """Gloo says on standard output whom it has connected."""
    return [line for line in out.splitlines() if not line.startswith("[Gloo]")]


def test_processes_agree_and_find_what_differs(tmp_path):
    # The proxy leads nowhere, and JAX's own detection is not asked, whatever the environment says.
    elsewhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "JAX_NUM_PROCESSES": "7"}
    with pod("everything", tmp_path, environment=elsewhere) as processes:
        ends = processes.end(60)
    rate = f"SettingsError: rate: process 2 ({HOST}) has 1.1, and process 0 ({HOST}) has 0.1"
    no_b = f"SettingsError: b: process 1 ({HOST}) has 2, and process 0 ({HOST}) has nothing"
    for index, ended in enumerate(ends):
        assert (ended.code, ended.err) == (0, ""), index
        agreed, *found = lines(ended.out)
        assert agreed == f"{{'from': 0}} [0, 1, 2] 0 {[0, 1, 2] if not index else None} {not index}"
        same, differing, long, more, shared, own, kept, file, left, finished = found
        assert (same, differing, more, shared, finished) == ("None", rate, no_b, "None", "finished")
        assert long.startswith(f"SettingsError: long: process 1 ({HOST}) has something of SHA-256 ")
        assert own.startswith(
            f"SettingsError: workdir: {tmp_path}/1 of process 1 ({HOST}) does not show what process 0"
        )
        assert own.endswith(f" writes to {tmp_path}/0; it has to be one folder of a disk that all hosts share")
        assert kept == "[]"
        assert file.startswith("SettingsError: workdir: cannot write to ")
        assert left == "0 True"


@pytest.mark.parametrize(
    ("number", "whom", "code"),
    [(signal.SIGTERM, [1], 143), (signal.SIGINT, [0], 130), (signal.SIGTERM, [0, 1, 2], 143)],
    ids=["one", "the first", "all"],
)
def test_all_stop_after_the_same_step_whoever_is_asked(number, whom, code):
    with pod("stops", "training") as processes:
        processes.wait_for("ready")
        processes.send(number, *whom)
        ends = processes.end(20)
    assert [ended.code for ended in ends] == [code] * 3
    last = [lines(ended.out)[-1] for ended in ends]
    assert last[0].startswith("checkpoint of step ")
    assert last == [last[0]] * 3
    assert [ended.err for ended in ends] == [f"stopped by {number.name}: {STOPPED}\n", "", ""]
    assert max(ended.seconds for ended in ends) < 4  # of which 1 is the slowest one's checkpoint


def test_who_compiles_ends_at_once_and_so_do_the_others():
    with pod("stops", "compiling") as processes:
        processes.wait_for("ready")
        processes.send(signal.SIGTERM, 1)
        ends = processes.end(20)
    line = f"process 1 ({HOST}): stopped by SIGTERM: {STOPPED}\n"
    assert [(ended.code, ended.err) for ended in ends] == [(143, line)] * 3
    assert max(ended.seconds for ended in ends) < 2


def test_what_process_0_stores_is_stored_before_all_stop():
    with pod("stops_after_saving", size=2) as processes:
        processes.wait_for("ready")
        processes.send(signal.SIGTERM, 1)
        ends = processes.end(20)
    assert [ended.code for ended in ends] == [143] * 2
    assert [lines(ended.out) for ended in ends] == [["ready", "saved"], ["ready"]]


@pytest.mark.parametrize("victim", [0, 2])
def test_whoever_computes_with_a_process_that_is_killed_names_it(victim):
    with pod("collective") as processes:
        processes.wait_for("ready")
        processes.send(signal.SIGKILL, victim)
        ends = processes.end(20)
    line = f"error: process {victim} ({HOST}) is gone; {KEPT}"
    assert ends[victim].code == -signal.SIGKILL
    for ended in [ended for index, ended in enumerate(ends) if index != victim]:
        assert ended.code == 1
        assert line in ended.err.splitlines()
        assert "Traceback" not in ended.err
        # When process 0 is gone, JAX begins to say so in its own way.
        assert victim == 0 or ended.err == f"{line}\n"
        assert ended.seconds < 2
