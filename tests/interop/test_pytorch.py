"""PyTorch files: networks agree with their PyTorch twins, bits survive, and every mistake is one clear line."""

import collections
import functools
import json
import os
import pickle
import sys
import warnings
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils import prune

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.interop import files, fits, pytorch
from ssoup_jax.interop.state_dict import COUNTER, entries, from_state_dict
from ssoup_jax.pruning import apply_mask, full_mask, is_kernel, prunable_leaves
from tests.interop import twins

SUFFIXES = (".pt", ".pth", ".safetensors")
# Two frameworks sum in different orders: a few dozen float32 roundings of logits that are about 1.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def network(arch, image_shape, n_classes=10):
    return models.build(arch, n_classes, image_shape)


def images_for(image_shape):
    return np.random.default_rng(0).normal(size=(4, *image_shape)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def our_logits(model, params, batch_stats, images):
    return model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)


def random_variables(model, image_shape, sparsity=0.7):
    """Draws values for every leaf, negative ones included, and zeroes those that a random mask prunes."""
    random = np.random.default_rng(1)
    state, masks = {}, {}
    for entry in entries(model, image_shape):
        if entry.collection:
            state[entry.name] = random.normal(size=entry.shape).astype(np.float32)
        if is_kernel("/".join(entry.path)):
            masks[entry.path] = random.random(entry.shape) > sparsity
            state[entry.name] = np.where(masks[entry.path], state[entry.name], np.float32(0))
    params, batch_stats = from_state_dict(model, image_shape, state)
    mask = full_mask(params)
    for path, kept in masks.items():
        *modules, leaf = path
        node = mask
        for module in modules:
            node = node[module]
        node[leaf] = jnp.asarray(kept.transpose(2, 3, 1, 0) if kept.ndim == 4 else kept.T)
    return params, batch_stats, mask


def assert_same_bits(found, wanted):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path
    assert jax.tree.structure(found) == jax.tree.structure(wanted)


@pytest.mark.parametrize("arch", twins.SMALL)
def test_a_twins_file_gives_the_twins_logits(tmp_path, arch):
    twin, image_shape = twins.make(arch)
    torch.save(twin.state_dict(), tmp_path / "twin.pt")
    model, images = network(arch, image_shape), images_for(image_shape)
    params, batch_stats, mask = pytorch.variables_from(pytorch.read(tmp_path / "twin.pt"), model, image_shape)
    np.testing.assert_allclose(our_logits(model, params, batch_stats, images), twins.logits(twin, images), **CLOSE)
    assert_same_bits(mask, full_mask(params))


@pytest.mark.parametrize("arch", twins.SMALL)
def test_a_pruned_twins_file_gives_its_logits_and_masks(tmp_path, arch):
    twin, image_shape = twins.make(arch)
    twins.prune_globally(twin, 0.75)
    torch.save(twin.state_dict(), tmp_path / "twin.pt")
    checkpoint = pytorch.read(tmp_path / "twin.pt")
    for name, module in twin.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            kept = module.weight_mask.numpy().astype(bool)
            weight = checkpoint.state[f"{name}.weight"]
            np.testing.assert_array_equal(checkpoint.masks[f"{name}.weight"], kept)
            assert np.any(module.weight_orig.detach().numpy()[~kept]), "PyTorch keeps what it pruned"
            assert not np.any(weight[~kept]) and not np.any(np.signbit(weight[~kept]))
    model, images = network(arch, image_shape), images_for(image_shape)
    params, batch_stats, mask = pytorch.variables_from(checkpoint, model, image_shape)
    assert jax.tree.structure(mask) == jax.tree.structure(full_mask(params))
    np.testing.assert_allclose(our_logits(model, params, batch_stats, images), twins.logits(twin, images), **CLOSE)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("arch", twins.SMALL)
def test_a_twin_loads_what_was_written(tmp_path, arch, pruned):
    twin, image_shape = twins.make(arch)
    model, images = network(arch, image_shape), images_for(image_shape)
    other = {name: value.numpy() for name, value in twins.make(arch, seed=1)[0].state_dict().items()}
    params, batch_stats = from_state_dict(model, image_shape, other)
    _, _, mask = random_variables(model, image_shape)
    params = apply_mask(params, mask)
    pytorch.write(tmp_path / "ours.pt", model, image_shape, params, batch_stats, mask, pruned=pruned)
    if pruned:
        for module in twins.prunable(twin):
            prune.identity(module, "weight")
    state = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert list(state) == list(twin.state_dict())
    assert {name: value.dtype for name, value in state.items()} == {
        name: value.dtype for name, value in twin.state_dict().items()
    }
    twin.load_state_dict(state, strict=True)
    np.testing.assert_allclose(our_logits(model, params, batch_stats, images), twins.logits(twin, images), **CLOSE)
    assert sum(int((module.weight == 0).sum()) for module in twins.prunable(twin)) == sum(
        int((~leaf).sum()) for leaf in prunable_leaves(mask, mask).values()
    )


ROUND_TRIPS = {
    **{arch: (32, 32, 3) for arch in models.ARCHS},
    "Simple": (28, 28, 1),
    "CNN": (8, 9, 1),
    "ResNet8": (8, 8, 1),
    "ResNet8x2": (8, 8, 3),
}
SMALL = ("Simple", "CNN", "ResNet20", "ResNet8", "ResNet8x2")


@pytest.mark.parametrize(
    ("arch", "image_shape"),
    [
        pytest.param(arch, shape, id=arch, marks=() if arch in SMALL else pytest.mark.slow)
        for arch, shape in ROUND_TRIPS.items()
    ],
)
def test_round_trip_bit_for_bit(tmp_path, arch, image_shape):
    model = network(arch, image_shape, n_classes=7)
    params, batch_stats, mask = random_variables(model, image_shape)
    for suffix in (".pt", ".safetensors"):
        for pruned, wanted_mask in ((True, mask), (False, full_mask(params))):
            path = tmp_path / f"{pruned}{suffix}"
            pytorch.write(path, model, image_shape, params, batch_stats, mask, pruned=pruned)
            checkpoint = pytorch.read(path)
            found = pytorch.variables_from(checkpoint, model, image_shape)
            assert_same_bits(found, (params, batch_stats, wanted_mask))
    assert fits.find(checkpoint.shapes, image_shape) == (arch, 7, image_shape)


def test_nothing_pruned_is_written_as_masks_of_ones(tmp_path):
    model = network("Simple", (8, 8, 1))
    params, batch_stats, _ = random_variables(model, (8, 8, 1))
    pytorch.write(tmp_path / "a.pt", model, (8, 8, 1), params, batch_stats, pruned=True)
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert [name for name in state if name.endswith("_mask")] == ["fc1.weight_mask", "fc2.weight_mask"]
    assert state["fc2.weight_mask"].dtype == torch.float32 and bool((state["fc2.weight_mask"] == 1).all())


def state_of(arch="Simple", pruned=False):
    twin, _ = twins.make(arch)
    if pruned:
        twins.prune_globally(twin, 0.5)
    return twin.state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


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


def one_line(path, read=pytorch.read):
    with pytest.raises(SettingsError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


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


def test_a_suffix_that_says_nothing_is_not_written(tmp_path):
    model = network("Simple", (8, 8, 1))
    variables = random_variables(model, (8, 8, 1))

    def write(path):
        pytorch.write(path, model, (8, 8, 1), *variables, pruned=False)

    assert "found suffix '.bin'; allowed: .pt, .pth, .safetensors" in one_line(tmp_path / "model.bin", write)
    write(tmp_path / "MODEL.PT")
    assert pytorch.read(tmp_path / "MODEL.PT").shapes["fc2.bias"] == (10,)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_of_classes_lie_beside_the_weights(tmp_path, suffix):
    model = network("Simple", (8, 8, 1))
    variables = random_variables(model, (8, 8, 1))
    for classes in (None, ["aal", "ärger", "zebra"]):
        path = tmp_path / f"a{suffix}"
        pytorch.write(path, model, (8, 8, 1), *variables, pruned=False, classes=classes)
        assert_same_bits(pytorch.variables_from(pytorch.read(path), model, (8, 8, 1))[:2], variables[:2])
        if suffix == ".safetensors":
            with safe_open(path, "numpy") as file:
                assert json.loads(file.metadata().get("classes", "null")) == classes
        else:
            found = torch.load(path, weights_only=True)
            assert list(found) == (list(state_of()) if classes is None else ["state_dict", "classes"])
            assert found.get("classes") == classes


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


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        (
            ("ResNet8", 10, (16, 16, 3)),
            ("ResNet8x4", 10, (16, 16, 3)),
            "does not fit ResNet8x4 with 10 classes on 16x16x3 images: conv1.weight has shape (16, 3, 3, 3), "
            "wanted (64, 3, 3, 3); it fits ResNet8 with 10 classes on 16x16x3 images",
        ),
        (
            ("ResNet8", 10, (16, 16, 3)),
            ("ResNet8", 100, (16, 16, 3)),
            "linear.weight has shape (10, 64), wanted (100, 64); it fits ResNet8 with 10 classes on 16x16x3 images",
        ),
        (
            ("Simple", 10, (28, 28, 1)),
            ("ResNet8", 10, (28, 28, 1)),
            "conv1.weight of shape (16, 1, 3, 3) is missing, its first weight is fc1.weight of shape (512, 784); "
            "it fits Simple with 10 classes on 28x28x1 images",
        ),
        (
            ("ResNet14", 10, (8, 8, 3)),
            ("ResNet8", 10, (8, 8, 3)),
            "layer1.1.conv1.weight of shape (16, 16, 3, 3) has no place in it; it fits ResNet14 with 10 classes",
        ),
        (
            ("Simple", 10, (28, 28, 1)),
            ("Simple", 10, (8, 8, 1)),
            "fc1.weight has shape (512, 784), wanted (512, 64); it fits Simple with 10 classes on 28x28x1 images",
        ),
    ],
)
def test_another_networks_file_is_named_as_what_it_is(tmp_path, held, wanted, expected):
    arch, n_classes, image_shape = held
    model = network(arch, image_shape, n_classes)
    pytorch.write(tmp_path / "a.pt", model, image_shape, *random_variables(model, image_shape), pruned=True)
    arch, n_classes, image_shape = wanted
    other = network(arch, image_shape, n_classes)
    message = one_line(tmp_path / "a.pt", lambda path: pytorch.variables_from(pytorch.read(path), other, image_shape))
    assert expected in message


def test_a_file_that_fits_nothing_says_so(tmp_path):
    torch.save({"encoder.weight": torch.ones(3, 3)}, tmp_path / "a.pt")
    model = network("Simple", (8, 8, 1))
    message = one_line(tmp_path / "a.pt", lambda path: pytorch.variables_from(pytorch.read(path), model, (8, 8, 1)))
    assert "it fits no model known here" in message


def test_a_pruned_bias_is_refused(tmp_path):
    twin, image_shape = twins.make("Simple")
    prune.l1_unstructured(twin.fc1, "bias", amount=3)
    torch.save(twin.state_dict(), tmp_path / "a.pt")
    model = network("Simple", image_shape)
    message = one_line(tmp_path / "a.pt", lambda path: pytorch.variables_from(pytorch.read(path), model, image_shape))
    assert "fc1.bias_mask prunes 3 values" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_is_all_or_nothing(tmp_path, monkeypatch, suffix):
    model = network("Simple", (8, 8, 1))
    variables = random_variables(model, (8, 8, 1))
    path = tmp_path / f"a{suffix}"
    pytorch.write(path, model, (8, 8, 1), *variables, pruned=True)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.atomic.os, "fsync", full)
        message = one_line(path, lambda p: pytorch.write(p, model, (8, 8, 1), *variables, pruned=False))
    assert "cannot be written: No space left on device" in message
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_pruned_weight_that_lives_is_not_written(tmp_path):
    model = network("Simple", (8, 8, 1))
    params, batch_stats, mask = random_variables(model, (8, 8, 1))
    mask["fc2"]["kernel"] = jnp.zeros_like(mask["fc2"]["kernel"])
    message = one_line(
        tmp_path / "a.pt", lambda p: pytorch.write(p, model, (8, 8, 1), params, batch_stats, mask, pruned=False)
    )
    assert "fc2.weight: " in message and "weights are not zero where the mask is" in message
    assert not list(tmp_path.iterdir())
