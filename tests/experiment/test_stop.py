"""Asked to stop, a run stops at once, or where it saves after that; asked twice, at once."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ssoup_jax.experiment.stop import Stop, Stopped

ROOT = Path(__file__).parents[2]
CODES = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
MORE_CODES = [(signal.SIGUSR1, 138), (signal.SIGUSR2, 140), (signal.SIGXCPU, 152)]

# As a process starts from a terminal, whatever started the tests.
BEGINNING = """
import hashlib, os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from ssoup_jax.experiment.stop import Stop

def ready():
    print("ready", flush=True)

def compile():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # a minute in which no line of Python is run
"""

CALLBACKS = """
class Callback:
    def __del__(self):
        time.sleep(0.001)

with Stop():
    ready()
    while True:
        try:
            Callback()
        except BaseException:
            print("raised into")
"""
COMPILING = """
with Stop():
    ready()
    compile()
"""
COMPILING_BEFORE_SAVING = """
with Stop() as stop, stop.saving():
    ready()
    compile()
"""
SAVING = """
with Stop() as stop:
    with stop.saving():
        ready()
        while not stop.asked():
            time.sleep(0.01)
        time.sleep(0.3)
        print("saved")
        stop.now()
    print("went on")
"""
SAVING_UNSEEN = """
with Stop() as stop:
    with stop.saving():
        with stop.saving():
            ready()
            while not stop.requested:
                time.sleep(0.01)
        print("saved")
    print("went on")
"""


class Process:
    """A script that has said that it is ready."""

    def __init__(self, script, stdout=subprocess.PIPE, **how):
        self._process = subprocess.Popen(
            [sys.executable, "-c", BEGINNING + script],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )
        if stdout == subprocess.PIPE:
            # Byte by byte: `communicate` does not see what a buffered reader has taken beyond the line.
            said = b""
            while not said.endswith(b"\n") and (more := os.read(self._process.stdout.fileno(), 1)):
                said += more
            assert said == b"ready\n", self._process.communicate()[1]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.communicate()

    def send(self, *numbers, apart=0.3):
        for index, number in enumerate(numbers):
            time.sleep(apart if index else 0)
            self._process.send_signal(number)
        self._sent = time.monotonic()

    def end(self):
        out, err = self._process.communicate(timeout=20)
        self.seconds = time.monotonic() - self._sent
        return self._process.returncode, out, err

    def end_unread(self):
        code = self._process.wait(timeout=20)
        return code, self._process.stderr.read()


def line(number):
    return f"stopped by {number.name}: finished stages and checkpoints are kept; the same command goes on from there\n"


@pytest.mark.parametrize("script", [CALLBACKS, COMPILING], ids=["callbacks", "compiling"])
@pytest.mark.parametrize(("number", "code"), CODES)
def test_outside_of_saving_a_signal_ends_the_process_at_once_with_one_line(script, number, code):
    with Process(script) as process:
        time.sleep(0.1)  # until it is deep in there
        process.send(number)
        assert process.end() == (code, "", line(number))
        assert process.seconds < 1


@pytest.mark.parametrize("script", [SAVING, SAVING_UNSEEN], ids=["seen", "unseen"])
@pytest.mark.parametrize(("number", "code"), CODES)
def test_inside_of_saving_it_ends_after_that(script, number, code):
    with Process(script) as process:
        process.send(number)
        assert process.end() == (code, "saved\n", line(number))


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_second_signal_ends_the_process_on_the_spot(number, code):
    with Process(COMPILING_BEFORE_SAVING) as process:
        process.send(signal.SIGTERM, number)
        assert process.end() == (code, "", "")
        assert process.seconds < 1


def test_a_signal_that_arrives_twice_in_a_moment_is_one():
    with Process(SAVING) as process:
        process.send(signal.SIGHUP, signal.SIGHUP, apart=0.02)
        assert process.end() == (129, "saved\n", line(signal.SIGHUP))


@pytest.mark.parametrize(("number", "code"), MORE_CODES)
def test_other_signals_ask_where_they_are_listened_to(number, code):
    with Process(
        SAVING.replace("with stop.saving", f"stop.listen([{number.name!r}])\n    with stop.saving")
    ) as process:
        process.send(number)
        assert process.end() == (code, "saved\n", line(number))
    with Process(SAVING) as process:
        process.send(number)
        assert process.end() == (-number, "", "")


def test_a_limit_of_time_that_is_told_again_and_again_is_one_request():
    with Process(SAVING.replace("with stop.saving", "stop.listen(['SIGXCPU'])\n    with stop.saving")) as process:
        process.send(signal.SIGXCPU, signal.SIGXCPU, apart=0.15)
        assert process.end() == (152, "saved\n", line(signal.SIGXCPU))


def test_ignored_signals_stay_ignored():
    ignoring = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
    with Process(
        ignoring + SAVING.replace("with stop.saving", "stop.listen(['SIGUSR1'])\n    with stop.saving")
    ) as process:
        process.send(signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM)
        assert process.end() == (143, "saved\n", line(signal.SIGTERM))


@pytest.mark.parametrize("script", [CALLBACKS, SAVING], ids=["at once", "saving"])
def test_the_cursor_of_a_terminal_is_shown_again(script):
    terminal, other = pty.openpty()
    with Process(script, stdout=other) as process:
        os.close(other)
        shown = os.read(terminal, 1000)
        process.send(signal.SIGINT)
        assert process.end() == (130, None, line(signal.SIGINT))
        while b"\x1b[?25h" not in shown:
            shown += os.read(terminal, 1000)
    os.close(terminal)


def test_a_terminal_that_is_closed_does_not_keep_it_from_saving(tmp_path):
    terminal, other = pty.openpty()
    script = f"""
os.open(os.ttyname(1), os.O_RDWR)  # makes it this session's
with Stop() as stop, stop.saving():
    ready()
    while not stop.asked():
        time.sleep(0.01)
    print("a line nobody sees", flush=True)
    open({str(tmp_path / "saved")!r}, "w").close()
    stop.now()
"""
    with Process(script, stdout=other, start_new_session=True) as process:
        os.close(other)
        assert os.read(terminal, 1000)
        os.close(terminal)
        process.send()
        assert process.end() == (129, None, line(signal.SIGHUP))
    assert (tmp_path / "saved").exists()


def test_an_output_that_nobody_reads_does_not_hold_it():
    script = """
with Stop():
    ready()
    while True:
        print("x" * 10_000)
"""
    with Process(script) as process:
        time.sleep(0.3)  # until the pipe is full
        process.send(signal.SIGTERM)
        assert process.end_unread() == (143, line(signal.SIGTERM))


def test_what_was_printed_before_is_not_lost_and_nothing_is_cleaned_up():
    script = """
with Stop() as stop:
    try:
        print("told before", end="")
        os.write(1, b"ready\\n")
        time.sleep(20)
    finally:
        print("cleaned up")
"""
    with Process(script) as process:
        process.send(signal.SIGTERM)
        assert process.end() == (143, "told before", line(signal.SIGTERM))


def test_a_process_that_only_stops_does_not_start_jax():
    with Process("ready(); print('jax' in sys.modules, 'numpy' in sys.modules)") as process:
        process.send()
        assert process.end() == (0, "False False\n", "")


@pytest.fixture
def plain_handlers():
    """The handlers that a process starts with, whatever started the tests."""
    previous = {number: signal.signal(number, signal.SIG_DFL) for number, _ in CODES + MORE_CODES}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number, _ in CODES + MORE_CODES]


@pytest.mark.usefixtures("plain_handlers")
def test_an_error_while_saving_is_not_hidden_by_a_signal_and_the_handlers_are_put_back():
    threads = threading.active_count()
    received, pipe = os.pipe()
    os.set_blocking(pipe, False)
    signal.set_wakeup_fd(pipe)
    with pytest.raises(ZeroDivisionError), Stop() as stop, stop.saving():
        assert handlers().count(signal.SIG_DFL) == len(MORE_CODES)
        stop.listen(number.name for number, _ in MORE_CODES)
        assert signal.SIG_DFL not in handlers()
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.asked():
            time.sleep(0.001)
        raise ZeroDivisionError
    assert set(handlers()) == {signal.SIG_DFL}
    assert signal.set_wakeup_fd(-1) == pipe
    assert threading.active_count() == threads
    os.close(received)
    os.close(pipe)


@pytest.mark.usefixtures("plain_handlers")
def test_does_nothing_in_another_thread():
    found = []

    def work():
        with Stop() as stop, stop.saving():
            stop.listen(number.name for number, _ in MORE_CODES)
            found.extend(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert set(found) == {signal.SIG_DFL}


def test_code_that_goes_on_after_any_exception_does_not_swallow_the_stop():
    stop = Stop()
    stop.requested = signal.SIGTERM
    with pytest.raises(Stopped, match=r"stopped by SIGTERM: .*the same command goes on"):
        try:
            stop.now()
        except Exception:
            pytest.fail("swallowed")
