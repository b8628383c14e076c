"""Pods that are struck: one process of them is, all end, and another number of them goes on."""

import random
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.pod.processes import FLAGS, Processes
from tests.pod.processes import Ended as End
from tests.robustness.blows import LONGEST_STOP, Blow, Ended, strike, unsaved, wait_for, words

KEPT = "finished stages and checkpoints are kept; start all again"
UNMET = 15.0
"""Seconds after which whoever waits for a process that was struck before they had met is struck, too."""


@dataclass(frozen=True)
class PodEnded(Ended):
    """How a pod ended; as an `Ended`, its process 0 did.

    Attributes:
        ends: of all processes.
        victim: which was struck.
        met: they had met before that.
    """

    ends: tuple[End, ...] = ()
    victim: int = 0
    met: bool = True


class Pods:
    """Experiments of several processes, that spread members only.

    Args:
        scenarios: settings by name.
        most: processes of the first launch; of later ones 1 to `most`.
        rng: decides how many, and who is struck.

    Attributes:
        besides: fields of records that name the mesh, and so differ.
    """

    besides = ("execution",)

    def __init__(self, scenarios: Mapping[str, dict[str, object]], most: int, rng: random.Random):
        self._scenarios, self._most, self._rng = scenarios, most, rng
        self._size = most

    def launch(self, workdir: Path, scenario: str, cache: Path, blow: Blow | None = None) -> PodEnded:
        """Starts a pod and strikes one of its processes.

        Args:
            workdir: the experiment's.
            scenario: a key of the scenarios.
            cache: where compiled programs are kept, and what else a user keeps.
            blow: when to strike; None: never.
        """
        size, self._size = self._size, self._rng.randint(1, self._most)
        victim = self._rng.randrange(size)
        command = words(workdir, self._scenarios[scenario], execution=f"{size}x1:map")
        started = time.monotonic()
        with Processes(size, [*command, *FLAGS, "--heartbeat=5"], environment={"XDG_CACHE_HOME": str(cache)}) as pod:
            struck = blow is not None and wait_for(pod.over, workdir, blow)
            first, met = time.monotonic(), True
            if struck:
                strike(lambda number: pod.send(number, victim), blow)
                met = self._all_end(pod, size, first)
            ends = tuple(pod.end(600))
        ended = time.monotonic()
        leader = ends[0]
        # A blow may come when all have just ended.
        struck = struck and not (all(end.code == 0 for end in ends) and blow.signals[0] == signal.SIGKILL)
        times = (ended - started, ended - first)
        return PodEnded(leader.code, struck, *times, leader.out, leader.err, ends, victim, met)

    @staticmethod
    def _all_end(pod: Processes, size: int, struck: float) -> bool:
        """Returns whether all had met; where they had not, those who wait are struck, too, as a scheduler does."""
        while not pod.over(size):
            if time.monotonic() - struck > UNMET and not _has_begun(pod.out(0)):
                pod.send(signal.SIGKILL)
                return False
            if time.monotonic() - struck > 3 * LONGEST_STOP:
                pod.send(signal.SIGKILL)
            time.sleep(0.02)
        return _has_begun(pod.out(0))

    def judge(self, ended: PodEnded, blow: Blow) -> Iterator[str]:
        """Yields what was wrong with the way a struck pod ended."""
        for index, end in enumerate(ended.ends):
            if "Traceback" in end.err + end.out:
                yield f"a traceback of process {index}: {end.err[-600:]!r}"
        if not ended.met:
            return
        if ended.stopping > LONGEST_STOP:
            yield f"took {ended.stopping:.1f} s to end"
        killed = blow.signals[0] == signal.SIGKILL
        for index, end in enumerate(ended.ends):
            yield from self._after_a_kill(ended, index, end) if killed else self._after_a_stop(blow, index, end)
        if not killed and len(blow.signals) == 1 and ended.code == 128 + blow.signals[0]:
            yield from unsaved(ended.out)

    @staticmethod
    def _after_a_kill(ended: PodEnded, index: int, end: End) -> Iterator[str]:
        if index == ended.victim:
            if end.code not in (0, -signal.SIGKILL):
                yield f"process {index}: exit code {end.code} after SIGKILL, {end.err[-300:]!r}"
        elif end.code == 1:
            # When process 0 is gone, JAX begins to say so in its own way.
            lines = [line for line in end.err.splitlines() if line.startswith("error: ")]
            if len(lines) != 1 or not lines[0].startswith(f"error: process {ended.victim} (") or KEPT not in lines[0]:
                yield f"process {index} does not say that process {ended.victim} is gone: {end.err[-300:]!r}"
        elif end.code != 0:
            yield f"process {index}: exit code {end.code}, {end.err[-300:]!r}"

    @staticmethod
    def _after_a_stop(blow: Blow, index: int, end: End) -> Iterator[str]:
        codes = {128 + number for number in blow.signals}
        # After its last line a process may as well end by the signal itself.
        if end.code not in codes | {-number for number in blow.signals} | {0}:
            yield f"process {index}: exit code {end.code}, {end.err[-300:]!r}"
        if end.code in codes and len(blow.signals) == 1 and len(end.err.splitlines()) > 1:
            yield f"process {index}: more than one line: {end.err[-300:]!r}"


def _has_begun(out: str) -> bool:
    """Tells by process 0's output whether all have met."""
    return any(not line.startswith("waiting for ") for line in out.splitlines())
