"""Threads in the place of a pod's processes, and a dictionary in that of JAX's key-value store."""

import collections
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ssoup_jax.pod import Pod


class Client:
    """Behaves like JAX's key-value store."""

    def __init__(self, size):
        self.values = {}
        self.most = 0
        self._changed = threading.Condition()
        self._barriers = collections.defaultdict(lambda: threading.Barrier(size))

    def key_value_set(self, key, value):
        with self._changed:
            assert key not in self.values
            self.values[key] = value
            self.most = max(self.most, len(self.values))
            self._changed.notify_all()

    def key_value_delete(self, key):
        with self._changed:
            self.values.pop(key, None)

    def blocking_key_value_get(self, key, timeout_ms):
        with self._changed:
            assert self._changed.wait_for(lambda: key in self.values, min(timeout_ms / 1000, 60))
            return self.values[key]

    def key_value_dir_get(self, folder):
        with self._changed:
            return [(key, value) for key, value in self.values.items() if key.startswith(f"{folder}/")]

    def wait_at_barrier(self, name, timeout_ms):
        with self._changed:
            barrier = self._barriers[name]
        barrier.wait(min(timeout_ms / 1000, 10))


def together(size: int, act: Callable[[Pod], Any]) -> tuple[list[Any], Client]:
    """Runs `act(pod)` as every process of a pod; returns results or errors by index, and the store."""
    client = Client(size)
    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(act, Pod(index, size, client)) for index in range(size)]
    return [future.exception() or future.result() for future in futures], client
