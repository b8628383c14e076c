"""Asked to stop, a run stops at a good place; asked twice, at once."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ssoup_jax.experiment.stop import Preemption, Stopped

ROOT = Path(__file__).parents[2]
CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.fixture(autouse=True)
def plain_handlers():
    """The handlers that a process starts with, whatever started the tests."""
    hook = sys.unraisablehook
    previous = [signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, signal.SIG_DFL)]
    yield
    signal.signal(signal.SIGINT, previous[0])
    signal.signal(signal.SIGTERM, previous[1])
    sys.unraisablehook = hook


def raise_signal(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # a signal to oneself is handled at the latest here


@pytest.mark.parametrize(("number", "code"), CODES)
def test_outside_of_training_a_signal_stops_at_once(number, code):
    with pytest.raises(Stopped, match=f"stopped by {number.name}: .*the same command goes on") as error, Preemption():
        raise_signal(number)
        pytest.fail("went on")
    assert error.value.exit_code == code
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("number", "code"), CODES)
def test_inside_of_training_the_loop_decides_when(number, code):
    seen = []
    with pytest.raises(Stopped) as error, Preemption() as preemption, preemption.deferred():
        for step in range(5):
            seen.append(step)
            if preemption.reached(step):
                preemption.stop()
            if step == 2:
                raise_signal(number)
    assert seen == [0, 1, 2, 3]
    assert preemption.requested == number.name
    assert error.value.exit_code == code


def test_a_signal_that_the_loop_did_not_see_stops_after_it():
    done = []
    with pytest.raises(Stopped), Preemption() as preemption:
        with preemption.deferred(), preemption.deferred():
            raise_signal(signal.SIGTERM)
            done.append("the rest of the loop")
        pytest.fail("went on")
    assert done


def test_an_error_inside_of_training_is_not_hidden_by_a_signal():
    with pytest.raises(ZeroDivisionError), Preemption() as preemption, preemption.deferred():
        raise_signal(signal.SIGTERM)
        raise ZeroDivisionError


def test_code_that_goes_on_after_any_exception_does_not_swallow_the_stop():
    with pytest.raises(Stopped), Preemption():
        try:
            raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("swallowed")


def test_a_callback_whose_errors_are_only_printed_does_not_swallow_the_stop(capfd):
    class Callback:
        def __del__(self):
            raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match="SIGTERM"), Preemption():
        Callback()
        time.sleep(10)
        pytest.fail("went on")
    assert capfd.readouterr().err == ""


def test_an_error_of_code_that_swallowed_the_stop_is_the_stop():
    with pytest.raises(Stopped, match="SIGTERM"), Preemption():
        try:
            raise_signal(signal.SIGTERM)
        except BaseException:
            raise ValueError("nothing was read") from None


def test_other_errors_in_callbacks_are_still_printed(monkeypatch):
    class Callback:
        def __del__(self):
            raise ZeroDivisionError

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with Preemption():
        Callback()
    assert [type(one.exc_value) for one in seen] == [ZeroDivisionError]
    assert sys.unraisablehook == seen.append


def test_handlers_are_put_back_also_after_an_error():
    with pytest.raises(ZeroDivisionError), Preemption():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Preemption() as preemption:
        raise_signal(signal.SIGINT)
        assert preemption.requested is None


def test_does_nothing_in_another_thread():
    found = []

    def work():
        with Preemption() as preemption, preemption.deferred():
            found.append((signal.getsignal(signal.SIGTERM), preemption.reached(1)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(signal.SIG_DFL, False)]


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_second_signal_ends_the_process_on_the_spot(number, code):
    script = f"""
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from ssoup_jax.experiment.stop import Preemption
with Preemption() as preemption, preemption.deferred():
    try:
        print("told before", end="")
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), {int(number)})
        time.sleep(30)
    finally:
        print("cleaned up")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=25)
    assert (done.returncode, done.stdout) == (code, "told before")


@pytest.mark.parametrize(("number", "code"), [CODES[0], pytest.param(*CODES[1], marks=pytest.mark.slow)])
def test_processes_of_one_run_stop_after_the_same_step(number, code):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    script = f"""
import os, signal, sys, time
import jax
signal.signal(signal.SIGINT, signal.default_int_handler)
me = int(sys.argv[1])
jax.distributed.initialize({address!r}, 2, me)
from ssoup_jax.experiment.stop import Preemption, Stopped
code = 0
try:
    with Preemption() as preemption, preemption.deferred():
        for step in range(1, 2000):
            time.sleep(0.01 * (1 + me))
            if me == 0 and step == 5:
                os.kill(os.getpid(), {int(number)})
            if preemption.reached(step):
                print("stopped after", step, flush=True)
                preemption.stop()
except Stopped as error:
    code = error.exit_code
jax.distributed.shutdown()
os._exit(code)
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(me)],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for me in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    steps = [output.strip() for output, _ in outputs]
    assert steps[0].startswith("stopped after "), outputs[0][1]
    assert steps[0] == steps[1], outputs[1][1]
    # Where the signal did not go, it is one to stop for the others' sake.
    assert [process.returncode for process in processes] == [code, 143]
