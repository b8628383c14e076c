"""One run at a time for whatever is made, on one machine or on several that share a disk."""

import contextlib
import enum
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ssoup_jax.errors import RunError
from ssoup_jax.pod import ALONE, Pod

_POLL_SECONDS = 0.5
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class _Taken(enum.Enum):
    """Whether a lock was taken; unknown where the file system knows no locks."""

    YES = enum.auto()
    NO = enum.auto()
    UNKNOWN = enum.auto()


@dataclass(frozen=True)
class Holder:
    """Who wrote their name into a lock file.

    Attributes:
        host: the machine's name.
        pid: the process there.
        since: local time as ISO text.
    """

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def may_live(self) -> bool:
        """False where the process is known to be gone; of other machines nothing is known."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
        return True


@contextlib.contextmanager
def hold(
    paths: Iterable[Path],
    on_wait: Callable[[str], None],
    poll_seconds: float = _POLL_SECONDS,
    pod: Pod = ALONE,
    wait: bool = True,
) -> Iterator[bool]:
    """Holds locks; waits for other runs that hold one, until a signal ends the wait.

    A lock dies with its holder, however that ends. What was to be done may have been done by the other run meanwhile,
    so look again once the locks are held.

    Args:
        paths: the lock files; they and their folders are made where they are not there.
        on_wait: told in one line whom is waited for, once per lock, or that the file system knows no locks.
        poll_seconds: how often a held lock is tried again.
        pod: the processes of this run; process 0 holds the locks for all.
        wait: False: give up, and hold none, where another run holds one.

    Yields:
        Whether they are held.

    Raises:
        RunError: a lock file cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with pod.patient():  # another run may take days
            held = pod.first(lambda: _take(paths, on_wait, poll_seconds, stack, wait))
        if not held:
            stack.close()
        yield held


def holder(path: Path) -> Holder | None:
    """Reads who signed a lock file last and has not released it; None when nobody has, or it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            content = json.loads(os.read(descriptor, 1000))
        finally:
            os.close(descriptor)
    except (OSError, ValueError, RecursionError):
        return None
    match content:
        case {"host": str(host), "pid": int(pid), "since": str(since)} if type(pid) is int and 0 < pid < 2**31:
            return Holder(ascii(host)[1:-1], pid, ascii(since)[1:-1])
    return None


def _take(
    paths: Iterable[Path], on_wait: Callable[[str], None], poll_seconds: float, stack: contextlib.ExitStack, wait: bool
) -> bool:
    """Takes all locks; `stack` releases them. False: another run holds one, and is not waited for."""
    # Two processes that want the same locks in different orders would wait for each other forever.
    for path in sorted(set(paths)):
        try:
            descriptor = _open(path)
        except OSError as error:
            raise RunError(f"{path}: cannot be locked: {error.strerror}") from None
        stack.callback(os.close, descriptor)
        taken = _acquire(descriptor, path, on_wait, poll_seconds if wait else None)
        if taken is _Taken.NO:
            return False
        if taken is _Taken.UNKNOWN:
            break
        stack.callback(_release, descriptor)
        _sign(descriptor)
    return True


def _open(path: Path) -> int:
    # A lock file stays for good. Were it removed on release, a process that had opened it before would lock a file
    # without a name while a third makes and locks a new one, and both would believe to be alone.
    path.parent.mkdir(parents=True, exist_ok=True)
    # For writing, because NFS maps `flock` to a lock that asks for it.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _acquire(descriptor: int, path: Path, on_wait: Callable[[str], None], poll_seconds: float | None) -> _Taken:
    """Waits for a lock, or, without seconds between one look and the next, looks once."""
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _Taken.YES
        except OSError as error:
            if error.errno in _NO_LOCKS:
                on_wait(
                    f"warning: {path.parent} is on a file system without locks ({error.strerror}); "
                    "run one process at a time there"
                )
                return _Taken.UNKNOWN
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
                raise RunError(f"{path}: cannot be locked: {error.strerror}") from None
        if poll_seconds is None:
            return _Taken.NO
        if not told:
            told = True
            on_wait(f"waiting for {path.stem}: held by {holder(path) or 'another process'}")
        # Polled, because a blocking flock is restarted after a signal and waits on.
        time.sleep(poll_seconds)


def _sign(descriptor: int) -> None:
    """Writes who holds the lock; for people only, so a full disk does not matter."""
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _release(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
    # Said, not left to close: a forked child may have the descriptor too.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
