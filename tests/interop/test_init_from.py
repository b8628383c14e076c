"""Experiments that start from a PyTorch file instead of training their dense model."""

import shutil

import jax
import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from ssoup_jax import models
from ssoup_jax.data import sources
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import specs, walk
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.experiment.specs import Stage
from ssoup_jax.interop import pytorch
from ssoup_jax.pruning.masks import prunable_leaves
from ssoup_jax.storage.store import Store
from tests.experiment import tiny
from tests.experiment.test_plan import ALL, names
from tests.interop import twins

N_WEIGHTS = 64 * 512 + 512 * 10


def learn(twin):
    """Trains a twin a little on the digits; what is masked stays zero."""
    train = sources.load("digits").train
    images = train.images.astype(np.float32) / 255
    x, y = torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(train.labels).long()
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(twin(x), y)
        # Importing torch.optim takes longer than all of this.
        with torch.no_grad():
            for weight, gradient in zip(twin.parameters(), torch.autograd.grad(loss, twin.parameters()), strict=True):
                weight -= 0.5 * gradient


@pytest.fixture(scope="module")
def twin_file(tmp_path_factory):
    """A twin of `Simple` that has learned a little, as a user would bring it."""
    twin, _ = twins.make("Simple")
    learn(twin)
    folder = tmp_path_factory.mktemp("twin")
    torch.save({"state_dict": twin.state_dict()}, folder / "twin.pt")
    twins.prune_globally(twin, 0.5)
    torch.save(twin.state_dict(), folder / "pruned.pt")
    twins.prune_globally(twin, round(0.98 * N_WEIGHTS) - N_WEIGHTS // 2)
    learn(twin)
    for module in twins.prunable(twin):
        prune.remove(module, "weight")
    torch.save(twin.state_dict(), folder / "zeros.pt")
    return folder


def plan_from(path, init_mask=None, pruned=0.0, **changes):
    settings = tiny.settings(**{"init_from": str(path)} | changes)
    sha256 = pytorch.read(path).sha256
    return make_plan(settings, sources.load("digits").fingerprint, sha256, init_mask=init_mask, pruned=pruned)


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
    model |= {"mean": None, "std": None}
    for stage in plan.wanted:
        assert Store(tmp_path).record(stage.name)["model"] == model
    assert summary["dense"]["test"]["accuracy"] > 0.8, "the twin has learned the digits"
    assert summary["phases"][0]["sparsity"]["prunable"] == pytest.approx(0.9, abs=1e-4)
    assert summary["phases"][0]["soup"]["test"]["accuracy"] > 0.8

    monkeypatch.setattr(walk, "_run_group", lambda *_: pytest.fail("a finished stage was redone"))
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


@pytest.mark.parametrize("selector", ["global", "uniform"])
@pytest.mark.parametrize("name", ["pruned.pt", "zeros.pt"])
def test_what_the_file_has_pruned_stays_and_counts_for_the_goal(twin_file, tmp_path, name, selector):
    """Pruned to 50 % with its masks, or to 98 % with nothing but its zeros; the phases lead from there to 99 %."""
    path = twin_file / name
    share = {"pruned.pt": 0.5, "zeros.pt": 0.98}[name]
    changes = {"init_from": str(path), "goal_sparsity": 0.99, "pruning_selector": selector}
    summary, printed = tiny.launch(tmp_path, **changes)
    state = pytorch.read(path).state
    zero = {layer: state[f"{layer}.weight"] == 0 for layer in ("fc1", "fc2")}
    n_pruned = sum(int(layer.sum()) for layer in zero.values())
    assert n_pruned == round(share * N_WEIGHTS)
    assert summary["dense"]["sparsity"]["prunable"] == n_pruned / N_WEIGHTS
    plan = plan_from(path, pruned=n_pruned / N_WEIGHTS, init_mask="zeros" if name == "zeros.pt" else None, **changes)
    dense, *soups = (tiny.artifact(tmp_path, stage) for stage in (plan.dense, *plan.soups))
    for layer, own in prunable_leaves(dense.mask, dense.mask).items():
        np.testing.assert_array_equal(~own.T, zero[layer.partition("/")[0]])
    # 1 - sparsity shrinks by one factor in every phase: 2 % of the weights, 1.41 %, 1 %.
    factor = (0.01 / (1 - n_pruned / N_WEIGHTS)) ** 0.5
    for phase, soup in enumerate(soups, start=1):
        masks = prunable_leaves(soup.mask, soup.mask)
        assert not any(np.any(own.T & zero[layer.partition("/")[0]]) for layer, own in masks.items())
        kept = sum(int(own.sum()) for own in masks.values())
        # Each layer of the two, or all together, is rounded to a whole weight in every phase.
        assert abs(kept - (N_WEIGHTS - n_pruned) * factor**phase) <= 2
        sparsity = summary["phases"][phase - 1]["soup"]["sparsity"]["prunable"]
        assert sparsity == pytest.approx(1 - kept / N_WEIGHTS, abs=1e-12)  # one rounding of a float64
    (row,) = [line.split() for line in printed.splitlines() if line.split()[:1] == ["dense"]]
    assert row[1] == f"{100 * share:.2f}"
    said = "init_from: 98.00% of the weights are exactly zero: pruned, and kept so (init_mask='none' revives them)"
    assert (said in printed.splitlines()) == (name == "zeros.pt")
    assert (said in summary["data"]["notes"]) == (name == "zeros.pt")


def test_a_sparse_import_keeps_its_accuracy(twin_file, tmp_path):
    """With its zeros revived all weights are retrained, and pruning starts over."""
    path = twin_file / "zeros.pt"
    test = sources.load("digits").test
    twin, _ = twins.make("Simple")
    twin.load_state_dict(torch.load(path))
    own = np.mean(twins.logits(twin, test.images.astype(np.float32) / 255).argmax(1) == test.labels)
    assert own > 0.8, "the sparse twin has learned the digits"
    short = {"init_from": str(path), "goal_sparsity": 0.985, "n_splits_total": 1}
    kept, _ = tiny.launch(tmp_path, **short)
    revived, _ = tiny.launch(tmp_path, **short, init_mask="none")
    for summary in (kept, revived):
        assert summary["dense"]["test"]["accuracy"] == pytest.approx(own, abs=1e-9)
    assert min(phase["soup"]["test"]["accuracy"] for phase in kept["phases"]) > own - 0.05
    sparsity = [summary["phases"][0]["sparsity"]["prunable"] for summary in (kept, revived)]
    # What is left is halfway, as a ratio, between 2 % and 1.5 %; one weight is 3e-5.
    assert sparsity[0] == pytest.approx(1 - (0.02 * 0.015) ** 0.5, abs=3e-5)
    # 1 - 0.015 ** 0.5, and those of the zeros that no gradient reaches.
    assert 0.87 < sparsity[1] < 0.95


@pytest.mark.parametrize("name", ["pruned.pt", "zeros.pt"])
@pytest.mark.parametrize("too_low", [0.1, None, "equal"])
def test_a_goal_that_is_reached_already_is_refused_with_both(twin_file, tmp_path, name, too_low):
    share = {"pruned.pt": 0.5, "zeros.pt": 0.98}[name]
    goal = {None: share - 0.01, "equal": share}.get(too_low, too_low)
    with pytest.raises(SettingsError) as error:
        tiny.launch(tmp_path / "runs", init_from=str(twin_file / name), goal_sparsity=goal)
    expected = f"goal_sparsity: found {goal}; {share:.2%} of the prunable weights of {twin_file / name} are pruned"
    assert str(error.value).startswith(expected)
    assert not (tmp_path / "runs").exists()


def test_only_weights_that_may_be_pruned_count(twin_file, tmp_path):
    path = twin_file / "zeros.pt"
    state = pytorch.read(path).state
    last = np.mean(state["fc2.weight"] == 0)
    assert last < 0.95 < np.mean(state["fc1.weight"] == 0), "pruning by magnitude spares the last layer"
    short = {"init_from": str(path), "n_phases": 1, "n_splits_total": 1, "goal_sparsity": 0.95}
    with pytest.raises(SettingsError, match=r"^goal_sparsity: found 0\.95; "):
        tiny.launch(tmp_path, **short, prune_only="fc1/*")
    tiny.launch(tmp_path, **short, prune_only="fc2/*")
    plan = plan_from(path, pruned=last, init_mask="zeros", prune_only="fc2/*", **short)
    mask = tiny.artifact(tmp_path, plan.soups[0]).mask
    kept = {layer: int(leaf.sum()) for layer, leaf in prunable_leaves(mask, mask).items()}
    assert kept == {"fc1/kernel": np.count_nonzero(state["fc1.weight"]), "fc2/kernel": 256}


def test_what_is_made_of_zeros_is_part_of_the_name(twin_file):
    """Names of what was imported before, without their zeros as masks, stay; others must not be taken for them."""
    path = twin_file / "zeros.pt"
    plain, masked = plan_from(path).dense, plan_from(path, init_mask="zeros").dense
    assert "init_mask" not in specs.canonical(plain.spec)
    assert '"init_mask": "zeros"' in specs.canonical(masked.spec)
    assert plain.name != masked.name
    history = {"data": "d", "arch": "Simple", "use_amp": False, "n_epochs": 2, "batch_size": 64, "optimizer": "SGD"}
    history |= {"learning_rate": "(Linear, 0.1)", "n_epochs_warmup": None}
    stored = Stage(specs.Imported(**history, init_from="f" * 64))
    # As it was before files without masks could be pruned.
    assert stored.name == "dense-f5366d0294ec70c6"


def test_the_authors_validation_images_are_offered(twin_file, tmp_path):
    changes = {"init_from": str(twin_file / "twin.pt"), "strategy": "Dense"}
    summary, printed = tiny.launch(tmp_path, **changes)
    (line,) = [line for line in printed.splitlines() if "validation images, and what they judge" in line]
    assert line.startswith("init_from: ") and "data.split='reference'" in line
    assert line in summary["data"]["notes"]
    assert any("data.split='reference'" in note for note in summary["dense"]["notes"])
    theirs, printed = tiny.launch(tmp_path, **changes, data={"split": "reference"})
    assert "data.split" not in printed
    assert theirs["data"]["notes"] == theirs["dense"]["notes"] == []
    # Another tenth of the training images, which all others are trained on; the test images are the same.
    assert theirs["dense"]["test"] == summary["dense"]["test"]
    assert theirs["dense"]["val"] != summary["dense"]["val"]
    assert "data.split" not in tiny.launch(tmp_path, strategy="Dense", n_epochs=1)[1], "a model that is trained here"


def test_what_a_file_cannot_say_of_its_network_is_said(tmp_path):
    twin, _ = twins.make("ResNet8", image_shape=(8, 8, 1))
    torch.save({"net": twin.state_dict() | {"epoch": torch.tensor(3)}}, tmp_path / "a.th")
    _, printed = tiny.launch(tmp_path, init_from=str(tmp_path / "a.th"), arch="ResNet8", strategy="Dense")
    assert (
        "init_from: ResNet8 is more than names and shapes, which fit: its shortcuts take every other pixel" in printed
    )
    assert "init_from: not used of the file: epoch" in printed


def test_a_file_in_the_home_directory(twin_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(twin_file))
    summary, printed = tiny.launch(tmp_path, init_from="~/twin.pt", strategy="Dense")
    assert "Dense from ~/twin.pt: test accuracy" in printed
    assert summary["dense"]["init_from"]["sha256"] == pytorch.read(twin_file / "twin.pt").sha256


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
    monkeypatch.setattr(walk, "_run_group", lambda *_: pytest.fail("something was trained"))
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
