"""How far meshes of devices are from one device, over a whole experiment: `python -m tests.stack.agreement`.

ResNet8 on digits, m = 4, an epoch of dense training and one of retraining, on devices that a CPU pretends to have, a
launch of `launch.py` for each mesh. Each is compared with one device of as many, since XLA computes with more threads
where there are more of them, and so rounds otherwise. Spread over members only, every device computes what one would;
cut over the data, sums are made in another order. The last line is what another order does on one device. Training
carries all of it on: over more epochs a network of this kind ends somewhere else, by whatever way its sums are made.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from ssoup_jax.experiment.artifacts import Artifact
from tests.experiment import tiny

ROOT = Path(__file__).parents[2]
WAYS = {"1x1:map": 1, "2x1:map": 2, "1x2:map": 2, "4x1:map": 4, "2x2:map": 4, "1x4:map": 4, "vmap": 1}
"""Executors, and the number of devices that each is on."""

SETTINGS = {"arch": "ResNet8", "n_epochs": 1, "n_epochs_per_phase": 1, "n_phases": 1, "n_splits_total": 4}
SETTINGS |= {"goal_sparsity": 0.9}


def launch(execution: str, n_devices: int, workdir: Path) -> dict[str, Artifact]:
    """Runs the experiment; returns its artifacts by name."""
    words = [f"--config.{name}={value}" for name, value in (SETTINGS | {"execution": execution}).items()]
    command = [sys.executable, "launch.py", "--config", "configs/digits_sms.py", *words, "--workdir", str(workdir)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(n_devices), "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return tiny.load(workdir, **SETTINGS)


def compared(ours: dict[str, Artifact], truth: dict[str, Artifact]) -> tuple[int, dict[str, float], int]:
    """Returns how many artifacts are equal bit for bit, the largest difference of a weight by kind, and how many
    weights are masked otherwise."""
    furthest, n_equal, n_masked = {"dense": 0.0, "retrained": 0.0}, 0, 0
    for name, one in ours.items():
        distance = max(_differences(one.variables, truth[name].variables))
        kind = "dense" if name.startswith("dense") else "retrained"
        furthest[kind], n_equal = max(furthest[kind], distance), n_equal + (distance == 0)
        masks = zip(*(jax.tree.leaves(own.mask) for own in (one, truth[name])), strict=True)
        n_masked += sum(int(np.sum(np.asarray(a) != np.asarray(b))) for a, b in masks)
    return n_equal, furthest, n_masked


def _differences(one, other) -> Sequence[float]:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return [float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs]


def main() -> None:
    """Runs all and prints the table."""
    print("| executor | devices | equal bit for bit | dense: largest difference | retrained | masked otherwise |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        truth = {n: launch("map", n, Path(folder) / f"map-{n}") for n in sorted(set(WAYS.values()))}
        for execution, n_devices in WAYS.items():
            ours = launch(execution, n_devices, Path(folder) / execution.replace(":", "-"))
            n_equal, furthest, n_masked = compared(ours, truth[n_devices])
            far = f"{furthest['dense']:.1e} | {furthest['retrained']:.1e}"
            print(f"| `{execution}` | {n_devices} | {n_equal} of {len(ours)} | {far} | {n_masked} |", flush=True)


if __name__ == "__main__":
    main()
