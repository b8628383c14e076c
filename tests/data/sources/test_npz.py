"""A user's own arrays: what is accepted, and one clear line for every mistake."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from ssoup_jax.data import sources
from ssoup_jax.data.arrays import MAX_CLASSES
from ssoup_jax.data.augment import Transform
from ssoup_jax.errors import SettingsError


def arrays(n_train: int = 20, n_test: int = 6, shape: tuple[int, ...] = (5, 4, 3), n_classes: int = 4) -> dict:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (n_train, *shape), dtype=np.uint8),
        "y_train": np.arange(n_train) % n_classes,
        "x_test": rng.integers(0, 256, (n_test, *shape), dtype=np.uint8),
        "y_test": np.arange(n_test) % n_classes,
    }


def write(folder, **changes) -> str:
    path = folder / "own.npz"
    np.savez(path, **{name: array for name, array in (arrays() | changes).items() if array is not None})
    return f"npz:{path}"


@pytest.mark.parametrize("label_type", [np.uint8, np.int16, np.int64, np.uint64])
def test_reads_the_arrays(tmp_path, label_type):
    own = arrays()
    labels = {name: own[name].astype(label_type) for name in ("y_train", "y_test")}
    data = sources.load(write(tmp_path, **labels, unused=np.zeros(3)))
    assert (data.n_classes, data.image_shape, len(data.train), len(data.val)) == (4, (5, 4, 3), 18, 2)
    np.testing.assert_array_equal(data.test.images, own["x_test"])
    np.testing.assert_array_equal(data.test.labels, own["y_test"])
    assert data.train.labels.dtype == data.test.labels.dtype == np.int32
    assert data.transform == Transform()
    # Every training image is in exactly one split, with its own label.
    index = {image.tobytes(): label for image, label in zip(own["x_train"], own["y_train"], strict=True)}
    found = [pair for split in (data.train, data.val) for pair in zip(split.images, split.labels, strict=True)]
    assert {image.tobytes(): label for image, label in found} == index and len(found) == len(index)


def test_images_without_a_channel_axis_get_one(tmp_path):
    own = arrays(shape=(5, 4))
    data = sources.load(write(tmp_path, **own))
    assert data.image_shape == (5, 4, 1)
    np.testing.assert_array_equal(data.test.images[..., 0], own["x_test"])


def test_classes_are_counted_over_both_parts(tmp_path):
    labels = np.arange(6) % 4
    labels[2] = 8
    data = sources.load(write(tmp_path, y_test=labels))
    assert data.n_classes == 9
    assert data.notes == (
        "4 of 9 classes have no image at all: 4, 5, 6, 7",
        "1 of 6 (16.7 %) test images are of classes without a training image: 8",
        "1 of 4 trained classes have no test image: 2",
    )


def test_a_changed_file_has_another_fingerprint(tmp_path):
    first = sources.load(write(tmp_path)).fingerprint
    assert sources.load(write(tmp_path)).fingerprint == first
    changed = arrays()["x_test"]
    changed[0, 0, 0, 0] += 1
    assert sources.load(write(tmp_path, x_test=changed)).fingerprint != first


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path)
    assert sources.load("npz:~/own.npz").n_classes == 4


X, Y = arrays()["x_train"], arrays()["y_train"]

MISTAKES = {
    "no x_test": ({"x_test": None}, "array x_test is missing; found: x_train, y_train, y_test; needed: x_train, "),
    "nothing there": (
        dict.fromkeys(arrays(), None) | {"images": X},
        "array x_train is missing; found: images; needed: x_train, y_train, x_test, y_test",
    ),
    "pickled": ({"y_train": np.array([1, "a", None], object)}, "array y_train cannot be read; only plain arrays are ("),
    "images of text": ({"x_train": X.astype(str)}, "x_train has dtype <U3; allowed: uint8, or float in 0 to 1"),
    "flat images": ({"x_train": X.reshape(20, -1)}, "x_train has shape (20, 60); allowed: (N, H, W, C) or (N, H, W)"),
    "rank 5": ({"x_train": X[None]}, "x_train has shape (1, 20, 5, 4, 3); allowed: (N, H, W, C) or (N, H, W)"),
    "float labels": ({"y_train": Y.astype(float)}, "y_train has dtype float64; allowed: integers"),
    "boolean labels": ({"y_train": Y > 1}, "y_train has dtype bool; allowed: integers"),
    "text labels": ({"y_train": Y.astype(str)}, "y_train has dtype <U21; allowed: integers"),
    "one-hot labels": ({"y_train": np.eye(4, dtype=int)[Y]}, "y_train has shape (20, 4); allowed: (N,)"),
    "other sizes": (
        {"x_test": X[:6, :4]},
        "x_train has images of shape (5, 4, 3), x_test (4, 4, 3); they must agree",
    ),
    "other channels": (
        {"x_test": X[:6, ..., 0]},
        "x_train has images of shape (5, 4, 3), x_test (5, 4, 1); they must agree",
    ),
    "too few labels": ({"y_train": Y[:19]}, "x_train has 20 images, y_train 19 labels; they must agree"),
    "too many labels": ({"y_test": Y}, "x_test has 6 images, y_test 20 labels; they must agree"),
    "negative label": ({"y_train": Y - 1}, f"y_train has label -1; allowed: 0 to {MAX_CLASSES - 1}"),
    "huge label": ({"y_test": Y[:6] + 2**40}, f"y_test has label {2**40}; allowed: 0 to {MAX_CLASSES - 1}"),
    "huge unsigned label": (
        {"y_test": np.full(6, 2**64 - 1, np.uint64)},
        f"y_test has label {2**64 - 1}; allowed: 0 to {MAX_CLASSES - 1}",
    ),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, "x_train has shape (0, 5, 4, 3); at least one pixel is needed"),
    "no pixels": ({"x_train": X[:, :0]}, "x_train has shape (20, 0, 4, 3); at least one pixel is needed"),
    "no labels": ({"y_test": Y[:0]}, "y_test has shape (0,); at least one label is needed"),
    "one class": ({"y_train": 0 * Y, "y_test": 0 * Y[:6]}, "found 1 class; at least 2 are needed"),
    "one image": ({"x_train": X[:1], "y_train": Y[:1]}, "found training images of shape (1, 5, 4, 3); at least 2 are"),
}


PLANES = np.moveaxis(X[:, :4], -1, 1)
UNIT = {"x_train": X / 255, "x_test": arrays()["x_test"] / 255}
REMEDIES = {
    "channels first": (
        {"x_train": PLANES},
        "x_train looks channels-first (N, C, H, W), with shape (20, 3, 4, 4): transpose it to (N, H, W, C), or "
        "--config.data.layout=NCHW; --config.data.layout=NHWC if it has 4 channels",
    ),
    "test images channels first": (
        {"x_train": X[:, :4], "x_test": PLANES[:6]},
        "x_test looks channels-first (N, C, H, W), with shape (6, 3, 4, 4)",
    ),
    "images last": (
        {"x_train": np.moveaxis(X, 0, -1)},
        "x_train has shape (5, 4, 3, 20), with an image for each of 20 labels along the last axis; "
        "numpy.moveaxis(x_train, -1, 0) puts them first",
    ),
    "flat": ({"x_train": X.reshape(20, -1)}, "allowed: (N, H, W, C) or (N, H, W); reshape it to that"),
    "two scales": (
        {"x_train": X / 255},
        "x_train has values in 0 to 1, x_test bytes: different scales; bring both to one, such as uint8 in 0 to 255",
    ),
    "bytes in 0 to 1": (
        {"x_train": X // 128},
        "training images 0 to 1 and test images 0 to 255 are on different scales; bring both to 0 to 255",
    ),
    "normalised": (
        {"x_train": (X / 255 - 0.5) / 0.25},
        "x_train is float64 from -2 to 2; allowed: uint8, or float in 0 to 1; images that were normalised are stored "
        "before that, as uint8, and --config.data.mean and --config.data.std normalise them",
    ),
    "not numbers": (
        {"x_train": np.where(X[0, 0, 0, 0] == X, np.nan, X / 255)},
        f"x_train is float64 with {(X[0, 0, 0, 0] == X).sum()} values that are not finite; remove or replace them",
    ),
    "floats between whole numbers": (
        {"x_train": X * 0.9},
        "x_train is float64 from 0 to 229.5; allowed: whole numbers in 0 to 255; numpy.rint(x_train).astype('uint8')",
    ),
    "twelve bits": (
        {"x_train": X.astype(np.uint16) << 4},
        "x_train is uint16 from 0 to 4080; allowed: uint8, or float in 0 to 1; only its owner knows which value is "
        "white: if it is 4095, x_train / 4095 is in 0 to 1",
    ),
    "one value": ({"x_train": 0 * X + 7}, "every value of all 18 training images is 7; nothing can be learnt from"),
    "no label as a byte": (
        {"y_train": np.where(np.arange(20) == 3, -1, Y).astype(np.uint8)},
        "y_train has label 255 but none has label 254: it looks like -1 (no label) stored without a sign; leave those "
        "images out, or --config.data.n_classes=256 if 255 is a class",
    ),
    "no label": ({"y_test": Y[:6] - 1}, "y_test has label -1; allowed: 0 to 99999; -1 mostly marks images without a"),
    "one-hot": ({"y_train": np.eye(4)[Y]}, "y_train has shape (20, 4); allowed: (N,); it is one-hot: y_train.argmax("),
    "a column": ({"y_train": Y[:, None]}, "y_train has shape (20, 1); allowed: (N,); y_train.ravel() makes it so"),
    "whole floats": ({"y_train": Y * 1.0}, "dtype float64; allowed: integers; y_train.astype(int) makes them so"),
    "truth values": ({"y_train": Y > 1}, "dtype bool; allowed: integers; y_train.astype(int) makes them so"),
    "labels missing": ({"y_train": np.where(Y, Y, np.nan)}, "dtype float64; allowed: integers; 5 are not finite"),
    "names": ({"y_train": Y.astype(str)}, "numpy.unique(y_train, return_inverse=True) gives the classes and their num"),
}


def error_of(name: str, **options) -> str:
    with pytest.raises(SettingsError) as error:
        sources.load(name, sources.Options(**options))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("changes", "says"), REMEDIES.values(), ids=REMEDIES)
def test_what_cannot_be_meant_is_one_line_with_the_remedy(tmp_path, changes, says):
    assert says in error_of(write(tmp_path, **changes))


SHAPES = {
    True: [(3, 16, 16), (1, 8, 8), (4, 16, 16), (2, 9, 9), (13, 64, 64), (3, 20, 16), (1, 28, 20), (3, 2 * 9, 9)],
    False: [(16, 16, 3), (8, 8, 1), (20, 16, 3), (64, 64, 13), (8, 8, 8), (1, 1, 2), (32, 8, 4), (5, 4, 3), (9, 2, 2)],
}


@pytest.mark.parametrize(("first", "shape"), [(first, shape) for first in SHAPES for shape in SHAPES[first]])
def test_the_layout_is_judged_by_the_shape_and_settled_by_the_setting(tmp_path, first, shape):
    own = arrays(shape=shape)
    name = write(tmp_path, **own)
    if first:
        assert "looks channels-first" in error_of(name)
    else:
        assert sources.load(name).image_shape == shape
    as_given, moved = (sources.load(name, sources.Options(layout=layout)) for layout in ("NHWC", "NCHW"))
    np.testing.assert_array_equal(as_given.test.images, own["x_test"])
    np.testing.assert_array_equal(moved.test.images, own["x_test"].transpose(0, 2, 3, 1))
    assert moved.image_shape == (*shape[1:], shape[0])


def test_images_in_0_to_1_and_others_that_mean_bytes_are_those_bytes(tmp_path):
    own = arrays()
    expected = sources.load(write(tmp_path, **own))
    images = {name: own[name] for name in ("x_train", "x_test")}
    forms = {
        "is float64 from 0 to 1: multiplied by 255": {name: x / 255 for name, x in images.items()},
        "is float32 from 0 to 1: multiplied by 255": {name: np.float32(x / 255) for name, x in images.items()},
        "is float64 from 0 to 255: stored as uint8": {name: x.astype(float) for name, x in images.items()},
        "is int64 from 0 to 255: stored as uint8": {name: x.astype(int) for name, x in images.items()},
        "is uint16 from 0 to 65535: the upper 8 of 16 bits": {name: x * np.uint16(257) for name, x in images.items()},
    }
    for says, form in forms.items():
        data = sources.load(write(tmp_path, **form))
        assert data.fingerprint == expected.fingerprint
        assert [note for note in data.notes if says in note] == list(data.notes[:2])
    rounded = sources.load(write(tmp_path, **{name: x * 0.9 / 255 for name, x in images.items()}))
    np.testing.assert_array_equal(rounded.test.images, np.rint(images["x_test"] * 0.9))
    assert "rounded to whole numbers, which changed values by at most 0.002" in rounded.notes[0]


def test_truth_values_are_black_and_white(tmp_path):
    data = sources.load(write(tmp_path, x_train=X > 99, x_test=X[:6] > 99))
    np.testing.assert_array_equal(data.test.images, np.where(X[:6] > 99, 255, 0))
    assert "x_train is bool: True was taken for 255" in data.notes


def test_the_number_of_classes_can_be_given(tmp_path):
    name = write(tmp_path)
    own, same, more = (sources.load(name, sources.Options(n_classes=n)) for n in (None, 4, 6))
    assert (own.n_classes, same.n_classes, more.n_classes) == (4, 4, 6)
    assert own.fingerprint == same.fingerprint != more.fingerprint
    assert own.notes == more.notes == ()
    message = error_of(name, n_classes=3)
    assert "has label 3; --config.data.n_classes=3 allows 0 to 2" in message
    labels = np.where(np.arange(20) == 3, 255, Y)
    settled = sources.load(write(tmp_path, y_train=labels), sources.Options(n_classes=256))
    assert (settled.n_classes, settled.train.labels.max()) == (256, 255)


def test_what_is_not_used_is_named(tmp_path):
    notes = sources.load(write(tmp_path, x_val=X[:2], y_val=Y[:2])).notes
    assert notes == ("own.npz: not used: x_val, y_val; a tenth of x_train validates",)


@pytest.mark.parametrize(("changes", "says"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_the_arrays_are_one_clear_line(tmp_path, changes, says):
    name = write(tmp_path, **changes)
    assert error_of(name).startswith(f"dataset: {name}: {says}")


def test_mistakes_in_the_file_are_one_clear_line(tmp_path):
    good = tmp_path / "good.npz"
    np.savez(good, **arrays())
    data = bytearray(good.read_bytes())

    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    text = tmp_path / "text.npz"
    text.write_text("x_train")
    empty = tmp_path / "empty.npz"
    empty.touch()
    cut = tmp_path / "cut.npz"
    cut.write_bytes(data[: len(data) // 2])
    flipped = tmp_path / "flipped.npz"
    data[300] ^= 1  # inside the pixels of x_train, which the archive's checksum covers
    flipped.write_bytes(data)
    other_zip = tmp_path / "zip.npz"
    with zipfile.ZipFile(other_zip, "w") as file:
        file.writestr("x_train", "not an array")

    for path, says in (
        (tmp_path / "absent.npz", "no such file"),
        (tmp_path, "no such file"),
        (single, "not an npz file; write it with numpy.savez"),
        (text, "not an npz file; write it with numpy.savez"),
        (empty, "not an npz file; write it with numpy.savez"),
        (cut, "not an npz file; write it with numpy.savez"),
        (flipped, "array x_train cannot be read; only plain arrays are (Bad CRC-32 for file 'x_train.npy')"),
        (other_zip, "x_train is not an array; write it with numpy.savez"),
    ):
        assert error_of(f"npz:{path}") == f"dataset: npz:{path}: {says}"


class Payload:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_ever_run(tmp_path):
    proof, path = tmp_path / "proof", tmp_path / "own.npz"
    pickled = pickle.dumps(Payload(proof))
    objects = np.empty(2, object)
    objects[:] = Payload(proof)
    np.savez(path, **arrays() | {"y_test": objects, "unused": objects})
    assert "array y_test cannot be read; only plain arrays are (" in error_of(f"npz:{path}")
    np.savez(path, **arrays() | {"unused": objects})
    assert sources.load(f"npz:{path}").n_classes == 4
    for name in ("x_train", "x_train.npy"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, pickled)
        assert "x_train is not an array" in error_of(f"npz:{path}")
    path.write_bytes(pickled)
    assert "not an npz file" in error_of(f"npz:{path}")
    assert not proof.exists()
    pickle.loads(pickled)  # the payload works
    assert proof.exists()


def test_a_file_that_promises_more_than_it_holds_is_one_clear_line(tmp_path):
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (2**45, 1, 1, 1)}
    np.lib.format.write_array_header_1_0(header, described)
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x_train.npy", header.getvalue() + b"few")
    assert "array x_train cannot be read; only plain arrays are (" in error_of(f"npz:{path}")


def test_odd_names_in_a_file_do_not_break_the_line(tmp_path):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(1000):
            file.writestr(f"a\nb\x1b[31m{i}", b"")
    message = error_of(f"npz:{path}")
    assert message.isprintable() and len(message) < 1000
