"""IDX files: what is read, in every form they are found in, and one clear line for every mistake."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from ssoup_jax.data import sources
from ssoup_jax.errors import SettingsError

RANDOM = np.random.default_rng(0)
IMAGES = {part: RANDOM.integers(0, 256, (n, 5, 4), dtype=np.uint8) for part, n in (("train", 30), ("t10k", 8))}
LABELS = {part: (np.arange(len(images)) % 4).astype(np.uint8) for part, images in IMAGES.items()}
TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array: np.ndarray) -> bytes:
    kind = TYPES[array.dtype.str[1:]]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def files() -> dict[str, bytes]:
    """The four files under their published names."""
    images = {f"{part}-images-idx3-ubyte": idx(array) for part, array in IMAGES.items()}
    return images | {f"{part}-labels-idx1-ubyte": idx(array) for part, array in LABELS.items()}


def write(folder: Path, found: dict[str, bytes]) -> str:
    folder.mkdir(exist_ok=True)
    for name, data in found.items():
        (folder / name).write_bytes(data)
    return f"idx:{folder}"


FORMS = {
    "plain": lambda name, data: (name, data),
    "compressed": lambda name, data: (f"{name}.gz", gzip.compress(data)),
    "with dots": lambda name, data: (name.replace("-idx", ".idx"), data),
    "unpacked, but still called .gz": lambda name, data: (f"{name}.gz", data),
    "of EMNIST": lambda name, data: (f"emnist-letters-{name.replace('t10k', 'test')}.gz", gzip.compress(data)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_reads_the_four_files(tmp_path, form):
    data = sources.load(write(tmp_path, dict(form(name, data) for name, data in files().items())))
    assert (data.n_classes, data.image_shape, len(data.train), len(data.val), data.notes) == (4, (5, 4, 1), 27, 3, ())
    np.testing.assert_array_equal(data.test.images[..., 0], IMAGES["t10k"])
    np.testing.assert_array_equal(data.test.labels, LABELS["t10k"])
    assert sorted(image.tobytes() for split in (data.train, data.val) for image in split.images) == sorted(
        image.tobytes() for image in IMAGES["train"]
    )


def test_plain_files_come_before_compressed_ones(tmp_path):
    name = write(tmp_path, files() | {f"{name}.gz": b"not looked at" for name in files()})
    assert sources.load(name).n_classes == 4


def test_other_types_and_channels(tmp_path):
    colour = {part: np.stack([images] * 3, axis=-1) for part, images in IMAGES.items()}
    own = {f"{part}-images-idx3-ubyte": idx((array / 255).astype(np.float32)) for part, array in colour.items()}
    own |= {f"{part}-labels-idx1-ubyte": idx(array.astype(np.int32)) for part, array in LABELS.items()}
    data = sources.load(write(tmp_path, own))
    np.testing.assert_array_equal(data.test.images, colour["t10k"])
    assert any("train-images-idx3-ubyte is float32 from 0 to 1" in note for note in data.notes)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mnist", files())
    assert sources.load("idx:~/mnist").n_classes == 4


TRAIN, TRAIN_LABELS, TEST_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"
WHOLE = files()
MISTAKES = {
    "another kind": ({TRAIN: b"PK\x03\x04"}, f"{TRAIN} is no IDX file: it begins with 50 4b 03 04, not 00 00 08"),
    "empty": ({TRAIN: b""}, f"{TRAIN} is no IDX file: it begins with nothing"),
    "an unknown type": ({TRAIN: b"\0\0\x07\x01"}, f"{TRAIN} is no IDX file: it begins with 00 00 07 01"),
    "no sizes": ({TRAIN: WHOLE[TRAIN][:9]}, f"{TRAIN} breaks off in its head of 3 sizes; replace it"),
    "cut off": ({TRAIN: WHOLE[TRAIN][:-1]}, f"{TRAIN} has 599 bytes of values; its head says 600, for (30, 5, 4)"),
    "too long": ({TRAIN: WHOLE[TRAIN] + b"0"}, f"{TRAIN} has more bytes of values; its head says 600, for (30, 5, 4)"),
    "promising much": (
        {TRAIN: struct.pack(">I3I", 0x803, 2**31, 2**31, 2**31)},
        f"{TRAIN} has 0 bytes of values; its head says {2**93}",
    ),
    "cut off inside": (
        {TRAIN: gzip.compress(WHOLE[TRAIN])[:100]},
        f"{TRAIN} is damaged: Compressed file ended before the end-of-stream marker was reached; replace it",
    ),
    "a flipped bit": (
        {TRAIN_LABELS: gzip.compress(WHOLE[TRAIN_LABELS])[:-8] + bytes(8)},
        f"{TRAIN_LABELS} is damaged: CRC check failed",
    ),
    "counts that disagree": (
        {TRAIN_LABELS: idx(LABELS["train"][:-1])},
        f"{TRAIN} has 30 images, {TRAIN_LABELS} 29 labels; they must agree",
    ),
    "images for labels": (
        {TEST_LABELS: idx(IMAGES["t10k"])},
        f"{TEST_LABELS} has shape (8, 5, 4); allowed: (N,)",
    ),
    "two data sets": (
        {f"emnist-letters-{TRAIN}": b""},
        f"found emnist-letters-{TRAIN}, {TRAIN}; allowed: one data set to a folder",
    ),
}


def error_of(name: str) -> str:
    with pytest.raises(SettingsError) as error:
        sources.load(name)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"dataset: {name}: ")
    return message


@pytest.mark.parametrize(("changes", "says"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_clear_line(tmp_path, changes, says):
    name = write(tmp_path, WHOLE | changes)
    assert error_of(name).startswith(f"dataset: {name}: {says}")


def test_missing_files_are_named(tmp_path):
    name = write(tmp_path, {name: data for name, data in WHOLE.items() if name != TEST_LABELS})
    assert f"{TEST_LABELS} is missing; needed, plain or .gz: train-images-idx3-ubyte, " in error_of(name)
    assert "cannot be read (No such file or directory)" in error_of(f"idx:{tmp_path}/absent")


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_as_debian_ships_it():
    data = sources.load(f"idx:{FASHION}")
    assert (data.n_classes, data.image_shape, len(data.train), len(data.val), len(data.test)) == (
        *(10, (28, 28, 1)),
        *(54000, 6000, 10000),
    )
    counts = np.bincount(np.concatenate([data.train.labels, data.val.labels]))
    assert counts.tolist() == [6000] * 10 and np.bincount(data.test.labels).tolist() == [1000] * 10
