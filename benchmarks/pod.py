"""What a pod costs its processes: `python -m benchmarks.pod [--processes 1 2 4]`, on this machine alone.

As many members are retrained by 1, 2 and 4 processes, which have as many of them each: once linked, as the pod that
`launch.py` would make of them (spread over members only), and once unlinked, as so many runs of their own that know
nothing of each other. Both compute the same and store the same, checkpoints included; what linked ones take longer is
the pod: messages, waiting for whoever comes last to one, and what gloo does between programs. Each process has one core
to itself where there are enough, as if it were a host. The window is the middle half of a stack's training: programs
are compiled by then, those of its end are not wanted yet, and either way it holds the same steps, two validations, and
a checkpoint.

Seconds say what the pod costs as long as every process has a core. Where there are more processes than cores, they wait
for each other's time slices, linked or not; then only the CPU seconds of all of them together mean something. The time
of a message is measured apart, and times the messages of a chunk it is the least that the pod can cost. "Meeting" is
what the unlinked ones would lose if each waited for the slowest after every epoch: what cores that are not equally fast
at every moment take from any program whose processes meet. Hosts on a network have slower messages, and more chips to a
process; neither can be had here.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from configs import digits_sms
from ssoup_jax import devices
from ssoup_jax.config import make_settings
from ssoup_jax.experiment.run import run
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.pod.meet import free_port
from ssoup_jax.pod.place import Place
from ssoup_jax.pod.start import finish, start
from ssoup_jax.report.console import Console

GOAL = 0.03
"""Of a step, what a pod that spreads members only may cost."""

MESSAGES = 300


VALIDATIONS = 4
"""In the stack's training: the first one, which compiles its program, is the last before the window."""


class Tick(NamedTuple):
    """What the clocks show after a chunk of steps."""

    step: int
    seconds: float
    cpu_seconds: float
    messages: int


class Clock(Stop):
    """Looks at the clocks whenever a stack asks whether to stop, which it does after every chunk of steps."""

    def __init__(self, pod: Pod, console: Console):
        super().__init__()
        self.share(pod)
        self.ticks: list[Tick] = []
        self._progress, self._board = pod.progress, console.board

    def asked(self) -> bool:
        stop = super().asked()
        step = self._board.content()["step"]
        self.ticks.append(Tick(step, time.perf_counter(), time.process_time(), self._progress.count))
        return stop

    def window(self) -> list[Tick]:
        """Returns the ticks of the middle half of the training; epochs end where it does, so two are exactly there."""
        quarter = self.ticks[-1].step // VALIDATIONS
        return [tick for tick in self.ticks if quarter <= tick.step <= (VALIDATIONS - 1) * quarter]

    def epochs(self, n_epochs: int) -> list[float]:
        """Returns the seconds of each epoch of the window, of so many in all."""
        length = self.ticks[-1].step // n_epochs
        ends = [tick.seconds for tick in self.window() if tick.step % length == 0]
        return [after - before for before, after in itertools.pairwise(ends)]


def work(options: argparse.Namespace) -> None:
    """Is one process: trains its members, alone or in a pod, and prints what that took."""
    os.sched_setaffinity(0, {options.core})
    devices.configure()
    pod, execution = ALONE, "map"
    if options.linked:
        host, _, port = options.coordinator.rpartition(":")
        pod = start(Place(options.process_id, options.num_processes, host, int(port)), 60.0, None, print)
        execution = f"{pod.size}x1:map"
    devices.start()
    devices.keep_compiled_programs(options.cache)
    console = Console(io.StringIO())
    clock = Clock(pod, console)
    run(settings(options, "IMP", execution), options.workdir, console, clock, pod)
    started = time.perf_counter()
    for number in range(MESSAGES):
        pod.agree(number)
    message = (time.perf_counter() - started) / MESSAGES
    first, *between, last = clock.window()
    n_chunks = len(between) + 1
    found = {"seconds": last.seconds - first.seconds, "cpu_seconds": last.cpu_seconds - first.cpu_seconds}
    found |= {"chunks": n_chunks, "epochs": clock.epochs(options.epochs)}
    found |= {"messages": (last.messages - first.messages) / n_chunks, "message_seconds": message}
    print(json.dumps(found), flush=True)
    finish(pod)


def settings(options: argparse.Namespace, strategy: str, execution: str) -> Any:
    """Returns the experiment's settings, for a process's own members or for those of all."""
    config = digits_sms.get_config()
    own = options.members if options.linked else options.members // options.num_processes
    config.update({"arch": options.arch, "batch_size": options.batch_size, "n_epochs": 1, "n_phases": 1})
    config.update({"n_epochs_per_phase": options.epochs, "n_splits_total": own, "goal_sparsity": 0.9})
    config.update({"strategy": strategy, "execution": execution, "checkpoint_every": options.checkpoint_every})
    config.update({"evaluate_every": options.epochs // VALIDATIONS})
    if strategy == "IMP":
        config.phase = 1
    return make_settings(config)


def together(options: argparse.Namespace, size: int, linked: bool, dense: Path, place: Path) -> list[dict[str, Any]]:
    """Starts processes and returns what each measured.

    Args:
        options: the command line's.
        size: how many.
        linked: as a pod, or each on its own.
        dense: a workdir with the dense model, which all start from.
        place: an empty folder.
    """
    cores = sorted(os.sched_getaffinity(0))
    coordinator, words = f"127.0.0.1:{free_port()}", []
    for name in ("arch", "batch_size", "epochs", "members", "checkpoint_every", "cache"):
        words += [f"--{name.replace('_', '-')}={getattr(options, name)}"]
    processes = []
    with contextlib.ExitStack() as stack:
        for index in range(size):
            workdir = place if linked else place / str(index)
            if not workdir.exists() or not linked:
                shutil.copytree(dense, workdir)
            own = [f"--process-id={index}", f"--num-processes={size}", f"--coordinator={coordinator}"]
            own += [f"--workdir={workdir}", f"--core={cores[index % len(cores)]}", *["--linked"] * linked]
            command = [sys.executable, "-m", "benchmarks.pod", "--work", *words, *own]
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            stack.callback(process.kill)
            processes.append(process)
        outs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a process of {size} failed: {[process.returncode for process in processes]}")
    return [json.loads(out.splitlines()[-1]) for out in outs]


def measure(options: argparse.Namespace) -> dict[int, list[dict[str, list[dict[str, Any]]]]]:
    """Runs every number of processes linked and unlinked, in turn; returns the rounds by that number."""
    found = {size: [] for size in options.processes}
    with tempfile.TemporaryDirectory(prefix="pod-") as folder:
        root = Path(folder)
        options.cache = root / "compiled"
        options.linked, options.num_processes = True, 1
        devices.configure()
        run(settings(options, "Dense", "loop"), root / "dense", Console(io.StringIO()))
        for number in range(options.rounds + 1):
            for size in options.processes:
                ways = ["unlinked"] if size == 1 else ["unlinked", "linked"]
                one = {}
                for way in ways if number % 2 else ways[::-1]:
                    one[way] = together(options, size, way == "linked", root / "dense", root / f"{way}{size}-{number}")
                if number:  # the first round leaves compiled programs
                    found[size].append(one)
                print(f"round {number}, {size} processes: {_seconds(one)}", flush=True)
    return found


def _seconds(one: dict[str, list[dict[str, Any]]]) -> str:
    return ", ".join(f"{way} {max(own['seconds'] for own in processes):.2f} s" for way, processes in one.items())


def summary(rounds: list[dict[str, list[dict[str, Any]]]]) -> dict[str, float]:
    """Returns medians over the rounds: seconds of the slowest process, CPU seconds of all, and what the pod adds."""

    def median(way: str, fold: Any, name: str) -> float:
        return statistics.median(fold(own[name] for own in one[way]) for one in rounds)

    found = {"seconds": median("unlinked", max, "seconds"), "cpu_seconds": median("unlinked", sum, "cpu_seconds")}
    if "linked" not in rounds[0]:
        return found
    for name, fold in (("seconds", max), ("cpu_seconds", sum)):
        ratios = [fold(o[name] for o in one["linked"]) / fold(o[name] for o in one["unlinked"]) for one in rounds]
        found[f"{name}_overhead"] = statistics.median(ratios) - 1
    met = [meeting([process["epochs"] for process in one["unlinked"]]) for one in rounds]
    found["meeting"] = statistics.median(met)
    messages, seconds = median("linked", max, "messages"), median("linked", max, "message_seconds")
    chunk = statistics.median(one["linked"][0]["seconds"] / one["linked"][0]["chunks"] for one in rounds)
    return found | {"messages": messages, "message_seconds": seconds, "messages_share": messages * seconds / chunk}


def meeting(epochs: list[list[float]]) -> float:
    """Returns what processes would lose by waiting for the slowest after every epoch, as a share.

    Args:
        epochs: the seconds of each process's.
    """
    return sum(map(max, zip(*epochs, strict=True))) / max(map(sum, epochs)) - 1


def table(found: dict[int, list[Any]], options: argparse.Namespace, about: dict[str, Any]) -> str:
    """Lays out the figures in Markdown."""
    lines = [
        f"{options.arch} on digits, {options.members} members, batch {options.batch_size}, {options.epochs} epochs, "
        f"checkpoints every {options.checkpoint_every}; medians of {options.rounds} rounds, both ways in turn; "
        f"{about['processor']}, {about['n_cores']} cores, load {about['load']:.1f} at the start. The goal is at most "
        f"{GOAL:.0%} where every process has a core.",
        "",
        "| processes | cores each | seconds, unlinked | linked | meeting | CPU seconds, unlinked | linked "
        "| messages a chunk | ms a message | share of a chunk |",
        "| --- " * 10 + "|",
    ]
    for size, rounds in found.items():
        own = summary(rounds)
        pod = ["-"] * 6
        if "messages" in own:
            pod = [f"{own['seconds_overhead']:+.1%}", f"{own['meeting']:+.1%}", f"{own['cpu_seconds_overhead']:+.1%}"]
            pod += [f"{own['messages']:.1f}"]
            pod += [f"{1e3 * own['message_seconds']:.2f}", f"{own['messages_share']:.2%}"]
        lines.append(
            f"| {size} | {min(1.0, about['n_cores'] / size):g} | {own['seconds']:.2f} | {pod[0]} | {pod[1]} | "
            f"{own['cpu_seconds']:.2f} | {' | '.join(pod[2:])} |"
        )
    return "\n".join(lines) + "\n"


def main(given: list[str] | None = None) -> None:
    """Measures, prints and stores the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--arch", default="ResNet8")
    parser.add_argument("--members", type=int, default=4, help="a multiple of every number of processes")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--checkpoint-every", default="8 epochs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=machine.RESULTS)
    for name in ("process-id", "num-processes", "core"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    for name in ("workdir", "cache"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    for name in ("work", "linked"):
        parser.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.work:
        work(options)
        return
    if options.epochs % VALIDATIONS:
        parser.error(f"--epochs: found {options.epochs}, expected a multiple of {VALIDATIONS}")
    if any(options.members % size for size in options.processes):
        parser.error(f"--members: found {options.members}, expected a multiple of {options.processes}")
    about = machine.describe() | {"load": os.getloadavg()[0]}
    found = measure(options)
    text = table(found, options, about)
    print(text)
    kept = ("processes", "arch", "members", "batch_size", "epochs", "checkpoint_every", "rounds")
    result = {"about": about, "options": {name: getattr(options, name) for name in kept}, "rounds": found}
    print(f"stored in {machine.save('pod', result, text, options.results)}")


if __name__ == "__main__":
    main()
