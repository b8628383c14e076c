"""TFDS data sets read back: images of one size, encoded images, decoded copies, and every mistake."""

import io
import os
import pickle
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ssoup_jax.data import sources
from ssoup_jax.data.augment import TRANSFORMS, Transform
from ssoup_jax.data.dataset import Contents, Encoded, Split
from ssoup_jax.data.sources import tfds as reader
from ssoup_jax.data.sources import tfds_records
from ssoup_jax.data.splits import torch_randperm
from ssoup_jax.errors import RunError, SettingsError
from tests.data import archives
from tests.data.archives import rows
from tests.pod.threads import together

# Name, how its archive is written, shape, classes; 23 images do not fill the five files of CIFAR-10 evenly.
PUBLISHED = {
    "cifar10": (archives.cifar10, (32, 32, 3), 10),
    "cifar100": (archives.cifar100, (32, 32, 3), 100),
    "mnist": (archives.mnist, (28, 28, 1), 10),
    "fashion_mnist": (archives.mnist, (28, 28, 1), 10),
}
N_TRAIN, N_TEST = 23, 7


CASES = (
    "validation",
    "ragged",
    "no_label",
    "no_test",
    "only_test",
    "wide",
    "one_class",
    "unlabelled_test",
    "secret_test",
    "both",
    "two_shapes",
    "no_image",
)


class Toy(tfds.core.GeneratorBasedBuilder):
    """Images that the archives of well-known data sets do not have: other sizes, features and splits."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in CASES]  # noqa: RUF012  (TFDS's own form)

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
        names = {
            "validation": ["train", "validation"],
            "no_test": ["train"],
            "only_test": ["test"],
            "secret_test": ["train", "test", "validation"],
            "both": ["train", "test", "validation"],
        }
        return {
            split: self._generate_examples(split) for split in names.get(self.builder_config.name, ["train", "test"])
        }

    def _generate_examples(self, split):
        case = self.builder_config.name
        for i in range(10):
            height = 5 if case in ("ragged", "two_shapes") and i == 9 else 4
            secret = split == "test" and case in ("unlabelled_test", "secret_test")
            label = -1 if secret else 0 if case == "one_class" else i % 3
            image = np.full((height, 6, 3), 20 * i + (split == "train"), np.uint16 if case == "wide" else np.uint8)
            if case == "no_image" and i == 4:
                image = b"no image"
            elif case == "two_shapes":
                image = png(image)  # TFDS checks the shapes of arrays, but not those of images that are encoded
            yield i, {"image": image, "label": label}


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


@pytest.fixture(scope="module", autouse=True)
def without_tensorflow_and_network():
    with archives.without_tensorflow_and_network():
        yield


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


def splits_of(contents: Contents) -> list[Split]:
    return [contents.training, contents.test]


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


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_references_split_counts_images_as_they_were_published(published, name):
    """TFDS shuffles; torchvision, which the reference reads, does not."""
    data_dir, originals = published
    train, _ = originals[name]
    data = sources.load(name, sources.Options(split="reference"), data_dir=str(data_dir))
    order = torch_randperm(N_TRAIN, 42)
    for split, indices in ((data.train, order[:20]), (data.val, order[20:])):
        np.testing.assert_array_equal(split.images, train.images[indices])
        np.testing.assert_array_equal(split.labels, train.labels[indices])


def test_the_references_split_of_images_in_no_known_order_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"^data\.split: found 'reference', which counts images in the order"):
        sources.load("tfds:toy:ragged", sources.Options(split="reference"), data_dir=str(tmp_path))


def test_a_bare_name_is_the_name_with_its_prefix(published):
    short, long = (sources.load(name, data_dir=str(published[0])) for name in ("cifar10", "tfds:cifar10"))
    assert (short.fingerprint, short.name, short.transform) == (long.fingerprint, long.name, long.transform)
    assert long.transform == TRANSFORMS["cifar10"]


def test_blocks_do_not_show(published, monkeypatch):
    whole = sources.load("cifar100", data_dir=str(published[0]))
    monkeypatch.setattr(tfds_records, "BLOCK", 5)
    for copy in published[0].rglob("cifar100/*/ssoup_jax-*.arrays"):
        copy.unlink()
    assert sources.load("cifar100", data_dir=str(published[0])).fingerprint == whole.fingerprint


def test_what_process_0_has_read_the_others_find(published):
    for copy in published[0].rglob("cifar100/*/ssoup_jax-*.arrays"):
        copy.unlink()

    def act(pod):
        lines = []
        data = sources.load("cifar100", data_dir=str(published[0]), on_line=lines.append, pod=pod)
        return data.fingerprint, lines

    (first, said), (second, silence) = together(2, act)[0]
    assert first == second
    assert [line.partition(" records")[0] for line in said] == [
        "tfds:cifar100: reading the 23",
        "tfds:cifar100: reading the 7",
    ]
    assert silence == []


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


def test_images_of_different_sizes_are_refused_where_one_is_promised(tmp_path):
    message = error_of("tfds:toy:two_shapes", tmp_path)
    assert "images of split train have different shapes, such as (" in message
    assert "(4, 6, 3)" in message and "(5, 6, 3)" in message


def test_a_record_that_cannot_be_decoded_is_named(tmp_path):
    message = error_of("tfds:toy:no_image", tmp_path)
    found = re.search(r"no_image/1.0.0 is damaged; .*: record (\d) of split train: UnidentifiedImageError: ", message)
    (folder,) = tmp_path.glob("toy/no_image/1.0.0")
    assert reader.Records(str(folder), "train", "image", "").read(int(found[1])) == b"no image"


def test_validation_images_that_are_not_used_are_said(tmp_path):
    used = "the split validation is not used: a tenth of train validates"
    assert used in reader.read("toy:both", str(tmp_path)).notes
    for config in ("validation", "secret_test"):
        assert reader.read(f"toy:{config}", str(tmp_path)).notes == ()


def test_the_names_of_the_classes(published, tmp_path):
    data = sources.load("cifar10", data_dir=str(published[0]))
    assert data.classes[:3] == ("airplane", "automobile", "bird") and len(data.classes) == 10
    assert reader.read("toy:ragged", str(tmp_path)).classes == ("0", "1", "2")


def test_test_images_whose_labels_are_secret_give_way_to_validation_images(tmp_path):
    test = reader.read("toy:secret_test", str(tmp_path)).test
    np.testing.assert_array_equal(test.labels, test.images[:, 0, 0, 0] // 20 % 3)


def test_a_data_set_of_test_images_only(tmp_path):
    n_classes, test = reader.read_test("toy:only_test", str(tmp_path))
    assert n_classes == 3
    assert sorted(test.images[:, 0, 0, 0].tolist()) == list(range(0, 200, 20))
    with pytest.raises(SettingsError, match=r"^dataset: tfds:toy/no_test: found splits train; needed: test or valid"):
        reader.read_test("toy:no_test", str(tmp_path))


def test_the_test_images_alone_are_those_of_the_whole(published):
    data_dir, originals = published
    n_classes, test = reader.read_test("cifar100", str(data_dir))
    assert n_classes == 100 and rows(test) == rows(originals["cifar100"][1])


def decoded(split) -> list[tuple[tuple[int, ...], int, int]]:
    """Shape, value and label of each of the encoded images, all of one value."""
    images = split.images
    arrays = [np.asarray(Image.open(io.BytesIO(images.files.read(i)))) for i in images.indices]
    return [
        (image.shape, int(image[0, 0, 0]), label) for image, label in zip(arrays, split.labels.tolist(), strict=True)
    ]


def test_images_without_one_size_stay_encoded(tmp_path):
    contents = reader.read("toy:ragged", str(tmp_path))
    assert contents.n_classes == 3
    train, test = contents.training, contents.test
    for split, more in ((train, 1), (test, 0)):
        assert isinstance(split.images, Encoded) and split.labels.dtype == np.int32
        expected = [((5 if i == 9 else 4, 6, 3), 20 * i + more, i % 3) for i in range(10)]
        assert sorted(decoded(split)) == sorted(expected)
    part = train[np.array([7, 2])]
    assert decoded(part) == [decoded(train)[i] for i in (7, 2)]
    assert train.images.files.describe(7) == f"record 7 of split train in {tmp_path}/toy/ragged/1.0.0"


def test_encoded_images_travel_and_are_read_by_many_threads(tmp_path):
    train = reader.read("toy:ragged", str(tmp_path)).training
    expected = decoded(train)
    with ThreadPoolExecutor(8) as pool:
        travelled = pickle.loads(pickle.dumps(train))  # has opened nothing yet
        found = list(pool.map(travelled.images.files.read, list(range(10)) * 20))
    assert found == [train.images.files.read(i) for i in range(10)] * 20
    assert decoded(pickle.loads(pickle.dumps(train))) == expected


def test_the_fingerprint_of_encoded_images_is_that_of_the_data_set(tmp_path):
    first, moved = (
        [split.images.files.fingerprint for split in splits_of(reader.read("toy:ragged", str(tmp_path / where)))]
        for where in ("a", "b")
    )
    assert first == moved and first[0] != first[1]
    (records,) = tmp_path.glob("a/toy/ragged/1.0.0/*train.array_record*")
    records.write_bytes(records.read_bytes() + b"0")
    changed = reader.read_test("toy:ragged", str(tmp_path / "a"))[1].images.files.fingerprint
    assert changed == first[1]
    with pytest.raises(SettingsError, match="damaged"):
        reader.read("toy:ragged", str(tmp_path / "a"))


def test_an_encoded_image_that_is_gone_is_one_clear_line(tmp_path):
    train = reader.read("toy:ragged", str(tmp_path)).training
    (records,) = tmp_path.glob("toy/ragged/1.0.0/*train.array_record*")
    records.unlink()
    with pytest.raises(RunError, match=r"^record 3 of split train in .*: cannot be read \(") as error:
        pickle.loads(pickle.dumps(train)).images.files.read(3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", ["validation", "ragged"])
def test_records_are_read_once(tmp_path, monkeypatch, config):
    opened = []
    source = reader.source_of
    monkeypatch.setattr(reader, "source_of", lambda *args: opened.append(args[1]) or source(*args))

    def read() -> list[str]:
        opened.clear()
        found.append([split.labels.tolist() for split in splits_of(reader.read(f"toy:{config}", str(tmp_path)))])
        return list(opened)

    found, test = [], "validation" if config == "validation" else "test"
    assert read() == ["train", test]
    assert read() == []
    (copy,) = tmp_path.rglob("ssoup_jax-train.arrays")
    copy.write_bytes(copy.read_bytes()[:-1])
    assert read() == ["train"]
    (records,) = tmp_path.rglob(f"*{test}.array_record*")
    os.utime(records, (1, 1))
    assert read() == [test]
    assert read() == []
    for file in ("dataset_info.json", "features.json"):
        path = records.parent / file
        path.write_text(path.read_text() + "\n")
        assert read() == ["train", test]
    assert all(labels == found[0] for labels in found)


def test_decoded_copies_are_those_of_the_images(published):
    for _ in range(2):
        assert [rows(split) for split in splits_of(reader.read("mnist", str(published[0])))] == [
            rows(split) for split in published[1]["mnist"]
        ]
    assert list(published[0].rglob("mnist/*/ssoup_jax-test.arrays"))


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
