"""Small archives in the published layout of well-known data sets, and TFDS made to take them for the real ones."""

import contextlib
import gzip
import importlib
import io
import socket
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import requests
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums

from ssoup_jax.data.dataset import Split
from ssoup_jax.data.sources import prepare


def random_split(n: int, shape: tuple[int, int, int], n_classes: int, seed: int) -> Split:
    """n random images `[n, H, W, C]`."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    return Split(images, rng.integers(0, n_classes, n).astype(np.int32))


def cifar10(folder: Path, train: Split, test: Split) -> None:
    """One tar file: records of a label byte and the red, green and blue planes; the training images in five files."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files = {"batches.meta.txt": ("\n".join(names) + "\n\n").encode(), "test_batch.bin": _records(test)}
    for i, part in enumerate(np.array_split(np.arange(len(train)), 5), 1):
        files[f"data_batch_{i}.bin"] = _records(train[part])
    _tar(folder / "cifar-10-binary.tar.gz", "cifar-10-batches-bin/", files)


def cifar100(folder: Path, train: Split, test: Split) -> None:
    """As CIFAR-10, with one file of training images and a byte for the coarse label in front of the fine one."""
    files = {
        "coarse_label_names.txt": "\n".join(f"coarse{i}" for i in range(20)).encode(),
        "fine_label_names.txt": "\n".join(f"fine{i}" for i in range(100)).encode(),
        "train.bin": _records(train, train.labels // 5),
        "test.bin": _records(test, test.labels // 5),
    }
    _tar(folder / "cifar-100-binary.tar.gz", "cifar-100-binary/", files)


def mnist(folder: Path, train: Split, test: Split) -> None:
    """Four gzip files: images after a header of 16 bytes, labels after one of 8 (IDX; big-endian numbers)."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, split in (("train", train), ("t10k", test)):
        images = np.array([2051, *split.images.shape[:3]], ">i4").tobytes() + split.images.tobytes()
        labels = np.array([2049, len(split)], ">i4").tobytes() + split.labels.astype(np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


def svhn_cropped(folder: Path, train: Split, test: Split) -> None:
    """Three MATLAB files: images with their number as the last axis, digits with 10 for the zero."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, split in (("train", train), ("test", test), ("extra", test)):
        digits = np.where(split.labels == 0, 10, split.labels).astype(np.uint8)
        scipy.io.savemat(folder / f"{part}_32x32.mat", {"X": np.moveaxis(split.images, 0, -1), "y": digits[:, None]})


def cifar10_corrupted(folder: Path, clean: Split, corruption: str) -> Split:
    """One tar file: a NumPy file for each corruption with five severities after one another, and five times the labels.

    Returns the images of all severities.
    """
    images = random_split(5 * len(clean), clean.images.shape[1:], 10, 77).images
    everything = Split(images, np.tile(clean.labels, 5))
    files = {f"{corruption}.npy": _npy(everything.images), "labels.npy": _npy(everything.labels.astype(np.uint8))}
    _tar(folder / "CIFAR-10-C.tar", "CIFAR-10-C/", files)
    return everything


def imagenet_resized(folder: Path, train: Split, test: Split) -> None:
    """Zip files of npz files: rows of the red, green and blue planes, labels from 1; two archives of the largest."""
    folder.mkdir(parents=True, exist_ok=True)
    size = train.images.shape[1]
    halves = np.array_split(np.arange(len(train)), 2)
    if size == 64:
        parts = [(f"train_part{i}", [train[half]]) for i, half in enumerate(halves, 1)]
    else:
        parts = [("train", [train[half] for half in halves])]
    for part, batches in [*parts, ("val", [test])]:
        with zipfile.ZipFile(folder / f"Imagenet{size}_{part}_npz.zip", "w") as file:
            for i, split in enumerate(batches):
                buffer = io.BytesIO()
                planes = split.images.transpose(0, 3, 1, 2).reshape(len(split), -1)
                np.savez(buffer, data=planes, labels=split.labels.astype(int) + 1)
                file.writestr(f"{part}_data_batch_{i}.npz", buffer.getvalue())


def imagenet2012(folder: Path, train: dict[str, dict[str, bytes]], test: dict[str, bytes]) -> None:
    """A tar file with a tar file of images for each class, and a tar file of images whose labels TFDS knows.

    Args:
        folder: where to write them.
        train: encoded images by name, by class.
        test: encoded images by name.
    """
    classes = {f"{name}.tar": _tar_bytes("", images) for name, images in train.items()}
    _tar(folder / "ILSVRC2012_img_train.tar", "", classes)
    _tar(folder / "ILSVRC2012_img_val.tar", "", test)


def encoded(size: tuple[int, int], seed: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """An image file of one random colour of the given width and height."""
    colour = np.random.default_rng(seed).integers(0, 256, 3)
    out = io.BytesIO()
    Image.new("RGB", size, tuple(map(int, colour))).convert(mode).save(out, kind)
    return out.getvalue()


def trusted(name: str) -> mock._patch:
    """Makes TFDS see the published checksum on every archive of the data set `name`."""
    published = {info.filename: info for info in tfds.builder_cls(name).url_infos.values()}
    return mock.patch.object(checksums, "compute_url_info", lambda path: published[Path(path).name])


def trusted_by_hand(name: str, folder: Path) -> mock._patch_dict:
    """Takes the archives in a folder for those that are published with that size."""
    sizes = {file: (folder / file).stat().st_size for file in prepare.BY_HAND[name]}
    return mock.patch.dict(prepare.BY_HAND, {name: sizes})


class UnwantedTensorFlow:
    """An import hook and its loader: TensorFlow seems to be installed, but every attempt to import it fails."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return ModuleSpec(name, cls) if name == "tensorflow" else None

    @staticmethod
    def create_module(spec):
        raise ImportError("TensorFlow is not to be imported", name="tensorflow")

    exec_module = create_module


@contextlib.contextmanager
def without_tensorflow_and_network() -> Iterator[None]:
    """Makes every import of TensorFlow fail, and every request to another machine."""
    online, connect = requests.Session.request, socket.socket.connect

    def offline(session, method, url, **kwargs):
        if not url.startswith("http://127.0.0.1:"):
            raise requests.ConnectionError("no network in tests")
        return online(session, method, url, **kwargs)

    def local(self, address):
        if self.family != socket.AF_UNIX and address[0] != "127.0.0.1":
            raise OSError("no network in tests")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "meta_path", [UnwantedTensorFlow, *sys.meta_path])
        patch.delitem(sys.modules, "tensorflow", raising=False)
        patch.setattr(requests.Session, "request", offline)
        patch.setattr(socket.socket, "connect", local)
        with pytest.raises(ImportError, match="not to be imported"):
            importlib.import_module("tensorflow")
        yield
        assert "tensorflow" not in sys.modules


def rows(*splits: Split) -> list[tuple[bytes, int]]:
    """Each image as bytes with its label, sorted: a multiset to compare by."""
    return sorted(
        (image.tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )


def _records(split: Split, *label_bytes: np.ndarray) -> bytes:
    labels = np.stack([*label_bytes, split.labels], axis=1).astype(np.uint8)
    planes = split.images.transpose(0, 3, 1, 2).reshape(len(split), -1)
    return np.concatenate([labels, planes], axis=1).tobytes()


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _tar(path: Path, folder: str, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _tar_bytes(folder, files)
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def _tar_bytes(folder: str, files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()
