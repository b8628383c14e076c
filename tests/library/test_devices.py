"""A task that can be cut has its batches spread over the devices, which the CPU pretends to have.

The number of devices is fixed when a process starts its backend, so this file also runs as a program of its own.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ssoup_jax import stack_members, train_members
from ssoup_jax.errors import SettingsError
from ssoup_jax.stack import names
from tests.library import linear

ROOT = Path(__file__).parents[2]
# Each row's loss is its own, so a part of a batch needs to know of no other.
CUT = dataclasses.replace(linear.TASK, cut=lambda axis: linear.TASK)


def trained(task, m, execution):
    """Returns what was trained and the executor that did, or the one line that says why not."""
    seen = []
    start = stack_members([linear.start()] * m)
    try:
        found = train_members(
            task,
            start,
            linear.data(),
            linear.members(m),
            execution=execution,
            on_chunk=lambda progress, _: seen.append(progress.execution),
        )
    except SettingsError as error:
        return str(error)
    return seen[-1], np.asarray(found.stack["kernel"]).tolist()


def main():
    tried = [(CUT, 1, "auto"), (linear.TASK, 1, "auto"), (CUT, 2, "auto"), (CUT, 2, "1x4:vmap"), (CUT, 4, "auto")]
    print(json.dumps([trained(*one) for one in [*tried, (linear.TASK, 2, "2x2:map"), (CUT, 2, "1x3:map")]]))


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-c", "from tests.library import test_devices; test_devices.main()"],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_batches_are_cut_over_devices_that_members_leave_idle(found):
    assert [execution for execution, _ in found[:5]] == ["1x4:map", "4x1:map", "2x2:map", "1x4:vmap", "4x1:map"]


def test_however_they_are_cut_the_same_is_trained(found):
    for (_, kernels), m in zip(found[:5], (1, 1, 2, 2, 4), strict=True):
        _, expected = trained(linear.TASK, m, "loop")
        # Sums over a batch are made in another order: some roundings of 6e-8 each.
        np.testing.assert_allclose(kernels, expected, rtol=2e-6, atol=2e-6)


def test_a_mesh_that_does_not_fit_is_one_line(found):
    assert found[5] == "mesh: found '2x2'; this task's batches cannot be cut, so the mesh is 4x1"
    assert found[6] == "mesh: found '1x3'; 4 devices allow 4x1, 2x2, 1x4"


def test_one_device_cuts_nothing():
    assert trained(CUT, 2, "auto")[0] == names.rule("auto", "cpu", 1, names.Load(2))
    assert len(jax.devices()) == 1
