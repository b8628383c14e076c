"""When and how an experiment is struck, and what everybody expects of whoever is."""

import glob
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMON = {"checkpoint_every": "3 steps", "stop_signals": "SIGUSR1", "goal_sparsity": 0.9, "n_phases": 2}
COMMON |= {"arch": "Simple"}
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

MOMENTS = {
    "checkpoint begun": "checkpoints/*/.step-*.partial",
    "checkpoint grows": "checkpoints/*/.step-*.partial/member-*",
    "checkpoint almost whole": "checkpoints/*/.step-*.partial/.manifest.json.*.tmp",
    "checkpoint in place": "checkpoints/*/step-*",
    "old checkpoint removed": "checkpoints/*/.*.removed",
    "stage begun": "artifacts/.*.partial",
    "artifact grows": "artifacts/.*.partial/state*",
    "artifact almost whole": "artifacts/.*.partial/manifest.json",
    "group written": "artifacts/.group-*.json",
    "artifact in place": "artifacts/[!.]*",
    "summary": "experiments/*",
}
"""What shows up in a workdir at moments worth a kill."""

LONGEST_STOP = 20.0
"""Seconds from a signal in training to the end: a chunk of steps and a checkpoint, on a busy machine and behind a
compilation."""

LONGEST_LEAVING = 5.0
"""Seconds from any other signal to the end: at once, or once a stage is stored; on a busy machine."""


@dataclass(frozen=True)
class Blow:
    """When an experiment is struck, and by what.

    Attributes:
        signals: one, or two in a row.
        moment: a key of `MOMENTS`; None: any time.
        count: how many such things have to show up since the start.
        delay: seconds from there, or from the start.
    """

    signals: tuple[signal.Signals, ...]
    moment: str | None
    count: int
    delay: float

    def __str__(self) -> str:
        at = f"{self.count}. {self.moment} + " if self.moment else ""
        return f"{'+'.join(number.name for number in self.signals)} at {at}{self.delay:.3f} s"


@dataclass(frozen=True)
class Ended:
    """How a launch ended.

    Attributes:
        code: exit code; negative: by a signal.
        struck: the blow fell before the end.
        seconds: from the start to the end.
        stopping: seconds from the first signal to the end.
        out: standard output.
        err: standard error.
    """

    code: int
    struck: bool
    seconds: float
    stopping: float
    out: str
    err: str


def words(workdir: Path, scenario: dict[str, object], **settings: object) -> list[str]:
    """Returns the command line of an experiment, behind Python's name."""
    given = COMMON | scenario | settings
    return [
        *("launch.py", "--config=configs/digits_sms.py", f"--workdir={workdir}"),
        *(f"--config.{name}={value}" for name, value in given.items()),
    ]


def draw(rng: random.Random, seconds: float) -> Blow:
    """Draws a blow: mostly SIGKILL, mostly while something is written.

    Args:
        rng: decides.
        seconds: what the experiment takes undisturbed.
    """
    once, twice = (rng.choice(STOPS),), (rng.choice(STOPS), rng.choice(STOPS))
    signals = rng.choices([(signal.SIGKILL,), once, twice], [14, 5, 1])[0]
    if rng.random() < 0.3:
        return Blow(signals, None, 0, rng.uniform(0, 1.2 * seconds))
    moment = rng.choice(list(MOMENTS))
    # What is waited for in vain strikes nothing, and the few things that are left show up once or twice.
    count = rng.randint(1, 6) if "checkpoint" in moment else rng.choices([1, 2], [3, 1])[0]
    return Blow(signals, moment, count, rng.choice([0, 0, rng.uniform(0, 0.05)]))


def wait_for(over: Callable[[], bool], workdir: Path, blow: Blow) -> bool:
    """Waits for a blow's moment; returns whether whoever is to be struck is there to see it.

    Args:
        over: tells whether a process has ended.
        workdir: where the moment shows.
        blow: whose.
    """
    if blow.moment is not None:
        # Unlike a path's own glob, this one bears folders that go away meanwhile.
        pattern = MOMENTS[blow.moment]
        old = seen = set(glob.glob(pattern, root_dir=workdir))
        while len(seen) < len(old) + blow.count:
            if over():
                return False
            seen = seen | set(glob.glob(pattern, root_dir=workdir))
            time.sleep(0.0005)
    until = time.monotonic() + blow.delay
    while time.monotonic() < until:
        if over():
            return False
        time.sleep(min(0.01, max(0.0, until - time.monotonic())))
    return not over()


def strike(send: Callable[[signal.Signals], object], blow: Blow) -> None:
    """Sends a blow's signals."""
    for index, number in enumerate(blow.signals):
        if index:
            time.sleep(0.2)
        send(number)


def unsaved(out: str) -> Iterator[str]:
    """Yields a line where training has stopped without a checkpoint of its last step."""
    stopped = re.search(r"^(.*): stopped at step (\d+)/", out, re.MULTILINE)
    if stopped and f"{stopped[1]}: a checkpoint of step {stopped[2]} is written" not in out:
        yield f"no checkpoint of step {stopped[2]}"
