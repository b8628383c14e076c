"""Retraining with its own batch size, weight decay, momentum and precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax.commands.export import export
from ssoup_jax.data import sources
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import out_of_distribution, prepare, stages
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.experiment.specs import Soup
from ssoup_jax.interop import pytorch
from tests.experiment import tiny
from tests.experiment.test_plan import ALL, names

OTHER = {"batch_size": 100, "weight_decay": 0.0, "momentum": 0.5, "use_amp": True}
FOR_RETRAINING = {f"retrain_{name}": value for name, value in OTHER.items()}
SHORT = {"n_phases": 1, "learning_rate": "(Constant, 0.05)"}


@pytest.fixture(scope="module")
def dense_file(tmp_path_factory):
    """A dense model in a file, so that nothing but its retraining depends on the settings."""
    folder = tmp_path_factory.mktemp("dense")
    tiny.launch(folder, strategy="Dense", n_epochs=1)
    export(folder / "artifacts" / tiny.plan(n_epochs=1).dense.name, folder / "dense.safetensors", pruned=False)
    return str(folder / "dense.safetensors")


def test_a_retraining_is_the_one_that_dense_settings_of_the_same_values_give(dense_file, tmp_path):
    changes = SHORT | {"init_from": dense_file}
    tiny.launch(tmp_path / "own", **changes, **FOR_RETRAINING)
    tiny.launch(tmp_path / "dense", **changes, **OTHER)
    for own, dense in zip(stages_of(changes | FOR_RETRAINING), stages_of(changes | OTHER), strict=True):
        assert own.name != dense.name, "the dense model that they come from is said to have seen other batches"
        found, expected = (tiny.artifact(tmp_path / place, stage) for place, stage in (("own", own), ("dense", dense)))
        jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
        assert found.record["metrics"] == expected.record["metrics"]


def stages_of(changes):
    plan = make_plan(
        tiny.settings(**changes), sources.load("digits").fingerprint, pytorch.read(changes["init_from"]).sha256
    )
    return [*plan.candidates[0], *plan.soups]


def test_only_the_dense_model_sees_the_settings_of_dense_training(tmp_path, monkeypatch):
    trained, recalibrated = [], []

    def watched_training(context, task, work, title, origins, among, hyper, batch_size):
        values = {name: np.unique(hyper.values[name]).tolist() for name in ("weight_decay", "momentum")}
        trained.append((title, context.classifier.model.dtype, batch_size, values))
        return train(context, task, work, title, origins, among, hyper, batch_size)

    def watched_recalibration(task, feed, stack, *, batch_size, **others):
        recalibrated.append((task, batch_size))
        return recalibrate(task, feed, stack, batch_size=batch_size, **others)

    train, recalibrate = stages.train, stages.recalibrate
    monkeypatch.setattr(stages, "train", watched_training)
    monkeypatch.setattr(stages, "recalibrate", watched_recalibration)
    summary, _ = tiny.launch(tmp_path, n_epochs=1, n_phases=1, **FOR_RETRAINING)
    (dense, retrained), own = trained, {"weight_decay": [0.0], "momentum": [0.5]}
    assert dense == ("Dense", jnp.float32, 64, {"weight_decay": [1e-4], "momentum": [0.9]})
    assert retrained == ("IMP phase 1 (2 members)", jnp.bfloat16, 100, own)
    # The members', and the soup's.
    assert [batch_size for _, batch_size in recalibrated] == [100, 100]
    assert recalibrated[0][0] is recalibrated[1][0]
    # 1293 training images.
    assert [one["training"]["n_steps"] for one in summary["phases"][0]["candidates"]] == [13, 13]


def test_every_stage_knows_in_which_precision_it_is_computed():
    plan = tiny.plan(retrain_use_amp=True)
    assert [stage.use_amp for stage in plan.stages] == [False, *[True] * 6]
    assert {stage.use_amp for stage in tiny.plan(use_amp=True).stages} == {True}
    back = tiny.plan(use_amp=True, retrain_use_amp=False)
    assert [stage.use_amp for stage in back.stages] == [True, *[False] * 6]


def test_soups_are_recalibrated_in_the_batches_of_retraining():
    plan = tiny.plan(retrain_batch_size=7)
    assert {stage.spec.batch_size for stage in plan.stages if isinstance(stage.spec, Soup)} == {7}


def test_a_mesh_has_to_divide_the_batches_of_retraining_too(monkeypatch):
    monkeypatch.setattr(prepare.jax, "devices", lambda: [None] * 4)
    assert prepare._mesh(tiny.settings(execution="auto", mesh="1x4", retrain_batch_size=32), True) == (1, 4)
    with pytest.raises(SettingsError, match="the nearest retrain_batch_size that it divides is 64"):
        prepare._mesh(tiny.settings(execution="auto", mesh="1x4", retrain_batch_size=66), True)


def test_out_of_distribution_a_model_is_scored_in_its_own_precision(tmp_path, monkeypatch):
    scored, score = [], out_of_distribution.score

    def watched(classifier, *others):
        scored.append(jnp.dtype(classifier.model.dtype).name)
        return score(classifier, *others)

    monkeypatch.setattr(out_of_distribution, "score", watched)
    tiny.launch(tmp_path, n_epochs=1, n_phases=1, retrain_use_amp=True, ood="computed:brightness:1")
    assert scored == ["float32", "bfloat16", "bfloat16"]


def test_a_schedule_that_repeats_dense_training_repeats_its_epochs_whatever_the_batches(tmp_path, monkeypatch):
    rates, train = [], stages.train

    def watched(context, task, work, title, origins, among, hyper, batch_size):
        rates.append(hyper.values["learning_rate"])
        return train(context, task, work, title, origins, among, hyper, batch_size)

    monkeypatch.setattr(stages, "train", watched)
    changes = {"n_epochs": 2, "n_epochs_per_phase": 2, "n_phases": 1, "n_splits_total": 1, "retrain_batch_size": 32}
    tiny.launch(tmp_path, **changes, learning_rate="(StepLR, 0.05, 1, 0.1)", retrain_schedule="LRW")
    for found, per_epoch in zip(rates, (21, 41), strict=True):
        np.testing.assert_allclose(found, [[0.05] * per_epoch + [0.005] * per_epoch])


def test_other_values_redo_the_retraining_alone():
    before, after = names(tiny.plan()), names(tiny.plan(**FOR_RETRAINING))
    assert {group for group in ALL if before[group] != after[group]} == {*ALL} - {"dense"}
