"""Real processes store together: each writes what it holds while collectives go on, and any others read it."""

import numpy as np
import pytest

from ssoup_jax.pod import ALONE
from ssoup_jax.storage.store import Store
from tests.pod.processes import Processes
from tests.storage import worker


def run(size, folder, act):
    """Runs one of `worker.ACTS` in some processes; returns the lines that each printed."""
    command = ["tests/storage/worker.py", "{index}", "{size}", "{address}", folder, act]
    with Processes(size, command) as pod:
        ends = pod.end(60)
    assert [(ended.code, ended.err) for ended in ends] == [(0, "")] * size
    return [[line for line in ended.out.splitlines() if not line.startswith("[Gloo]")] for ended in ends]


@pytest.mark.parametrize(("act", "writers", "readers"), [("save_spread", 3, 2), ("save_by_1", 2, 3)])
def test_what_some_processes_save_any_others_read(tmp_path, act, writers, readers):
    assert run(writers, tmp_path, act) == [["saved step-00000002 step-00000003"]] * writers
    said = [[f"loaded {' '.join(map(str, range(index, 5, readers)))}"] for index in range(readers)]
    assert run(readers, tmp_path, "load") == said
    worker.load(ALONE, tmp_path)


def test_a_stage_is_stored_by_process_0_from_members_that_lie_elsewhere(tmp_path):
    assert run(3, tmp_path, "finish") == [["finished"]] * 3
    store = Store(tmp_path / "runs")
    for index, name in enumerate(worker.NAMES):
        tree, record = store.load(name, worker.member(0))
        assert record == {"member": index}
        np.testing.assert_array_equal(tree["params"]["kernel"], worker.member(index)["params"]["kernel"])


def test_orbax_writes_in_process_0_and_nothing_elsewhere(tmp_path):
    first, second = run(2, tmp_path, "write_alone")
    assert first == ["read"]
    assert second == [f"{tmp_path}/empty: process 1 was to write what process 0 has to", "read"]
    assert not (tmp_path / "empty").exists()
