"""Members spread over four devices, which the CPU pretends to have, do what they do on one.

The number of devices is fixed when a process starts its backend, so this file also runs as a program of its own.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import trees
from ssoup_jax.stack import executors, mesh
from tests.stack.test_executors import block, cheap, grow
from tests.training import tiny

N_DEVICES = 4
EXECUTIONS = ("shard:map", "shard:vmap", "shard:unroll", "shard:vmap:1")
STACKS = ((1, None), (3, None), (4, None), (5, None), (8, None), (5, (4, 1)), (9, (0, 2, 3, 5, 8)))
TRAINED = [("shard:unroll", 3)]
TRAINED_SLOWLY = [("shard:map", 2), ("shard:map", 4), ("shard:vmap", 5), ("shard:unroll", 5), ("shard:unroll:1", 5)]


def run_cheap(execution, m, active):
    state, inputs = cheap(m)
    return executors.run(execution, grow, jnp.float32(0.25), state, inputs, active and np.array(active))


def pointers(array):
    return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]


def look_where_things_are():
    state, _ = run_cheap("shard:map", 8, None)
    odd, _ = run_cheap("shard:map", 5, None)
    lengths = {"even": [shard.data.shape[0] for shard in state["a"].addressable_shards]}
    lengths |= {"odd": [shard.data.shape[0] for shard in odd["a"].addressable_shards]}
    examples = executors.place("shard:map", jnp.arange(6.0))
    lengths |= {"examples": [shard.data.shape[0] for shard in examples.addressable_shards]}
    kept = pointers(examples)
    # The next stage may run on one device what was spread before.
    back, _ = executors.run("map", grow, examples[0], state, cheap(8)[1])
    return lengths | {
        "placed again": pointers(executors.place("shard:map", examples)) == kept,
        "placed on one": pointers(executors.place("map", examples)) == kept[:1],
        "back": len(back["a"].sharding.device_set),
    }


def main(file: str, trained: list) -> None:
    """Runs everything on the devices of this process and writes what came out."""
    found = {
        "devices": len(jax.devices()),
        "cheap": {
            (execution, *stack): jax.device_get(run_cheap(execution, *stack))
            for execution in EXECUTIONS
            for stack in STACKS
        },
        "trained": {(execution, m): jax.device_get(executors.run(execution, *block(m=m))) for execution, m in trained},
        "places": look_where_things_are(),
    }
    Path(file).write_bytes(pickle.dumps(found))


def on_four_devices(folder: Path, trained: list) -> dict:
    """Runs this file as a program."""
    root, file = Path(__file__).parents[2], folder / "found.pickle"
    code = (
        "from tests import conftest; import jax; "
        f"jax.config.update('jax_num_cpu_devices', {N_DEVICES}); "
        f"from tests.stack import test_mesh; test_mesh.main({str(file)!r}, {trained!r})"
    )
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return pickle.loads(file.read_bytes())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return on_four_devices(tmp_path_factory.mktemp("shard"), TRAINED)


def check_trained(result, m):
    # One member's program on another device, alone or beside others: some roundings of 6e-8 each, on numbers of about
    # 1, in two steps.
    expected = jax.device_get(executors.run("map", *block(m=m)))
    tiny.assert_close(result, expected, rtol=2e-6, atol=1e-6)


def test_the_devices_are_there(found):
    assert found["devices"] == N_DEVICES


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(("m", "active"), STACKS)
def test_any_number_of_members_runs_on_four_devices(found, execution, m, active):
    state, outputs = found["cheap"][execution, m, active]
    before, inputs = jax.device_get(cheap(m))
    for i in range(m):
        if active is None or i in active:
            expected = grow(np.float32(0.25), trees.member(before, i), trees.member(inputs, i))
            # A fused multiply-add rounds once instead of twice.
            tiny.assert_close(trees.member((state, outputs), i), expected, rtol=3e-7, atol=1e-7)
        else:
            tiny.assert_equal(trees.member(state, i), trees.member(before, i))
            assert not any(np.any(leaf[i]) for leaf in jax.tree.leaves(outputs))


@pytest.mark.parametrize(("execution", "m"), TRAINED)
def test_training_is_the_same(found, execution, m):
    check_trained(found["trained"][execution, m], m)


@pytest.mark.slow
def test_training_is_the_same_under_every_executor(tmp_path):
    for (_, m), result in on_four_devices(tmp_path, TRAINED_SLOWLY)["trained"].items():
        check_trained(result, m)


def test_things_are_where_they_are_needed(found):
    assert found["places"] == {
        "even": [2, 2, 2, 2],  # two of eight members on each device
        "odd": [5, 5, 5, 5],
        "examples": [6, 6, 6, 6],
        "placed again": True,
        "placed on one": True,
        "back": 1,
    }


@pytest.mark.parametrize(
    ("active", "n_devices", "size", "slots", "targets"),
    [
        ([0, 1, 2], 4, 3, [0, 1, 2, 0], [0, 1, 2, 3]),
        ([0, 1, 2, 3, 4], 4, 5, [0, 1, 2, 0, 3, 0, 4, 0], [0, 1, 2, 5, 3, 5, 4, 5]),
        ([1, 3, 6], 2, 8, [1, 3, 6, 1], [1, 3, 6, 8]),
        ([2], 2, 4, [2, 2], [2, 4]),
    ],
)
def test_slots_that_only_fill_up_belong_nowhere(active, n_devices, size, slots, targets):
    found_slots, found_targets = mesh._slots(np.array(active), n_devices, size)
    assert (found_slots.tolist(), found_targets.tolist()) == (slots, targets)
