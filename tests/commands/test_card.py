"""What an export writes beside weights: a card whose lines run, and files that say what to build."""

import importlib
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from ssoup_jax import models
from ssoup_jax.commands import export
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.interop import exported, torch_networks
from ssoup_jax.interop.state_dict import from_state_dict
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning import selectors
from ssoup_jax.pruning.masks import full_mask
from ssoup_jax.pruning.transform import apply_mask
from ssoup_jax.storage.store import Store
from tests.interop import twins
from tests.report import summaries
from tests.report.test_html import HOSTILE

IMAGE = (8, 8, 1)
NAME = "phase1-soup-0123456789abcdef"
CLASSES = ["cat", HOSTILE, "a ```` fence", *map(str, range(7))]
SCORES = {"accuracy": 0.75, "macro_accuracy": 0.7, "worst_class_accuracy": 0.5, "ece": 0.02, "loss": 1.25}
RECORD = {
    "stage": "Ensemble",
    "phase": 1,
    "ingredients": [0, 2],
    "model": {
        "arch": "ResNet8",
        "n_classes": 10,
        "image_shape": IMAGE,
        "classes": CLASSES,
        "mean": [0.5],
        "std": [0.25],
    },
    "metrics": {"test": SCORES},
    "sparsity": {"prunable": 0.8, "per_layer": {}},
    "flops": {"speedup": 3.5, "per_layer": {}},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A pruned model in a store: its variables and its folder."""
    state = {name: value.numpy() for name, value in twins.make("ResNet8", image_shape=IMAGE)[0].state_dict().items()}
    params, batch_stats = from_state_dict(models.build("ResNet8", 10, IMAGE), IMAGE, state)
    mask = selectors.select("global", params, full_mask(params), 0.8, jax.random.key(0))
    artifact = Artifact(Variables(apply_mask(params, mask), {"batch_stats": batch_stats}), mask, RECORD)
    store = Store(tmp_path_factory.mktemp("store"))
    store.begin(NAME)
    store.finish([NAME], [artifacts.to_tree(artifact)], [artifact.record])
    return artifact.variables, store.path(NAME)


def lines(folder) -> dict[str, str]:
    """The lines of the card for each library."""
    card = (folder / "README.md").read_text()
    return dict(re.findall(r"## (PyTorch|JAX)\n.*?```python\n(.*?)```", card, re.S))


def logits(variables, images):
    model = models.build("ResNet8", 10, IMAGE)
    return jax.jit(lambda variables: model.apply(variables, images, train=False))(variables.as_flax())


@pytest.mark.parametrize("pruned", [False, True])
def test_the_lines_of_the_card_load_what_was_exported(stored, tmp_path, monkeypatch, pruned):
    variables, folder = stored
    export.export(folder, tmp_path / "soup.safetensors", pruned)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    images = np.random.default_rng(0).normal(size=(5, *IMAGE)).astype(np.float32)
    expected, found = logits(variables, images), {}
    # A few dozen float32 roundings of logits that are about 1.
    close = {"rtol": 1e-5, "atol": 2e-6}

    exec(lines(tmp_path)["PyTorch"], found)
    assert found["network"].__file__ == str(tmp_path / "network.py")
    del sys.modules["network"]
    assert tuple(found["logits"].shape) == (1, 10)
    np.testing.assert_allclose(twins.logits(found["net"], images), expected, **close)
    zeros = sum(int((layer.weight == 0).sum()) for layer in twins.prunable(found["net"]))
    assert zeros == sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(variables.params) if leaf.ndim > 1)

    exec(lines(tmp_path)["JAX"], found)
    assert found["logits"].shape == (1, 10)
    np.testing.assert_allclose(found["soup"].logits(images), expected, **close)
    assert jax.tree.all(jax.tree.map(np.array_equal, found["soup"].variables, variables))
    # Five lines each; masks take three more.
    assert [text.count("\n") for text in lines(tmp_path).values()] == [5 + 3 * pruned, 5]


def test_pytorch_alone_is_enough(stored, tmp_path):
    export.export(stored[1], tmp_path / "soup.safetensors", False)
    alone = "import sys\nsys.modules['jax'] = sys.modules['ssoup_jax'] = None\n"
    code = f"{alone}{lines(tmp_path)['PyTorch']}print(logits.shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "torch.Size([1, 10])\n"


def test_the_hub_reads_the_card(stored, tmp_path):
    export.export(stored[1], tmp_path / "soup.safetensors", False)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.library_name) == ("other", "ssoup_jax")
    assert card.data.pipeline_tag == "image-classification"
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [
        ("accuracy", 0.75),
        ("sparsity", 0.8),
    ]
    assert "| test | 75.00 | 70.00 | 50.00 | 2.00 | 1.2500 |" in card.text
    assert "the average of 2 networks" in card.text and "3.5 times fewer multiply-adds" in card.text
    assert "mean [0.5] and std [0.25]" in card.text


def test_the_configuration_says_what_to_build_and_names_the_classes(stored, tmp_path):
    export.export(stored[1], tmp_path / "soup.safetensors", False)
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["network"] == {"arch": "ResNet8", "n_classes": 10, "image_shape": list(IMAGE)}
    assert found["normalisation"] == {"mean": [0.5], "std": [0.25]}
    assert [found["id2label"][str(number)] for number in range(10)] == CLASSES
    assert found["weights"] == "soup.safetensors"


def test_the_experiment_is_told_where_the_workdir_has_it(stored, tmp_path):
    summary = summaries.whole(HOSTILE)
    summary["phases"][0]["soup"]["artifact"] = NAME
    workdir = stored[1].parents[1]
    place = workdir / "experiments" / "0123"
    place.mkdir(parents=True)
    (workdir / "summary.json").write_text(json.dumps(summaries.FULL))
    (place / "summary.json").write_text(json.dumps(summary))
    export.export(stored[1], tmp_path / "soup.safetensors", False)
    text = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    result = front["model-index"][0]["results"][0]
    assert result["dataset"] == {"type": "other", "name": HOSTILE, "split": "test"}
    assert f"dataset = {json.dumps(HOSTILE)}" in text
    assert "| corrupted test | 75.00 |" in text
    (workdir / "summary.json").unlink()
    (place / "summary.json").unlink()


def test_no_name_leaves_its_block(stored, tmp_path):
    """Outside of fenced blocks and the front matter nothing of the data stands as it is."""
    export.export(stored[1], tmp_path / "soup.safetensors", False)
    _, _, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    bare = re.sub(r"^(`{3,})[a-z]*\n.*?^\1$", "", text, flags=re.S | re.M)
    assert "cat" not in bare and "<script" not in bare
    # A fence inside a class's name would have ended a shorter one.
    assert "`````\n[" in text


def test_files_of_somebody_else_stay(stored, tmp_path, capsys):
    (tmp_path / "README.md").write_text("# ssoup_jax: mine\n")
    export.export(stored[1], tmp_path / "soup.safetensors", False)
    assert "no model card: README.md of something else is there" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "soup.safetensors"]
    assert (tmp_path / "README.md").read_text() == "# ssoup_jax: mine\n"


def test_an_export_writes_its_own_files_again(stored, tmp_path, capsys):
    for _ in range(2):
        export.export(stored[1], tmp_path / "soup.safetensors", False)
        assert "model card: " in capsys.readouterr().out
    names = ["README.md", "config.json", "network.py", "soup.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_other_formats_have_no_card(stored, tmp_path):
    export.export(stored[1], tmp_path / "soup.pt", False)
    assert [path.name for path in tmp_path.iterdir()] == ["soup.pt"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "config.json: cannot be read: No such file or directory"),
        ("{", "config.json: not of an exported network (Expecting property name"),
        ('{"model_type": "bert"}', "config.json: not of an exported network ('network')"),
        ('{"network": {"arch": "ResNet9", "n_classes": 2, "image_shape": [8, 8, 1]}}', "arch: unknown value 'ResNet9'"),
        ('{"network": {"arch": "Simple", "n_classes": 2, "image_shape": [8, 8, 1]}}', "does not fit Simple"),
    ],
)
def test_weights_without_their_configuration_are_one_line(stored, tmp_path, text, said):
    export.export(stored[1], tmp_path / "soup.safetensors", False)
    (tmp_path / "config.json").unlink()
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(SettingsError) as error:
        exported.load(tmp_path / "soup.safetensors")
    assert said in str(error.value)


FAMILIES = ("Simple", "CNN", "ResNet8", "ResNet8x2", "ResNet18", "ResNet50", "WideResNet20", "VGG11")


@pytest.mark.parametrize("arch", FAMILIES)
def test_every_family_has_the_same_tensors_in_pytorch(arch):
    image_shape = (64, 32, 3)
    with torch.device("meta"):
        state = torch_networks.build(arch, 7, image_shape).state_dict()
    listed = exported.pytorch.entries(models.build(arch, 7, image_shape), image_shape)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {one.name: one.shape for one in listed}


@pytest.mark.parametrize("arch", ["ResNet9", "ResNet2", "resnet18", "VGG12"])
def test_an_unknown_network_is_refused_in_pytorch_too(arch):
    with pytest.raises(ValueError, match=f"unknown value '{arch}'"):
        torch_networks.build(arch, 10, (32, 32, 3))
