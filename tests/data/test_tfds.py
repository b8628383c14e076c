"""TFDS data sets prepared from archives and read back, without TensorFlow and without a network."""

import functools
import importlib
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from ssoup_jax.data import sources
from ssoup_jax.data import tfds as reader
from ssoup_jax.data.augment import TRANSFORMS, Transform
from ssoup_jax.data.dataset import Split
from ssoup_jax.errors import SettingsError
from tests.data import archives

# Name, how its archive is written, shape, classes; 23 images do not fill the five files of CIFAR-10 evenly.
PUBLISHED = {
    "cifar10": (archives.cifar10, (32, 32, 3), 10),
    "cifar100": (archives.cifar100, (32, 32, 3), 100),
    "mnist": (archives.mnist, (28, 28, 1), 10),
    "fashion_mnist": (archives.mnist, (28, 28, 1), 10),
}
N_TRAIN, N_TEST = 23, 7


class Toy(tfds.core.GeneratorBasedBuilder):
    """Images that the archives of well-known data sets do not have: other sizes, features and splits."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012  (TFDS's own form)
        tfds.core.BuilderConfig(name=name)
        for name in ("validation", "ragged", "no_label", "no_test", "only_test", "wide", "one_class", "unlabelled_test")
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        case = self.builder_config.name
        features = {
            "image": tfds.features.Image(
                shape=(None, None, 3) if case == "ragged" else (4, 6, 3),
                dtype=np.uint16 if case == "wide" else np.uint8,
            ),
            "label": tfds.features.ClassLabel(num_classes=1 if case == "one_class" else 3),
        }
        keys = None if case == "no_label" else ("image", "label")
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), supervised_keys=keys)

    def _split_generators(self, dl_manager):
        names = {"validation": ["train", "validation"], "no_test": ["train"], "only_test": ["test"]}
        return {
            split: self._generate_examples(split) for split in names.get(self.builder_config.name, ["train", "test"])
        }

    def _generate_examples(self, split):
        case = self.builder_config.name
        for i in range(10):
            height = 5 if case == "ragged" and i == 9 else 4
            label = -1 if (case, split) == ("unlabelled_test", "test") else 0 if case == "one_class" else i % 3
            dtype = np.uint16 if case == "wide" else np.uint8
            yield i, {"image": np.full((height, 6, 3), 20 * i + (split == "train"), dtype), "label": label}


class UnwantedTensorFlow:
    """An import hook and its loader: TensorFlow seems to be installed, but every attempt to import it fails."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return ModuleSpec(name, cls) if name == "tensorflow" else None

    @staticmethod
    def create_module(spec):
        raise ImportError("TensorFlow is not to be imported")

    exec_module = create_module


@pytest.fixture(scope="module", autouse=True)
def without_tensorflow_and_network():
    """Makes every import of TensorFlow fail, and every request to another machine."""
    online = requests.Session.request

    def offline(session, method, url, **kwargs):
        if not url.startswith("http://127.0.0.1:"):
            raise requests.ConnectionError("no network in tests")
        return online(session, method, url, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "meta_path", [UnwantedTensorFlow, *sys.meta_path])
        patch.delitem(sys.modules, "tensorflow", raising=False)
        patch.setattr(requests.Session, "request", offline)
        with pytest.raises(ImportError, match="not to be imported"):
            importlib.import_module("tensorflow")
        yield
        assert "tensorflow" not in sys.modules


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A data directory with every published data set prepared, and the images that its archives hold."""
    data_dir = tmp_path_factory.mktemp("tfds")
    originals = {}
    for seed, (name, (write, shape, n_classes)) in enumerate(PUBLISHED.items()):
        train, test = (
            archives.random_split(n, shape, n_classes, 10 * seed + i) for i, n in enumerate((N_TRAIN, N_TEST))
        )
        write(data_dir / "downloads" / name, train, test)
        originals[name] = train, test
        with archives.trusted(name), pytest.MonkeyPatch.context() as patch:
            if write is archives.mnist:
                module = sys.modules[tfds.builder_cls(name).__module__]
                patch.setattr(module, "_TRAIN_EXAMPLES", N_TRAIN)
                patch.setattr(module, "_TEST_EXAMPLES", N_TEST)
            sources.load(name, data_dir=str(data_dir))
    shutil.rmtree(data_dir / "downloads")
    return data_dir, originals


def rows(*splits: Split) -> list[tuple[bytes, int]]:
    """Each image as bytes with its label, sorted: a multiset to compare by."""
    return sorted(
        (image.tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )


def error_of(name: str, data_dir: Path) -> str:
    with pytest.raises(SettingsError) as error:
        sources.load(name, data_dir=str(data_dir))
    message = str(error.value)
    assert "\n" not in message and message.startswith("dataset: ")
    return message


@pytest.mark.parametrize("name", PUBLISHED)
def test_prepared_data_are_read_as_they_were_in_the_archive(published, name):
    data_dir, originals = published
    train, test = originals[name]
    data = sources.load(name, data_dir=str(data_dir))
    assert rows(data.train, data.val) == rows(train)
    assert rows(data.test) == rows(test)
    assert (len(data.train), len(data.val)) == (20, 3)
    assert (data.name, data.image_shape, data.n_classes) == (name, *PUBLISHED[name][1:])
    for split in (data.train, data.val, data.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
    assert data.transform == TRANSFORMS.get(name, Transform())


def test_a_bare_name_is_the_name_with_its_prefix(published):
    short, long = (sources.load(name, data_dir=str(published[0])) for name in ("cifar10", "tfds:cifar10"))
    assert (short.fingerprint, short.name, short.transform) == (long.fingerprint, long.name, long.transform)
    assert long.transform == TRANSFORMS["cifar10"]


def test_blocks_do_not_show(published, monkeypatch):
    whole = sources.load("cifar100", data_dir=str(published[0]))
    monkeypatch.setattr(reader, "BLOCK", 5)
    assert sources.load("cifar100", data_dir=str(published[0])).fingerprint == whole.fingerprint


def test_the_default_directory_is_that_of_tfds(published, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(published[0]))
    assert sources.load("mnist").n_classes == 10


@pytest.mark.parametrize("name", ["tfds:toy:validation", "tfds:toy/validation"])
def test_a_config_and_a_validation_split(tmp_path, name):
    data = sources.load(name, data_dir=str(tmp_path))
    assert (data.name, data.image_shape, data.n_classes) == ("toy/validation", (4, 6, 3), 3)
    assert (len(data.train), len(data.val)) == (9, 1)
    assert sorted(data.test.images[:, 0, 0, 0].tolist()) == list(range(0, 200, 20))
    np.testing.assert_array_equal(data.test.labels, data.test.images[:, 0, 0, 0] // 20 % 3)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("no_label", "not a data set of images with one class label each"),
        ("no_test", "found splits train; needed: train, and test or validation"),
        ("only_test", "found splits test; needed: train, and test or validation"),
        ("one_class", "found 1 class; at least 2 are needed"),
        ("unlabelled_test", "found test label -1; allowed: 0 to 2"),
        ("wide", "images have dtype uint16; allowed: uint8"),
    ],
)
def test_unusable_data_sets_are_one_clear_line(tmp_path, config, says):
    assert error_of(f"tfds:toy:{config}", tmp_path).endswith(f"toy/{config}: {says}")


def test_images_of_different_sizes_are_refused(tmp_path):
    message = error_of("tfds:toy:ragged", tmp_path)
    assert "images of split train have different shapes, such as (" in message
    assert "(4, 6, 3)" in message and "(5, 6, 3)" in message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tfds:cifar11", "tfds:cifar11: TFDS knows no such data set; did you mean cifar10"),
        ("tfds:qqqqqqqq", "tfds:qqqqqqqq: TFDS knows no such data set"),
        ("tfds:toy:raged", "tfds:toy/raged: "),
    ],
)
def test_unknown_data_sets_are_one_clear_line(tmp_path, name, says):
    assert error_of(name, tmp_path).startswith(f"dataset: {says}")


def test_a_missing_archive_is_said_with_where_to_put_it(tmp_path):
    message = error_of("cifar10", tmp_path)
    for part in (
        "tfds:cifar10",
        "cifar-10-binary.tar.gz",
        str(tmp_path / "downloads" / "cifar10"),
        "https://www.cs.toronto.edu",
        "data_dir",
    ):
        assert part in message


def test_a_missing_archive_is_downloaded(published, tmp_path, monkeypatch):
    archives.cifar10(tmp_path / "web", *published[1]["cifar10"])
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "web")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    builder = tfds.builder_cls("cifar10")
    real = builder._cifar_info.fget
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz"
        monkeypatch.setattr(builder, "_cifar_info", property(lambda self: real(self)._replace(url=url)))
        data = sources.load("cifar10", data_dir=str(tmp_path / "data"))
        server.shutdown()
    assert rows(data.train, data.val) == rows(published[1]["cifar10"][0])


def test_the_archive_of_another_data_set_is_refused(tmp_path):
    # The archives of both have the same names.
    archives.mnist(tmp_path / "downloads" / "mnist", *(archives.random_split(4, (28, 28, 1), 10, 0) for _ in range(2)))
    assert "NonMatchingChecksumError" in error_of("mnist", tmp_path)
    assert "NonMatchingChecksumError" not in error_of("fashion_mnist", tmp_path)


def test_a_damaged_archive_leaves_nothing_behind(published, tmp_path):
    folder = tmp_path / "downloads" / "cifar10"
    archives.cifar10(folder, *published[1]["cifar10"])
    archive = folder / "cifar-10-binary.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with archives.trusted("cifar10"):
        assert "ExtractError" in error_of("cifar10", tmp_path)
        archive.write_bytes(whole)
        data = sources.load("cifar10", data_dir=str(tmp_path))
    assert rows(data.test) == rows(published[1]["cifar10"][1])


def test_damaged_prepared_data_are_one_clear_line(published, tmp_path):
    shutil.copytree(published[0] / "mnist", tmp_path / "mnist")
    (records,) = tmp_path.rglob("mnist-train.array_record*")
    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) // 2])
    assert f"{records.parent} is damaged; remove it to have it prepared again: " in error_of("mnist", tmp_path)
    # A flipped bit in the middle of the images: the records' own checksums notice.
    records.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    assert f"{records.parent} is damaged" in error_of("mnist", tmp_path)
    records.unlink()
    assert f"{records.parent} is damaged" in error_of("mnist", tmp_path)
    shutil.rmtree(records.parent)
    records.parent.mkdir()
    assert f"{records.parent} holds no complete data set" in error_of("mnist", tmp_path)


def test_data_prepared_in_a_format_without_random_access_are_refused(published, tmp_path):
    shutil.copytree(published[0] / "mnist", tmp_path / "mnist")
    (info,) = tmp_path.rglob("dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for records in list(tmp_path.rglob("*.array_record-*")):
        records.rename(records.with_name(records.name.replace("array_record", "tfrecord")))
    assert f"{info.parent} was prepared as tfrecord; allowed: array_record" in error_of("mnist", tmp_path)
