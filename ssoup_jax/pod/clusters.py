"""What each kind of cluster tells a process about its place in the pod, read from the environment alone."""

import dataclasses
import importlib.util
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from ssoup_jax.errors import SettingsError, one_line

Environment = Mapping[str, str]

_PORTS = (61440, 4096)  # the first and how many: JAX's own range, high enough to be free as a rule


@dataclass(frozen=True)
class Found:
    """What a cluster says; None: it does not.

    Attributes:
        index: this process, from 0.
        size: how many there are.
        coordinator: `host:port` at which process 0 listens.
        devices: which of the host's accelerators this process takes; None: all that it sees.
    """

    index: int | None = None
    size: int | None = None
    coordinator: str | None = None
    devices: tuple[int, ...] | None = None

    @property
    def whole(self) -> bool:
        """Whether it says where this process stands."""
        return None not in (self.index, self.size, self.coordinator)

    def filled(self, other: Self) -> Self:
        """Returns this with what another says of what this does not."""
        own = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(other, **own)


def read_slurm(env: Environment) -> Found:
    """Reads the environment of a task that `srun` started.

    Raises:
        SettingsError: there is no such task, or its node's GPUs cannot be shared out.
    """
    if "SLURM_STEP_NODELIST" not in env:
        where = "the batch script of a SLURM job" if "SLURM_JOB_ID" in env else "no SLURM job"
        raise SettingsError(f"--distributed=slurm: this is {where}; start it by srun, which starts every process")
    here = len(env.get("SLURM_GTIDS", "0").split(","))
    gpus = int(env["SLURM_GPUS_ON_NODE"]) if env.get("SLURM_GPUS_ON_NODE", "").isdigit() else None
    return Found(
        _number(env, "SLURM_PROCID"),
        _number(env, "SLURM_STEP_NUM_TASKS"),
        f"{_first_host(env['SLURM_STEP_NODELIST'])}:{_port(env.get('SLURM_JOB_ID', ''))}",
        _share(env, _number(env, "SLURM_LOCALID"), here, gpus),
    )


def read_ompi(env: Environment) -> Found:
    """Reads the environment of a process that `mpirun` of Open MPI 4 or 5 started.

    Process 0 is where `mpirun` is, unless a host file says otherwise.

    Raises:
        SettingsError: there is no such process, or its host's GPUs cannot be shared out.
    """
    if "OMPI_COMM_WORLD_RANK" not in env:
        raise SettingsError("--distributed=ompi: not started by Open MPI's mpirun, which sets OMPI_COMM_WORLD_RANK")
    size, here = _number(env, "OMPI_COMM_WORLD_SIZE"), _number(env, "OMPI_COMM_WORLD_LOCAL_SIZE")
    # Of version 4 such as `28114944.0;tcp://10.0.0.1,10.1.0.1:55465`, of version 5 such as `prterun-node1-28549@1`.
    job = env.get("OMPI_MCA_orte_hnp_uri") or env.get("PMIX_NAMESPACE") or ""
    found = re.search(r"tcp://([^,:]+)|tcp6://\[([^],]+)|^\w+-(.+)-\d+@", job)
    host = "127.0.0.1" if here == size else found and next(filter(None, found.groups()))
    return Found(
        _number(env, "OMPI_COMM_WORLD_RANK"),
        size,
        f"{f'[{host}]' if ':' in host else host}:{_port(job.partition(';')[0])}" if host else None,
        _share(env, _number(env, "OMPI_COMM_WORLD_LOCAL_RANK"), here, None),
    )


def read_k8s(env: Environment) -> Found:
    """Reads the environment of a pod of an indexed Job; how many and where, the cluster says only when asked."""
    index = env.get("JOB_COMPLETION_INDEX")
    if "KUBERNETES_SERVICE_HOST" in env and index is None:
        raise SettingsError(
            '--distributed=k8s: JOB_COMPLETION_INDEX is not set; the Job needs `completionMode: "Indexed"`'
        )
    if index is None:
        raise SettingsError("--distributed=k8s: KUBERNETES_SERVICE_HOST is not set; this is no pod of Kubernetes")
    return Found(_number(env, "JOB_COMPLETION_INDEX"))


def read_tpu(env: Environment) -> Found:
    """Reads nothing: a TPU slice is asked, through JAX."""
    return Found()


@dataclass(frozen=True)
class Cluster:
    """A kind of cluster.

    Attributes:
        signs: variables of which it sets one.
        read: what its environment says.
        package: what JAX needs to ask it for the rest, and what installs that; None: it cannot be asked.
        methods: JAX's names for the way it is asked, with one of the signs and without; None: JAX chooses.
    """

    signs: tuple[str, ...]
    read: Callable[[Environment], Found]
    package: tuple[str, str] | None = None
    methods: tuple[str | None, str | None] = (None, None)

    def seen(self, env: Environment) -> bool:
        """Tells whether an environment is this cluster's."""
        return any(sign in env for sign in self.signs)


CLUSTERS = {
    "ompi": Cluster(("OMPI_COMM_WORLD_RANK",), read_ompi),
    "slurm": Cluster(("SLURM_STEP_NODELIST",), read_slurm),
    "tpu": Cluster(
        ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"), read_tpu, ("libtpu", "jax[tpu]"), ("gketpu", "gcetpu")
    ),
    "k8s": Cluster(("JOB_COMPLETION_INDEX",), read_k8s, ("kubernetes", "jax[k8s]")),
}
"""In the order in which `auto` looks for them: `mpirun` may run in a SLURM job, and a TPU in Kubernetes."""


def ask(name: str, env: Environment, seconds: int) -> Found:
    """Asks a cluster, through JAX, for what its environment does not say.

    Args:
        name: a key of `CLUSTERS`.
        env: the environment.
        seconds: how long to wait for the host of process 0 to have a name.

    Raises:
        SettingsError: it cannot be asked, or does not answer.
    """
    cluster, flags = CLUSTERS[name], "--coordinator, --num_processes and --process_id"
    if cluster.package is None:
        return Found()
    package, extra = cluster.package
    if importlib.util.find_spec(package) is None:
        raise SettingsError(
            f"--distributed={name}: asking the cluster needs the package {package} (pip install '{extra}'); "
            f"or say it: {flags}"
        )
    from jax._src.clusters import ClusterEnv  # JAX has no public way to ask without starting

    try:
        coordinator, size, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, cluster.methods[not cluster.seen(env)], seconds
        )
    except Exception as error:  # of the cluster's own client, whatever that is
        failed = f"asking the cluster failed: {one_line(error)}"
        raise SettingsError(f"--distributed={name}: {failed}; or say it: {flags}") from error
    if None in (coordinator, size, index):
        raise SettingsError(f"--distributed={name}: this is no such cluster; or say it: {flags}")
    return Found(index, size, coordinator)


def _share(env: Environment, local: int, here: int, gpus: int | None) -> tuple[int, ...] | None:
    """Shares out a host's GPUs among its processes: which of the visible ones are the `local`-th's, of `here`."""
    visible = env.get("CUDA_VISIBLE_DEVICES")
    seen = len(visible.split(",")) if visible else gpus
    if here == 1 or (gpus is not None and seen < gpus):
        return None  # all that it sees: it is alone, or was given its own
    if seen is None:
        return (local,)
    if seen % here:
        fitting = ", ".join(str(n) for n in range(1, seen + 1) if seen % n == 0)
        raise SettingsError(f"{here} processes on a host cannot share its {seen} GPUs; start {fitting} a host")
    share = seen // here
    return tuple(range(local * share, (local + 1) * share))


def _first_host(hosts: str) -> str:
    """Returns the first of a SLURM list: that of `'n[07-09,12],x1'` is `'n07'`."""
    first = re.match(r"(?:[^,[]|\[[^\]]*\])*", hosts)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def _number(env: Environment, name: str) -> int:
    if not env.get(name, "").isdigit():
        raise SettingsError(f"{name}: found {env.get(name)!r} in the environment, expected a number")
    return int(env[name])


def _port(job: str) -> int:
    """Returns a port for a job, the same in all its processes."""
    first, count = _PORTS
    return first + zlib.crc32(job.encode()) % count
