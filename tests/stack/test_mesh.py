"""Members and batches spread over four devices, which the CPU pretends to have, do what they do on one.

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
from hypothesis import given
from hypothesis import strategies as st

from ssoup_jax import trees
from ssoup_jax.stack import exchange, executors, held, mesh
from ssoup_jax.training.step import train_steps
from tests.stack.test_executors import block, cheap, grow, ran
from tests.training import tiny

N_DEVICES = 4
CHEAP = ("4x1:map", "2x2:vmap", "4x1:unroll", "2x2:vmap:1", "1x4:vmap:2")
STACKS = ((1, None), (3, None), (4, None), (5, None), (8, None), (5, (4, 1)), (9, (0, 2, 3, 5, 8)))
TRAINED = [("4x1:map", 3), ("2x2:unroll", 3), ("1x4:map", 2)]
TRAINED_SLOWLY = [(f"{shape}:{name}", 5) for shape in ("4x1", "2x2", "1x4") for name in ("map", "vmap", "unroll:1")]


def run_cheap(execution, m, active):
    state, inputs = cheap(m)
    return executors.run(execution, grow, jnp.float32(0.25), state, inputs, active and np.array(active))


def train(execution, m):
    """Trains for two steps; each device of a group sees its rows of a batch of 16."""
    fn, *arguments = block(m=m)
    return ran(execution, executors.bind(train_steps, *fn.args, axis=executors.over(execution)), *arguments)


def pointers(array):
    return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]


def look_where_things_are():
    state, _ = run_cheap("4x1:map", 8, None)
    odd, _ = run_cheap("4x1:map", 5, None)
    cut, _ = run_cheap("2x2:map", 5, None)

    def lengths(stack):
        return [shard.data.shape[0] for shard in stack.tree["a"].addressable_shards]

    examples = executors.place("4x1:map", jnp.arange(6.0))
    kept = pointers(examples)
    read = [0] * 5

    def member(index):
        read[index] += 1
        return odd[index]

    assembled = executors.assemble("2x2:map", 5, member)
    # The next stage may run on one device what was spread before.
    back, _ = executors.run("map", grow, examples.addressable_data(0)[0], state, cheap(8)[1])
    return {
        "even": lengths(state),
        "odd": lengths(odd),
        "cut": lengths(cut),
        "examples": [shard.data.shape[0] for shard in examples.addressable_shards],
        "placed again": pointers(executors.place("4x1:map", examples)) == kept,
        "placed on one": pointers(executors.place("map", examples)) == kept[:1],
        "held again": executors.hold("4x1:map", state) is state,
        "back": len(back["a"].sharding.device_set),
        "own": [index for index, _ in odd.own()],
        "read": [index for index in range(5) if read[index]],
        "assembled": assembled[3],
        "replaced": [jax.tree.map(np.asarray, odd.replaced(4, odd[0])[i]) for i in (0, 3, 4)],
        "summed": odd.weighted_sum({2: 0.5, 0: 1.0, 4: 3.0}),
        "leaves": list(held.leaves(odd)),
        "whole": held.together(odd),
        "last": {"told": exchange._told(odd.mesh, odd.tree, jnp.int32(2), jnp.int32(0)), "own": odd[4]},
    }


def main(file: str, trained: list) -> None:
    """Runs everything on the devices of this process and writes what came out."""
    found = {
        "devices": len(jax.devices()),
        "cheap": {
            (execution, *stack): jax.device_get(jax.tree.map(held.together, run_cheap(execution, *stack)))
            for execution in CHEAP
            for stack in STACKS
        },
        "trained": {case: train(*case) for case in trained},
        "places": jax.device_get(look_where_things_are()),
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
    return on_four_devices(tmp_path_factory.mktemp("mesh"), TRAINED)


def check_trained(execution, result, m):
    expected = ran("map", *block(m=m))
    if execution == "4x1:map":
        # The same subprogram of one member, on a device of its own.
        tiny.assert_equal(result, expected)
    else:
        # Sums in another order: some roundings of 6e-8 each, on numbers of about 1, in two steps.
        tiny.assert_close(result, expected, rtol=4e-6, atol=2e-6)


def test_the_devices_are_there(found):
    assert found["devices"] == N_DEVICES


@pytest.mark.parametrize("execution", CHEAP)
@pytest.mark.parametrize(("m", "active"), STACKS)
def test_any_number_of_members_runs_on_any_mesh(found, execution, m, active):
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
def test_training_is_the_same_on_any_mesh(found, execution, m):
    check_trained(execution, found["trained"][execution, m], m)


@pytest.mark.slow
def test_training_is_the_same_under_every_executor(tmp_path):
    for (execution, m), result in on_four_devices(tmp_path, TRAINED_SLOWLY)["trained"].items():
        check_trained(execution, result, m)


def test_things_are_where_they_are_needed(found):
    places = found["places"]
    tiny.assert_equal(places["last"].pop("told"), places["last"].pop("own"))
    whole = places.pop("whole")
    tiny.assert_equal(places.pop("assembled"), trees.member(whole, 3))
    tiny.assert_equal(places.pop("replaced"), [trees.member(whole, i) for i in (0, 3, 0)])
    tiny.assert_equal(places.pop("leaves"), jax.tree.leaves(whole))
    # In the order of the weights: floating-point sums are made in it.
    tiny.assert_equal(
        places.pop("summed"),
        jax.tree.map(lambda leaf: leaf[2] * np.float32(0.5) + leaf[0] + leaf[4] * np.float32(3), whole),
    )
    assert places == {
        "even": [2, 2, 2, 2],  # two of eight members on each device
        "odd": [2, 2, 2, 2],  # two places on each; the last three of them are nobody's
        "cut": [3, 3, 3, 3],
        "examples": [6, 6, 6, 6],
        "placed again": True,
        "placed on one": True,
        "held again": True,
        "back": 1,
        "own": [0, 1, 2, 3, 4],
        "read": [0, 1, 2, 3, 4],
        "last": {},
    }


@given(st.data())
def test_each_group_runs_its_own_active_members_and_each_of_them_once(data):
    size, groups = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    active = data.draw(st.lists(st.integers(0, size - 1), min_size=1, unique=True))
    chunk = data.draw(st.none() | st.integers(1, 4))
    length = -(-size // groups)
    calls = mesh.rounds(np.array(active), size, groups, chunk)
    ran_members = []
    for slots, targets in calls:
        assert len(slots) % groups == 0
        assert len(slots) // groups <= (chunk or length)
        group = np.repeat(np.arange(groups), len(slots) // groups)
        counts = targets < length
        assert (slots < length).all()
        assert (slots[counts] == targets[counts]).all()
        ran_members += (group * length + targets)[counts].tolist()
    assert sorted(ran_members) == sorted(active)
    assert len({len(slots) for slots, _ in calls}) <= 2
