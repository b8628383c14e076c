"""`launch.py` in several processes, as people and schedulers start, stop and kill them."""

import json
import shutil
import signal
import socket

import pytest

from tests.pod.processes import FLAGS, Processes, free_port
from tests.robustness.blows import Blow, wait_for
from tests.robustness.compare import differences

HOST = socket.gethostname()
KEPT = "finished stages and checkpoints are kept; start all again"
SMALL = [
    f"--config.{setting}"
    for setting in ("arch=Simple", "n_epochs=1", "n_epochs_per_phase=1", "n_phases=1", "n_splits_total=2")
]
LONG = ["--config.arch=Simple", "--config.n_epochs=20000", "--config.checkpoint_every=None", "--config.strategy=Dense"]


def launch(size, workdir, *settings, **how):
    command = ["launch.py", "--config=configs/digits_sms.py", f"--workdir={workdir}", *FLAGS, "--heartbeat=5"]
    return Processes(size, [*command, *settings], **how)


def test_a_pod_prints_once_and_stores_what_one_process_does(tmp_path):
    with launch(2, tmp_path / "pod", *SMALL) as processes, launch(1, tmp_path / "alone", *SMALL) as process:
        (first, second), (alone,) = processes.end(200), process.end(200)
    assert [(ended.code, ended.err) for ended in (first, second, alone)] == [(0, "")] * 3
    assert second.out == ""
    assert first.out.count("Dense: test accuracy") == first.out.count("summary: ") == 1
    names = [sorted(path.name for path in (tmp_path / which / "artifacts").iterdir()) for which in ("pod", "alone")]
    assert names[0] == names[1]
    soup, same = (json.loads((tmp_path / which / "summary.json").read_text()) for which in ("pod", "alone"))
    assert soup["phases"][0]["soup"]["ingredients"] == same["phases"][0]["soup"]["ingredients"]


def test_a_pod_stops_goes_on_and_dies(tmp_path):
    with launch(3, tmp_path, *LONG) as pod:
        pod.wait_for("Dense: step 1/", 0, 200)
        with launch(2, tmp_path, *LONG) as second:
            second.wait_for("waiting for ", 0, 200)
            assert f"held by process {pod.pid(0)} on {HOST}" in second.out(0)
            second.send(signal.SIGKILL, 1)
            waited, killed = second.end(30)
        assert killed.code == -signal.SIGKILL
        assert (waited.code, waited.err) == (1, f"error: process 1 ({HOST}) is gone; {KEPT}\n")
        pod.send(signal.SIGTERM, 2)
        stopped = pod.end(60)
    assert [ended.code for ended in stopped] == [143] * 3
    assert [ended.err.count("\n") for ended in stopped] == [1, 0, 0]
    assert max(ended.seconds for ended in stopped) < 10
    _, _, step = stopped[0].out.partition("a checkpoint of step ")
    with launch(2, tmp_path, *LONG) as pod:
        pod.wait_for(f"goes on after step {step.split()[0]},", 0, 200)
        pod.wait_for("images/s", 0, 200)
        pod.send(signal.SIGKILL, 1)
        first, _ = pod.end(30)
    assert (first.code, first.err) == (1, f"error: process 1 ({HOST}) is gone; {KEPT}\n")
    assert first.seconds < 5


def test_processes_without_a_member_go_on_with_the_others(tmp_path):
    settings = [*SMALL, "--config.n_epochs_per_phase=100", "--config.checkpoint_every=10 epochs"]
    settings += ["--config.strategy=IMP", "--config.phase=1"]
    with launch(1, tmp_path / "pod", *SMALL, "--config.strategy=Dense") as dense:
        assert dense.end(200)[0].code == 0
    shutil.copytree(tmp_path / "pod", tmp_path / "alone")
    spread = [*settings, "--config.execution=3x1:map"]
    with launch(3, tmp_path / "pod", *spread) as pod:
        # Not at the first figures: process 1 may not have begun its first chunk, and then ends the pod without a save.
        assert wait_for(pod.over, tmp_path / "pod", Blow((signal.SIGTERM,), "checkpoint in place", 1, 0))
        pod.send(signal.SIGTERM, 1)
        stopped = pod.end(60)
    assert [ended.code for ended in stopped] == [143] * 3
    with launch(3, tmp_path / "pod", *spread) as pod, launch(1, tmp_path / "alone", *settings) as alone:
        ended = [*pod.end(200), *alone.end(200)]
    assert [(one.code, one.err) for one in ended] == [(0, "")] * 4
    assert "goes on after step " in ended[0].out and "starts anew" not in ended[0].out
    assert list(differences(tmp_path / "pod", tmp_path / "alone", ("execution",))) == []


def test_what_differs_or_cannot_be_is_one_line_in_every_process(tmp_path):
    differing = [*SMALL, "--config.batch_size=3{index}"]
    with launch(2, tmp_path, *differing) as settings, launch(2, tmp_path / "{index}", *SMALL) as workdirs:
        settings, workdirs = settings.end(200), workdirs.end(200)
    told = f"batch_size: process 1 ({HOST}) has 31, and process 0 ({HOST}) has 30\n"
    assert [(ended.code, ended.out) for ended in (*settings, *workdirs)] == [(2, "")] * 4
    assert [ended.err for ended in settings] == [f"error: {told}", f"error: process 0 ({HOST}): {told}"]
    assert (
        f"workdir: {tmp_path}/1 of process 1 ({HOST}) does not show what process 0 ({HOST}) writes" in workdirs[0].err
    )
    assert [ended.err.count("\n") for ended in workdirs] == [1, 1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--workdir=gs://bucket/runs"], "--workdir: found 'gs://bucket/runs', expected a folder"),
        (["--process_id=0"], "--process_id: found 0 without a pod; --distributed=auto starts one"),
        (["--distributed=slurm"], "--distributed=slurm: this is no SLURM job; start it by srun"),
        (["--distributed=mpi"], "--distributed: unknown value 'mpi'; allowed: none, auto, ompi, slurm, tpu, k8s"),
        (["--distributed=auto", "--coordinator=a:1", "--num_processes=2"], "--process_id: not given"),
        (["--heartbeat=0"], "heartbeat"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, expected):
    with Processes(1, ["launch.py", "--config=configs/digits_sms.py", *SMALL, *flags]) as process:
        (ended,) = process.end(60)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert expected in ended.err


def test_a_port_that_is_taken_is_one_line_at_once(tmp_path):
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        Processes(1, [*_first(tmp_path, port), "--process_id=0"]) as process,
    ):
        (ended,) = process.end(60)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: --coordinator: port {port} of {HOST} cannot be used: Address already in use")
    assert ended.err.count("\n") == 1


def _first(workdir, port):
    flags = ["--distributed=auto", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return ["launch.py", "--config=configs/digits_sms.py", f"--workdir={workdir}", *flags]


def test_many_processes_that_are_no_pod_are_told(tmp_path):
    step = {"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}
    command = ["launch.py", "--config=configs/digits_sms.py", "--config.arch=Nothing"]
    with Processes(1, command, environment=step) as process:
        (ended,) = process.end(60)
    assert ended.err.splitlines()[0].startswith("note: 4 processes run this, each on its own; --distributed=slurm")
