"""An artifact is stored in one form, which older workdirs have too."""

from pathlib import Path

import jax
import numpy as np
import pytest

from ssoup_jax.errors import RunError
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.models.variables import Variables
from ssoup_jax.storage import artifact_folder

STORED = Path(__file__).parents[1] / "storage/stored/dense-0000000000000000"


def test_what_is_stored_comes_back():
    params = {"fc": {"kernel": np.ones((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    mask = {"fc": {"kernel": np.array([[True, False, True], [True, True, False]]), "bias": None}}
    artifact = Artifact(
        Variables(params, {"batch_stats": {"bn": {"mean": np.ones(3, np.float32)}}}), mask, {"stage": "Dense"}
    )
    tree = artifacts.to_tree(artifact)
    assert artifacts.from_tree(tree, artifact.record) == artifact
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), artifacts.like(artifact.variables))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_an_artifact_that_prunes_what_is_never_pruned_is_named():
    params = {"fc": {"bias": np.zeros(3, np.float32)}}
    tree = {"params": params, "mask": {"fc": {"bias": np.array([True, False, True])}}}
    with pytest.raises(RunError, match=r"^runs/artifacts/a: mask: fc/bias has pruned weights, and is never pruned$"):
        artifacts.from_tree(tree, {}, Path("runs/artifacts/a"))


def test_an_artifact_stored_by_version_0_1_is_read():
    def shape(*lengths):
        return jax.ShapeDtypeStruct(lengths, np.float32)

    like = Variables(
        {"fc": {"kernel": shape(2, 3), "bias": shape(3)}}, {"batch_stats": {"bn": {"mean": shape(1), "var": shape(1)}}}
    )
    artifact = artifacts.from_tree(*artifact_folder.load(STORED, artifacts.like(like)))
    np.testing.assert_array_equal(artifact.variables.params["fc"]["bias"], np.array([1e-3, -1, 2], np.float32))
    np.testing.assert_array_equal(artifact.mask["fc"]["kernel"], [[True, False, True], [True, True, False]])
    assert artifact.variables.collections["batch_stats"]["bn"]["var"] == 2
    assert artifact.record["stage"] == "Dense"
