"""Stopping when asked to: SIGTERM and Ctrl-C end a run after a checkpoint; asked twice, at once.

Exit codes: 143 after SIGTERM, 130 after SIGINT, as a shell gives to what a signal ends.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Self

import jax

_SHOW_CURSOR = b"\x1b[?25h\n"


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop and did.

    Not an Exception: it may be raised anywhere, also inside of code that goes on after any Exception.

    Attributes:
        exit_code: 128 and the signal's number.
    """

    def __init__(self, name: str):
        super().__init__(
            f"stopped by {name}: finished stages and checkpoints are kept; the same command goes on from there"
        )
        self.exit_code = 128 + signal.Signals[name]


class Preemption:
    """Turns the first SIGTERM or SIGINT into a stop at the next good place; a context manager.

    Outside of `deferred` every place is good, and `Stopped` is raised at once; again a moment later, if that was in a
    callback whose errors Python only prints. A second signal ends the process on the spot. Only in the main thread, and
    only signals that are not ignored; elsewhere it does nothing.

    With `jax.distributed` SIGTERM is left to JAX, whose service lets all processes stop after the same step; that is
    seen inside training loops only, through `reached`. SIGINT is handed on as SIGTERM there.

    Attributes:
        requested: name of the signal that came; None: go on.
    """

    def __init__(self):
        self.requested: str | None = None
        self._distributed = jax.distributed.is_initialized()
        self._deferred = 0
        self._raised = False
        self._lost = False
        self._unraisable = sys.unraisablehook
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            own = (signal.SIGINT,) if self._distributed else (signal.SIGTERM, signal.SIGINT)
            for number in own:
                # None: not Python's to restore. Ignored: what `nohup` and background jobs of a shell ask for.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._on_signal)
            if self._previous:
                self._unraisable, sys.unraisablehook = sys.unraisablehook, self._on_unraisable
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(error[1], Stopped):
            # The process is about to end; a second signal is still to end it at once, not to interrupt its clean-up.
            return
        if self._raised and isinstance(error[1], Exception):
            # A library caught the stop and went on without what it was doing.
            raise Stopped(self.requested) from error[1]
        if self._previous:
            sys.unraisablehook = self._unraisable
        while self._previous:
            signal.signal(*self._previous.popitem())

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Keeps the first signal from raising: the code inside asks `reached`, saves, and calls `stop`.

        Raises:
            Stopped: at the end, when the signal came too late for the code inside to see it.
        """
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if not self._deferred and not self._distributed:
            self.stop()

    def reached(self, step: int) -> bool:
        """Tells whether to stop after this step; with several processes all are told so at the same step.

        Args:
            step: grows from call to call within the process; with several processes, equal in all of them.
        """
        if self._distributed:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.requested = self.requested or signal.SIGTERM.name
                return True
            return False
        return self.requested is not None

    def stop(self) -> None:
        """Ends the run if a signal asked for it.

        Raises:
            Stopped: one did.
        """
        if self.requested is not None:
            raise Stopped(self.requested)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._lost:
            self._lost = False
            if not self._deferred:
                self.stop()
            return
        if self.requested is not None:
            leave(128 + number)
        self.requested = signal.Signals(number).name
        if self._distributed:
            os.kill(os.getpid(), signal.SIGTERM)
        elif not self._deferred:
            self._raised = True
            self.stop()

    def _on_unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not isinstance(error, Stopped):
            self._unraisable(unraisable)
            return
        # From a thread: a signal that came right now would be handled, and lost again, in here.
        self._lost = True
        number = error.exit_code - 128
        again = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, number))
        again.daemon = True
        again.start()


def leave(code: int) -> None:
    """Ends the process without any clean-up but a usable terminal.

    Python's own clean-up is no place to be in while XLA still computes in its threads: it can crash there.

    Args:
        code: the exit code.
    """
    # In a thread and not for long: the signal may have come while this thread holds the stream's own lock.
    last = threading.Thread(target=_flush, daemon=True)
    last.start()
    last.join(1.0)
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
            if stream.isatty():
                os.write(stream.fileno(), _SHOW_CURSOR)  # a live progress bar hides it
