"""What processes agree on, with threads in the place of processes and a dictionary in that of JAX's store."""

import threading
import time

import pytest

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.pod import ALONE
from tests.pod.threads import together


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
def test_process_0_is_through_before_the_others_begin_and_each_has_its_own_result(size):
    began = []

    def act(pod):
        def function():
            began.append(pod.index)
            time.sleep(0.05 if pod.leads else 0)  # one that did not wait would be ahead
            return {pod.index}, len(began), pod.progress.patient

        return pod.in_turn(function)

    found, _ = together(size, act)
    assert [own for own, _, _ in found] == [{index} for index in range(size)]
    assert (began[0], found[0][1]) == (0, 1)
    assert [patient for _, _, patient in found] == [1] * size, "nobody is taken for stuck meanwhile"
    assert sorted(began) == list(range(size))


def test_the_others_do_not_begin_what_process_0_cannot_do():
    began = []

    def act(pod):
        def function():
            began.append(pod.index)
            raise SettingsError("not to be had")

        pod.in_turn(function)

    found, _ = together(3, act)
    assert [str(error) for error in found] == ["not to be had"] * 3
    assert began == [0]


@pytest.mark.parametrize("size", [1, 3])
def test_everyone_is_heard_by_everyone(size):
    found, _ = together(size, lambda pod: pod.everyone(pod.index * 10))
    assert found == [[index * 10 for index in range(size)]] * size


@pytest.mark.parametrize("size", [1, 3])
def test_reports_reach_process_0_from_any_thread_and_any_number_of_times(size):
    def act(pod):
        heard = []
        for number in range(3):
            thread = threading.Thread(target=lambda: heard.append(pod.report("a/7", pod.index + 10 * number)))  # noqa: B023
            thread.start()
            assert pod.agree(number) == number, "reports are none of what is agreed on"
            thread.join()
            pod.wait()
        return heard

    found, client = together(size, act)
    assert found[0] == [[index + 10 * number for index in range(size)] for number in range(3)]
    assert found[1:] == [[None] * 3] * (size - 1)
    assert not any("told" in key for key in client.values)


def test_whoever_is_slow_still_hears_all_and_what_all_have_heard_is_forgotten():
    def act(pod):
        heard = []
        for number in range(2500):
            if pod.index == 1 and number == 100:
                time.sleep(0.2)  # in which process 0 would say everything
            heard.append(pod.agree(number) if number % 7 else pod.everyone(number))
        return heard

    found, client = together(2, act)
    assert found == [[number if number % 7 else [number, number] for number in range(2500)]] * 2
    assert client.most < 3 * 1000


def test_one_process_needs_no_store():
    assert (ALONE.agree((1, 2)), ALONE.first(lambda: 3), ALONE.everyone(4), ALONE.wait()) == ((1, 2), 3, [4], None)
    assert ALONE.report("name", 5) == [5]
    assert ALONE.leads
