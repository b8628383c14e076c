"""Stopping when asked to: a signal ends a run at once, and where something is being saved, right after that.

In a pod a signal to any of its processes is one to all: they stop after the same step, or all end at once.

Exit codes are 128 and the signal's number, as a shell gives to what a signal ends: 143 after SIGTERM, 130 after SIGINT.
"""

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NoReturn, Self

from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.pod.leave import leave

ALWAYS = ("SIGTERM", "SIGINT", "SIGHUP")
"""The signals that ask every run to stop."""

_ECHO_SECONDS = 0.1


class Stopped(BaseException):
    """A run that was asked to stop and did; raised by `Stop.now` and by nothing else.

    Not an Exception: code on the way out that goes on after any Exception is not to go on after this one.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: signal.Signals):
        super().__init__(
            f"stopped by {number.name}: finished stages and checkpoints are kept; the same command goes on from there"
        )
        self.number = number


class Stop:
    """Ends the process when a signal asks for it; a context manager.

    Outside of `saving` the first signal ends the process at once, with one line. Inside it is only noted: the code
    there asks for it, saves, and calls `now`. A second signal ends the process on the spot.

    Signals are received by a thread of their own. The main thread is never interrupted, so no library has to bear an
    error that is raised in the middle of it, and it does not have to come back from a compilation to be ended.

    Only in the main thread, and only signals that are not ignored; elsewhere it does nothing.

    Attributes:
        requested: the signal that came, to this process or as agreed; None: go on.
    """

    def __init__(self):
        self.requested: signal.Signals | None = None
        self._pod = ALONE
        self._since: float | None = None  # when this process got its first signal
        self._saving = 0
        # Held while a signal is acted upon, and where the main thread changes what is done then: there it waits for an
        # end that has begun.
        self._deciding = threading.Lock()
        self._previous: dict[signal.Signals, object] = {}
        self._receiver: threading.Thread | None = None
        self._pipe = self._previous_pipe = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            received, self._pipe = os.pipe()
            os.set_blocking(self._pipe, False)  # as Python wants it
            self._previous_pipe = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
            self._receiver = threading.Thread(target=self._receive, args=(received,), name="stop", daemon=True)
            self._receiver.start()
            self.listen(ALWAYS)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Stopped):
            self._leave_together(error.number)
        if self._receiver is None:
            return
        with self._deciding:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._previous_pipe)
        os.close(self._pipe)
        self._receiver.join()

    def listen(self, names: Iterable[str]) -> None:
        """Lets more signals ask for a stop.

        Args:
            names: such as `'SIGUSR1'`.
        """
        for number in (signal.Signals[name] for name in names):
            # None: not Python's to restore. Ignored: what `nohup` and background jobs of a shell ask for.
            if self._receiver is not None and signal.getsignal(number) not in (None, signal.SIG_IGN):
                self._previous.setdefault(number, signal.getsignal(number))
                signal.signal(number, _received_elsewhere)

    def share(self, pod: Pod) -> None:
        """Makes a stop of this process one of its pod."""
        self._pod = pod

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Lets the code inside decide when to stop; after its end, a signal that it did not see ends the process.

        All processes of a pod go in and out alike, and wait for each other before they go out.
        """
        with self._deciding:
            self._saving += 1
        unseen = False
        try:
            yield
            if self._saving == 1:
                self._pod.wait()
                unseen = self._agreed()
        finally:
            with self._deciding:
                self._saving -= 1
        if unseen:
            self._leave_together(self.requested)
        if not self._saving and self.requested is not None:  # since process 0 was asked
            self._leave(self.requested)

    def asked(self) -> bool:
        """Tells whether a signal has asked for a stop; the same in all processes of a pod, which all ask."""
        return self._agreed()

    def _agreed(self) -> bool:
        name = self._pod.first(lambda: self.requested.name if self.requested else self._pod.asked())
        if name is not None:
            self.requested = signal.Signals[name]
        return name is not None

    def now(self) -> NoReturn:
        """Ends a run that was asked to stop, once what is worth it is saved.

        Raises:
            Stopped: always; at the end of this context it ends the process.
        """
        raise Stopped(self.requested)

    def _receive(self, pipe: int) -> None:
        while received := os.read(pipe, 1):
            if received[0] in self._previous:
                with self._deciding:
                    self._act(signal.Signals(received[0]))
        os.close(pipe)

    def _act(self, number: signal.Signals) -> None:
        if self._since is None:
            self.requested, self._since = self.requested or number, time.monotonic()
            _let_go_of_lost_terminals()
            if self._saving:
                self._pod.ask(number.name)
            else:
                self._leave(number)
        # A terminal that closes and what passes signals on to its children send one twice, and a limit of CPU time
        # sends its signal every second: neither is impatience.
        elif number != signal.SIGXCPU and time.monotonic() - self._since > _ECHO_SECONDS:
            self._pod.leave(128 + number)

    def _leave(self, number: signal.Signals) -> NoReturn:
        self._pod.leave(128 + number, str(Stopped(number)))

    def _leave_together(self, number: signal.Signals) -> NoReturn:
        self._pod.part()  # or the first to go would be missed
        self._pod.outlast()
        leave(128 + number, str(Stopped(number)) if self._pod.leads else "")


def _let_go_of_lost_terminals() -> None:
    """Whoever saves goes on printing; where the terminal was closed, each line would be an error."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError as error:
            if error.errno != errno.EIO:
                continue
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _received_elsewhere(number: int, frame: FrameType | None) -> None:
    """Has to be there for Python to pass the signal on to the thread that receives it."""
