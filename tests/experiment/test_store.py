"""Artifacts are finished or absent, and come back as they went in."""

import jax
import numpy as np
import pytest

from ssoup_jax.errors import RunError
from ssoup_jax.experiment.plan import Stage
from ssoup_jax.experiment.store import Artifact, Store
from ssoup_jax.training.state import Variables

STAGE = Stage("Dense", 0, None, (), "{}")


def artifact(batch_stats=None):
    params = {"fc": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}}
    mask = jax.tree.map(lambda leaf: leaf > 2, params)
    return Artifact(Variables(params, batch_stats or {}), mask, {"metrics": {"test": {"accuracy": 0.5}}})


@pytest.mark.parametrize("batch_stats", [{}, {"bn": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}}])
def test_what_was_stored_comes_back_bit_for_bit(tmp_path, batch_stats):
    store, stored = Store(tmp_path), artifact(batch_stats)
    (store.begin(STAGE) / "metrics.jsonl").write_text("{}\n")
    store.finish(STAGE, stored)
    loaded = store.load(STAGE, stored.variables)
    assert loaded.record == stored.record
    for a, b in zip(
        jax.tree.leaves((loaded.variables, loaded.mask)), jax.tree.leaves((stored.variables, stored.mask)), strict=True
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert (store.path(STAGE) / "metrics.jsonl").read_text() == "{}\n"


def test_a_stage_is_absent_until_it_is_finished(tmp_path):
    store = Store(tmp_path)
    (store.begin(STAGE) / "metrics.jsonl").write_text("half")
    assert not store.has(STAGE)
    assert list(store.begin(STAGE).iterdir()) == [], "what an interrupted start left must be gone"
    store.finish(STAGE, artifact())
    assert store.has(STAGE)


def test_a_failed_write_leaves_the_stage_absent(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.begin(STAGE)
    monkeypatch.setattr("ssoup_jax.experiment.store.write_json", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        store.finish(STAGE, artifact())
    assert not store.has(STAGE)


def test_the_same_stage_finished_twice_keeps_the_first(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    first.begin(STAGE)
    first.finish(STAGE, artifact())
    second.begin(STAGE)
    second.finish(STAGE, artifact())
    assert first.record(STAGE) == artifact().record


def test_an_artifact_of_another_structure_is_named(tmp_path):
    store = Store(tmp_path)
    store.begin(STAGE)
    store.finish(STAGE, artifact())
    other = {"fc": {"kernel": np.zeros((5, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    with pytest.raises(RunError, match=STAGE.name) as error:
        store.load(STAGE, Variables(other, {}))
    assert "\n" not in str(error.value)
