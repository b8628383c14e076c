"""Processes meet, with threads in their place; whatever does not fit is one line in all of them."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ssoup_jax.errors import RunError
from ssoup_jax.pod.meet import connect, meet
from ssoup_jax.pod.place import Place
from tests.pod.processes import free_port

HERE = socket.gethostname()
VERSIONS = {"jax": "0.10.2", "numpy": "2.0"}


def together(places, versions=lambda number: VERSIONS, seconds=10.0):
    """Meets in as many threads; returns what each got or raised, and what process 0 said meanwhile."""
    said = []
    with ThreadPoolExecutor(len(places)) as threads:
        futures = [
            threads.submit(meet, place, versions(number), said.append, seconds) for number, place in enumerate(places)
        ]
    found = [future.exception() or future.result() for future in futures]
    for met in found:
        for connection in getattr(met, "sockets", {}).values():
            connection.close()
    return found, said


def places(size, indices=None, port=None):
    port = port or free_port()
    return [Place(index, size, "127.0.0.1", port) for index in (range(size) if indices is None else indices)]


def lines(found):
    return {f"{type(error).__name__}: {error}" for error in found}


def test_all_get_to_know_each_other_and_a_port_that_is_free():
    found, said = together(places(4, [2, 0, 3, 1]))
    assert {met.hosts for met in found} == {(HERE,) * 4}
    (port,) = {met.port for met in found}
    socket.create_server(("", port)).close()
    assert [sorted(met.sockets) for met in found] == [[0], [1, 2, 3], [0], [0]]
    assert said == []


def test_what_is_said_after_the_meeting_is_still_to_be_read():
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda place: meet(place, {}, print, 10.0), places(2))
    first.sockets[1].sendall(b"after")
    assert second.sockets[0].recv(100) == b"after"
    for connection in (first.sockets[1], second.sockets[0]):
        connection.close()


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        found, _ = together(places(2, [0], port))
    why = f"--coordinator: port {port} of {HERE} cannot be used: Address already in use"
    assert lines(found) == {f"SettingsError: {why}; another pod may be there, or name another port"}


def test_another_count_is_named_to_all():
    port = free_port()
    found, _ = together([*places(3, [0, 1], port), *places(4, [3], port)])
    told = f"process 3 ({HERE}) was told 4, and process 0 ({HERE}) 3"
    assert lines(found) == {f"SettingsError: --num_processes: {told}"}


def test_one_place_for_two_is_named_to_all():
    found, _ = together(places(3, [0, 1, 1]))
    assert lines(found) == {f"SettingsError: --process_id: 1 is that of two processes, on {HERE} and on {HERE}"}


def test_another_version_is_named_to_all():
    found, _ = together(places(3), lambda number: VERSIONS | ({"jax": "0.10.1"} if number == 2 else {}))
    told = f"process 2 ({HERE}) has jax 0.10.1, and process 0 ({HERE}) 0.10.2"
    assert lines(found) == {f"SettingsError: {told}; install the same"}


def test_who_is_missing_is_named_to_all():
    port = free_port()
    found, _ = together(places(5, [0, 2], port), seconds=0.5)
    missing = f"processes 1, 3, 4 of 5 did not come to 127.0.0.1:{port} within 0.5 s"
    assert lines(found) == {
        f"RunError: {missing}; start all again, each with the same --num_processes and --coordinator"
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_without_process_0_the_place_where_it_should_be_is_named(host):
    port = free_port()
    found, _ = together([Place(1, 2, host, port)], seconds=0.2)
    (line,) = lines(found)
    assert line.startswith(f"RunError: --coordinator: process 0 is not found at {host}:{port}: ")
    assert line.endswith(" for 0.2 s; it has to run there")


def test_who_does_not_belong_to_a_pod_is_not_minded():
    size_2 = places(2)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(meet, size_2[0], {}, print, 10.0)
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"index": "x"}\n', b""):
            with connect("127.0.0.1", size_2[0].port, time.monotonic() + 5) as stranger:
                stranger.sendall(said)
        second = meet(size_2[1], {}, print, 10.0)
        assert first.result().hosts == second.hosts
        for connection in (first.result().sockets[1], second.sockets[0]):
            connection.close()


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["before the others", "after them"])
def test_a_process_that_went_and_came_again_takes_its_place(order):
    three = places(3)
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(meet, three[0], {}, print, 10.0)]
        with connect("127.0.0.1", three[0].port, time.monotonic() + 5) as gone:
            gone.sendall(b'{"index": 1, "size": 3, "host": "before", "versions": {}}\n')
            time.sleep(0.1)
        for index in order:
            futures.append(threads.submit(meet, three[index], {}, print, 10.0))
            time.sleep(0.1)
    met = [future.result() for future in futures]
    assert {one.hosts for one in met} == {(HERE,) * 3}
    for one in met:
        for connection in one.sockets.values():
            connection.close()


def test_who_waits_for_process_0_hears_that_it_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def go():
            connection, _ = server.accept()
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=go)
        thread.start()
        with pytest.raises(RunError, match=f"process 0 at 127.0.0.1:{port} is gone before all had come"):
            meet(Place(1, 2, "127.0.0.1", port), {}, print, 10.0)
        thread.join()


def test_a_long_wait_says_for_whom(monkeypatch):
    monkeypatch.setattr("ssoup_jax.pod.meet._TELL", 0.1)
    port = free_port()
    _, said = together(places(3, [0, 1], port), seconds=0.4)
    assert said == [f"waiting for process 2 of 3 at 127.0.0.1:{port}"]
