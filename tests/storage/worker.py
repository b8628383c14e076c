"""A process of a pod that stores and reads: `worker.py INDEX SIZE ADDRESS FOLDER ACT`, see `ACTS`."""

import sys
import threading
from pathlib import Path

import jax
import numpy as np
from jax._src import distributed
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssoup_jax.pod import Pod
from ssoup_jax.storage import arrays, lock
from ssoup_jax.storage.checkpoints import Checkpoints
from ssoup_jax.storage.store import Store

NAMES = [f"phase1-imp-000000000000000{index}" for index in range(5)]
"""Of five members, more than there are processes."""


def member(index: int) -> dict:
    """Returns a member's state, as large as takes a while to write."""
    return {"params": {"kernel": np.random.default_rng(index).standard_normal((300, 1000)).astype(np.float32)}}


class Collective:
    """A sum over the devices of all processes, which every process has to take part in."""

    def __init__(self):
        self.mesh = Mesh(np.array(jax.devices()), ("all",))
        self._sum = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(self.mesh, PartitionSpec()))

    def __call__(self, value: float) -> float:
        n = len(jax.devices())
        sharding = NamedSharding(self.mesh, PartitionSpec("all"))
        spread = jax.make_array_from_callback((n,), sharding, lambda at: np.full(n, value / n, np.float32)[at])
        return float(self._sum(spread).addressable_data(0))


def save(pod: Pod, folder: Path, owner) -> None:
    """Saves three checkpoints of five members, each written by its owner, while collectives go on."""
    total = Collective()
    with Checkpoints(folder / "checkpoints", pod=pod) as checkpoints:
        for step in (1, 2, 3):
            own = {index: member(10 * step + index) for index in range(5) if owner(index) == pod.index}
            checkpoints.save(step, own, 5, {"step": step})
            for number in range(20):
                # Equal summands of small whole numbers: the sum is exact.
                assert total(float(number)) == number
    print("saved", *sorted(path.name for path in (folder / "checkpoints").iterdir()))


def save_spread(pod: Pod, folder: Path) -> None:
    """Every process owns some, the last one none."""
    save(pod, folder, lambda index: index % (pod.size - 1))


def save_by_1(pod: Pod, folder: Path) -> None:
    """Only process 1 writes members."""
    save(pod, folder, lambda index: 1)


def load(pod: Pod, folder: Path) -> None:
    """Each reads its own members of what another number of processes has written."""
    wanted = range(pod.index, 5, pod.size)
    with Checkpoints(folder / "checkpoints", pod=pod) as checkpoints:
        step, found, info = checkpoints.latest(member(0), 5, wanted)
    assert (step, info, set(found)) == (3, {"step": 3}, set(wanted))
    for index in wanted:
        np.testing.assert_array_equal(found[index]["params"]["kernel"], member(30 + index)["params"]["kernel"])
    print("loaded", *wanted)


def finish(pod: Pod, folder: Path) -> None:
    """Stores five members that no process holds together, as a stage does."""
    total, store = Collective(), Store(folder / "runs", pod=pod)
    with lock.hold(map(store.workdir.lock, NAMES), print, pod=pod):
        assert not store.has(NAMES[0])
        for name in NAMES:
            store.begin(name)
        fetched = (member(index + int(total(0.0))) for index in range(5))
        store.finish(NAMES, fetched, [{"member": index} for index in range(5)])
    assert [store.record(name) for name in NAMES] == [{"member": index} for index in range(5)]
    tree, _ = store.load(NAMES[pod.index], member(0))
    np.testing.assert_array_equal(tree["params"]["kernel"], member(pod.index)["params"]["kernel"])
    print("finished")


def write_alone(pod: Pod, folder: Path) -> None:
    """Orbax in a thread of process 0, while the others write nothing and cannot by mistake."""
    total, place = Collective(), folder / "alone"
    if pod.leads:
        thread = threading.Thread(target=arrays.write, args=(place, member(1)))
        thread.start()
    else:
        try:
            arrays.write(folder / "empty", member(1))
        except ValueError as error:
            print(error)
    for number in range(50):
        assert total(float(number)) == number
    if pod.leads:
        thread.join()
    pod.wait()
    np.testing.assert_array_equal(arrays.read(place)["params"]["kernel"], member(1)["params"]["kernel"])
    print("read")


ACTS = {act.__name__: act for act in (save_spread, save_by_1, load, finish, write_alone)}

if __name__ == "__main__":
    index, size = map(int, sys.argv[1:3])
    jax.distributed.initialize(sys.argv[3], size, index, initialization_timeout=30)
    jax.devices()  # starting the backend takes all processes, so not inside what process 0 does alone
    ACTS[sys.argv[5]](Pod(index, size, distributed.global_state.client), Path(sys.argv[4]))
    jax.distributed.shutdown()
