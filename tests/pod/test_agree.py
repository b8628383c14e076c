"""What processes agree on, with threads in the place of processes and a dictionary in that of JAX's store."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.pod import ALONE, Pod


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
            assert self._changed.wait_for(lambda: key in self.values, min(timeout_ms / 1000, 10))
            return self.values[key]


def together(size, act):
    """Runs `act(pod)` as every process of a pod; returns results or errors by index, and the store."""
    client = Client()
    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(act, Pod(index, size, client)) for index in range(size)]
    return [future.exception() or future.result() for future in futures], client


@pytest.mark.parametrize("size", [1, 3])
def test_process_0_decides_for_all(size):
    found, _ = together(size, lambda pod: [pod.agree({"steps": pod.index + 7}), pod.agree(pod.index)])
    assert found == [[{"steps": 7}, 0]] * size


def test_only_process_0_calls_the_function():
    called = []
    found, _ = together(3, lambda pod: pod.first(lambda: called.append(pod.index) or "found"))
    assert (called, found) == ([0], ["found"] * 3)


@pytest.mark.parametrize("kind", [SettingsError, RunError])
def test_an_error_of_process_0_is_everyones(kind):
    def act(pod):
        pod.first(lambda: (_ for _ in ()).throw(kind("workdir: is full")))

    found, _ = together(3, act)
    assert [(type(error), str(error)) for error in found] == [(kind, "workdir: is full")] * 3


@pytest.mark.parametrize("size", [1, 3])
def test_everyone_is_heard_by_everyone(size):
    found, _ = together(size, lambda pod: pod.everyone(pod.index * 10))
    assert found == [[index * 10 for index in range(size)]] * size


def test_old_messages_are_forgotten():
    def act(pod):
        for number in range(2100):
            pod.agree(number)
            if not number % 100:
                pod.wait()

    _, client = together(2, act)
    assert len(client.values) < 1100


def test_one_process_needs_no_store():
    assert (ALONE.agree((1, 2)), ALONE.first(lambda: 3), ALONE.everyone(4), ALONE.wait()) == ((1, 2), 3, [4], None)
    assert ALONE.leads
