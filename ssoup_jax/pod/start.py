"""The start and the end of a pod: its processes meet, and JAX connects their devices."""

import dataclasses
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

from ssoup_jax.errors import RunError, one_line
from ssoup_jax.pod.agree import ALONE, Pod
from ssoup_jax.pod.lifeline import Lifeline, Progress
from ssoup_jax.pod.meet import PATIENCE, connect, meet
from ssoup_jax.pod.place import Place
from ssoup_jax.version import VERSION

_SAME = ("jax", "jaxlib", "flax", "optax", "numpy")
_JAX_SECONDS = 60  # for processes that have met


def start(
    place: Place | None,
    heartbeat: float,
    stall: float | None,
    on_line: Callable[[str], None],
    seconds: float = PATIENCE,
) -> Pod:
    """Makes processes a pod; before JAX starts its backend.

    Args:
        place: this process's; None: it is alone.
        heartbeat: seconds without a word after which a process is taken for gone.
        stall: seconds after which one that does not go on is taken for stuck; None: never.
        on_line: told in one line who is waited for, in process 0.
        seconds: how long processes wait for each other.

    Returns:
        The pod, as this process sees it.

    Raises:
        SettingsError: the processes do not fit together; all get the same line.
        RunError: some did not come.
    """
    if place is None or place.size == 1:
        return ALONE
    # Started jobs take these seconds while the others are on their way, too.
    import jax
    from jax._src import distributed  # the key-value store has no public name

    met = meet(place, _versions(), on_line, seconds)
    progress = Progress()
    lifeline = Lifeline(place.index, met.hosts, met.sockets, heartbeat, stall, progress)
    lifeline.start()
    pod = Pod(place.index, place.size, None, lifeline, progress)
    # A proxy that leads out of a cluster does not lead inside; gRPC, which reads these letters, would wait for it.
    os.environ["no_grpc_proxy"] = place.host  # noqa: SIM112
    jax.config.update("jax_check_proxy_envs", False)
    jax.config.update("jax_enable_preemption_service", False)  # or it takes SIGTERM for itself
    try:
        if place.index:
            # Whoever comes too early would try again after a second only.
            connect(place.host, met.port, time.monotonic() + _JAX_SECONDS).close()
    except OSError as error:
        why = f"{one_line(error)} for {_JAX_SECONDS} s; all ports have to be open between the hosts of a pod"
        pod.leave(RunError.exit_code, f"error: process 0 is not reached at {place.host}:{met.port}: {why}")
    host = f"[{place.host}]" if ":" in place.host else place.host
    jax.distributed.initialize(
        f"{host}:{met.port}",
        place.size,
        place.index,
        place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=_JAX_SECONDS,
        # The lifeline is to be the first to notice, since JAX ends a process from inside, after a trace of C++.
        heartbeat_timeout_seconds=int(3 * heartbeat) + 10,
        shutdown_timeout_seconds=int(heartbeat) + 1,
    )
    return dataclasses.replace(pod, client=distributed.global_state.client)


def finish(pod: Pod) -> None:
    """Ends a pod that has done its work, process 0 last."""
    if pod.size == 1:
        return
    import jax

    pod.wait()
    pod.part()
    jax.distributed.shutdown()


def _versions() -> dict[str, str]:
    return {"ssoup_jax": VERSION, "Python": platform.python_version()} | {name: version(name) for name in _SAME}
