"""Whole experiments with parts of one's own, and how their stages are named."""

import io

import jax
import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from ssoup_jax.data import sources
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.interop import __main__ as interop
from ssoup_jax.report.console import Console
from tests.experiment import tiny

PARTS = """
import numpy as np
import optax
from flax import linen as nn
from ssoup_jax.data import sources

class Net(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(32)(x.reshape(len(x), -1))
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9)(x))
        return nn.Dense(self.n_classes)(nn.Dropout(0.1, deterministic=not train)(x))

def load():
    digits = sources.load("digits")
    images = np.concatenate([digits.train.images, digits.val.images])
    labels = np.concatenate([digits.train.labels, digits.val.labels])
    return {"x_train": images, "y_train": labels, "x_test": digits.test.images, "y_test": digits.test.labels}

def score(weights, key):
    return {name: np.abs(leaf) / np.abs(leaf).max() for name, leaf in weights.items()}

def weigh(scores, evaluate):
    return [1.0, 3.0]

def adam(learning_rate, momentum):
    return optax.adam(learning_rate, b1=momentum)

def squared(logits, labels):
    return optax.l2_loss(logits, jax.nn.one_hot(labels, logits.shape[1])).sum(1)

def words(n_classes):
    return Words(n_classes)

class Words(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return x.reshape(len(x), -1) @ self.param("words", nn.initializers.ones, (64, self.n_classes))

def late(weights, key):
    raise RuntimeError("no scores")
"""
PARTS = "import jax\n" + PARTS

OWN = {
    "arch": "mine:Net",
    "dataset": "mine:load",
    "pruning_selector": "mine:score",
    "ensemble_method": "mine:weigh",
    "optimizer": "mine:adam",
    "loss": "mine:squared",
}
SMALL = {"n_phases": 1, "learning_rate": "(Cosine, 0.01)", "goal_sparsity": 0.7}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where an experiment with nothing but own parts was run; its summary and what it printed."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        (folder / "theirs.py").write_text(PARTS)
        given = {name: text.replace("mine", "theirs") for name, text in OWN.items()}
        yield folder, *tiny.launch(folder / "runs", **given, **SMALL)


def test_everything_may_be_ones_own(finished):
    _, summary, printed = finished
    assert "theirs:load: images of 8 x 8 x 1" in printed and "theirs:Net on " in printed
    assert "Ensemble phase 1: 25.0% of member 0, 75.0% of member 1" in printed
    soup = summary["phases"][0]["soup"]
    assert soup["weights"] == {"0": 0.25, "1": 0.75}
    assert soup["test"]["accuracy"] > 0.6, "0.1 is chance"
    assert soup["model"]["arch"].startswith("theirs:Net ")


def test_the_same_start_again_finds_it(finished):
    folder, summary, _ = finished
    given = {name: text.replace("mine", "theirs") for name, text in OWN.items()}
    found, printed = tiny.launch(folder / "runs", **given, **SMALL)
    assert printed.count("finished earlier") == 4
    assert found == summary


def test_a_soup_is_the_weighted_mean_of_its_members(finished):
    folder, _, _ = finished
    found = {}
    for path in (folder / "runs/artifacts").iterdir():
        assert interop.main(["export", str(path), str(folder / f"{path.name}.safetensors")]) == 0
        found[path.name] = load_file(folder / f"{path.name}.safetensors")
    (soup,) = (arrays for name, arrays in found.items() if "soup" in name)
    assert soup.keys() == {
        *(f"params/Dense_{i}/{leaf}" for i in (0, 1) for leaf in ("kernel", "bias")),
        *(f"params/BatchNorm_0/{leaf}" for leaf in ("scale", "bias")),
        *(f"batch_stats/BatchNorm_0/{leaf}" for leaf in ("mean", "var")),
    }
    one, other = (arrays["params/Dense_0/kernel"] for name, arrays in found.items() if "imp" in name)
    means = [0.25 * a + 0.75 * b for a, b in ((one, other), (other, one))]
    assert any(np.allclose(soup["params/Dense_0/kernel"], mean, atol=1e-6) for mean in means)


def test_a_network_of_ones_own_is_exported_as_onnx(finished, capsys):
    folder, summary, _ = finished
    artifact = next((folder / "runs/artifacts").glob("*soup*"))
    assert interop.main(["export", str(artifact), str(folder / "soup.onnx")]) == 0
    assert "onnxruntime computes the same logits as JAX, to " in capsys.readouterr().out
    test = sources.load("digits").test
    session = onnxruntime.InferenceSession(folder / "soup.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": np.float32(test.images.transpose(0, 3, 1, 2) / 255)})
    # An image that rounding decides is one of 360.
    accuracy = np.mean(logits.argmax(1) == test.labels)
    assert accuracy == pytest.approx(summary["phases"][0]["soup"]["test"]["accuracy"], abs=0.003)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["soup.pt"], "soup.pt: found suffix '.pt'; PyTorch knows no network of one's own: allowed: .safetensors"),
        (["soup.safetensors", "--pruned"], "--pruned: pairs of weights and masks are PyTorch's; theirs:Net "),
    ],
)
def test_what_is_pytorchs_is_refused_for_a_network_of_ones_own(finished, capsys, arguments, expected):
    folder, _, _ = finished
    artifact = next((folder / "runs/artifacts").glob("*soup*"))
    assert interop.main(["export", str(artifact), *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")


def names(**changes):
    plan = make_plan(tiny.settings(n_phases=1, **changes), "data")
    return {"dense": plan.dense.name, "imp": plan.candidates[0][0].name, "soup": plan.soups[0].name}


ALL = {"dense", "imp", "soup"}


@pytest.mark.parametrize(
    ("setting", "redone"),
    [
        ("arch", ALL),
        ("optimizer", ALL),
        ("loss", ALL),
        ("pruning_selector", {"imp", "soup"}),
        ("ensemble_method", {"soup"}),
    ],
)
def test_a_stage_is_named_by_the_source_of_what_it_is_made_with(own_module, setting, redone):
    text = OWN[setting]
    function = text.partition(":")[2]
    own_module(PARTS)
    before = names(**{setting: text})
    assert names(**{setting: text}) == before
    own_module(PARTS.replace(f"def {function}(", f"def {function}(  # changed\n").replace("class Net(", "class Net( "))
    after = names(**{setting: text})
    assert {stage for stage in ALL if after[stage] != before[stage]} == redone
    own_module(PARTS + f"\n{function}.version = '1'\n")
    declared = names(**{setting: text})
    own_module(PARTS.replace("(logits, labels)", "(logits, labels, *more)") + f"\n{function}.version = '1'\n")
    assert names(**{setting: text}) == declared != before


def test_the_data_name_a_stage_by_what_they_are_not_by_who_loads_them(own_module):
    own_module(PARTS)
    before = tiny.plan().dense.name
    by_npz = make_plan(tiny.settings(dataset="mine:load"), sources.load("digits").fingerprint)
    assert by_npz.dense.name == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arch": "mine:words"}, "arch: mine:words has nothing to prune; allowed: weights by the name of 'kernel'"),
        ({"pruning_selector": "mine:late"}, "pruning_selector: mine:late raised RuntimeError: no scores"),
        (
            {"arch": "mine:Net", "bn_recalibration": "exact"},
            "bn_recalibration: found 'exact'; the layers of mine:Net do not report batch_moments, as ",
        ),
        (
            {"arch": "mine:Net", "execution": "1x1:map", "mesh": "1x1"},
            None,
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(own_module, changes, expected):
    own_module(PARTS)
    settings, dataset = tiny.settings(**changes), sources.load("digits")
    if expected is None:
        assert prepare(settings, dataset, Console(io.StringIO())).task().cut is None
        return
    with pytest.raises(SettingsError) as error:
        prepare(settings, dataset, Console(io.StringIO()))
    assert str(error.value).startswith(expected)


def test_a_network_that_cannot_be_told_an_axis_is_not_spread_over_the_data(own_module):
    own_module(PARTS)
    context = prepare(tiny.settings(arch="mine:Net"), sources.load("digits"), Console(io.StringIO()))
    assert context.load(2, 64).batch_size is None
    usual = prepare(tiny.settings(), sources.load("digits"), Console(io.StringIO()))
    assert usual.load(2, 64).batch_size == 64
    assert len(jax.tree.leaves(context.like.params)) == 6
