"""Names of data sets, the digits, and what every data set has in common."""

import dataclasses
import sys

import numpy as np
import pytest

from ssoup_jax.data import sources
from ssoup_jax.data.augment import TRANSFORMS, Transform
from ssoup_jax.data.dataset import Contents, Encoded, Split, assemble, fingerprint
from ssoup_jax.data.views import View
from ssoup_jax.errors import SettingsError


def rows(split: Split) -> list[bytes]:
    """Each image with its label as bytes, sorted: a multiset to compare by."""
    return sorted(image.tobytes() + label.tobytes() for image, label in zip(split.images, split.labels, strict=True))


def numbered(n: int, n_classes: int = 3) -> Split:
    """n different images `[1, 1, 2]`, which hold their own number."""
    numbers = np.arange(n)
    images = np.stack([numbers // 256, numbers % 256], axis=-1).astype(np.uint8).reshape(n, 1, 1, 2)
    return Split(images, (numbers % n_classes).astype(np.int32))


def make(n: int, seed: int = 42) -> sources.Dataset:
    return assemble("toy", Contents(3, numbered(n), numbered(5)), transform=Transform(), split_seed=seed)


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "npz:a",
        "idx:a",
        "npz:~/some where/b.npz",
        "tfds:svhn_cropped",
        "tfds:imagenet_resized:32x32",
        "tfds:imagenet_resized/32x32",
    ],
)
def test_known_names(name):
    sources.check_name(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("digit", "did you mean 'digits'?"),
        ("CIFAR10", "did you mean 'cifar10'?"),
        ("cifar-100", "did you mean 'cifar100'?"),
        (
            "imagenet",
            "allowed: digits, mnist, fashion_mnist, cifar10, cifar100, svhn_cropped, imagenet2012, npz:PATH, idx:",
        ),
        ("digits:2", "unknown value 'digits:2'"),
        ("", "unknown value ''"),
        ("npz:", "npz:PATH"),
        ("idx:", "idx:FOLDER"),
        ("NPZ:a.npz", "did you mean 'npz:a.npz'?"),
        ("floder:/data/own", "did you mean 'folder:/data/own'?"),
        ("tdfs:mnist", "did you mean 'tfds:mnist'?"),
        ("/data/own.npz", "did you mean 'npz:/data/own.npz'?"),
        ("data/own", "did you mean 'folder:data/own'?"),
        ("svhn", "did you mean 'svhn_cropped'?"),
        ("npz", "npz:PATH"),
        ("tfds:", "tfds:NAME or tfds:NAME:CONFIG"),
        ("tfds:a b", "found 'tfds:a b'"),
        ("tfds:a:b:c", "found 'tfds:a:b:c'"),
        ("tfds:../a", "found 'tfds:../a'"),
    ],
)
def test_unknown_names_are_one_clear_line(name, says):
    for check in (sources.check_name, sources.load):
        with pytest.raises(SettingsError) as error:
            check(name)
        assert says in str(error.value) and str(error.value).startswith("dataset: ")
        assert "\n" not in str(error.value)


def test_checking_a_name_does_not_import_tfds(monkeypatch):
    # It takes seconds; settings are checked before anything else happens. `None` makes every import of it fail.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    sources.check_name("tfds:svhn_cropped")
    with pytest.raises(ImportError):
        import tensorflow_datasets  # noqa: F401


def test_digits():
    data = sources.load("digits")
    assert (data.name, data.n_classes, data.image_shape, data.view) == ("digits", 10, (8, 8, 1), None)
    assert data.nbytes == 1797 * 64
    assert [len(split) for split in (data.train, data.val, data.test)] == [1293, 144, 360]
    for split in (data.train, data.val, data.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert set(split.labels) == set(range(10))
    assert data.transform == Transform()

    from sklearn.datasets import load_digits

    whole = load_digits()
    # The 17 grey levels spelt out: v * 255 / 16 = 15.9375 v, rounded to the nearest (8 gives 127.5, which goes up).
    levels = np.uint8([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])
    original = Split(levels[whole.images.astype(int)], whole.target.astype(np.int32))
    # Together the splits are the whole set, each image once, so they are disjoint.
    parts = Split(*(np.concatenate([getattr(s, f) for s in (data.train, data.val, data.test)]) for f in vars(original)))
    assert rows(parts) == rows(original)


def test_digits_are_split_the_same_way_every_time_and_by_the_seed():
    first, again, other = (sources.load("digits", split_seed=seed) for seed in (42, 42, 43))
    assert first.fingerprint == again.fingerprint
    for name in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(first, name).images, getattr(again, name).images)
        assert rows(getattr(first, name)) != rows(getattr(other, name))


@pytest.mark.parametrize(("n", "n_train"), [(2, 1), (10, 9), (11, 9), (1000, 900)])
def test_a_tenth_of_the_training_images_validates(n, n_train):
    data = make(n)
    assert (len(data.train), len(data.val)) == (n_train, n - n_train)
    assert sorted(rows(data.train) + rows(data.val)) == rows(numbered(n))
    assert rows(data.test) == rows(numbered(5))
    assert rows(data.train) == rows(make(n).train)


def test_the_split_of_stored_results_stays():
    # A change here makes every stored result unreachable. These are the first draws of NumPy's frozen generator.
    assert make(10).val.images[:, 0, 0, 1].tolist() == [6]
    assert make(10).train.images[:, 0, 0, 1].tolist() == [8, 1, 5, 0, 7, 2, 9, 4, 3]


def test_fingerprint_tells_every_change_of_the_data():
    splits = {"train": numbered(6), "val": numbered(3), "test": numbered(4)}
    base = fingerprint(splits)
    assert len(base) == 64 and base == fingerprint(dict(splits))

    changed_pixel, changed_label = numbered(6), numbered(6)
    changed_pixel.images[5, 0, 0, 1] += 1
    changed_label.labels[0] = 2
    wide = Split(numbered(6).images.reshape(6, 1, 2, 1), numbered(6).labels)
    long_labels = Split(numbered(6).images, numbered(6).labels.astype(np.int64))
    variants = [
        splits | {"train": changed_pixel},
        splits | {"train": changed_label},
        splits | {"train": wide},
        splits | {"train": long_labels},
        splits | {"more": numbered(4)},
        splits | {"train": numbered(3), "val": numbered(6)},
    ]
    seen = [
        fingerprint(splits, Transform(flip=True)),
        fingerprint(splits, View(8, 10)),
        fingerprint(splits, View(8, 9)),
    ]
    assert len({base, *map(fingerprint, variants), *seen}) == 1 + len(variants) + len(seen)


class Stored:
    """Encoded images that exist in name only."""

    def __init__(self, fingerprint):
        self.fingerprint = fingerprint

    def read(self, index):
        raise AssertionError("fingerprints must not read images")

    describe = read


def test_encoded_images_are_told_apart_by_their_files_order_labels_and_view():
    def make(files="a", seed=0, labels=0, size=32):
        training, test = (Split(Encoded(Stored(files), np.arange(n)), np.full(n, labels, np.int32)) for n in (20, 5))
        view = View(size, size)
        return assemble("toy", Contents(3, training, test), transform=Transform(), split_seed=seed, view=view)

    variants = [make(), make(files="b"), make(seed=1), make(labels=1), make(size=64)]
    assert len({one.fingerprint for one in variants}) == len(variants)
    assert (make().fingerprint, make().image_shape, make().nbytes) == (variants[0].fingerprint, (32, 32, 3), None)


def test_fingerprint_reads_values_whatever_the_memory_order():
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    labels = np.zeros(6, np.int32)
    base = fingerprint({"train": Split(images, labels)})
    assert fingerprint({"train": Split(np.asfortranarray(images), labels)}) == base


def test_a_dataset_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(10).name = "other"


@pytest.mark.parametrize(
    ("n_classes", "n_train", "n_test", "says"),
    [
        (1, 10, 5, "found 1 class; at least 2 are needed"),
        (3, 1, 5, "found training images of shape (1, 1, 1, 2); at least 2 are needed"),
        (3, 10, 0, "found test images of shape (0, 1, 1, 2); at least 1 are needed"),
        (2, 10, 5, "found training label 2; allowed: 0 to 1"),
    ],
)
def test_unusable_data_are_one_clear_line(n_classes, n_train, n_test, says):
    with pytest.raises(SettingsError) as error:
        contents = Contents(n_classes, numbered(n_train), numbered(n_test))
        assemble("toy", contents, transform=Transform(), split_seed=42)
    assert str(error.value) == f"dataset: toy: {says}"


def test_transforms_belong_to_known_names():
    assert set(TRANSFORMS) <= set(sources.ALIASES)


def test_a_line_on_the_data():
    data = sources.load("digits")
    counts = np.bincount(data.train.labels)
    fewest, most = counts.argmin(), counts.argmax()
    assert data.describe() == (
        f"digits: images of 8 x 8 x 1, values 0 to 255; 1293 training, 144 validation and 360 test images; 10 classes "
        f"of {counts[fewest]} ('{fewest}') to {counts[most]} ('{most}') training images"
    )
    assert (data.classes, data.notes) == (tuple("0123456789"), ())
    same = dataclasses.replace(data, n_classes=2, train=Split(data.train.images[:4], np.array([0, 1, 1, 0])))
    assert same.describe().endswith("2 classes of 2 training images each")
    unnamed = dataclasses.replace(data, classes=None)
    assert f"10 classes of {counts[fewest]} (label {fewest}) to" in unnamed.describe()


def test_the_data_of_stored_results_keep_their_fingerprints(tmp_path):
    assert sources.load("digits").fingerprint == "bb41069d16a85124fabfb7ef8aa992b7c3d861cb4fa7e3e2f433d64f06235f86"
    grey = (np.arange(12 * 4 * 5) % 251).astype(np.uint8).reshape(12, 4, 5)
    own = {"x_train": grey, "y_train": np.arange(12) % 3, "x_test": grey[3:9], "y_test": np.arange(6) % 3}
    np.savez(tmp_path / "own.npz", **own)
    expected = "da7cd3d666f37734d065ca04062d4b5fc5f2e59664f521c5167aa85dd9bf3a15"
    assert sources.load(f"npz:{tmp_path}/own.npz").fingerprint == expected


def test_settings_of_the_transform_are_part_of_the_fingerprint():
    def fingerprint(**options):
        return sources.load("digits", sources.Options(**options)).fingerprint

    plain = fingerprint()
    assert plain == fingerprint(pad=0, flip=False, rotate_degrees=0.0, mean=(0.0,), std=(1.0,), layout="NHWC")
    variants = [
        {"pad": 1},
        {"flip": True},
        {"rotate_degrees": 5.0},
        {"mean": (0.5,)},
        {"std": (0.5,)},
        {"n_classes": 11},
    ]
    assert len({plain, *(fingerprint(**variant) for variant in variants)}) == 1 + len(variants)
    assert sources.load("digits", sources.Options(flip=True)).transform == Transform(flip=True)


def test_a_layout_is_of_arrays():
    with pytest.raises(SettingsError, match=r"^data.layout: found 'NCHW'; images of digits are NHWC"):
        sources.load("digits", sources.Options(layout="NCHW"))


def test_more_classes_than_the_data_have_are_numbered():
    data = sources.load("digits", sources.Options(n_classes=12))
    assert (data.n_classes, data.classes, data.notes) == (12, (*"0123456789", "10", "11"), ())
    with pytest.raises(SettingsError, match=r"^data.n_classes: found 9; the data have 10$"):
        sources.load("digits", sources.Options(n_classes=9))
