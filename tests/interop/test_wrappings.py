"""Whatever people put around a state dict comes off, and what is left has the names that the network gives."""

import argparse
import collections
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.interop import pytorch, wrappings
from tests.interop import twins
from tests.interop.made import one_line, prefixed

NAMES = ("conv1.weight", "bn1.num_batches_tracked", "layer1.0.conv1.weight", "linear.weight", "linear.bias")


class Holder(torch.nn.Module):
    """A module that holds another, as Lightning's do, and the loss beside it."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def optimizer():
    """What Adam has after a step; its averages have the weights' shapes."""
    layer = torch.nn.Linear(3, 2)
    made = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    made.step()
    return made.state_dict()


def compiled(twin):
    return torch.compile(twin, backend="eager")  # others take seconds to import


def counted(state):
    """What thop leaves in every module."""
    modules = {"", *(f"{name.rpartition('.')[0]}." for name in state)}
    counts = {
        f"{module}{name}": torch.zeros(1).double() for module in modules for name in ("total_ops", "total_params")
    }
    return state | counts


def changed(state):
    """Another model of the same network."""
    return {name: value + 1 for name, value in state.items()}


FORMS = {
    "the imagenet example": lambda twin, state: {
        "epoch": 90,
        "arch": "resnet20",
        "state_dict": prefixed(state, "module."),
        "best_acc1": torch.tensor(91.25),
        "optimizer": optimizer(),
        "scheduler": {"last_epoch": 90, "_last_lr": [0.001]},
    },
    "net, accuracy, epoch": lambda twin, state: {"net": prefixed(state, "module."), "acc": 95.16, "epoch": 190},
    "Lightning": lambda twin, state: {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": Holder(model=twin, criterion=torch.nn.CrossEntropyLoss(torch.ones(10))).state_dict(),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.9), "best_model_path": "a.ckpt"}},
        "optimizer_states": [optimizer()],
        "hyper_parameters": {"lr": 0.1},
        "loops": {"fit_loop": {"state_dict": {}}},
    },
    "options beside it": lambda twin, state: {
        "model": state,
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("/runs")),
    },
    "a number of NumPy": lambda twin, state: {"state_dict": state, "best": np.float64(0.9), "n": np.int64(3)},
    "random state": lambda twin, state: {"state_dict": state, "rng": torch.get_rng_state()},
    "a matrix beside it": lambda twin, state: {"state_dict": state, "confusion": torch.ones(10, 10)},
    "a name of one's own": lambda twin, state: {"my_best": collections.OrderedDict(state)},
    "dicts in dicts": lambda twin, state: {"checkpoint": {"model": {"state_dict": state}}, "step": 3},
    "the average alone": lambda twin, state: {"state_dict_ema": state, "epoch": 3},
    "averaged": lambda twin, state: AveragedModel(twin).state_dict(),
    "averaged and compiled": lambda twin, state: AveragedModel(compiled(twin)).state_dict(),
    "parallel and compiled": lambda twin, state: torch.nn.DataParallel(compiled(twin)).state_dict(),
    "compiled and parallel": lambda twin, state: compiled(torch.nn.DataParallel(twin)).state_dict(),
    "partly compiled": lambda twin, state: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in state.items()},
    "held three times": lambda twin, state: Holder(net=Holder(backbone=Holder(model=twin))).state_dict(),
    "counted": lambda twin, state: counted(state),
    "counted in parallel": lambda twin, state: prefixed(counted(state), "module."),
    "with a step": lambda twin, state: state | {"global_step": torch.tensor(300)},
    "parameters": lambda twin, state: {name: torch.nn.Parameter(value, False) for name, value in state.items()},
}


@pytest.fixture(scope="module")
def twin():
    return twins.make("ResNet8")[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a.pth.tar", "b.th", "c.ckpt", "d.bin", "E.PT", "f"])
def test_forms_that_people_have(tmp_path, twin, form, name):
    state = {key: value.clone() for key, value in twin.state_dict().items()}
    torch.save(FORMS[form](twin, state), tmp_path / name, _use_new_zipfile_serialization=name != "b.th")
    found = pytorch.read(tmp_path / name)
    assert list(found.state) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(found.state[key], value)
    doubtful = {"Lightning": ("criterion.weight",), "with a step": ("global_step",)}
    assert found.left_out == doubtful.get(form, ())


@pytest.mark.parametrize("name", ["a.safetensors", "A.SAFETENSORS", "model.pt", "model.bin", "model"])
def test_content_and_not_the_suffix_decides(tmp_path, twin, name):
    save_file(prefixed(twin.state_dict(), "model."), tmp_path / name)
    torch.save(twin.state_dict(), tmp_path / f"torch-{name}")
    one, other = (pytorch.read(tmp_path / each).state for each in (name, f"torch-{name}"))
    assert one.keys() == other.keys() == twin.state_dict().keys()
    np.testing.assert_array_equal(one["conv1.weight"], other["conv1.weight"])


REFUSED = {
    "a model and its average": (
        lambda twin, state: {"model": state, "ema": changed(state), "epoch": 3},
        "holds several models, 'model', 'ema'; save the one that is meant alone",
    ),
    "both of timm": (
        lambda twin, state: {"state_dict": state, "state_dict_ema": changed(state)},
        "holds several models, 'state_dict', 'state_dict_ema'; ",
    ),
    "a teacher too": (
        lambda twin, state: prefixed(state, "student.") | prefixed(state, "teacher."),
        "conv1.weight of shape (16, 3, 3, 3) is missing, its first weight is student.conv1.weight",
    ),
    "one twice": (
        lambda twin, state: state | {"module.conv1.weight": state["conv1.weight"]},
        "has conv1.weight twice, once as module.conv1.weight",
    ),
    "an optimizer": (lambda twin, state: optimizer(), "holds the state of an optimizer, not of a model"),
    "an optimizer in a dict": (lambda twin, state: {"optimizer": optimizer()}, "optimizer is a dict, not a tensor"),
    "a whole module": (
        lambda twin, state: {"model": twin},
        "have to run code of ssoup_jax.interop.torch_networks.CifarResNet",
    ),
    "a whole parallel module": (lambda twin, state: torch.nn.DataParallel(twin), "code of torch.nn.parallel."),
    "a weight that it does not have": (
        lambda twin, state: state | {"alpha": torch.tensor(0.5)},
        "alpha of shape () has",
    ),
    "another last layer": (
        lambda twin, state: state | {"fc.weight": torch.ones(3, 64)},
        "fc.weight of shape (3, 64) has no place in it",
    ),
    "its own normalisation": (
        lambda twin, state: prefixed(state, "net.") | {"normalize.mean": torch.ones(3)},
        "conv1.weight of shape (16, 3, 3, 3) is missing",
    ),
    "no weights": (
        lambda twin, state: {name: value.to("meta") for name, value in state.items()},
        "conv1.weight cannot be read",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_one_model_is_refused(tmp_path, twin, case):
    make, expected = REFUSED[case]
    torch.save(make(twin, dict(twin.state_dict())), tmp_path / "a.pt")
    model = models.build("ResNet8", 10, (16, 16, 3))
    read = lambda path: pytorch.variables_from(pytorch.read(path), model, (16, 16, 3))  # noqa: E731
    assert expected in one_line(tmp_path / "a.pt", read)


def test_a_dict_that_holds_itself_is_refused(tmp_path, twin):
    found = {"state_dict": twin.state_dict()}
    found["self"] = found
    torch.save(found, tmp_path / "a.pt")
    assert "holds several models, 'state_dict', 'self'" in one_line(tmp_path / "a.pt")
    del found["state_dict"]
    torch.save(found, tmp_path / "b.pt")
    assert "self is a dict, not a tensor" in one_line(tmp_path / "b.pt")


prefixes = st.lists(st.sampled_from(["model", "net", "module", "_orig_mod", "backbone", "0", "_fsdp_wrapped_module"]))
dicts = st.lists(st.sampled_from(["state_dict", "model", "net", "model_state_dict", "ema"]), max_size=4)


@given(prefixes, dicts)
def test_any_prefixes_in_any_dicts_come_off(prefix, nested):
    arrays = {name: np.full((2, 3), number, np.float32) for number, name in enumerate(NAMES)}
    found = {".".join([*prefix, name]): array for name, array in arrays.items()}
    for name in nested:
        found = {"epoch": 3, name: found}
    plain, left_out = wrappings.plain_names(wrappings.state_dict_in(found))
    assert left_out == []
    assert list(plain) == list(arrays)
    assert all(plain[name] is array for name, array in arrays.items())


def test_names_of_a_single_layer_stay():
    for names in (("fc.weight", "fc.bias"), ("weight",), ("0.weight", "2.weight")):
        assert [*wrappings.plain_names({name: np.ones((1, 1)) for name in names})[0]] == [*names]


def test_a_home_directory_is_spelt_out(tmp_path, monkeypatch, twin):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(twin.state_dict(), tmp_path / "a.pt")
    assert pytorch.read("~/a.pt").path == tmp_path / "a.pt"
    with pytest.raises(SettingsError, match=r"^~nobody-of-that-name/a\.pt: no such file$"):
        pytorch.read("~nobody-of-that-name/a.pt")
