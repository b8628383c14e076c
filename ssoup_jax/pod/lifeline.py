"""Who of a pod is there: each process holds a connection to process 0, which notices and tells all when one goes.

A killed process is noticed at once, since its system closes the connection; a host that is lost or a process that is
held, when it has not been heard of for a while; one that lives but does not go on, by the count of what it has done.
"""

import contextlib
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ssoup_jax.pod.leave import say
from ssoup_jax.pod.meet import name

KEPT = "finished stages and checkpoints are kept; start all again"

_LONGEST_BEAT = 5.0
_FAREWELL = 3.0
_SEND_SECONDS = 2.0
_GONE = 1  # exit code


@dataclass
class Progress:
    """What a process has done so far, as far as all of them do the same.

    Attributes:
        count: of the calls in which processes agree on something.
        patient: how many reasons there are for not going on for long.
    """

    count: int = 0
    patient: int = 0


@dataclass
class _Other:
    """Another process of the pod, as its connection shows it."""

    connection: socket.socket
    heard: float
    parted: bool = False  # it has said good-bye
    lost: bool = False  # nothing more will be heard of it
    unread: bytes = b""


@dataclass
class Lifeline:
    """The connections of a pod, once it has met. Its thread ends the process when another is gone.

    Args:
        index: this process.
        hosts: the name of each one's host.
        sockets: to the others, by index.
        heartbeat: seconds without a word after which a process is taken for gone.
        stall: seconds after which a process that does not go on is taken for stuck; None: never.
        progress: this process's.
    """

    index: int
    hosts: tuple[str, ...]
    sockets: Mapping[int, socket.socket]
    heartbeat: float
    stall: float | None = None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self):
        now = time.monotonic()
        self.asked: str | None = None
        """In process 0: what some process was asked for by `ask`, the first."""
        self._others = {index: _Other(connection, now) for index, connection in self.sockets.items()}
        self._counts = {index: (0, now) for index in range(len(self.hosts))}
        self._sending, self._ending = threading.Lock(), threading.Lock()
        self._leaving = self._parting = False
        self._over = threading.Event()
        self._judged = now
        for connection in self.sockets.values():
            connection.settimeout(_SEND_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Starts to listen and to be heard."""
        threading.Thread(target=self._run, name="lifeline", daemon=True).start()

    def ask(self, what: str) -> None:
        """Lets process 0 know what this process was asked for; it is there `asked`."""
        if self.index:
            self._tell({"asked": what})
        else:
            self.asked = self.asked or what

    def leave(self, code: int, line: str, told: str) -> NoReturn:
        """Ends this process, and with it all others.

        Args:
            code: everyone's exit code.
            line: for this process's standard error; empty: none.
            told: for that of the others.
        """
        with self._ending:
            first, self._leaving = not self._leaving, True
        if not first:
            threading.Event().wait()  # for the end that has begun
        self._tell({"left": code, "line": told})
        say(line)
        # Process 0 goes last, so that nobody misses it before having heard why; the others go when they are heard.
        self._over.wait(_FAREWELL)
        os._exit(code)

    def echo(self, seconds: float) -> None:
        """Waits for word of another's end, which ends this process, too."""
        time.sleep(seconds)
        if self._leaving:
            threading.Event().wait()

    def part(self) -> None:
        """Says good-bye, when this process has done what there is to do; from here on nobody is missed.

        Process 0 waits until the others have said so, too, and they until it has heard it.
        """
        self._parting = True
        if self.index:
            self._tell({"bye": True})
        if not self._all_parted():
            self._over.wait(self.heartbeat if self.index else None)

    def outlast(self) -> None:
        """Waits, as process 0 and after `part`, until the others have ended: they would miss JAX's service in it."""
        until = time.monotonic() + _FAREWELL
        self._over.wait(_FAREWELL)
        for connection in () if self.index else self.sockets.values():
            with contextlib.suppress(OSError):
                connection.settimeout(max(0.01, until - time.monotonic()))
                while connection.recv(1 << 16):
                    connection.settimeout(max(0.01, until - time.monotonic()))

    def _all_parted(self) -> bool:
        return all(other.parted or other.lost for other in self._others.values())

    def _run(self) -> None:
        pause = min(_LONGEST_BEAT, self.heartbeat / 4)
        with selectors.DefaultSelector() as selector:
            for index, other in self._others.items():
                selector.register(other.connection, selectors.EVENT_READ, index)
            due = 0.0
            while not all(other.lost for other in self._others.values()):
                for key, _ in selector.select(max(0.0, due - time.monotonic())):
                    if not self._read(key.data):
                        selector.unregister(key.fileobj)
                if self._parting and self._all_parted():
                    break
                if time.monotonic() >= due:
                    due = time.monotonic() + pause
                    self._tell({"beat": None if self.progress.patient else self.progress.count})
                    self._judge()
        self._over.set()

    def _read(self, index: int) -> bool:
        """Takes what another process says; False: it has said its last."""
        other = self._others[index]
        try:
            said = other.connection.recv(1 << 16)
        except TimeoutError:
            return True
        except OSError:
            said = b""
        if not said:
            other.lost = True
            if not other.parted:
                self._missed([index], "is gone")
            return False
        other.heard = time.monotonic()
        *lines, other.unread = (other.unread + said).split(b"\n")
        for line in lines:
            self._take(index, json.loads(line))
        return True

    def _take(self, index: int, message: dict[str, Any]) -> None:
        match message:
            case {"beat": count}:
                self._note(index, count)
            case {"asked": str(what)}:
                self.ask(what)
            case {"bye": _}:
                self._others[index].parted = True
                if not self.index:
                    self._tell({"bye": True}, index)
            case {"left": int(code), "line": str(line)}:
                self._end(code, line)

    def _note(self, index: int, count: int | None) -> None:
        known, _ = self._counts[index]
        if count is None or count != known:
            self._counts[index] = (known if count is None else count, time.monotonic())

    def _judge(self) -> None:
        now = time.monotonic()
        held, self._judged = now - self._judged > self.heartbeat / 2, now
        if held:  # this process itself: it has not heard what was said meanwhile
            return
        known = {index: other for index, other in self._others.items() if not other.lost}
        if silent := [index for index, other in known.items() if now - other.heard > self.heartbeat]:
            for index in silent:
                known[index].lost = True
            self._missed(silent, f"is gone: no word for {self.heartbeat:g} s")
        if self.index or self.stall is None:
            return
        self._note(0, None if self.progress.patient else self.progress.count)
        fewest = min(count for count, _ in self._counts.values())
        behind = [index for index, (count, _) in self._counts.items() if count == fewest]
        if all(now - self._counts[index][1] > self.stall for index in behind):
            minutes = f"{self.stall / 60:g} minutes"
            if len(behind) == len(self.hosts):
                self._end(_GONE, f"error: no process has gone on for {minutes}; {KEPT}")
            else:
                self._missed(behind, f"has not gone on for {minutes}")

    def _missed(self, indices: list[int], what: str) -> None:
        others = f" (and {len(indices) - 1} more)" if len(indices) > 1 else ""
        self._end(_GONE, f"error: {name(indices[0], self.hosts[indices[0]])} {what}{others}; {KEPT}")

    def _end(self, code: int, line: str) -> None:
        if self.index:
            self._over.set()  # process 0 knows, or is gone
        if self._leaving or self._parting:
            return
        if self.index:
            self.leave(code, line, line)
        # Not in this thread, which has to hear the others leave.
        threading.Thread(target=self.leave, args=(code, line, line), daemon=True).start()

    def _tell(self, message: dict[str, Any], *indices: int) -> None:
        said = json.dumps(message).encode() + b"\n"
        with self._sending:
            for index in indices or self._others:
                # Who does not hear is missed by whoever listens.
                with contextlib.suppress(OSError):
                    self._others[index].connection.sendall(said)
