"""A process of a pod, as the tests start it: `worker.py PROCESS SIZE HOST:PORT WHAT [ARGUMENT ...]`."""

import dataclasses
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from ssoup_jax.errors import RunError, SettingsError, UserError
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.pod import Pod, start
from ssoup_jax.pod.lifeline import Lifeline, Progress
from ssoup_jax.pod.meet import meet
from ssoup_jax.pod.place import Place
from ssoup_jax.pod.same import check_same, check_shared

HEARTBEAT = 2.0
SECONDS = 5.0  # for which processes wait for each other

INDEX, SIZE = int(sys.argv[1]), int(sys.argv[2])
HOST, PORT = sys.argv[3].rsplit(":", 1)
PLACE = Place(INDEX, SIZE, HOST, int(PORT))


def connected(heartbeat: float = HEARTBEAT, stall: float | None = None) -> Pod:
    """Returns a pod without JAX, which can do all but agree."""
    met = meet(PLACE, {}, print, SECONDS)
    progress = Progress()
    lifeline = Lifeline(INDEX, met.hosts, met.sockets, heartbeat, stall, progress)
    lifeline.start()
    return Pod(INDEX, SIZE, None, lifeline, progress)


def ready() -> None:
    print("ready", flush=True)


def idle() -> None:
    connected()
    ready()
    time.sleep(60)


def busy() -> None:
    connected()
    ready()
    while True:
        sum(range(10**6))


def parts() -> None:
    """All have done their work, one of them long before the others, and go at once."""
    pod = connected()
    time.sleep(1.5 * INDEX)
    pod.part()
    os._exit(0)


def stuck(victim: str) -> None:
    """All but one go on; that one lives, and waits for something."""
    pod = connected(stall=1.0)
    ready()
    while True:
        if int(victim) != INDEX:
            pod.progress.count += 1
        time.sleep(0.05)


def patient() -> None:
    """Nobody goes on for longer than it may take, which was said; then nobody does, which was not."""
    pod = connected(stall=1.0)
    with pod.patient():
        time.sleep(2.5)
    print("still there", flush=True)
    time.sleep(60)


def fails(victim: str, kind: str) -> None:
    """One has an error, and another is hurt by that, as it is in a collective."""
    pod = connected()
    ready()
    try:
        if int(victim) == INDEX:
            raise {"run": RunError("disk: full"), "settings": SettingsError("mesh: no"), "bug": KeyError("x")}[kind]
        time.sleep(0.2)
        raise ValueError("gloo: connection closed by peer")
    except Exception as error:
        pod.fail(error)


def stops(where: str) -> None:
    """Trains in chunks of as many steps as each process likes to count, and stops when it is asked to."""
    with Stop() as stop:
        pod = start.start(PLACE, HEARTBEAT, None, print, SECONDS)
        stop.share(pod)
        pod.wait()
        ready()
        if where == "compiling":
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # a minute in which no line of Python is run
        with stop.saving():
            step = 0
            for chunk in range(10**6):
                time.sleep(0.01 * (1 + INDEX))
                step += pod.agree(chunk % 5 + 1)
                if stop.asked():
                    time.sleep(0.5 * INDEX)  # some take longer to write their part
                    pod.wait()
                    print("checkpoint of step", step, flush=True)
                    stop.now()


def stops_after_saving() -> None:
    """Process 0 takes a while to save, and the others have nothing to do meanwhile."""
    with Stop() as stop:
        pod = start.start(PLACE, HEARTBEAT, None, print, SECONDS)
        stop.share(pod)
        with stop.saving():
            pod.wait()
            ready()
            if pod.leads:
                time.sleep(1.5)
                print("saved", flush=True)
        print("went on", flush=True)
        time.sleep(60)


def collective() -> None:
    """Computes together, until something happens."""
    pod = start.start(PLACE, HEARTBEAT, None, print, SECONDS)
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("member",))
    ones = np.ones(SIZE, np.float32)
    spread = NamedSharding(mesh, PartitionSpec("member"))
    total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))
    x = jax.make_array_from_callback((SIZE,), spread, lambda index: ones[index])
    try:
        for step in range(10**9):
            assert float(total(x).addressable_data(0)) == SIZE
            if step == 20:
                ready()
    except Exception as error:
        pod.fail(error)


def everything(folder: str) -> None:
    """Tells what was agreed on, and what was found to differ."""
    here, shared = Path(folder) / str(INDEX), Path(folder) / "shared" / "runs"
    pod = start.start(PLACE, HEARTBEAT, 60.0, print, SECONDS)
    print(pod.agree({"from": INDEX}), pod.everyone(INDEX), pod.first(lambda: INDEX), pod.report("a", INDEX), pod.leads)
    pod.wait()

    def tried(check, *arguments):
        try:
            return check(pod, *arguments)
        except UserError as error:
            return f"{type(error).__name__}: {error}"

    rate = {"rate": 0.1 + (INDEX == 2), "long": ["a" * 1000], "epochs": 3}
    print(tried(check_same, rate | {"rate": 0.1}))
    print(tried(check_same, rate))
    print(tried(check_same, {"long": ["a" * 1000 + "b" * (INDEX == 1)]}))
    print(tried(check_same, {"a": 1} | ({"b": 2} if INDEX else {})))
    print(tried(check_shared, shared, 2.0))
    print(tried(check_shared, here, 0.3))
    print(sorted(path.name for path in shared.iterdir()))
    print(tried(check_shared, Path(__file__), 0.3))
    print(dataclasses.asdict(pod.progress)["patient"], signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
    start.finish(pod)
    print("finished")


if __name__ == "__main__":
    globals()[sys.argv[4]](*sys.argv[5:])
