"""Starts the processes of a pod on this machine, strikes them, and collects how each of them ends.

with Processes(3, ["tests/pod/worker.py", "--process_id={index}"]) as pod:
    pod.wait_for("ready")
    pod.send(signal.SIGKILL, 1)
    codes = [ended.code for ended in pod.end(20)]
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
FLAGS = ("--distributed=auto", "--coordinator={address}", "--num_processes={size}", "--process_id={index}")
"""What `launch.py` is told, in a pod started by hand."""

# What a cluster says of its processes, which is not to leak from wherever the tests run, and a proxy between them.
_FOREIGN = re.compile(
    r"(SLURM|OMPI|PMIX|PRTE|KUBERNETES|JOB_COMPLETION|TPU|MEGASCALE|JAX)_.*|CUDA_VISIBLE_DEVICES|.*_proxy",
    re.IGNORECASE,
)

_DEFAULT_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code; negative: by a signal.
        out: standard output.
        err: standard error.
        seconds: to its end, from the start or the last signal that was sent to any of them; negative: it had ended
            before that.
    """

    code: int
    out: str
    err: str
    seconds: float


def from_a_terminal(*words: str) -> list[str]:
    """Returns the command by which Python runs some words as it would from a terminal, and does not ignore Ctrl-C.

    What a shell runs in the background ignores it, and so does all that it starts, such as tests and their processes.
    """
    return [sys.executable, "-c", _DEFAULT_SIGINT, *words]


def free_port() -> int:
    """Returns a port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def clean_environment(**more: str) -> dict[str, str]:
    """Returns this process's environment without any word of a cluster, on the CPU, with `more` in it."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | more


class Processes:
    """A pod's processes, started at once; a context manager that leaves none behind.

    Args:
        size: how many.
        command: words for Python, such as a script and its flags; `{index}`, `{size}` and `{address}` are filled in.
        devices: virtual CPU devices of each process.
        environment: more variables, of all processes or of the one with the index that it is called with.
        folder: where they run.
        address: `host:port` of the coordinator; None: a free port here.
    """

    def __init__(
        self,
        size: int,
        command: Sequence[object],
        *,
        devices: int = 1,
        environment: Mapping[str, str] | Callable[[int], Mapping[str, str]] = lambda index: {},
        folder: Path = ROOT,
        address: str | None = None,
    ):
        self.address = address or f"127.0.0.1:{free_port()}"
        self._logs = tempfile.TemporaryDirectory(prefix="pod-")
        self._last = time.monotonic()
        self._ends: dict[int, float] = {}
        self._processes: list[subprocess.Popen] = []
        for index in range(size):
            words = [str(word).format(index=index, size=size, address=self.address) for word in command]
            own = environment(index) if callable(environment) else environment
            with open(self._log(index, "out"), "w") as out, open(self._log(index, "err"), "w") as err:
                self._processes.append(
                    subprocess.Popen(
                        from_a_terminal(*words),
                        cwd=folder,
                        env=clean_environment(JAX_NUM_CPU_DEVICES=str(devices), **own),
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                    )
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._logs.cleanup()

    def wait_for(self, text: str, index: int | None = None, timeout: float = 60) -> None:
        """Waits until a process, or every one, has printed a text."""
        waiting = set(range(len(self._processes)) if index is None else [index])
        until = time.monotonic() + timeout
        while waiting := {one for one in waiting if text not in self.out(one)}:
            for one in sorted(waiting):
                if self._processes[one].poll() is not None and text not in self.out(one):
                    code = self._processes[one].returncode
                    raise AssertionError(f"process {one} ended with {code} before {text!r}: {self.err(one)}")
            if time.monotonic() > until:
                raise AssertionError(f"no {text!r} from {sorted(waiting)}: {list(map(self.err, sorted(waiting)))}")
            time.sleep(0.02)

    def send(self, number: signal.Signals, *indices: int) -> None:
        """Sends a signal to some processes, or to all."""
        for index in indices or range(len(self._processes)):
            self._processes[index].send_signal(number)
        self._last = time.monotonic()

    def over(self, count: int = 1) -> bool:
        """Tells whether some have ended."""
        return sum(process.poll() is not None for process in self._processes) >= count

    def pid(self, index: int) -> int:
        """Returns a process's number."""
        return self._processes[index].pid

    def out(self, index: int) -> str:
        """Returns what a process has printed so far."""
        return Path(self._log(index, "out")).read_text()

    def err(self, index: int) -> str:
        """Returns what a process has printed on standard error so far."""
        return Path(self._log(index, "err")).read_text()

    def wait_for_ends(self, count: int, timeout: float = 60) -> None:
        """Waits until some have ended.

        Raises:
            AssertionError: they have not.
        """
        until = time.monotonic() + timeout
        while len(self._ends) < count:
            for index, process in enumerate(self._processes):
                if index not in self._ends and process.poll() is not None:
                    self._ends[index] = time.monotonic()
            if time.monotonic() > until:
                left = [index for index in range(len(self._processes)) if index not in self._ends]
                raise AssertionError(f"not ended: {left}: {[(self.out(one), self.err(one)) for one in left]}")
            time.sleep(0.02)

    def end(self, timeout: float = 60) -> list[Ended]:
        """Waits until all have ended; returns how, by index.

        Raises:
            AssertionError: some have not.
        """
        self.wait_for_ends(len(self._processes), timeout)
        return [
            Ended(process.returncode, self.out(index), self.err(index), self._ends[index] - self._last)
            for index, process in enumerate(self._processes)
        ]

    def _log(self, index: int, stream: str) -> str:
        return f"{self._logs.name}/{index}.{stream}"
