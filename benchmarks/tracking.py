"""What curves and trackers cost: `python -m benchmarks.tracking [--quick]`.

One dense model on scikit-learn's digits is trained by `ssoup_jax.experiment.run`, without a validation, with as many as
the default asks for, with one every epoch, and with a tracker besides (wandb without a server). Ways take turns, each
in an empty workdir; the first turn, which compiles, does not count. Figures are medians: the training's own seconds, as
its record has them, and those of the whole call, which starts and ends a tracker, too.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from configs import base
from ssoup_jax import devices
from ssoup_jax.config import Settings, make_settings
from ssoup_jax.experiment.run import run
from ssoup_jax.report.console import Console

WAYS: dict[str, dict[str, Any]] = {
    "no validation": {"evaluate_every": 0},
    "validation by default": {"evaluate_every": None},
    "validation every epoch": {"evaluate_every": 1},
    "... and TensorBoard": {"evaluate_every": 1, "trackers": "tensorboard"},
    "... and Weights & Biases, offline": {"evaluate_every": 1, "trackers": "wandb"},
}
"""What is compared; the first is what the others are measured by."""

QUICK = {"epochs": 2, "rounds": 1, "arch": "Simple"}


def settings_of(options: argparse.Namespace, way: str) -> Settings:
    """Returns the settings of one way."""
    changes = {"strategy": "Dense", "dataset": "digits", "arch": options.arch, "n_epochs": options.epochs}
    changes |= {"batch_size": options.batch_size, "checkpoint_every": None}
    return make_settings(dict(base.get_config()) | changes | WAYS[way])


def once(settings: Settings, folder: Path) -> dict[str, float]:
    """Trains once; returns the seconds of the training and of all."""
    started = time.perf_counter()
    with (folder / "console.log").open("w") as stream:
        summary = run(settings, folder / "runs", Console(stream))
    return {"training": summary["dense"]["training"]["seconds"], "whole": time.perf_counter() - started}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the medians of every way."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(options.rounds + 1):
        for way in WAYS if turn % 2 else reversed(WAYS):
            with tempfile.TemporaryDirectory() as folder:
                seconds = once(settings_of(options, way), Path(folder))
            if turn:
                found[way].append(seconds)
                print(f"round {turn}, {way}: {seconds['training']:.3f} s of {seconds['whole']:.3f} s", flush=True)
    rows = []
    for way, turns in found.items():
        medians = {name: statistics.median(turn[name] for turn in turns) for name in ("training", "whole")}
        rows.append({"way": way, **medians, "rounds": turns})
    return rows


def table(rows: list[dict[str, Any]], options: argparse.Namespace, about: dict[str, Any]) -> str:
    """Writes the figures as a Markdown table."""
    first = rows[0]
    lines = ["| way | training, s | an epoch, ms | more than without, % | start and end, s |", "| --- " * 5 + "|"]
    for row in rows:
        more = 100 * (row["training"] / first["training"] - 1)
        ends = row["whole"] - row["training"] - (first["whole"] - first["training"])
        epoch = 1e3 * row["training"] / options.epochs
        lines.append(f"| {row['way']} | {row['training']:.3f} | {epoch:.1f} | {more:+.1f} | {ends:+.2f} |")
    return (
        f"{options.arch} on digits, {options.epochs} epochs, batch {options.batch_size}; medians of {options.rounds} "
        f"rounds. {about['device']}, {about['processor']}, {about['n_cores']} cores; load {about['load']:.1f} at the "
        "start. Start and end: of the whole call beside its training, over that of the first way.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"a short one: {QUICK}")
    parser.add_argument("--arch", default="ResNet8")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=machine.RESULTS, help="where the table is stored")
    if "--quick" in (arguments if arguments is not None else sys.argv[1:]):
        parser.set_defaults(**QUICK)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and stores the comparison."""
    os.environ["WANDB_MODE"] = "offline"
    devices.configure()
    options = parse(arguments)
    about = machine.describe() | {"load": os.getloadavg()[0]}
    rows = measure(options)
    text = table(rows, options, about)
    print(text)
    settings = {name: value for name, value in vars(options).items() if name != "results"}
    name = "tracking-quick" if options.quick else "tracking"
    print(f"stored in {machine.save(name, {'about': about, 'options': settings, 'rows': rows}, text, options.results)}")


if __name__ == "__main__":
    main()
