"""The end of a process without any clean-up.

Python's own clean-up is no place to be in while XLA still computes in its threads, where it can crash, or while JAX
waits minutes for the other processes of a pod.
"""

import contextlib
import os
import select
import sys
import threading
from typing import NoReturn

_SHOW_CURSOR = b"\x1b[?25h\n"


def leave(code: int, line: str = "") -> NoReturn:
    """Ends the process.

    Args:
        code: its exit code.
        line: for standard error; empty: none.
    """
    say(line)
    os._exit(code)


def say(line: str) -> None:
    """Prints the last line of a process, and what was printed before, and gives a terminal its cursor back."""
    if line:
        # First of all: a library that ends the process, too, may be about to say so at length.
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [2], [], 1.0)[1]:  # a terminal may be held, and a pipe may be full
                os.write(2, f"{line}\n".encode())
    # In a thread and not for long: the main thread may hold a stream's lock, and nobody may read.
    last = threading.Thread(target=_flush, daemon=True)
    last.start()
    last.join(1.0)


def _flush() -> None:
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)  # a live progress bar hides it
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
