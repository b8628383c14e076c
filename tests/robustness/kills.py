"""Kills experiments at every kind of moment, starts them again, and compares the end with an undisturbed run.

    python -m tests.robustness.kills --kills 50
    python -m tests.robustness.kills --kills 30 --processes 3

Each experiment is `python launch.py` in a workdir of its own; it is struck several times and then left to finish.
Compiled programs are kept in one folder for all of them, which goes away with the rest. With `--processes` each is a
pod, of which one process is struck, and which comes back with another number of them, see `pods`. Exit code 0: every
one finished with the undisturbed run's arrays, bit for bit, and every stop was clean.
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.robustness.blows import (
    LONGEST_LEAVING,
    LONGEST_STOP,
    ROOT,
    STOPS,
    Blow,
    Ended,
    draw,
    strike,
    unsaved,
    wait_for,
    words,
)
from tests.robustness.compare import differences
from tests.robustness.pods import Pods

SCENARIOS: dict[str, dict[str, object]] = {
    "short": {"n_epochs": 2, "n_epochs_per_phase": 1, "n_phases": 1, "n_splits_total": 2},
    "seeds": {"n_epochs": 4, "n_epochs_per_phase": 3, "n_splits_total": 2},
    # Members that end at different steps.
    "lengths": {
        "n_epochs": 2,
        "ensemble_by": "retrain_length",
        "split_vals": "(1,4,2)",
        "ensemble_method": "GreedySoup",
    },
    # A member that is left behind.
    "diverged": {"n_epochs": 2, "ensemble_by": "retrain_schedule", "split_vals": "(0.01,1e30,0.02)", "n_phases": 1},
    # A chain of phases without soups, every checkpoint at the end of an epoch.
    "chain": {"n_epochs": 3, "n_epochs_per_phase": 3, "n_splits_total": 1, "ensemble_method": None}
    | {"checkpoint_every": "1 epochs"},
    # Batch statistics, augmentation apart; slower than all others.
    "norm": {"arch": "ResNet8", "n_epochs": 2, "n_epochs_per_phase": 1, "n_splits_total": 2, "batch_size": 128}
    | {"bn_recalibration": "exact", "n_phases": 1},
}
"""Settings by name; all but `norm` train for seconds."""


@dataclass
class Tally:
    """What happened to all experiments together.

    Attributes:
        blows: how often each kind of blow fell, by signals and moment.
        resumed: launches that went on from a checkpoint.
        experiments: how many were struck and finished.
        identical: how many of them ended as the truth did.
        stops: seconds that each clean stop took.
        findings: what was wrong, one line each.
    """

    blows: collections.Counter = field(default_factory=collections.Counter)
    resumed: int = 0
    experiments: int = 0
    identical: int = 0
    stops: list[float] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


class Alone:
    """Experiments of one process.

    Attributes:
        besides: fields of records that may differ from those of the undisturbed run.
    """

    besides: tuple[str, ...] = ()

    def launch(self, workdir: Path, scenario: str, cache: Path, blow: Blow | None = None) -> Ended:
        """Starts an experiment and strikes it.

        Args:
            workdir: the experiment's; logs are put beside it.
            scenario: a key of `SCENARIOS`.
            cache: where compiled programs are kept, and what else a user keeps.
            blow: when to strike; None: never.
        """
        log = workdir.with_suffix(".out"), workdir.with_suffix(".err")
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        with log[0].open("w") as out, log[1].open("w") as err:
            started = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, *words(workdir, SCENARIOS[scenario], execution="map")],
                cwd=ROOT,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env=environment,
            )
            first = time.monotonic()
            try:
                struck = blow is not None and wait_for(lambda: process.poll() is not None, workdir, blow)
                first = time.monotonic()
                if struck:
                    strike(lambda number: process.poll() is None and os.killpg(process.pid, number), blow)
                code = process.wait(timeout=600)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        # A blow may come when the process has just ended.
        struck = struck and not (code == 0 and blow.signals[0] == signal.SIGKILL)
        ended = time.monotonic()
        return Ended(code, struck, ended - started, ended - first, log[0].read_text(), log[1].read_text())

    def judge(self, ended: Ended, blow: Blow) -> Iterable[str]:
        """Yields what was wrong with the way a struck launch ended."""
        if "Traceback" in ended.err or "Traceback" in ended.out:
            yield f"a traceback: {ended.err[-600:]!r}"
        if blow.signals[0] == signal.SIGKILL:
            if ended.code != -signal.SIGKILL:
                yield f"exit code {ended.code} after SIGKILL, {ended.err[-300:]!r}"
            return
        codes = {128 + number for number in blow.signals}
        if len(blow.signals) == 1 and ended.out and "summary: " not in ended.out and ended.code not in codes:
            yield f"exit code {ended.code}, {ended.err[-300:]!r}"
        # Before the first line, after the last and on its way out, a process may as well end by the signal itself.
        if not codes | {-number for number in blow.signals} | {0} >= {ended.code}:
            yield f"exit code {ended.code}, {ended.err[-300:]!r}"
        if ended.stopping > (LONGEST_STOP if "stopped at step" in ended.out else LONGEST_LEAVING):
            yield f"took {ended.stopping:.1f} s to stop"
        if len(blow.signals) == 1 and ended.code in codes:
            yield from unsaved(ended.out)
            if len(ended.err.splitlines()) != 1:
                yield f"not one line: {ended.err[-300:]!r}"


def experiment(
    how: Alone | Pods,
    place: Path,
    scenario: str,
    truth: Path,
    blows: Iterable[Blow],
    cache: Path,
    tally: Tally,
    name: str,
) -> None:
    """Strikes one experiment again and again, lets it finish, and compares it with the truth.

    Args:
        how: it is launched and judged.
        place: an empty folder.
        scenario: a key of `SCENARIOS`.
        truth: the workdir of the same experiment, undisturbed.
        blows: when to strike each launch; the one after the last is left alone.
        cache: where compiled programs are kept; an empty or missing folder: it has to compile on its own.
        tally: where the outcome goes.
        name: what to call it in a finding.
    """
    workdir = place / "runs"
    workdir.mkdir(parents=True)
    cold = not cache.exists()
    history, wrong, fell = [], [], 0
    for blow in [*blows, None]:
        newest, finished = _newest_step(workdir), _finished(workdir)
        ended = how.launch(workdir, scenario, cache, blow)
        history.append(f"{blow} -> {ended.code}" if blow else f"left alone -> {ended.code}")
        went_on = re.search(r"goes on after step (\d+)", ended.out)
        tally.resumed += went_on is not None
        if went_on and newest is not None and int(went_on[1]) != newest:
            wrong.append(f"goes on after step {went_on[1]}, and step {newest} was there")
        if newest is not None and not went_on and re.search(r"step [1-9]\d*/\d+", ended.out):
            wrong.append(f"does not go on after step {newest}")
        wrong += [f"{stage} was finished and is lost" for stage in sorted(finished - _finished(workdir))]
        for word in ("is not used", "cannot be used", "set aside"):
            if word in ended.out or word in ended.err:
                wrong.append(f"a kill left something that is {word!r}")
        if blow is not None and ended.struck:
            fell += 1
            tally.blows["+".join(number.name for number in blow.signals), blow.moment or "any time"] += 1
            wrong += how.judge(ended, blow)
            if blow.signals[0] != signal.SIGKILL:
                tally.stops.append(ended.stopping)
            continue
        if ended.code != 0:
            # Why is said first, where all threads stood last.
            wrong.append(f"exit code {ended.code}: {ended.err[:1500]!r} ... {ended.err[-300:]!r}")
        break
    wrong += [] if ended.code else differences(workdir, truth, how.besides)
    if fell:
        tally.experiments += 1
        tally.identical += not wrong
    said = f"{name} ({scenario}{', cold' if cold else ''}; {'; '.join(history)})"
    for finding in wrong:
        print(f"FINDING {said}: {finding}", flush=True)
        tally.findings.append(f"{said}: {finding}")
    if not wrong:
        shutil.rmtree(place)


def _newest_step(workdir: Path) -> int | None:
    """Finds the step that the next launch has to go on after; a finished stage's checkpoints are of no use any more."""
    finished = _finished(workdir)
    steps = [
        int(path.parent.name.removeprefix("step-"))
        for path in workdir.glob("checkpoints/*/step-*/checkpoint.json")
        if not finished.issuperset(json.loads(path.read_text())["info"]["stages"])
    ]
    return max(steps, default=None)


def _finished(workdir: Path) -> set[str]:
    """Names the stages that are stored, those included that only lack their names yet."""
    finished = {path.name for path in workdir.glob("artifacts/[!.]*")}
    for group in workdir.glob("artifacts/.group-*.json"):
        finished.update(json.loads(group.read_text())["stages"])
    return finished


def run(kills: int, seed: int, jobs: int, names: list[str], place: Path, processes: int = 1) -> Tally:
    """Strikes experiments until enough blows have fallen.

    Args:
        kills: how many blows.
        seed: decides scenarios, moments and signals, as far as timing lets it.
        jobs: experiments at a time.
        names: keys of `SCENARIOS`.
        place: an empty folder; experiments with findings stay there.
        processes: of a launch; more than one: a pod, which comes back with as many at most.
    """
    tally, cache = Tally(), place / "cache"
    # Whatever is launched would inherit what the background of a shell and `nohup` have ignored, but no handlers.
    for number in STOPS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)

    def how(most: int, name: str) -> Alone | Pods:
        return Alone() if processes == 1 else Pods(SCENARIOS, most, random.Random(f"{seed}-{name}-processes"))

    def undisturbed(scenario: str) -> float:
        truth, again = place / f"truth-{scenario}", place / f"again-{scenario}"
        # The truth is one process's, of pods too.
        first = how(1, scenario).launch(truth, scenario, cache)
        if first.code:
            raise RuntimeError(f"{scenario} fails undisturbed: {first.err}")
        other = how(processes, scenario)
        second = other.launch(again, scenario, cache)
        found = [
            f"{scenario} undisturbed, twice: {difference}" for difference in differences(again, truth, other.besides)
        ]
        found += [] if second.code == 0 else [f"{scenario}: again ends with {second.code}"]
        print("".join(f"FINDING {finding}\n" for finding in found), end="", flush=True)
        tally.findings += found
        return second.seconds

    def one(index: int) -> None:
        if sum(tally.blows.values()) >= kills:
            return
        rng = random.Random(f"{seed}-{index}")
        scenario = names[index % len(names)]
        blows = [draw(rng, seconds[scenario]) for _ in range(rng.randint(3, 9))]
        folder = place / f"{seed}-{index}"
        own = folder / "cache" if rng.random() < 0.15 else cache
        launched = how(processes, folder.name)
        experiment(launched, folder, scenario, place / f"truth-{scenario}", blows, own, tally, folder.name)
        print(f"{sum(tally.blows.values())} blows, {tally.identical} of {tally.experiments} identical", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        seconds = dict(zip(names, pool.map(undisturbed, names), strict=True))
        print(f"undisturbed: {', '.join(f'{name} {spent:.0f} s' for name, spent in seconds.items())}", flush=True)
        # Each has one blow at least, so this is enough; those that come after the last blow return at once.
        list(pool.map(one, range(2 * kills)))
    return tally


def main() -> int:
    """Strikes as often as asked for and prints what was found; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS), choices=list(SCENARIOS))
    options = parser.parse_args()
    started = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    tally = run(options.kills, options.seed, options.jobs, options.scenarios, place, options.processes)
    for (signals, moment), count in sorted(tally.blows.items()):
        print(f"{signals:16} {moment:24} {count}")
    slowest = f", slowest stop {max(tally.stops):.1f} s" if tally.stops else ""
    print(
        f"kills {sum(tally.blows.values())}, resumed {tally.resumed}, identical {tally.identical} of "
        f"{tally.experiments}, findings {len(tally.findings)}, {time.monotonic() - started:.0f} s{slowest}"
    )
    if not tally.findings:
        shutil.rmtree(place)
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
