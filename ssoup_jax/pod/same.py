"""What has to be the same in all processes of a pod is compared before anything is made of it."""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssoup_jax.errors import SettingsError
from ssoup_jax.pod.agree import Pod

_SHOWN = 100  # characters of a value; of a longer one, what it hashes to
_VISIBLE_SECONDS = 15.0  # NFS shows a new file late
_POLL_SECONDS = 0.1


def check_same(pod: Pod, facts: Mapping[str, Any]) -> None:
    """Compares facts with those of process 0.

    Args:
        pod: all its processes call this.
        facts: what is to be the same, by the names under which people know it; values become JSON.

    Raises:
        SettingsError: some differ; names the first, and one process that has it. The same error in all processes.
    """
    own = {name: _short(value) for name, value in facts.items()}
    led = pod.agree(own)
    found = next((name for name in [*led, *own] if own.get(name) != led.get(name)), None)
    differences = pod.everyone([found, own.get(found, "nothing")])

    def judge() -> None:
        for index, (name, value) in enumerate(differences):
            if name is not None:
                other = led.get(name, "nothing")
                raise SettingsError(f"{name}: {pod.named(index)} has {value}, and {pod.named(0)} has {other}")

    pod.first(judge)


def check_shared(pod: Pod, workdir: Path, seconds: float = _VISIBLE_SECONDS) -> None:
    """Sees to it that all processes have the same workdir: that they see a file that process 0 writes there.

    Args:
        pod: all its processes call this.
        workdir: made by process 0 where it is not there.
        seconds: how long a file may take to be seen.

    Raises:
        SettingsError: it is not, or cannot be written to. The same error in all processes.
    """
    if pod.size == 1:
        return
    mark = workdir / pod.first(lambda: _leave_mark(workdir))
    # Not looked for before it is there: NFS remembers for a while what it did not find.
    until = time.monotonic() + seconds
    while not (seen := mark.exists()) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    everyone = pod.everyone([seen, str(workdir.absolute())])

    def judge() -> None:
        with contextlib.suppress(OSError):
            mark.unlink()
        for index, (seen, where) in enumerate(everyone):
            if not seen:
                raise SettingsError(
                    f"workdir: {where} of {pod.named(index)} does not show what {pod.named(0)} writes to "
                    f"{everyone[0][1]}; it has to be one folder of a disk that all hosts share"
                )

    pod.first(judge)


def _leave_mark(workdir: Path) -> str:
    mark = workdir / f".pod-{secrets.token_hex(8)}"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        mark.write_text("")
    except OSError as error:
        raise SettingsError(f"workdir: cannot write to {workdir}: {os.strerror(error.errno)}") from None
    return mark.name


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _SHOWN else f"something of SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"
