"""`python -m ssoup_jax.interop`, as a user types it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils import prune

from ssoup_jax import models
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.interop import __main__ as command
from ssoup_jax.interop import pytorch
from ssoup_jax.interop.state_dict import from_state_dict
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning import selectors
from ssoup_jax.pruning.masks import full_mask
from ssoup_jax.pruning.transform import apply_mask
from ssoup_jax.storage import manifest
from ssoup_jax.storage.store import Store
from tests.interop import twins

ROOT = Path(__file__).parents[2]
IMAGE = (8, 8, 1)
MODEL = {"arch": "ResNet8", "n_classes": 10, "image_shape": IMAGE}
NAME = "phase1-soup-0123456789abcdef"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A pruned model in a store: its artifact and its folder."""
    state = {name: value.numpy() for name, value in twins.make("ResNet8", image_shape=IMAGE)[0].state_dict().items()}
    params, batch_stats = from_state_dict(models.build("ResNet8", 10, IMAGE), IMAGE, state)
    mask = selectors.select("global", params, full_mask(params), 0.8, jax.random.key(0))
    artifact = Artifact(Variables(apply_mask(params, mask), {"batch_stats": batch_stats}), mask, {"model": MODEL})
    store = Store(tmp_path_factory.mktemp("store"))
    store.begin(NAME)
    store.finish([NAME], [artifacts.to_tree(artifact)], [artifact.record])
    return artifact, store.path(NAME)


def run(capsys, *arguments):
    """Runs a command in this process; returns its exit code, output and errors."""
    code = command.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("pruned", [False, True])
def test_a_soup_is_exported_bit_for_bit(stored, tmp_path, capsys, suffix, pruned):
    artifact, folder = stored
    out = tmp_path / f"soup{suffix}"
    code, printed, errors = run(capsys, "export", folder, out, *["--pruned"] * pruned)
    assert (code, errors) == (0, "")
    found = pytorch.variables_from(pytorch.read(out), models.build("ResNet8", 10, IMAGE), IMAGE)
    mask = artifact.mask if pruned else full_mask(artifact.mask)
    wanted = artifact.variables.params, artifact.variables.collections["batch_stats"], mask
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert "fits: ResNet8 with 10 classes on 8x8x1 images" in printed
    assert "(80.00%)" in printed
    # The stem, two convolutions in each of three blocks, and the linear layer.
    assert f"masks: {8 * pruned}\n" in printed


@pytest.mark.parametrize("pruned", [False, True])
def test_an_exported_soup_computes_the_same_in_pytorch(stored, tmp_path, capsys, pruned):
    artifact, folder = stored
    assert run(capsys, "export", folder, tmp_path / "soup.pt", *["--pruned"] * pruned)[0] == 0
    twin, _ = twins.make("ResNet8", image_shape=IMAGE, seed=1)
    if pruned:
        for module in twins.prunable(twin):
            prune.identity(module, "weight")
    twin.load_state_dict(torch.load(tmp_path / "soup.pt", weights_only=True), strict=True)
    images = np.random.default_rng(0).normal(size=(5, *IMAGE)).astype(np.float32)
    model = models.build("ResNet8", 10, IMAGE)
    ours = jax.jit(lambda variables: model.apply(variables, images, train=False))(artifact.variables.as_flax())
    # A few dozen float32 roundings of logits that are about 1.
    np.testing.assert_allclose(twins.logits(twin, images), ours, rtol=1e-5, atol=2e-6)


def test_an_exported_soup_computes_the_same_in_onnxruntime(stored, tmp_path, capsys):
    classes = [f"kind {number}" for number in range(10)]
    folder = with_record(stored[1], tmp_path / NAME, model=MODEL | {"classes": classes, "mean": [0.5], "std": None})
    code, printed, errors = run(capsys, "export", folder, tmp_path / "soup.onnx")
    assert (code, errors) == (0, "")
    first, second = printed.splitlines()
    assert first == f"{tmp_path}/soup.onnx: images [batch, 1, 8, 8], normalised, to logits [batch, 10]"
    assert second.startswith("onnxruntime computes the same logits as JAX, to ")
    session = onnxruntime.InferenceSession(tmp_path / "soup.onnx", providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["classes"]) == classes
    assert json.loads(notes["normalisation"]) == {"mean": [0.5], "std": None}
    images = np.random.default_rng(0).normal(size=(5, *IMAGE)).astype(np.float32)
    (found,) = session.run(["logits"], {"images": images.transpose(0, 3, 1, 2)})
    model = models.build("ResNet8", 10, IMAGE)
    ours = jax.jit(lambda variables: model.apply(variables, images, train=False))(stored[0].variables.as_flax())
    np.testing.assert_allclose(found, ours, rtol=1e-5, atol=2e-6)


def test_without_onnx_the_export_says_what_is_missing(stored, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, printed, errors = run(capsys, "export", stored[1], tmp_path / "soup.onnx")
    assert (code, printed) == (2, "")
    assert errors == (
        f"error: {tmp_path}/soup.onnx: needs the package onnx, which is not installed; pip install onnx\n"
    )
    assert not (tmp_path / "soup.onnx").exists()


def with_record(folder, to, **changes):
    """Copies an artifact and changes its record."""
    shutil.copytree(folder, to)
    record = json.loads((to / "record.json").read_text())
    (to / "record.json").write_text(json.dumps(record | changes))
    (to / manifest.NAME).unlink()
    manifest.write(to)
    return to


def test_classes_are_exported(stored, tmp_path, capsys):
    classes = [f"kind {number}" for number in range(10)]
    folder = with_record(stored[1], tmp_path / NAME, model=MODEL | {"classes": classes})
    for name in ("soup.pt", "soup.safetensors"):
        assert run(capsys, "export", folder, tmp_path / name)[0] == 0
    found = torch.load(tmp_path / "soup.pt", weights_only=True)
    assert found["classes"] == classes
    twins.make("ResNet8", image_shape=IMAGE, seed=1)[0].load_state_dict(found["state_dict"], strict=True)
    with safe_open(tmp_path / "soup.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == classes
        assert file.metadata()["format"] == "pt"


def test_a_member_that_diverged_is_not_exported(stored, tmp_path, capsys):
    folder = with_record(stored[1], tmp_path / NAME, diverged=17)
    code, printed, errors = run(capsys, "export", folder, tmp_path / "soup.pt")
    assert (code, printed) == (2, "")
    assert errors.startswith(f"error: {folder}: the member diverged at step 17; ") and errors.count("\n") == 1
    assert not (tmp_path / "soup.pt").exists()


def test_paths_in_the_home_directory(stored, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(stored[1], tmp_path / NAME)
    assert run(capsys, "export", f"~/{NAME}", "~/soup.pt")[0] == 0
    assert (tmp_path / "soup.pt").is_file()
    code, printed, _ = run(capsys, "show", "~/soup.pt")
    assert code == 0 and "fits: ResNet8" in printed


def test_show_lists_what_a_file_holds(tmp_path, capsys):
    twin, _ = twins.make("Simple", n_classes=3)
    prune.l1_unstructured(twin.fc1, "weight", amount=0.25)
    torch.save(twin.state_dict(), tmp_path / "a.pt")
    code, printed, errors = run(capsys, "show", tmp_path / "a.pt")
    assert (code, errors) == (0, "")
    # 64 x 512 + 512 and 512 x 3 + 3 parameters; a quarter of the first kernel is zero.
    assert "4 tensors, 34819 parameters" in printed
    assert "weights: 34304, of them zero: 8192 (23.88%)\nmasks: 1\n" in printed
    assert "fits: Simple with 3 classes on 8x8x1 images" in printed
    (line,) = [line for line in printed.splitlines() if "fc1.weight" in line]
    assert "512x64" in line and "25.00% zero" in line and "masked" in line


def test_show_of_a_file_that_fits_nothing(tmp_path, capsys):
    torch.save({"scale": torch.ones(3)}, tmp_path / "a.pt")
    code, printed, _ = run(capsys, "show", tmp_path / "a.pt")
    assert code == 0
    assert "fits: no model known here" in printed
    torch.save({"scale": torch.ones(3), "epoch": torch.tensor(3)}, tmp_path / "a.pt")
    assert "not of a network: epoch\n" in run(capsys, "show", tmp_path / "a.pt")[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "command line: the following arguments are required"),
        (["import", "a.pt"], "invalid choice: 'import'"),
        (["show"], "the following arguments are required: FILE"),
        (["show", "missing.pt"], "missing.pt: no such file"),
        (["export", "missing", "a.pt"], "missing: not a stored artifact"),
        (["export", "ARTIFACT", "a.h5"], "a.h5: found suffix '.h5'; allowed: .pt, .pth, .safetensors, .onnx"),
        (["export", "ARTIFACT", "a.onnx", "--pruned"], "a.onnx: --pruned stores masks for PyTorch, which ONNX has no"),
        (["export", "ARTIFACT", "missing/a.onnx"], "missing/a.onnx: cannot be written: No such file or directory"),
        (["export", "ARTIFACT", "missing/a.pt"], "missing/a.pt: cannot be written: No such file or directory"),
        (["export", "ARTIFACT", "a.pt", "--prune"], "unrecognized arguments: --prune"),
        (["export", "OLD", "a.pt"], "its record does not say which model it is"),
        (["export", "BROKEN", "a.pt"], "is missing"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(stored, tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    places = {name: tmp_path / name for name in ("OLD", "BROKEN")} | {"ARTIFACT": stored[1]}
    for name in {"OLD", "BROKEN"}.intersection(arguments):
        shutil.copytree(places["ARTIFACT"], places[name])
    if "OLD" in arguments:
        (places["OLD"] / "record.json").write_text("{}")
    if "BROKEN" in arguments:
        shutil.rmtree(places["BROKEN"] / "state")
    code, printed, errors = run(capsys, *(places.get(argument, argument) for argument in arguments))
    assert (code, printed) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert expected in errors


def test_it_runs_as_a_module(tmp_path):
    save_file(twins.make("Simple")[0].state_dict(), tmp_path / "a.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "ssoup_jax.interop", "show", tmp_path / "a.safetensors"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "fits: Simple with 10 classes on 8x8x1 images" in done.stdout
