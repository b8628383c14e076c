"""Small archives in the published layout of well-known data sets, and TFDS made to take them for the real ones."""

import gzip
import io
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from ssoup_jax.data.dataset import Split


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
    _tar(folder / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)


def cifar100(folder: Path, train: Split, test: Split) -> None:
    """As CIFAR-10, with one file of training images and a byte for the coarse label in front of the fine one."""
    files = {
        "coarse_label_names.txt": "\n".join(f"coarse{i}" for i in range(20)).encode(),
        "fine_label_names.txt": "\n".join(f"fine{i}" for i in range(100)).encode(),
        "train.bin": _records(train, train.labels // 5),
        "test.bin": _records(test, test.labels // 5),
    }
    _tar(folder / "cifar-100-binary.tar.gz", "cifar-100-binary", files)


def mnist(folder: Path, train: Split, test: Split) -> None:
    """Four gzip files: images after a header of 16 bytes, labels after one of 8 (IDX; big-endian numbers)."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, split in (("train", train), ("t10k", test)):
        images = np.array([2051, *split.images.shape[:3]], ">i4").tobytes() + split.images.tobytes()
        labels = np.array([2049, len(split)], ">i4").tobytes() + split.labels.astype(np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


def trusted(name: str) -> mock._patch:
    """Makes TFDS see the published checksum on every archive of the data set `name`."""
    published = {info.filename: info for info in tfds.builder_cls(name).url_infos.values()}
    return mock.patch.object(checksums, "compute_url_info", lambda path: published[Path(path).name])


def _records(split: Split, *label_bytes: np.ndarray) -> bytes:
    labels = np.stack([*label_bytes, split.labels], axis=1).astype(np.uint8)
    planes = split.images.transpose(0, 3, 1, 2).reshape(len(split), -1)
    return np.concatenate([labels, planes], axis=1).tobytes()


def _tar(path: Path, folder: str, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
