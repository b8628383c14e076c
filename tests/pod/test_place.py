"""Flags and environments of clusters, as they were seen there, and the place that follows; each mistake is one line."""

import dataclasses
import inspect
import subprocess
import sys
import types

import pytest
from jax._src import clusters

from ssoup_jax.errors import SettingsError
from ssoup_jax.pod import place
from ssoup_jax.pod.clusters import Found
from ssoup_jax.pod.place import Place

# As SLURM 22.05 sets it: `srun -N2 --ntasks-per-node=4 --gres=gpu:4`, the second task of the second node.
SLURM = {
    "SLURM_JOB_ID": "8193",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_GTIDS": "4,5,6,7",
    "SLURM_GPUS_ON_NODE": "4",
}
ONE_TASK = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_GTIDS": "1"}
TWO_TASKS = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_GTIDS": "2,3"}
THREE_TASKS = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_GTIDS": "3,4,5"}
BATCH = {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_GTIDS": "0"}

# As `mpirun` sets it, with the second half of the processes on another host.
OMPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
OMPI4 = OMPI | {
    "OMPI_MCA_orte_hnp_uri": "28114944.0;tcp://192.0.2.2,10.0.0.1:55465;tcp6://[fd00::2]:58865",
    "PMIX_NAMESPACE": "28114945",
}
OMPI4_IPV6 = OMPI | {"OMPI_MCA_orte_hnp_uri": "28114944.0;tcp6://[fd00::2,fd00::3]:58865"}
OMPI5 = OMPI | {"PMIX_NAMESPACE": "prterun-node-1.site-28549@1"}

PORT = 1  # in the place of one that follows from the job

K8S = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}
HERE = Found(1, 3, "node1:1234")


def find(distributed, env, flags=Found()):  # noqa: B008 (frozen)
    return place.find(distributed, flags, env, seconds=1)


@pytest.mark.parametrize("env", [{}, SLURM, OMPI5, K8S], ids=["alone", "slurm", "ompi", "k8s"])
def test_nothing_is_started_unasked(env):
    assert find("none", env) is None


@pytest.mark.parametrize(
    ("distributed", "env", "expected"),
    [
        ("slurm", SLURM, Place(5, 8, "n1", PORT, (1,))),
        ("auto", SLURM, Place(5, 8, "n1", PORT, (1,))),
        ("slurm", SLURM | ONE_TASK, Place(1, 2, "n1", PORT)),
        ("slurm", SLURM | TWO_TASKS, Place(3, 4, "n1", PORT, (2, 3))),
        ("slurm", SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, Place(5, 8, "n1", PORT)),
        ("slurm", SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, Place(5, 8, "n1", PORT, (1,))),
        ("ompi", OMPI4, Place(3, 4, "192.0.2.2", PORT, (1,))),
        ("auto", OMPI4, Place(3, 4, "192.0.2.2", PORT, (1,))),
        ("ompi", OMPI4_IPV6, Place(3, 4, "fd00::2", PORT, (1,))),
        ("ompi", OMPI4 | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, Place(3, 4, "192.0.2.2", PORT, (2, 3))),
        ("ompi", OMPI5, Place(3, 4, "node-1.site", PORT, (1,))),
        ("auto", SLURM | OMPI4, Place(3, 4, "192.0.2.2", PORT, (1,))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_cluster_says_where_a_process_stands(distributed, env, expected):
    assert dataclasses.replace(find(distributed, env), port=PORT) == expected


@pytest.mark.parametrize(
    ("env", "which", "job", "another"),
    [
        (SLURM, "SLURM_PROCID", "SLURM_JOB_ID", "12289"),
        (OMPI4, "OMPI_COMM_WORLD_RANK", "OMPI_MCA_orte_hnp_uri", "28119040.0;tcp://192.0.2.2,10.0.0.1:55465"),
        (OMPI5, "OMPI_COMM_WORLD_RANK", "PMIX_NAMESPACE", "prterun-node-1.site-28550@1"),
    ],
    ids=["slurm", "ompi4", "ompi5"],
)
def test_all_processes_of_a_job_find_one_port_and_another_job_another(env, which, job, another):
    found = [find("auto", env | {which: str(index)}) for index in range(4)]
    assert [one.index for one in found] == [0, 1, 2, 3]
    assert len({(one.host, one.port) for one in found}) == 1
    assert 61440 <= found[0].port < 65536
    assert find("auto", env | {job: another}).port != found[0].port


def test_processes_of_one_host_meet_there():
    assert find("ompi", OMPI5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n7", "n7"),
        ("n7,x[1-2]", "n7"),
        ("n[07-09,12],x1", "n07"),
        ("n[3,7-9]", "n3"),
        ("rack[0-1]n[03-05]-ib,x", "rack0n03-ib"),
    ],
)
def test_process_0_is_on_the_first_node(nodes, first):
    assert find("slurm", SLURM | {"SLURM_STEP_NODELIST": nodes}).host == first


@pytest.mark.parametrize("distributed", ["auto", "k8s"])
def test_kubernetes_says_which_and_the_flags_how_many(distributed):
    flags = Found(size=4, coordinator="run-workers-0-0.run:1234")
    assert find(distributed, K8S, flags) == Place(2, 4, "run-workers-0-0.run", 1234)


def test_by_hand_the_flags_say_it_all():
    assert find("auto", {}, HERE) == Place(1, 3, "node1", 1234)
    assert find("auto", {}, Found(0, 2, "[fd00::2]:80")) == Place(0, 2, "fd00::2", 80)


def test_flags_go_before_what_a_cluster_says():
    assert find("slurm", SLURM, Found(coordinator="other:1")) == Place(5, 8, "other", 1, (1,))
    assert find("auto", SLURM, HERE) == Place(1, 3, "node1", 1234, (1,))


@pytest.fixture
def asked(monkeypatch):
    """Stands in for JAX, which asks clusters; notes how it was asked."""
    calls = []

    class ClusterEnv:
        answer = ("10.0.0.9:8482", 16, 3, None)

        @classmethod
        def auto_detect_unset_distributed_params(cls, *arguments):
            calls.append(arguments)
            if isinstance(cls.answer, Exception):
                raise cls.answer
            return cls.answer

    monkeypatch.setattr(clusters, "ClusterEnv", ClusterEnv)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: types.SimpleNamespace())
    return ClusterEnv, calls


@pytest.mark.parametrize(
    ("distributed", "env", "method"),
    [
        ("tpu", {}, "gcetpu"),
        ("tpu", {"TPU_WORKER_HOSTNAMES": "a,b"}, "gketpu"),
        ("auto", {"TPU_WORKER_HOSTNAMES": "a,b"}, "gketpu"),
        ("auto", {"TPU_PROCESS_ADDRESSES": "a,b"}, "gketpu"),
    ],
)
def test_a_tpu_slice_is_asked_by_jax(asked, distributed, env, method):
    assert find(distributed, env) == Place(3, 16, "10.0.0.9", 8482)
    assert asked[1] == [(None, None, None, None, method, 1)]


def test_kubernetes_is_asked_for_what_is_not_given(asked):
    assert find("k8s", K8S, Found(size=4)) == Place(2, 4, "10.0.0.9", 8482)
    assert asked[1] == [(None, None, None, None, None, 1)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((None, None, None, None), "--distributed=k8s: this is no such cluster"),
        (RuntimeError("403 - Forbidden\nsee"), "--distributed=k8s: asking the cluster failed: 403 - Forbidden see"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line(asked, answer, expected):
    asked[0].answer = answer
    with pytest.raises(SettingsError) as error:
        find("k8s", K8S)
    assert str(error.value) == f"{expected}; or say it: --coordinator, --num_processes and --process_id"


def test_jax_asks_as_it_is_asked_here():
    """The names and the order of arguments that the stand-in above takes for granted."""
    names = list(inspect.signature(clusters.ClusterEnv.auto_detect_unset_distributed_params).parameters)
    assert names[0] == "coordinator_address"
    assert names[1] == "num_processes"
    assert names[2] == "process_id"
    assert names[4:] == ["cluster_detection_method", "initialization_timeout"]
    chosen_by_jax = {kind.__name__ for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method}
    assert {"gketpu", "gcetpu"} <= {kind.name for kind in clusters.ClusterEnv._cluster_types}
    assert "K8sCluster" in chosen_by_jax


@pytest.mark.parametrize(
    ("distributed", "env", "flags", "expected"),
    [
        ("slrum", {}, Found(), "--distributed: unknown value 'slrum'.*did you mean 'slurm'?"),
        (
            "none",
            {},
            Found(coordinator="a:1"),
            "--coordinator: found 'a:1' without a pod; --distributed=auto starts one",
        ),
        ("none", {}, Found(index=0), "--process_id: found 0 without a pod"),
        ("none", SLURM, Found(size=2), "--num_processes: found 2 without a pod"),
        (
            "auto",
            {},
            Found(),
            "--coordinator: not given, and no SLURM, .*; give --coordinator, --num_processes, --proc",
        ),
        ("auto", {}, Found(0, None, "a:1"), "--num_processes: not given, and no .* that says; give --num_processes$"),
        (
            "auto",
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            Found(),
            "not given, and JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID are not read; give",
        ),
        (
            "auto",
            {"JAX_PROCESS_ID": "0"},
            Found(None, 2, "a:1"),
            "--process_id: not given, and JAX_PROCESS_ID is not read",
        ),
        ("auto", {}, Found(2, 2, "a:1"), "--process_id: found 2, allowed 0 to 1, of 2 processes"),
        ("auto", {}, Found(-1, 2, "a:1"), "--process_id: found -1, allowed 0 to 1"),
        ("auto", {}, Found(0, 0, "a:1"), "--num_processes: found 0, expected 1 or more"),
        ("auto", {}, Found(0, 2, "node1"), "--coordinator: found 'node1', expected host:port"),
        ("auto", {}, Found(0, 2, "node1:x"), "--coordinator: found 'node1:x', expected host:port"),
        ("auto", {}, Found(0, 2, "node1:70000"), "--coordinator: found 'node1:70000', expected host:port"),
        ("slurm", {}, Found(), "--distributed=slurm: this is no SLURM job; start it by srun"),
        ("slurm", BATCH, Found(), "--distributed=slurm: this is the batch script of a SLURM job; start it by srun"),
        (
            "slurm",
            SLURM | THREE_TASKS,
            Found(),
            "3 processes on a host cannot share its 4 GPUs; start 1, 2, 4 a host",
        ),
        (
            "slurm",
            SLURM | {"SLURM_PROCID": "x"},
            Found(),
            "SLURM_PROCID: found 'x' in the environment, expected a number",
        ),
        ("ompi", {}, Found(), "--distributed=ompi: not started by Open MPI's mpirun"),
        ("ompi", OMPI, Found(), "--coordinator: not given, and ompi does not say; give --coordinator$"),
        ("k8s", {}, Found(), "--distributed=k8s: .* this is no pod of Kubernetes"),
        ("k8s", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, Found(), '--distributed=k8s: .*completionMode: "Indexed"'),
    ],
)
def test_each_mistake_is_one_line(distributed, env, flags, expected):
    with pytest.raises(SettingsError, match=expected):
        find(distributed, env, flags)


@pytest.mark.parametrize(("distributed", "env", "extra"), [("k8s", K8S, "jax[k8s]"), ("tpu", {}, "jax[tpu]")])
def test_what_is_not_installed_is_named(monkeypatch, distributed, env, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError) as error:
        find(distributed, env)
    assert f"(pip install '{extra}')" in str(error.value)
    assert "--coordinator, --num_processes and --process_id" in str(error.value)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        (SLURM, None),
        (
            SLURM | {"SLURM_PROCID": "0"},
            "note: 8 processes run this, each on its own; --distributed=slurm makes them one run",
        ),
        (SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (BATCH, None),
        (
            OMPI5 | {"OMPI_COMM_WORLD_RANK": "0"},
            "note: 4 processes run this, each on its own; --distributed=ompi makes them one run",
        ),
    ],
)
def test_many_processes_that_are_no_pod_are_told_once(env, expected):
    assert place.unasked(env) == expected


def test_none_of_this_imports_jax():
    code = "import sys; from ssoup_jax.pod import place; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
