"""A process's place in its pod: what `launch.py` was told, filled in with what the cluster says."""

from collections.abc import Mapping
from dataclasses import dataclass

from ssoup_jax.errors import SettingsError, unknown
from ssoup_jax.pod.clusters import CLUSTERS, Found, ask

HOW = ("none", "auto", *CLUSTERS)
"""What `--distributed` may be."""

_NOT_READ = {
    "JAX_COORDINATOR_ADDRESS": "--coordinator",
    "JAX_NUM_PROCESSES": "--num_processes",
    "JAX_PROCESS_ID": "--process_id",
}
_STEPS = {
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "ompi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


@dataclass(frozen=True)
class Place:
    """Where a process stands in its pod.

    Attributes:
        index: from 0; process 0 leads.
        size: how many processes.
        host: of process 0, as the others reach it.
        port: at which process 0 waits for the others.
        devices: which of its host's GPUs this process takes; None: all that it sees.
    """

    index: int
    size: int
    host: str
    port: int
    devices: tuple[int, ...] | None = None


def find(distributed: str, flags: Found, env: Mapping[str, str], seconds: int = 300) -> Place | None:
    """Finds a process's place.

    Args:
        distributed: one of `HOW`.
        flags: what was given, which goes before what a cluster says.
        env: the environment.
        seconds: how long a cluster that has to be asked may take.

    Returns:
        The place; None: the process is no part of a pod.

    Raises:
        SettingsError: flags and environment do not say it, or say what cannot be.
    """
    if distributed not in HOW:
        raise unknown("--distributed", distributed, HOW)
    if distributed == "none":
        for flag, value in _named(flags).items():
            if value is not None:
                raise SettingsError(f"{flag}: found {value!r} without a pod; --distributed=auto starts one")
        return None
    name = distributed if distributed in CLUSTERS else _seen(env)
    found = flags.filled(CLUSTERS[name].read(env)) if name else flags
    if name and not found.whole:
        found = found.filled(ask(name, env, seconds))
    if not found.whole:
        raise SettingsError(_lacking(found, name, env))
    return _checked(found)


def _named(found: Found) -> dict[str, object]:
    return {"--coordinator": found.coordinator, "--num_processes": found.size, "--process_id": found.index}


def _seen(env: Mapping[str, str]) -> str | None:
    return next((name for name, cluster in CLUSTERS.items() if cluster.seen(env)), None)


def _lacking(found: Found, name: str | None, env: Mapping[str, str]) -> str:
    missing = [flag for flag, value in _named(found).items() if value is None]
    if unread := [variable for variable, flag in _NOT_READ.items() if flag in missing and variable in env]:
        why = f"{', '.join(unread)} {'is' if len(unread) == 1 else 'are'} not read"
    else:
        why = f"{name} does not say" if name else "no SLURM, Open MPI, Kubernetes or TPU slice is seen that says"
    return f"{missing[0]}: not given, and {why}; give {', '.join(missing)}"


def _checked(found: Found) -> Place:
    if found.size < 1:
        raise SettingsError(f"--num_processes: found {found.size}, expected 1 or more")
    if not 0 <= found.index < found.size:
        allowed = f"0 to {found.size - 1}, of {found.size} processes"
        raise SettingsError(f"--process_id: found {found.index}, allowed {allowed}")
    host, _, port = found.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f"--coordinator: found {found.coordinator!r}, expected host:port, such as node1:61440")
    return Place(found.index, found.size, host.strip("[]"), int(port), found.devices)


def unasked(env: Mapping[str, str]) -> str | None:
    """Returns a line for whoever starts many processes and does not ask for a pod; None: not in this process."""
    for name, (index, size) in _STEPS.items():
        if env.get(index) == "0" and env.get(size, "1") != "1":
            return f"note: {env[size]} processes run this, each on its own; --distributed={name} makes them one run"
    return None
