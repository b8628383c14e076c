"""A process goes on, whatever becomes of its standard output."""

import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ssoup_jax import streams

ROOT = Path(__file__).parents[1]
BEGINNING = "import sys, rich.console\nfrom ssoup_jax import streams\nwith streams.lasting():\n    "
LINES = BEGINNING + "for i in range(3): print('line', i)"


def run(program, redirection="", **environment):
    """Runs a program in a shell, which redirects its streams; standard error comes back unless that is redirected."""
    return subprocess.run(
        ["sh", "-c", f'"$0" -W error -c "$1" {redirection}', sys.executable, program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        timeout=60,
    )


def test_what_can_be_written_is():
    done = run(LINES)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"line 0\nline 1\nline 2\n", b"")


def test_a_closed_output_is_nobodys():
    """A file that is opened next must not get its number, and then what is printed."""
    program = (
        BEGINNING + "file = open('/dev/zero'); print('x'); number = file.fileno(); file.close(); sys.exit(number < 3)"
    )
    for redirection in (">&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = run(program, redirection)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_what_a_full_disk_lost_is_said_in_the_end():
    done = run(LINES, ">/dev/full")
    assert done.returncode == 0
    assert done.stderr == b"standard output: 3 lines could not be written (No space left on device)\n"
    assert run(LINES, ">/dev/full 2>/dev/full").returncode == 0


@pytest.mark.parametrize(
    "how", ["print('told')", "rich.console.Console().print('told')", "sys.stdout.write('told\\n')"]
)
def test_a_reader_that_is_gone_does_not_end_it(how):
    program = BEGINNING + f"sys.stdin.read(); {how}; sys.exit(3)"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        process.stdin.close()
        said = process.stderr.read()
    assert process.returncode == 3
    assert said == b"standard output: 1 lines could not be written (Broken pipe)\n"


def test_it_is_written_again_when_there_is_room_again(tmp_path):
    received, pipe = os.pipe()
    stream = streams.Lasting(os.dup(pipe), "utf-8")
    print("before", file=stream)
    os.close(pipe)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, stream.fileno())
    print("two", "lines", sep="\n", file=stream)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, stream.fileno())
    print("after", file=stream)
    assert os.read(received, 100) == b"before\n"
    assert (tmp_path / "log").read_text() == "after\n"
    assert (stream.lost, stream.problem) == (2, "No space left on device")
    for descriptor in (received, full, log, stream.fileno()):
        os.close(descriptor)


def test_a_pipe_that_does_not_block_is_waited_for():
    received, pipe = os.pipe()
    os.set_blocking(pipe, False)
    stream = streams.Lasting(pipe, "utf-8")
    text = "x" * 1_000_000  # more than a pipe holds
    writer = threading.Thread(target=stream.write, args=(text,))
    writer.start()
    time.sleep(0.1)
    found = b""
    while len(found) < len(text):
        found += os.read(received, 1 << 20)
    writer.join()
    assert found == text.encode()
    assert stream.problem is None
    os.close(received)
    os.close(pipe)


@pytest.mark.parametrize(
    ("text", "encoding", "written"),
    [
        ("ü─", "utf-8", "ü─".encode()),
        ("ü─", "ascii", b"\\xfc\\u2500"),
        ("ü─", "latin-1", b"\xfc\\u2500"),
        ("a\udcff", "utf-8", b"a\\udcff"),  # how Python reads a name of bytes that are not UTF-8
    ],
)
def test_what_an_encoding_lacks_is_escaped(text, encoding, written):
    received, pipe = os.pipe()
    stream = streams.Lasting(pipe, encoding)
    assert stream.write(text) == len(text)
    assert os.read(received, 100) == written
    assert stream.problem is None
    os.close(received)
    os.close(pipe)


def test_the_encoding_is_the_environments():
    assert run(BEGINNING + "print('ü')", PYTHONIOENCODING="ascii").stdout == b"\\xfc\n"
    assert run(BEGINNING + "print('ü', file=sys.stderr)", PYTHONIOENCODING="latin-1").stderr == b"\xfc\n"


def test_a_terminal_is_known_as_one():
    terminal, other = pty.openpty()
    assert streams.Lasting(other, "utf-8").isatty()
    os.close(terminal)
    os.close(other)
    received, pipe = os.pipe()
    assert not streams.Lasting(pipe, "utf-8").isatty()
    os.close(received)
    os.close(pipe)


def test_the_streams_of_before_come_back():
    before = sys.stdout, sys.stderr
    with streams.lasting():
        assert isinstance(sys.stdout, streams.Lasting) and isinstance(sys.stderr, streams.Lasting)
    assert (sys.stdout, sys.stderr) == before
