"""Standard output and error that cannot end a run: what cannot be written is left out, and said in the end."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator


class Lasting(io.TextIOBase):
    """A text stream that writes at once, and goes on where that fails: its reader is gone, or the disk is full.

    It tries again at every write, for a disk may have room again. Characters that the encoding does not have are
    written as Python's escapes.

    Attributes:
        encoding: the name of its encoding.
        lost: lines that could not be written.
        problem: why the latest of them could not; None: nothing was lost.
    """

    encoding = ""  # an attribute without a setter in the base class

    def __init__(self, descriptor: int, encoding: str):
        self._descriptor = descriptor
        self.encoding = encoding
        self.lost = 0
        self.problem: str | None = None

    def write(self, text: str) -> int:
        """Writes a text, or counts its lines as lost."""
        rest = text.encode(self.encoding, "backslashreplace")
        try:
            while rest:
                rest = rest[self._write(rest) :]
        except OSError as error:
            self.lost += text.count("\n")
            self.problem = error.strerror
        return len(text)

    def _write(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # somebody else has set the pipe or the terminal to that
                select.select((), (self._descriptor,), ())

    def fileno(self) -> int:
        """Returns the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tells whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Tells that it can be written to."""
        return True


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Puts streams that cannot fail in the place of standard output and error; for the whole of a process.

    In the end one line on standard error says what is missing in standard output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # A file that is opened later would get the number of the closed stream, and what is printed with it.
            os.open(os.devnull, os.O_RDWR)
    out, err = (
        Lasting(descriptor, getattr(stream, "encoding", None) or "utf-8")
        for descriptor, stream in ((1, sys.stdout), (2, sys.stderr))
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            if out.problem:
                print(f"standard output: {out.lost} lines could not be written ({out.problem})", file=sys.stderr)
