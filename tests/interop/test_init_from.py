"""Experiments that start from a PyTorch file instead of training their dense model."""

import shutil

import jax
import numpy as np
import pytest
import torch

from ssoup_jax import models
from ssoup_jax.data import sources
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import run as run_module
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.interop import pytorch
from ssoup_jax.pruning.allocation import phase_amount, prune_count
from ssoup_jax.pruning.masks import prunable_leaves
from ssoup_jax.storage.store import Store
from tests.experiment import tiny
from tests.experiment.test_plan import ALL, names
from tests.interop import twins


@pytest.fixture(scope="module")
def twin_file(tmp_path_factory):
    """A twin of `Simple` that has learned a little, as a user would bring it."""
    dataset = sources.load("digits")
    twin, _ = twins.make("Simple")
    images = dataset.train.images.astype(np.float32) / 255
    x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(dataset.train.labels).long()
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(twin(x), y)
        # Importing torch.optim takes longer than all of this.
        with torch.no_grad():
            for weight, gradient in zip(twin.parameters(), torch.autograd.grad(loss, twin.parameters()), strict=True):
                weight -= 0.5 * gradient
    folder = tmp_path_factory.mktemp("twin")
    torch.save({"state_dict": twin.state_dict()}, folder / "twin.pt")
    twins.prune_globally(twin, 0.5)
    torch.save(twin.state_dict(), folder / "pruned.pt")
    return folder


def plan_from(path, **changes):
    settings = tiny.settings(init_from=str(path), **changes)
    return make_plan(settings, sources.load("digits").fingerprint, pytorch.read(path).sha256)


def test_a_twins_model_is_the_dense_model_of_an_experiment(twin_file, tmp_path, monkeypatch):
    path = twin_file / "twin.pt"
    summary, printed = tiny.launch(tmp_path, init_from=str(path), n_phases=1)
    assert f"Dense from {path}: test accuracy" in printed
    plan = plan_from(path, n_phases=1)
    artifact = tiny.artifact(tmp_path, plan.dense)
    checkpoint = pytorch.read(path)
    np.testing.assert_array_equal(artifact.variables.params["fc1"]["kernel"].T, checkpoint.state["fc1.weight"])
    assert all(np.all(leaf) for leaf in jax.tree.leaves(artifact.mask))
    assert artifact.record["init_from"] == {"file": str(path), "sha256": checkpoint.sha256}
    assert artifact.record["training"] is None
    model = {"arch": "Simple", "n_classes": 10, "image_shape": [8, 8, 1], "classes": list("0123456789")}
    for stage in plan.wanted:
        assert Store(tmp_path).record(stage.name)["model"] == model
    assert summary["dense"]["test"]["accuracy"] > 0.8, "the twin has learned the digits"
    assert summary["phases"][0]["sparsity"]["prunable"] == pytest.approx(0.9, abs=1e-4)
    assert summary["phases"][0]["soup"]["test"]["accuracy"] > 0.8

    monkeypatch.setattr(run_module, "_run_group", lambda *_: pytest.fail("a finished stage was redone"))
    elsewhere = tmp_path / "elsewhere.pt"
    shutil.copy(path, elsewhere)
    again, printed = tiny.launch(tmp_path, init_from=str(elsewhere), n_phases=1)
    assert again["phases"] == summary["phases"]
    assert f"Dense from {elsewhere}: finished earlier" in printed


def test_a_dense_model_that_was_exported_gives_the_same_phases(tmp_path):
    """The round trip through a file changes nothing that is computed from the model."""
    short = {"n_phases": 1, "n_splits_total": 1, "retrain_schedule": "LRW"}
    summary, _ = tiny.launch(tmp_path / "trained", **short)
    dense = tiny.artifact(tmp_path / "trained", tiny.plan().dense)
    model = models.build("Simple", 10, (8, 8, 1))
    path = tmp_path / "dense.safetensors"
    variables = dense.variables
    pytorch.write(
        path, model, (8, 8, 1), variables.params, variables.collections["batch_stats"], dense.mask, pruned=False
    )
    imported, _ = tiny.launch(tmp_path / "imported", **short, init_from=str(path))
    for split in ("train", "val", "test"):
        assert imported["dense"][split] == summary["dense"][split]
        assert imported["phases"][0]["soup"][split] == summary["phases"][0]["soup"][split]


def test_masks_of_the_file_stay(twin_file, tmp_path):
    path = twin_file / "pruned.pt"
    summary, _ = tiny.launch(tmp_path, init_from=str(path), n_phases=1)
    plan = plan_from(path, n_phases=1)
    masks = (tiny.artifact(tmp_path, stage).mask for stage in (plan.dense, plan.soups[0]))
    dense, soup = (prunable_leaves(mask, mask) for mask in masks)
    masks = pytorch.read(path).masks
    for layer in ("fc1", "fc2"):
        np.testing.assert_array_equal(dense[f"{layer}/kernel"].T, masks[f"{layer}.weight"])
        assert not np.any(soup[f"{layer}/kernel"] & ~dense[f"{layer}/kernel"])
    kept = sum(int(mask.sum()) for mask in dense.values())
    wanted = kept - prune_count(phase_amount(0.9, 1), kept)
    assert sum(int(mask.sum()) for mask in soup.values()) == wanted
    assert summary["dense"]["sparsity"]["prunable"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        ({"momentum": 0.8}, ALL[1:]),
        ({"weight_decay": 0.0}, ALL[1:]),
        ({"run_id": 2}, ALL[1:]),
        ({"use_amp": True}, ALL),
        ({"arch": "ResNet8"}, ALL),
        ({"n_epochs": 3}, ALL),
        ({"batch_size": 32}, ALL),
        ({"learning_rate": "(Linear, 0.2)"}, ALL),
        ({"n_epochs_warmup": 1}, ALL),
    ],
)
def test_a_setting_redoes_exactly_what_depends_on_it(twin_file, changes, redone):
    before, after = (names(plan_from(twin_file / "twin.pt", **some)) for some in ({}, changes))
    assert {group for group in ALL if after[group] != before[group]} == set(redone)


def test_another_file_redoes_everything(twin_file):
    files = [names(plan_from(twin_file / name)) for name in ("twin.pt", "pruned.pt")]
    for one, other in ((files[0], files[1]), (files[0], names(tiny.plan()))):
        assert all(one[group] != other[group] for group in ALL)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "truncated, or not a PyTorch file"),
        (
            lambda path: torch.save(twins.make("Simple", n_classes=7)[0].state_dict(), path),
            "fc2.weight has shape (7, 512), wanted (10, 512); it fits Simple with 7 classes on 8x8x1 images",
        ),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_trained(tmp_path, monkeypatch, write, expected):
    monkeypatch.setattr(run_module, "_run_group", lambda *_: pytest.fail("something was trained"))
    path = tmp_path / "dense.pt"
    write(path)
    with pytest.raises(SettingsError) as error:
        tiny.launch(tmp_path / "runs", init_from=str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    assert not (tmp_path / "runs").exists()


def test_a_stage_alone_names_the_file_it_would_start_from(twin_file, tmp_path):
    with pytest.raises(SettingsError, match=r"needs what is not in .*: Dense from .*twin\.pt"):
        tiny.launch(tmp_path, init_from=str(twin_file / "twin.pt"), strategy="IMP")
