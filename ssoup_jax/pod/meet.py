"""The processes of a pod meet at process 0, before JAX starts: whatever does not fit is one line in all of them.

JAX's own service ends the process from inside, after a trace of C++, where a process is missing, comes twice or finds
the port taken. So the processes meet here first, and the connections stay, as their lifelines.
"""

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ssoup_jax.errors import RunError, SettingsError, UserError, one_line
from ssoup_jax.pod.place import Place

PATIENCE = 300.0
"""Seconds that processes wait for each other; JAX's own figure."""

_TELL = 15.0
_GREETING_SECONDS = 5.0
_LATE_SECONDS = 5.0
_LONGEST = 1 << 20
_KINDS = {kind.__name__: kind for kind in (SettingsError, RunError)}


def as_message(error: UserError) -> dict[str, str]:
    """Returns an error as a message to other processes."""
    return {"error": type(error).__name__, "line": str(error)}


def error_of(message: Any) -> UserError | None:
    """Returns the error of a message, see `as_message`; None: it is another one."""
    match message:
        case {"error": kind, "line": line}:
            return _KINDS.get(kind, RunError)(line)
    return None


@dataclass(frozen=True)
class Met:
    """Processes that have met.

    Attributes:
        hosts: the name of each one's host.
        port: a free port of process 0's host, for JAX's own service.
        sockets: the connections of this process, by the other's index: process 0 has one to each, each one to it.
    """

    hosts: tuple[str, ...]
    port: int
    sockets: dict[int, socket.socket]


def name(index: int, host: str) -> str:
    """Spells a process: `'process 3 (node4)'`."""
    return f"process {index} ({host})"


def meet(place: Place, versions: Mapping[str, str], on_wait: Callable[[str], None], seconds: float = PATIENCE) -> Met:
    """Waits until all processes of a pod are there.

    Args:
        place: this process's.
        versions: of what has to be the same everywhere, by name.
        on_wait: told in one line who is waited for, after some time, in process 0.
        seconds: how long processes wait for each other.

    Returns:
        The same in all processes, but for the sockets.

    Raises:
        SettingsError: the processes do not fit together; all get the same line.
        RunError: some did not come.
    """
    greeting = {"index": place.index, "size": place.size, "host": socket.gethostname(), "versions": dict(versions)}
    until = time.monotonic() + seconds
    return _join(place, greeting, until, seconds) if place.index else _gather(place, greeting, on_wait, until, seconds)


def connect(host: str, port: int, until: float) -> socket.socket:
    """Connects to a port that somebody is about to listen at.

    Args:
        host: whose.
        port: which.
        until: when to give up, in `time.monotonic`'s seconds.

    Raises:
        OSError: the last reason.
    """
    while True:
        try:
            return socket.create_connection((host, port), _GREETING_SECONDS)
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


def _gather(place: Place, own: dict[str, Any], on_wait: Callable[[str], None], until: float, seconds: float) -> Met:
    """Waits, as process 0, for the others."""
    came: list[_Guest] = []
    with _listen(place.port) as server:
        try:
            _let_in(server, place, own, came, on_wait, until, seconds)
        except UserError as error:
            _turn_away(server, place.size, came, error)
            raise
    came.sort(key=lambda guest: guest.index)
    hosts = (own["host"], *(guest.host for guest in came))
    met = Met(hosts, free_port(), {guest.index: guest.connection for guest in came})
    for guest in came:
        with contextlib.suppress(OSError):  # who goes now is missed by the lifeline
            _send(guest.connection, {"hosts": met.hosts, "port": met.port})
    return met


@dataclass(frozen=True)
class _Guest:
    """Who has come to process 0."""

    connection: socket.socket
    index: int
    size: int
    host: str
    versions: dict[str, str]


def _let_in(
    server: socket.socket,
    place: Place,
    own: dict[str, Any],
    came: list[_Guest],
    on_wait: Callable[[str], None],
    until: float,
    seconds: float,
) -> None:
    """Adds to those who came until all have; who does not fit is added, too, and an error."""
    tell = min(until, time.monotonic() + _TELL)
    while missing := _missing(came, place.size):
        guest = _next(server, min(until, tell))
        if guest is None and tell >= until:
            raise RunError(
                f"{_listed(missing)} of {place.size} did not come to {place.host}:{place.port} within {seconds:g} s; "
                "start all again, each with the same --num_processes and --coordinator"
            )
        if guest is None:
            on_wait(f"waiting for {_listed(missing)} of {place.size} at {place.host}:{place.port}")
            tell = until
            continue
        if any(guest.index == before.index for before in came):
            _forget_gone(came)
        known = {0: own["host"]} | {before.index: before.host for before in came}
        came.append(guest)
        if problem := _misfit(own, guest, known):
            raise SettingsError(problem)


def _missing(came: list[_Guest], size: int) -> list[int]:
    if len(came) == size - 1:
        _forget_gone(came)
    return sorted(set(range(1, size)) - {guest.index for guest in came})


def _forget_gone(came: list[_Guest]) -> None:
    for guest in [guest for guest in came if _closed(guest.connection)]:
        guest.connection.close()
        came.remove(guest)


def _next(server: socket.socket, until: float) -> _Guest | None:
    """Returns the next process that comes; None: it is time."""
    while (left := until - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            connection, _ = server.accept()
        except TimeoutError:
            break
        with contextlib.suppress(OSError, TypeError):
            return _Guest(connection, **_receive(connection, _GREETING_SECONDS))
        connection.close()  # nobody of a pod: a scanner, a probe
    return None


def _turn_away(server: socket.socket, size: int, came: list[_Guest], error: UserError) -> None:
    """Tells those who came why there is no pod, and those who are on their way, if it was not they who kept it."""
    until, told = time.monotonic() + _LATE_SECONDS * isinstance(error, SettingsError), 0
    while guest := came.pop() if came else _next(server, until) if told < size - 1 else None:
        with contextlib.suppress(OSError), guest.connection:
            _send(guest.connection, as_message(error))
        told += 1


def _join(place: Place, greeting: dict[str, Any], until: float, seconds: float) -> Met:
    where = f"{place.host}:{place.port}"
    try:
        connection = connect(place.host, place.port, until)
    except OSError as error:
        why = f"{one_line(error)} for {seconds:g} s"
        raise RunError(f"--coordinator: process 0 is not found at {where}: {why}; it has to run there") from None
    try:
        _send(connection, greeting)
        # Longer than process 0 itself, which names who is missing.
        answer = _receive(connection, until + 2 * _GREETING_SECONDS - time.monotonic())
    except OSError:
        answer = None
    match answer:
        case {"hosts": hosts, "port": port}:
            return Met(tuple(hosts), port, {0: connection})
    connection.close()
    if error := error_of(answer):
        raise error
    raise RunError(f"process 0 at {where} is gone before all had come; start all again")


def _listen(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
    except OSError as error:
        raise SettingsError(
            f"--coordinator: port {port} of {socket.gethostname()} cannot be used: {os.strerror(error.errno)}; "
            "another pod may be there, or name another port"
        ) from None


def _misfit(own: dict[str, Any], guest: _Guest, hosts: Mapping[int, str]) -> str | None:
    here, there = name(0, own["host"]), name(guest.index, guest.host)
    if own["size"] != guest.size:
        return f"--num_processes: {there} was told {guest.size}, and {here} {own['size']}"
    if guest.index in hosts:
        return f"--process_id: {guest.index} is that of two processes, on {hosts[guest.index]} and on {guest.host}"
    for what in sorted(own["versions"] | guest.versions):
        mine, its = own["versions"].get(what), guest.versions.get(what)
        if mine != its:
            return f"{there} has {what} {its or 'not'}, and {here} {mine or 'not'}; install the same"
    return None


def _listed(indices: list[int], most: int = 8) -> str:
    shown = ", ".join(map(str, indices[:most]))
    return f"{'process' if len(indices) == 1 else 'processes'} {shown}{', ...' if len(indices) > most else ''}"


def free_port() -> int:
    """Returns a port of this host that nobody listens at."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _closed(connection: socket.socket) -> bool:
    try:
        return bool(select.select([connection], [], [], 0)[0]) and not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.settimeout(_GREETING_SECONDS)
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """Returns a message of one line; None: the connection ended, or says something else."""
    until, said = time.monotonic() + seconds, b""
    while not said.endswith(b"\n") and len(said) < _LONGEST:
        connection.settimeout(max(0.01, until - time.monotonic()))
        # Byte by byte: what comes after the line is the lifeline's.
        more = connection.recv(1)
        if not more:
            return None
        said += more
    try:
        message = json.loads(said)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
