"""Experiments that start from a model of another network's names, or with another last layer."""

import io

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ssoup_jax import models
from ssoup_jax.data import sources
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.interop import pytorch
from ssoup_jax.report.console import Console
from tests.experiment import tiny

NET = """
from flax import linen as nn

class Net(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32, name="body")(x.reshape(len(x), -1)))
        return nn.Dense(self.n_classes, name="head")(x)

class Same(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10, name="body")(x.reshape(len(x), -1))
"""

SMALL = {"arch": "mine:Net", "n_phases": 1, "goal_sparsity": 0.5}


def body(seed=0):
    random = np.random.default_rng(seed)
    return {
        "params/body/kernel": (random.standard_normal((64, 32)) / 8).astype(np.float32),
        "params/body/bias": np.zeros(32, np.float32),
    }


def head(n_classes, seed=1):
    random = np.random.default_rng(seed)
    return {
        "params/head/kernel": (random.standard_normal((32, n_classes)) / 6).astype(np.float32),
        "params/head/bias": np.zeros(n_classes, np.float32),
    }


def context(**changes):
    return prepare(tiny.settings(**changes), sources.load("digits"), Console(io.StringIO()))


def test_a_network_of_ones_own_starts_from_its_own_names(own_module, tmp_path):
    own_module(NET)
    path = tmp_path / "net.safetensors"
    save_file(body() | head(10), path)
    summary, printed = tiny.launch(tmp_path / "runs", init_from=str(path), **SMALL)
    assert f"Dense from {path}: test accuracy" in printed
    assert summary["phases"][0]["sparsity"]["prunable"] == pytest.approx(0.5, abs=1e-3)
    found = context(init_from=str(path), **SMALL).imported
    plan = make_plan(tiny.settings(init_from=str(path), **SMALL), sources.load("digits").fingerprint, found.sha256)
    stored = tiny.artifact(tmp_path / "runs", plan.dense, **SMALL)
    np.testing.assert_array_equal(stored.variables.params["body"]["kernel"], body()["params/body/kernel"])
    assert stored.record["training"] is None


def test_zeros_of_its_file_stay_zeros(own_module, tmp_path):
    own_module(NET)
    arrays = body() | head(10)
    arrays["params/body/kernel"][::4] = 0
    save_file(arrays, tmp_path / "net.safetensors")
    found = context(init_from=str(tmp_path / "net.safetensors"), **SMALL).imported
    assert found.init_mask == "zeros"
    assert found.pruned == pytest.approx(64 * 32 / 4 / (64 * 32 + 320))


def test_another_last_layer_is_drawn_and_the_dense_model_trained_from_there(own_module, tmp_path):
    own_module(NET)
    path = tmp_path / "net.safetensors"
    save_file(body() | head(7), path)
    given = {"init_from": str(path), "init_head": "fresh", "n_epochs": 4, **SMALL}
    start = context(**given).imported.artifact.variables
    np.testing.assert_array_equal(start.params["body"]["kernel"], body()["params/body/kernel"])
    drawn = context(**SMALL).initial_variables(1).params["head"]
    jax.tree.map(np.testing.assert_array_equal, start.params["head"], drawn)
    summary, printed = tiny.launch(tmp_path / "runs", **given)
    assert "init_from: params/head/bias, params/head/kernel: drawn anew (init_head='fresh'); the dense model" in printed
    assert f"Dense from {path}: 84 steps" in printed
    assert summary["dense"]["test"]["accuracy"] > 0.7, "0.1 is chance"
    again, printed = tiny.launch(tmp_path / "runs", **given)
    assert again == summary and printed.count("finished earlier") == 4


def test_what_the_file_has_pruned_stays_pruned_while_the_dense_model_is_trained(own_module, tmp_path):
    own_module(NET)
    arrays = body() | head(7)
    arrays["params/body/kernel"][::2] = 0
    save_file(arrays, tmp_path / "net.safetensors")
    given = {"init_from": str(tmp_path / "net.safetensors"), "init_head": "fresh", "strategy": "Dense", **SMALL}
    tiny.launch(tmp_path / "runs", **given)
    found = context(**given).imported
    settings, data = tiny.settings(**given), sources.load("digits")
    plan = make_plan(settings, data.fingerprint, found.sha256, init_mask=found.init_mask, pruned=found.pruned)
    kernel = tiny.artifact(tmp_path / "runs", plan.dense, **given).variables.params["body"]["kernel"]
    assert not kernel[::2].any()
    assert (kernel[1::2] != arrays["params/body/kernel"][1::2]).mean() > 0.5, "it was trained"


def test_a_network_of_ours_takes_another_last_layer_too(tmp_path):
    shape = (8, 8, 1)
    model = models.build("Simple", 7, shape)
    variables = model.init(jax.random.key(3), np.zeros((1, *shape), np.float32), train=False)
    path = tmp_path / "seven.safetensors"
    pytorch.write(path, model, shape, variables["params"], {}, pruned=True)
    with pytest.raises(SettingsError) as error:
        context(init_from=str(path))
    assert "fc2.weight has shape (7, 512), wanted (10, 512)" in str(error.value)
    assert str(error.value).endswith("; with init_head='fresh' it does: the last layer is drawn anew and trained")
    found = context(init_from=str(path), init_head="fresh").imported.artifact
    np.testing.assert_array_equal(found.variables.params["fc1"]["kernel"], variables["params"]["fc1"]["kernel"])
    assert found.variables.params["fc2"]["kernel"].shape == (512, 10)
    assert np.all(found.mask["fc2"]["kernel"])


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (
            body() | head(7),
            "does not fit: params/head/bias is float32[7], where float32[10] is wanted; with init_head=",
        ),
        (head(10), "does not fit: params/body/bias is nothing, where float32[32] is wanted"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(own_module, tmp_path, arrays, expected):
    own_module(NET)
    path = tmp_path / "net.safetensors"
    save_file(arrays, path)
    with pytest.raises(SettingsError) as error:
        context(init_from=str(path), **SMALL)
    assert str(error.value).startswith(f"{path}: {expected}") and "\n" not in str(error.value)
    assert ("init_head" in str(error.value)) == ("params/body/bias" in load_file(path))


def test_a_network_whose_shapes_know_no_classes_has_no_last_layer(own_module, tmp_path):
    own_module(NET)
    path = tmp_path / "net.safetensors"
    save_file(body() | head(10), path)
    with pytest.raises(SettingsError, match=r"^arch: mine:Same makes float32"):
        context(init_from=str(path), init_head="fresh", **SMALL | {"arch": "mine:Same"})


def names(**changes):
    return make_plan(tiny.settings(init_from="net.pt", **changes), "data", "0" * 64).dense


def test_the_last_layer_is_in_the_name_only_where_it_is_drawn():
    assert names().spec.kind == names(init_head="fresh").spec.kind == "Dense"
    assert names().name != names(init_head="fresh").name
    assert names(init_head="fresh").name != names(init_head="fresh", run_id=2).name
    assert names().name == names(run_id=2).name, "a file is a file"
    assert tiny.plan().dense.spec.init_from is None


def test_a_last_layer_without_a_file_is_one_line():
    with pytest.raises(SettingsError, match=r"^init_head: found 'fresh'; it takes the place of what init_from has"):
        tiny.settings(init_head="fresh")
