"""Threads in the place of a pod's processes, and a dictionary in that of JAX's key-value store."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ssoup_jax.pod import Pod


class Client:
    """Behaves like JAX's key-value store."""

    def __init__(self):
        self.values = {}
        self._changed = threading.Condition()

    def key_value_set(self, key, value):
        with self._changed:
            assert key not in self.values
            self.values[key] = value
            self._changed.notify_all()

    def key_value_delete(self, key):
        with self._changed:
            self.values.pop(key, None)

    def blocking_key_value_get(self, key, timeout_ms):
        with self._changed:
            assert self._changed.wait_for(lambda: key in self.values, min(timeout_ms / 1000, 60))
            return self.values[key]


def together(size: int, act: Callable[[Pod], Any]) -> tuple[list[Any], Client]:
    """Runs `act(pod)` as every process of a pod; returns results or errors by index, and the store."""
    client = Client()
    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(act, Pod(index, size, client)) for index in range(size)]
    return [future.exception() or future.result() for future in futures], client
