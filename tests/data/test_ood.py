"""The setting `ood`, and published corruptions read from files in the layout of CIFAR-10-C or by TFDS."""

import io
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.data import corruptions, ood
from ssoup_jax.data.dataset import Split
from ssoup_jax.data.ood import Corruption, load_published, parse
from ssoup_jax.data.sources import tfds
from ssoup_jax.errors import SettingsError
from tests.data import archives

# Hendrycks & Dietterich 2019: fifteen corruptions and four extra ones, as their files are named.
PUBLISHED = [
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
]
COMPUTED = [
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    *("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur"),
    *("brightness", "contrast", "saturate"),
]
N = 6


def every(names: list[str], severities: list[int], computed: bool) -> list[str]:
    prefix = "computed:" if computed else ""
    return [f"{prefix}{name}:{severity}" for name in names for severity in severities]


@pytest.mark.parametrize(
    ("entries", "dataset", "expected"),
    [
        (None, "cifar10", []),
        ((), "cifar10", []),
        ("default", "cifar10", ["gaussian_noise:3"]),
        ("default", "cifar100", ["gaussian_noise:3"]),
        ("default", "tfds:cifar10", ["gaussian_noise:3"]),
        ("default", "mnist", []),
        ("default", "npz:/data/cifar10.npz", []),
        ("fog:1", "cifar10", ["fog:1"]),
        ("jpeg_compression_5", "cifar100", ["jpeg_compression:5"]),
        ("computed:motion_blur:2", "cifar10", ["computed:motion_blur:2"]),
        ("computed:motion_blur_2", "digits", ["computed:motion_blur:2"]),
        ("gaussian_noise:3, computed:brightness:5", "cifar10", ["gaussian_noise:3", "computed:brightness:5"]),
        (("snow:2", "fog:1", "snow:2", " default "), "cifar10", ["snow:2", "fog:1", "gaussian_noise:3"]),
        ("gaussian_noise:3,computed:gaussian_noise:3", "cifar10", ["gaussian_noise:3", "computed:gaussian_noise:3"]),
        ("all", "cifar10", every(PUBLISHED, [1, 2, 3, 4, 5], False)),
        ("all:3", "cifar100", every(PUBLISHED, [3], False)),
        ("all_4", "tfds:cifar100", every(PUBLISHED, [4], False)),
        ("computed:all", "cifar10", every(COMPUTED, [1, 2, 3, 4, 5], True)),
        ("all", "svhn_cropped", every(COMPUTED, [1, 2, 3, 4, 5], True)),
        ("all:2", "imagenet2012", every(COMPUTED, [2], True)),
        ("computed:all:2", "folder:/data", every(COMPUTED, [2], True)),
        ("computed:all:2", "mnist", every(COMPUTED[:-1], [2], True)),
        ("all:5,computed:contrast:5", "digits", every(COMPUTED[:-1], [5], True)),
    ],
)
def test_parse(entries, dataset, expected):
    assert [str(found) for found in parse(entries, dataset)] == expected


def test_names_are_complete():
    assert (len(PUBLISHED), len(COMPUTED)) == (19, 11)
    assert len(parse("all", "cifar10")) == 95
    assert sorted(corruptions.names()) == sorted(COMPUTED)


@pytest.mark.parametrize(("channels", "found"), [(1, False), (3, True), (None, True)])
def test_grey_images_have_no_saturation(channels, found):
    assert (Corruption("saturate", 1, True) in parse("computed:all", "npz:images.npz", channels)) is found


@pytest.mark.parametrize(
    ("entries", "dataset", "message"),
    [
        ("gausian_noise:3", "cifar10", "did you mean 'gaussian_noise'"),
        ("frosted_glass_blur:3", "cifar10", "did you mean 'glass_blur'"),
        ("computed:saturation:3", "cifar10", "computed: unknown value 'saturation'.*did you mean 'saturate'"),
        ("computed:fog:3", "cifar10", "computed: unknown value 'fog'; allowed: all, gaussian_noise"),
        ("computed:saturate:3", "mnist", "computed: unknown value 'saturate'"),
        ("computed:default", "cifar10", "unknown value 'default'"),
        ("gaussian_noise", "cifar10", "'gaussian_noise' without a severity; allowed: gaussian_noise:1 to"),
        ("gaussian_noise:0", "cifar10", "found severity 0 in 'gaussian_noise:0'; allowed: 1 to 5"),
        ("fog:6", "cifar100", "found severity 6 in 'fog:6'; allowed: 1 to 5"),
        ("fog:-1", "cifar100", "found severity -1"),
        ("fog:03", "cifar100", "found severity 03"),
        (f"fog:{'9' * 5000}", "cifar100", "found severity 999"),
        ("all:7", "cifar10", "found severity 7 in 'all:7'"),
        ("fog:x", "cifar10", "found 'fog:x'; allowed: default, all, all:SEVERITY, NAME:SEVERITY, computed:all"),
        ("", "cifar10", "found ''; allowed: default"),
        ("fog:1,,snow:1", "cifar10", "found ''; allowed: default"),
        ("published:fog:1", "cifar10", "found 'published:fog:1'; allowed"),
        ((3,), "cifar10", "found 3; allowed"),
        (
            "gaussian_noise:3",
            "mnist",
            "'gaussian_noise:3', but nothing is published for mnist; allowed: computed",
        ),
        ("fog:3", "tfds:emnist", "nothing is published for tfds:emnist"),
    ],
)
def test_mistakes_in_the_setting(entries, dataset, message):
    with pytest.raises(SettingsError, match=message) as error:
        parse(entries, dataset)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("ood: ")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(parse("all,computed:all", "cifar10")), max_size=8))
def test_what_is_printed_is_read_again(wanted):
    once = tuple(dict.fromkeys(wanted))
    assert parse([str(corruption) for corruption in wanted], "cifar10") == once
    if wanted:
        assert parse(",".join(str(corruption) for corruption in wanted), "cifar10") == once


@pytest.fixture
def no_tfds(monkeypatch):
    """TFDS has nothing."""

    def read_test(reference, data_dir, download=True):
        raise SettingsError(f"dataset: tfds:{reference}: no network in {data_dir}")

    monkeypatch.setattr(tfds, "read_test", read_test)


def write(folder: Path, name: str, n_classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Writes images of five severities and their labels, which are five times the same."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5 * N, 32, 32, 3), np.uint8)
    labels = rng.integers(0, n_classes, N).astype(np.uint8)
    labels[0] = n_classes - 1
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", np.tile(labels, 5))
    return images, labels


@pytest.mark.usefixtures("no_tfds")
@pytest.mark.parametrize(
    ("dataset", "folder", "n_classes"),
    [("cifar10", "CIFAR-10-C", 10), ("cifar100", "CIFAR-100-C", 100), ("tfds:cifar10", "CIFAR-10-C", 10)],
)
@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_reads_the_part_of_one_severity(tmp_path, dataset, folder, n_classes, severity):
    images, labels = write(tmp_path / folder, "glass_blur", n_classes)
    found = load_published(dataset, Corruption("glass_blur", severity, False), str(tmp_path))
    np.testing.assert_array_equal(found.images, images[(severity - 1) * N : severity * N])
    np.testing.assert_array_equal(found.labels, labels)
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int32)
    assert not isinstance(found.images, np.memmap)


@pytest.mark.usefixtures("no_tfds")
def test_folder_may_be_a_link_and_home_a_tilde(tmp_path, monkeypatch):
    images, _ = write(tmp_path / "elsewhere", "snow")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "CIFAR-10-C").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = load_published("cifar10", Corruption("snow", 1, False), "~/data")
    np.testing.assert_array_equal(found.images, images[:N])


def test_default_folder_is_that_of_tfds(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    images, _ = write(tmp_path / "CIFAR-10-C", "snow")
    found = load_published("cifar10", Corruption("snow", 2, False), None)
    np.testing.assert_array_equal(found.images, images[N : 2 * N])


def test_takes_memory_for_one_severity_only(tmp_path):
    folder, n = tmp_path / "CIFAR-10-C", 1000
    folder.mkdir()
    images = np.lib.format.open_memmap(folder / "fog.npy", "w+", np.uint8, (5 * n, 32, 32, 3))
    images[4 * n] = 7
    del images
    np.save(folder / "labels.npy", np.zeros(5 * n, np.uint8))
    tracemalloc.start()
    try:
        found = load_published("cifar10", Corruption("fog", 5, False), str(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.images[0] == 7).all()
    # The other tenth is for labels and for what else is running.
    assert peak < 1.1 * found.images.nbytes


def _set(name: str, array: np.ndarray):
    return lambda folder: np.save(folder / name, array)


def _pickled(folder: Path) -> None:
    (folder / "fog.npy").write_bytes(pickle.dumps(np.zeros((5, 32, 32, 3), np.uint8)))


def _objects(folder: Path) -> None:
    np.save(folder / "fog.npy", np.array([{}] * 5, object), allow_pickle=True)


def _cut(name: str, n_bytes: int):
    def change(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(file.seek(0, io.SEEK_END) - n_bytes if n_bytes > 0 else -n_bytes)

    return change


def _archive(folder: Path) -> None:
    with (folder / "fog.npy").open("wb") as file:
        np.savez(file, np.zeros(5))


def _directory(folder: Path) -> None:
    (folder / "fog.npy").unlink()
    (folder / "fog.npy").mkdir()


def _no_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


@pytest.mark.usefixtures("no_tfds")
@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (_set("fog.npy", np.zeros((5 * N, 32, 32, 3), np.float32)), "fog.npy", r"found float32 \[30, 32, 32, 3\]"),
        (_set("fog.npy", np.zeros((5 * N + 1, 32, 32, 3), np.uint8)), "fog.npy", r"found uint8 \[31, 32, 32, 3\]"),
        (_set("fog.npy", np.zeros((5 * N, 3, 32, 32), np.uint8)), "fog.npy", r"found uint8 \[30, 3, 32, 32\]"),
        (_set("fog.npy", np.zeros((5 * N, 32, 32), np.uint8)), "fog.npy", r"found uint8 \[30, 32, 32\]"),
        (
            _set("labels.npy", np.zeros(5 * N - 1, np.uint8)),
            "labels.npy",
            r"uint8 \[29\]; allowed: integers \[30\]",
        ),
        (_set("labels.npy", np.zeros((5 * N, 1), np.uint8)), "labels.npy", r"found uint8 \[30, 1\]"),
        (_set("labels.npy", np.zeros(5 * N)), "labels.npy", r"found float64 \[30\]"),
        (_set("labels.npy", np.full(5 * N, 10)), "fog.npy", "found label 10; allowed: 0 to 9"),
        (_set("labels.npy", np.full(5 * N, -1)), "fog.npy", "found label -1; allowed: 0 to 9"),
        (_no_labels, "labels.npy", "is not there"),
        (_pickled, "fog.npy", "no complete .npy file of numbers"),
        (_objects, "fog.npy", "no complete .npy file of numbers"),
        (_archive, "fog.npy", "no complete .npy file of numbers"),
        (_directory, "fog.npy", "no complete .npy file of numbers"),
        (_cut("fog.npy", 1), "fog.npy", "no complete .npy file of numbers"),
        (_cut("labels.npy", 1), "labels.npy", "no complete .npy file of numbers"),
        (_cut("fog.npy", -50), "fog.npy", "no complete .npy file of numbers"),
        (_cut("fog.npy", 0), "fog.npy", "no complete .npy file of numbers"),
    ],
)
def test_damaged_files(tmp_path, damage, file, message):
    folder = tmp_path / "CIFAR-10-C"
    write(folder, "fog")
    damage(folder)
    with pytest.raises(SettingsError, match=message) as error:
        load_published("cifar10", Corruption("fog", 2, False), str(tmp_path))
    assert str(error.value).startswith(f"ood: {folder / file}")
    assert "\n" not in str(error.value)


def test_no_images_at_all(tmp_path):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", np.zeros((0, 32, 32, 3), np.uint8))
    np.save(folder / "labels.npy", np.zeros(0, np.uint8))
    with pytest.raises(SettingsError, match=r"fog\.npy"):
        load_published("cifar10", Corruption("fog", 2, False), str(tmp_path))


@pytest.mark.usefixtures("no_tfds")
@pytest.mark.parametrize(
    ("dataset", "name", "needles"),
    [
        (
            "cifar10",
            "elastic_transform",
            [
                *("CIFAR-10-C/elastic_transform.npy is not there", "tfds:cifar10_corrupted/elastic_4: no network"),
                *("https://zenodo.org/records/2535967", "computed:NAME:SEVERITY", "None"),
            ],
        ),
        (
            "cifar100",
            "gaussian_noise",
            [
                *("CIFAR-100-C/gaussian_noise.npy is not there", "https://zenodo.org/records/3555552"),
                *("computed:gaussian_noise:4", "None"),
            ],
        ),
    ],
)
def test_nothing_to_be_had(tmp_path, dataset, name, needles):
    with pytest.raises(SettingsError) as error:
        load_published(dataset, Corruption(name, 4, False), str(tmp_path))
    assert all(needle in str(error.value) for needle in needles), str(error.value)
    assert "\n" not in str(error.value)
    assert ("TFDS" in str(error.value)) is (dataset == "cifar10")


@pytest.mark.parametrize(
    ("dataset", "corruption"), [("mnist", Corruption("fog", 1, False)), ("cifar10", Corruption("contrast", 1, True))]
)
def test_nothing_published(tmp_path, dataset, corruption):
    with pytest.raises(SettingsError, match=f"no published images of {dataset} for {corruption}"):
        load_published(dataset, corruption, str(tmp_path))


def test_asks_tfds_for_the_configuration(tmp_path, monkeypatch):
    calls = []
    images = archives.random_split(4, (32, 32, 3), 10, seed=0)

    def read_test(reference, data_dir, download=True):
        calls.append((reference, data_dir, download))
        return 10, images

    monkeypatch.setattr(tfds, "read_test", read_test)
    # A folder with other files of the published set is no reason not to ask.
    write(tmp_path / "CIFAR-10-C", "fog")
    for name, download in (("glass_blur", True), ("elastic_transform", False), ("snow", True)):
        found = load_published("cifar10", Corruption(name, 2, False), str(tmp_path), download)
        np.testing.assert_array_equal(found.images, images.images)
    folder = str(tmp_path)
    assert calls == [
        ("cifar10_corrupted/frosted_glass_blur_2", folder, True),
        ("cifar10_corrupted/elastic_2", folder, False),
        ("cifar10_corrupted/snow_2", folder, True),
    ]
    load_published("cifar10", Corruption("fog", 2, False), str(tmp_path))
    assert len(calls) == 3


def test_names_of_tfds_are_right():
    import tensorflow_datasets

    configs = set(tensorflow_datasets.builder_cls("cifar10_corrupted").builder_configs)
    ours = {f"{ood._IN_TFDS.get(one.name, one.name)}_{one.severity}" for one in parse("all", "cifar10")}
    assert ours == configs


def write_archive(folder: Path, name: str) -> Split:
    """One tar file with the folder CIFAR-10-C in it, as it is published; returns the images of all severities."""
    images, labels = write(folder / "made", name, seed=1)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "CIFAR-10-C.tar", "w") as tar:
        tar.add(folder / "made", "CIFAR-10-C")
    return Split(images, np.tile(labels, 5).astype(np.int32))


def test_prepares_the_archive_without_tensorflow_and_network(tmp_path):
    published = write_archive(tmp_path / "downloads" / "cifar10_corrupted", "elastic_transform")
    with archives.trusted("cifar10_corrupted"):
        found = load_published("cifar10", Corruption("elastic_transform", 3, False), str(tmp_path), download=False)
    # TFDS shuffles: each image is found by its bytes.
    place = {image.tobytes(): at for at, image in enumerate(published.images)}
    order = [place[image.tobytes()] for image in found.images]
    assert sorted(order) == list(range(2 * N, 3 * N))
    np.testing.assert_array_equal(found.labels, published.labels[order])
    again = load_published("cifar10", Corruption("elastic_transform", 3, False), str(tmp_path), download=False)
    np.testing.assert_array_equal(again.images, found.images)


def test_says_what_is_missing_for_tfds(tmp_path):
    with pytest.raises(SettingsError, match=r"CIFAR-10-C\.tar not in .*/downloads/cifar10_corrupted") as error:
        load_published("cifar10", Corruption("gaussian_noise", 3, False), str(tmp_path), download=False)
    assert "\n" not in str(error.value)
