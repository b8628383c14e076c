"""Models by the names of their own parameters: written, read from files and from folders of Orbax's, and refused."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import v1 as ocp
from safetensors.numpy import load_file, save_file

from ssoup_jax.errors import SettingsError
from ssoup_jax.interop import by_names, zeros
from ssoup_jax.models.variables import Variables

VARIABLES = {
    "params": {
        "Dense_0": {"kernel": np.float32([[1, 0], [3, 0]]), "bias": np.zeros(2, np.float32)},
        "embed": np.float32([[0, 0], [0, 1]]),
    },
    "batch_stats": {"norm": {"mean": np.float32([1, 2])}},
}
FLAT = flatten_dict(VARIABLES, sep="/")


def same(checkpoint):
    assert checkpoint.state.keys() == FLAT.keys()
    for name, array in FLAT.items():
        np.testing.assert_array_equal(checkpoint.state[name], array)
        assert checkpoint.state[name].dtype == np.float32
    return True


def test_what_is_written_is_what_flax_flattens_and_is_read_again(tmp_path):
    path = tmp_path / "net.safetensors"
    by_names.write(path, Variables.from_flax(VARIABLES))
    assert load_file(path).keys() == FLAT.keys()
    assert unflatten_dict(load_file(path), sep="/")["params"]["Dense_0"].keys() == {"kernel", "bias"}
    assert same(by_names.read(path))


@pytest.mark.parametrize(
    "arrays",
    [
        FLAT,
        {name.replace("/", "."): array for name, array in FLAT.items()},
        {name.removeprefix("params/"): array for name, array in FLAT.items()},
        {name: array.astype(np.float64) for name, array in FLAT.items()},
        {name: array.astype(np.float16) for name, array in FLAT.items()},
    ],
    ids=["slashes", "dots", "parameters alone", "double", "half"],
)
def test_names_and_precisions_that_are_the_same(tmp_path, arrays):
    save_file(arrays, tmp_path / "net.safetensors")
    assert same(by_names.read(tmp_path / "net.safetensors"))


def test_a_folder_of_orbax_is_read_too(tmp_path):
    ocp.save(tmp_path / "net", VARIABLES)
    assert same(by_names.read(tmp_path / "net"))
    half = {"params": {"Dense_0": {"kernel": jnp.ones((2, 2), jnp.bfloat16)}}}
    ocp.save(tmp_path / "half", half)
    found = by_names.read(tmp_path / "half")
    assert found.state["params/Dense_0/kernel"].dtype == np.float32
    assert found.sha256 != by_names.read(tmp_path / "net").sha256


def test_what_is_no_model_in_a_training_state_is_named_and_left_out(tmp_path):
    state = TrainState.create(apply_fn=None, params=VARIABLES["params"], tx=optax.adam(0.1))
    ocp.save(tmp_path / "state", {"params": state.params, "opt_state": state.opt_state, "step": 3})
    found = by_names.read(tmp_path / "state")
    assert {name.partition("/")[0] for name in found.state} == {"params"}
    assert sorted(found.left_out) == ["opt_state", "step"]


def test_the_state_of_an_nnx_model_has_its_names(tmp_path):
    state = nnx.to_pure_dict(nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param))
    ocp.save(tmp_path / "nnx", {"layer": state})
    assert by_names.read(tmp_path / "nnx").state.keys() == {"params/layer/kernel", "params/layer/bias"}


def test_zeros_of_kernels_alone_are_taken_for_pruned(tmp_path):
    save_file(FLAT, tmp_path / "net.safetensors")
    masked, note = zeros.as_masks(by_names.read(tmp_path / "net.safetensors"), "auto", by_names.is_kernel)
    assert note.startswith("50.00% of the weights are exactly zero")
    params, stats, mask = by_names.variables_from(masked, Variables.from_flax(VARIABLES))
    assert mask["embed"] is None and mask["Dense_0"]["bias"] is None
    np.testing.assert_array_equal(mask["Dense_0"]["kernel"], [[True, False], [True, False]])
    np.testing.assert_array_equal(params["embed"], VARIABLES["params"]["embed"])
    np.testing.assert_array_equal(stats["norm"]["mean"], [1, 2])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"params/Dense_0/kernel": None}, "params/Dense_0/kernel is nothing, where float32[2, 2] is wanted"),
        ({"params/Dense_0/kernel": np.zeros((2, 3), np.float32)}, "params/Dense_0/kernel is float32[2, 3], where "),
        ({"params/Dense_1/kernel": np.zeros(2, np.float32)}, "params/Dense_1/kernel is float32[2], where nothing is"),
        ({"batch_stats/norm/mean": None}, "batch_stats/norm/mean is nothing, where float32[2] is wanted"),
    ],
)
def test_another_network_is_refused_by_the_first_name_that_shows_it(tmp_path, changes, expected):
    path = tmp_path / "net.safetensors"
    save_file({name: array for name, array in (FLAT | changes).items() if array is not None}, path)
    with pytest.raises(SettingsError) as error:
        by_names.variables_from(by_names.read(path), Variables.from_flax(VARIABLES))
    assert str(error.value).startswith(f"{path}: does not fit: {expected}")


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("params/n", np.int32([1]), "params/n has dtype int32; allowed: floating point"),
        ("params/n", np.float32([1, np.nan]), "params/n: 1 of 2 values are not finite float32 numbers"),
    ],
)
def test_what_is_no_weight_is_one_line(tmp_path, name, array, expected):
    path = tmp_path / "net.safetensors"
    save_file(FLAT | {name: array}, path)
    with pytest.raises(SettingsError) as error:
        by_names.read(path)
    assert str(error.value) == f"{path}: {expected}"


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError) as error:
        by_names.read(tmp_path / "folder")
    assert str(error.value).startswith(f"{tmp_path}/folder: no checkpoint of Orbax that can be read (")
    assert "\n" not in str(error.value)
    with pytest.raises(SettingsError, match=r"nothing: no such file$"):
        by_names.read(tmp_path / "nothing")
