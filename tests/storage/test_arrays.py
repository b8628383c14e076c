"""Arrays come back from Orbax as they went in, and no other process is asked."""

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn
from orbax.checkpoint import v1 as ocp

from ssoup_jax.storage import arrays
from tests.storage.test_checkpoints import assert_same_bits

LEAVES = drawn.arrays(
    st.sampled_from([np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.uint16), np.dtype(np.int64)]),
    drawn.array_shapes(min_dims=0, max_dims=3, max_side=4),
)
NAMES = st.text("ab0_-", min_size=1, max_size=4)
TREES = st.dictionaries(NAMES, LEAVES | st.dictionaries(NAMES, LEAVES))


@settings(max_examples=10, deadline=None)
@given(TREES.filter(jax.tree.leaves))
def test_any_tree_comes_back(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("any") / "state"
    halves = {np.dtype(np.uint16): ml_dtypes.bfloat16}
    tree = jax.tree.map(lambda leaf: leaf.view(halves.get(leaf.dtype, leaf.dtype)), tree)
    arrays.write(folder, {"before": np.ones(3)})
    arrays.write(folder, tree)
    assert_same_bits(arrays.read(folder), tree)


def test_orbax_itself_reads_them(tmp_path):
    tree = {"params": {"fc": np.arange(6, dtype=np.float32).reshape(2, 3)}, "batch_stats": {}}
    arrays.write(tmp_path / "state", tree)
    assert_same_bits(ocp.load(tmp_path / "state"), tree)


def test_a_disk_without_room_is_seen_before_orbax_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays.shutil, "disk_usage", lambda _: arrays.shutil._ntuple_diskusage(10**9, 10**9, 100))
    monkeypatch.setattr(arrays.ocp, "Checkpointer", lambda *_, **__: pytest.fail("Orbax was asked to write"))
    with pytest.raises(OSError, match="No space left on device"):
        arrays.write(tmp_path / "state", {"w": np.ones(3)})


def test_what_orbax_would_not_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match="process 1 was to write what process 0 has to"):
        arrays.write(tmp_path / "state", {"w": np.ones(3)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
def test_what_is_not_there_is_said(tmp_path, there):
    if there:
        (tmp_path / "state").mkdir()
    with pytest.raises((KeyError, FileNotFoundError, ValueError)):
        arrays.read(tmp_path / "state")
