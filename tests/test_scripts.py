"""The scripts that start pods: real processes of `launch.py`, with stand-ins for the cluster's own commands."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.pod.processes import clean_environment, free_port

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
DENSE = ["--config=configs/digits_sms.py", "--config.arch=Simple", "--config.strategy=Dense", "--config.n_epochs=20000"]
DENSE += ["--config.checkpoint_every=30 steps"]
NOTHING = [*DENSE, "--config.arch=Nothing"]

# Starts what follows its own flags once for each task, notes their numbers, and ends as the worst of them. With
# --kill-on-bad-exit=1 the first one that fails is the end of the others.
STARTER = """
import os, signal, subprocess, sys, time
words, own = sys.argv[1:], []
while words[0].startswith("--"):
    own.append(words.pop(0))
    if own[-1] in ("--host", "--map-by", "--bind-to"):
        own.append(words.pop(0))
folder, size = os.environ["STUBS"], 2
ENVIRONMENT
tasks = [subprocess.Popen(words, env=os.environ | of_task(index)) for index in range(size)]
with open(f"{folder}/tasks", "w") as file:
    file.write(" ".join(str(task.pid) for task in tasks))
with open(f"{folder}/own", "w") as file:
    file.write(" ".join(own))
while any(task.poll() is None for task in tasks):
    if any(task.poll() for task in tasks) and "--kill-on-bad-exit=1" in own:
        [task.terminate() for task in tasks]
    time.sleep(0.05)
sys.exit(max(task.poll() if task.poll() >= 0 else 128 - task.poll() for task in tasks))
"""
SRUN = """
def of_task(index):
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": str(size), "SLURM_GTIDS": "0,1"}
    return step | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
"""
MPIRUN = """
def of_task(index):
    size_here = {f"OMPI_COMM_WORLD_{name}": str(size) for name in ("SIZE", "LOCAL_SIZE")}
    return size_here | {f"OMPI_COMM_WORLD_{name}": str(index) for name in ("RANK", "LOCAL_RANK")}
"""
SCANCEL = """
import os, sys
number = {"--signal=TERM": 15}[sys.argv[1]]
[os.kill(int(task), number) for task in open(os.environ["STUBS"] + "/tasks").read().split()]
"""
NOTES = """
import os, sys
open(os.environ["STUBS"] + "/" + os.path.basename(sys.argv[0]), "a").write(" ".join(sys.argv[1:]) + "\\n")
"""
GCLOUD = (
    NOTES
    + """
import subprocess
command = next(word.partition("=")[2] for word in sys.argv if word.startswith("--command="))
for worker in (0, 1):  # each at home
    home = os.environ["STUBS"] + f"/worker{worker}"
    os.makedirs(home)
    os.symlink(os.environ["ROOT"], home + "/ssoup_jax")
    subprocess.run(["bash", "-c", command.replace("pod.log", f"{home}/pod.log")], cwd=home, check=True)
"""
)


@pytest.fixture
def cluster(tmp_path):
    """Returns a function that puts stand-ins on the path and starts a script; nothing that it starts is left."""
    started = []

    def start(script, *words, stubs=None, **environment):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in ({"python": None, "python3": None} | (stubs or {})).items():
            whole = f'#!/bin/sh\nexec {sys.executable} "$@"\n' if text is None else f"#!{sys.executable}\n{text}"
            (folder / name).write_text(whole)
            (folder / name).chmod(0o755)
        more = {"STUBS": str(tmp_path), "ROOT": str(ROOT), "PATH": f"{folder}:{os.environ['PATH']}"}
        more |= {"AGAIN_SECONDS": "0.2", "JAX_NUM_CPU_DEVICES": "1"} | environment
        with (tmp_path / "out").open("ab") as out:
            process = subprocess.Popen(
                ["bash", str(SCRIPTS / script), *map(str, words)],
                cwd=ROOT,
                env=clean_environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        for pid in _session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def _session(leader):
    """Returns who is in a session, whatever process groups it has."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _launched(process):
    """Returns the numbers of the `launch.py` processes that a script has started."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in _session(process.pid)}
    return sorted(pid for pid, line in lines.items() if line[1:2] == [b"launch.py"])


def _wait_for(path, pattern, times=1, seconds=100):
    until = time.monotonic() + seconds
    while not path.exists() or len(re.findall(pattern, path.read_text())) < times:
        assert time.monotonic() < until, f"no {pattern!r}: {path.read_text() if path.exists() else ''}"
        time.sleep(0.05)


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_can_be_run_and_is_what_bash_and_shellcheck_take(path):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
    assert f"scripts/{path.name} " in path.read_text().split("\n\n")[0], "the first lines say how it is called"
    checks = [["bash", "-n"]] + [["shellcheck"]] * bool(shutil.which("shellcheck"))
    for check in checks:
        done = subprocess.run([*check, path], capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_slurm_job_stops_before_its_limit_and_is_queued_again(cluster, tmp_path):
    told = re.search(r"^#SBATCH --signal=B:(\w+)@\d+$", (SCRIPTS / "slurm.sh").read_text(), re.MULTILINE)[1]
    stubs = {"srun": STARTER.replace("ENVIRONMENT", SRUN), "scancel": SCANCEL, "scontrol": NOTES}
    job = cluster("slurm.sh", *DENSE, f"--workdir={tmp_path}/runs", stubs=stubs, SLURM_JOB_ID="77")
    _wait_for(tmp_path / "out", r"Dense: step [1-9]")
    job.send_signal(signal.Signals[f"SIG{told}"])
    assert job.wait(30) == 0
    out = (tmp_path / "out").read_text()
    assert re.search(r"Dense: a checkpoint of step \d+ is written", out)
    assert "stopped by SIGTERM: finished stages and checkpoints are kept" in out
    assert (tmp_path / "scontrol").read_text() == "requeue 77\n"


def test_a_slurm_job_that_cannot_work_is_not_queued_again(cluster, tmp_path):
    stubs = {"srun": STARTER.replace("ENVIRONMENT", SRUN), "scancel": SCANCEL, "scontrol": NOTES}
    job = cluster("slurm.sh", *NOTHING, f"--workdir={tmp_path}/runs", stubs=stubs, SLURM_JOB_ID="77")
    # What srun ends by SIGTERM, because the first has ended with 2, is 143.
    assert job.wait(60) in (2, 143)
    out = (tmp_path / "out").read_text()
    assert "arch: unknown value 'Nothing'" in out
    assert "starts again" not in out
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.slow
def test_when_a_process_of_open_mpi_is_killed_all_start_again_and_go_on(cluster, tmp_path):
    stubs = {"mpirun": STARTER.replace("ENVIRONMENT", MPIRUN)}
    job = cluster("ompi.sh", "localhost", 2, *DENSE, f"--workdir={tmp_path}/runs", stubs=stubs, PMIX_NAMESPACE="1@1")
    _wait_for(tmp_path / "out", r"Dense: step [1-9]")
    assert (tmp_path / "own").read_text() == "--host localhost:2 --map-by ppr:2:node --bind-to none"
    while not list(tmp_path.glob("runs/checkpoints/*/step-*")):
        time.sleep(0.05)
    _, second = _launched(job)
    os.kill(second, signal.SIGKILL)
    _wait_for(tmp_path / "out", r"starts again in 0.2 s \(try 1 of 20\)", 2)
    _wait_for(tmp_path / "out", "Dense: goes on after step ")
    for task in (tmp_path / "tasks").read_text().split():
        os.kill(int(task), signal.SIGTERM)
    assert job.wait(60) == 143
    assert "ended with 137; starts again" in (tmp_path / "out").read_text()


def test_by_hand_every_host_runs_one_line(cluster, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    words = [*NOTHING, f"--workdir={tmp_path}/runs"]
    jobs = [cluster("by_hand.sh", address, 2, index, *words) for index in range(2)]
    assert [job.wait(60) for job in jobs] == [2, 2]
    out = (tmp_path / "out").read_text()
    # Each says its own error, process 0 without saying who it is, unless it has heard of the other's before.
    assert out.count("arch: unknown value 'Nothing'") == out.count("error: ") == 2
    zero_first, one_first, at_once = ["0"], ["1", "1"], ["1"]
    assert re.findall(r"error: process (\d)", out) in (zero_first, one_first, at_once)


def test_a_command_is_tried_again_unless_it_was_asked_to_stop_or_cannot_work(cluster, tmp_path):
    for code in (0, 2, 129, 130, 143):
        assert cluster("again.sh", "sh", "-c", f"exit {code}").wait(10) == code
    assert not (tmp_path / "out").read_text()
    failing = cluster("again.sh", "sh", "-c", "echo once; exit 1", AGAIN_TRIES="3", AGAIN_SECONDS="0")
    assert failing.wait(10) == 1
    assert (tmp_path / "out").read_text().count("once") == 3


def test_on_a_tpu_slice_every_worker_runs_the_command_as_it_was_given(cluster, tmp_path):
    # One process that asks no metadata server, whose setting with a space in it arrives whole.
    alone = ["--coordinator=127.0.0.1:1", "--num_processes=1", "--process_id=0", f"--workdir={tmp_path}/runs"]
    start = cluster("tpu.sh", "slice", "zone-a", *NOTHING, *alone, stubs={"gcloud": GCLOUD})
    assert start.wait(30) == 0
    asked = (tmp_path / "gcloud").read_text()
    assert asked.startswith("compute tpus tpu-vm ssh slice --zone=zone-a --worker=all --command=cd ssoup_jax")
    for worker in (0, 1):
        _wait_for(tmp_path / f"worker{worker}" / "pod.log", "error: arch: unknown value 'Nothing'")
    assert "tail -f ssoup_jax/pod.log" in (tmp_path / "out").read_text()


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((SCRIPTS / "jobset.yaml").read_text())


def test_the_numbers_and_names_of_the_jobset_fit_together(jobset):
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    flags = dict(word.removeprefix("--").split("=") for word in container["command"][2:])
    name = jobset["metadata"]["name"]
    assert (workers["replicas"], job["completionMode"], job["backoffLimit"]) == (1, "Indexed", 0)
    assert job["parallelism"] == job["completions"] == int(flags["num_processes"])
    assert re.fullmatch(rf"{name}-{workers['name']}-0-0\.{name}:\d+", flags["coordinator"])
    (mount,), (volume,) = container["volumeMounts"], job["template"]["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    for flag in ("workdir", "config.data_dir"):
        assert flags[flag].startswith(f"{mount['mountPath']}/")
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_the_jobset_starts_again_but_not_what_cannot_work(jobset):
    policy, job = jobset["spec"]["failurePolicy"], jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (fails,), (refused,) = policy["rules"], job["podFailurePolicy"]["rules"]
    assert policy["maxRestarts"] > 0
    assert fails == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    (container,) = job["template"]["spec"]["containers"]
    codes = {"containerName": container["name"], "operator": "In", "values": [2]}
    assert refused == {"action": "FailJob", "onExitCodes": codes}


def test_launch_takes_the_command_line_of_the_jobset(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    _, *words = container["command"]
    # One more than there are: all flags were read, and what the cluster says, when that is found.
    cluster = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": str(job["completions"])}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=clean_environment(**cluster), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (2, "error: --process_id: found 4, allowed 0 to 3, of 4 processes\n")
