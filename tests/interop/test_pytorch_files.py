"""Files as people have them are understood, and every one that cannot be is one clear line."""

import collections
import os
import pickle
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssoup_jax.interop import pytorch
from ssoup_jax.interop.state_dict import COUNTER
from tests.interop.made import SUFFIXES, assert_same_bits, network, one_line, prefixed, state_of


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize(
    "dress",
    [
        lambda state: prefixed(state, "module."),
        lambda state: prefixed(state, "_orig_mod."),
        lambda state: prefixed(state, "_orig_mod.module."),
        lambda state: prefixed(state, "module._orig_mod."),
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": collections.OrderedDict(state), "args": None},
        lambda state: {"model_state_dict": prefixed(state, "module."), "loss": 0.25},
        lambda state: {name: value for name, value in state.items() if not name.endswith(COUNTER)},
        lambda state: {name: torch.nn.Parameter(value, requires_grad=False) for name, value in state.items()},
        lambda state: {name: value.to_sparse() if value.ndim == 2 else value for name, value in state.items()},
        lambda state: {name: value.bool() if name.endswith("_mask") else value for name, value in state.items()},
        lambda state: dict(sorted(state.items(), reverse=True)),
        lambda state: {name: value.double() for name, value in state.items()},
    ],
)
def test_what_people_save_is_understood(tmp_path, dress, pruned):
    state = state_of("ResNet8", pruned)
    torch.save(state, tmp_path / "plain.pt")
    torch.save(dress(state), tmp_path / "dressed.pt")
    plain, dressed = (pytorch.read(tmp_path / f"{name}.pt") for name in ("plain", "dressed"))
    model = network("ResNet8", (16, 16, 3))
    assert_same_bits(*(pytorch.variables_from(checkpoint, model, (16, 16, 3)) for checkpoint in (dressed, plain)))
    assert (dressed.masks is None) == (not pruned)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_widths_become_float32(tmp_path, suffix, dtype):
    state = {name: value.to(dtype) for name, value in state_of().items()}
    (save_file if suffix == ".safetensors" else torch.save)(state, tmp_path / f"a{suffix}")
    found = pytorch.read(tmp_path / f"a{suffix}").state
    for name, value in state.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value.float().numpy())


def test_an_old_torch_file_is_read(tmp_path):
    torch.save(state_of(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert pytorch.read(tmp_path / "old.pt").shapes["fc1.weight"] == (512, 64)


def test_the_same_bytes_have_the_same_hash_wherever_they_lie(tmp_path):
    for name in ("a", "b"):
        torch.save(state_of(), tmp_path / f"{name}.pt")
    (tmp_path / "c.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    state = state_of()
    state["fc1.bias"][0] += 1
    torch.save(state, tmp_path / "b.pt")
    a, b, c = (pytorch.read(tmp_path / f"{name}.pt").sha256 for name in "abc")
    assert a == c != b and len(a) == 64


class Code:
    """A pickle of this runs code when it is loaded."""

    def __reduce__(self):
        return os.putenv, ("SSOUP_TEST_CODE_RAN", "1")


def with_entry(name, change):
    def state():
        found = state_of(pruned="_" in name)
        found[name] = change(found[name])
        return found

    return state


def at_first(value):
    def change(tensor):
        tensor = tensor.detach().clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


def both_plain_and_pruned():
    state = state_of(pruned=True)
    return state | {"fc1.weight": state["fc1.weight_orig"] * state["fc1.weight_mask"]}


def mask_that_disagrees():
    state = state_of()
    mask = torch.ones_like(state["fc1.weight"])
    mask[:2] = 0
    state["fc1.weight"][0] = 0
    return state | {"fc1.weight_mask": mask}


def without(name):
    return lambda: {key: value for key, value in state_of(pruned=True).items() if key != name}


WRONG_STATES = {
    "nan": (with_entry("fc1.weight", at_first(torch.nan)), "fc1.weight: 1 of 32768 values are not finite"),
    "inf": (with_entry("fc2.bias", at_first(torch.inf)), "fc2.bias: 1 of 10 values are not finite"),
    "too large": (
        with_entry("fc2.bias", lambda t: torch.full((10,), 1e300, dtype=torch.float64)),
        "fc2.bias: 10 of 10 values are not finite float32 numbers",
    ),
    "pruned nan": (with_entry("fc1.weight_orig", at_first(torch.nan)), "fc1.weight_orig: 1 of 32768 values"),
    "integers": (with_entry("fc1.weight", lambda t: t.int()), "fc1.weight has dtype int32; allowed: floating point"),
    "booleans": (with_entry("fc1.bias", lambda t: t > 0), "fc1.bias has dtype bool"),
    "mask of two": (with_entry("fc1.weight_mask", at_first(2)), "fc1.weight_mask: 1 of 32768 values are neither 0"),
    "mask of nan": (with_entry("fc1.weight_mask", at_first(torch.nan)), "1 of 32768 values are neither 0 nor 1"),
    "mask shape": (
        with_entry("fc1.weight_mask", lambda t: t.T.contiguous()),
        "fc1.weight has shape (512, 64), its mask (64, 512)",
    ),
    "mask that disagrees": (mask_that_disagrees, "fc1.weight: 64 weights are not zero where the mask is"),
    "mask alone": (without("fc1.weight_orig"), "fc1.weight_mask comes without fc1.weight_orig"),
    "mask missing": (without("fc1.weight_mask"), "fc1.weight_orig comes without fc1.weight_mask"),
    "plain and pruned": (both_plain_and_pruned, "has both fc1.weight and fc1.weight_orig"),
    "empty": (dict, "holds no tensors"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("case", WRONG_STATES)
def test_tensors_that_cannot_be_right_are_named(tmp_path, case, suffix):
    make, expected = WRONG_STATES[case]
    path = tmp_path / f"wrong{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(make(), path)
    assert expected in one_line(path)


def saved(thing, **options):
    def write(path):
        torch.save(thing, path, **options)

    return write


def truncated(keep, **options):
    def write(path):
        torch.save(state_of(), path, **options)
        path.write_bytes(path.read_bytes()[:keep])

    return write


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "dear reader")


def numpy_archive(path):
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))


TRUNCATED = "truncated, or not a PyTorch file"


WRONG_TORCH_FILES = {
    "missing": (lambda path: None, "no such file"),
    "a folder": (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "empty": (lambda path: path.touch(), TRUNCATED),
    "truncated": (truncated(60_000), TRUNCATED),
    "truncated early": (truncated(100), TRUNCATED),
    "truncated old": (truncated(60_000, _use_new_zipfile_serialization=False), TRUNCATED),
    "no zip": (lambda path: path.write_text("dear reader\n" * 99), TRUNCATED),
    "zeros": (lambda path: path.write_bytes(bytes(999)), TRUNCATED),
    "another zip": (zipped, "a zip archive of something else"),
    "npz": (numpy_archive, "a zip archive of something else"),
    "code": (saved({"state_dict": {}, "x": Code()}), "code of posix.putenv"),
    "old code": (saved({"x": Code()}, _use_new_zipfile_serialization=False), "code of posix.putenv"),
    "a bare pickle": (lambda path: path.write_bytes(pickle.dumps(Code())), "code of posix.putenv"),
    "an old bare pickle": (lambda path: path.write_bytes(pickle.dumps(Code(), protocol=2)), "code of posix.putenv"),
    "a module": (saved(torch.nn.Linear(2, 2)), "code of torch.nn.modules.linear.Linear"),
    "arrays": (saved({"fc1.weight": np.ones(3)}), "code of numpy."),
    "a tensor": (saved(torch.ones(3)), "holds a Tensor, not a state dict"),
    "a list": (saved([torch.ones(3)]), "holds a list, not a state dict"),
    "a number": (saved({"fc1.weight": torch.ones(3), "epoch": 3}), "epoch is a int, not a tensor"),
    "complex": (saved({"fc1.weight": torch.ones(3, dtype=torch.complex64)}), "fc1.weight has dtype complex64"),
}


@pytest.mark.parametrize("case", WRONG_TORCH_FILES)
def test_files_that_are_no_checkpoints_are_refused(tmp_path, case):
    write, expected = WRONG_TORCH_FILES[case]
    write(tmp_path / "wrong.pt")
    assert expected in one_line(tmp_path / "wrong.pt")
    assert "SSOUP_TEST_CODE_RAN" not in os.environ


def test_a_torchscript_program_is_refused(tmp_path, recwarn):
    # Making the program warns, reading it must not.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "wrong.pt")
    assert "holds a TorchScript program" in one_line(tmp_path / "wrong.pt")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (lambda good: good[:40], "truncated, or not a safetensors file"),
        (lambda good: good[:-4], "truncated, or not a safetensors file"),
        (lambda good: b"", "truncated, or not a safetensors file"),
        (lambda good: b"dear reader" * 99, "truncated, or not a safetensors file"),
        (lambda good: good.replace(b'"F32"', b'"F8_"'), "truncated, or not a safetensors file"),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path, data, expected):
    path = tmp_path / "wrong.safetensors"
    save_file({"a": torch.ones(3)}, path)
    path.write_bytes(data(path.read_bytes()))
    assert expected in one_line(path)


def test_a_safetensors_dtype_that_is_not_supported_is_named(tmp_path):
    save_file({"fc1.weight": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    assert "fc1.weight has dtype F8_E4M3" in one_line(tmp_path / "a.safetensors")


def test_without_torch_the_line_says_what_to_do(tmp_path, monkeypatch):
    torch.save(state_of(), tmp_path / "a.pt")
    save_file(state_of(), tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    message = one_line(tmp_path / "a.pt")
    assert "PyTorch" in message and "pip install" in message and ".safetensors" in message
    assert pytorch.read(tmp_path / "a.safetensors").shapes["fc2.bias"] == (10,)


def test_a_torch_that_can_be_made_to_run_code_is_not_used(tmp_path, monkeypatch):
    torch.save(state_of(), tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert "PyTorch 2.5.1+cpu cannot read files safely" in one_line(tmp_path / "a.pt")
