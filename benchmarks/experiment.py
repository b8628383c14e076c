"""A whole experiment against PyTorch: `python -m benchmarks.experiment [--quick]`.

Dense training, then phases of pruning, retraining m members, recalibrating and averaging them, on scikit-learn's
digits. Ours goes the way of `launch.py`, through `ssoup_jax.experiment.run`, artifacts, records and summary included,
once with an empty compilation cache and then, for every seed, as a second start finds it: nothing in memory, the
programs on disk. PyTorch does the same stages as the reference does, each retrain after another; it is spared the
start of a process for each, evaluation while training, and writing anything. Both run in this process, in turn, from
imported modules and an empty result.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssoup_jax import devices

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


import jax
import torch
from jax.experimental.compilation_cache import compilation_cache

from benchmarks import machine, peers
from benchmarks.reference_experiment import Experiment
from configs import base
from ssoup_jax.config import Settings, make_settings
from ssoup_jax.data import sources
from ssoup_jax.experiment.run import run
from ssoup_jax.report.console import Console

QUICK = {"epochs": 4, "epochs_per_phase": 2, "seeds": 1}


def settings_of(options: argparse.Namespace, seed: int) -> Settings:
    """Returns the experiment's settings, which both sides follow."""
    config = base.get_config()
    config.run_id = seed
    config.dataset, config.arch, config.batch_size = options.dataset, options.arch, options.batch_size
    config.n_epochs, config.n_epochs_per_phase = options.epochs, options.epochs_per_phase
    config.n_phases, config.n_splits_total = options.phases, options.members
    config.goal_sparsity = options.goal_sparsity
    config.execution = options.execution
    return make_settings(config)


def ours(settings: Settings, workdir: Path) -> dict[str, Any]:
    """Runs our experiment with nothing in memory; returns its time and test accuracies."""
    jax.clear_caches()
    workdir.mkdir(parents=True)
    started = time.perf_counter()
    with (workdir / "console.log").open("w") as stream:
        summary = run(settings, workdir, Console(stream))
    seconds = time.perf_counter() - started
    soup = summary["phases"][-1]["soup"]["test"]["accuracy"]
    return {"seconds": seconds, "dense": summary["dense"]["test"]["accuracy"], "soup": soup}


def theirs(settings: Settings, device: str) -> dict[str, Any]:
    """Runs PyTorch's experiment; returns its time and test accuracies."""
    started = time.perf_counter()
    dataset = sources.load(settings.dataset)
    found = Experiment(settings, dataset, torch.device(device)).run()
    return {"seconds": time.perf_counter() - started, **found}


def measure(options: argparse.Namespace, device: str) -> dict[str, list[dict[str, Any]]]:
    """Runs both for every seed, in turn; the first run of ours has an empty cache."""
    found = {"ours, empty cache": [], "ours, programs on disk": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as folder, _kept_programs(Path(folder) / "compiled"):
        root = Path(folder)
        found["ours, empty cache"].append(ours(settings_of(options, 1), root / "cold"))
        for seed in range(1, options.seeds + 1):
            settings = settings_of(options, seed)
            # Whoever comes second may find a warmer machine.
            turns = [
                ("PyTorch", lambda settings=settings: theirs(settings, device)),
                ("ours, programs on disk", lambda s=settings, n=seed: ours(s, root / f"warm{n}")),
            ]
            for name, turn in turns if seed % 2 else reversed(turns):
                found[name].append(turn())
                print(f"seed {seed}, {name}: {found[name][-1]['seconds']:.1f} s", flush=True)
    return found


@contextlib.contextmanager
def _kept_programs(folder: Path) -> Iterator[None]:
    """Keeps compiled programs in a folder, which JAX forgets afterwards."""
    devices.keep_compiled_programs(folder)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


def table(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace, about: dict[str, Any]) -> str:
    """Writes the figures as a Markdown table."""
    reference = statistics.median(one["seconds"] for one in found["PyTorch"])
    lines = ["| how | runs | seconds | time / PyTorch | dense, test % | soup, test % |", "| --- " * 6 + "|"]
    for name, runs in found.items():
        seconds = statistics.median(one["seconds"] for one in runs)
        scores = [_spread([100 * one[model] for one in runs]) for model in ("dense", "soup")]
        lines.append(f"| {name} | {len(runs)} | {seconds:.1f} | {seconds / reference:.2f} | {' | '.join(scores)} |")
    return (
        f"{options.arch} on {options.dataset}: {options.epochs} epochs dense, {options.phases} phases of "
        f"{options.members} members x {options.epochs_per_phase} epochs to {options.goal_sparsity:.0%} sparsity, batch "
        f"{options.batch_size}, execution {options.execution!r}; medians, accuracies as mean and standard deviation "
        f"over the seeds. {about['device']}, {about['processor']}, {about['n_cores']} threads for JAX, "
        f"{about['torch_threads']} for PyTorch {about['torch']}; load {about['load']:.1f} at the start. PyTorch "
        "retrains one member after another in this process, and is spared process starts, evaluation while training "
        "and files.\n\n" + "\n".join(lines) + "\n"
    )


def _spread(values: list[float]) -> str:
    return (
        f"{statistics.fmean(values):.2f} +- {statistics.stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"a short experiment: {QUICK}")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--arch", default="ResNet8")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epochs-per-phase", type=int, default=5)
    parser.add_argument("--phases", type=int, default=2)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--goal-sparsity", type=float, default=0.9)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--execution", default="auto")
    parser.add_argument("--results", type=Path, default=machine.RESULTS, help="where the table is stored")
    if "--quick" in (arguments if arguments is not None else sys.argv[1:]):
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and stores the comparison."""
    devices.configure()
    options = parse(arguments)
    device = peers.device(jax.default_backend())
    peers.prepare(device)
    about = machine.describe() | peers.describe(device) | {"load": os.getloadavg()[0]}
    found = measure(options, device)
    text = table(found, options, about)
    print(text)
    settings = {name: value for name, value in vars(options).items() if name != "results"}
    name = "experiment-quick" if options.quick else "experiment"
    print(
        f"stored in {machine.save(name, {'about': about, 'options': settings, 'runs': found}, text, options.results)}"
    )


if __name__ == "__main__":
    main()
