"""TFDS data sets prepared from archives, without TensorFlow and without a network, or not at all."""

import functools
import io
import shutil
import socket
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import extractor
from tensorflow_datasets.image_classification import cifar

from ssoup_jax.data import sources
from ssoup_jax.data.dataset import Split
from ssoup_jax.data.sources import prepare, tfds_door
from ssoup_jax.data.sources import tfds as reader
from ssoup_jax.errors import SettingsError
from tests.data import archives
from tests.data.archives import encoded, random_split, rows

CIFAR10 = "cifar-10-binary.tar.gz"
tf = None
"""What the builders below take for TensorFlow; it is replaced while they prepare."""


class Local(tfds.core.GeneratorBasedBuilder):
    """Reads image files by what TensorFlow calls file functions, or needs more of TensorFlow than that."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("files", "decoded")]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(4, 6, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(dl_manager.download_dir / split) for split in ("train", "test")}

    def _generate_examples(self, folder):
        gfile = tf.io.gfile
        for name in gfile.listdir(folder):
            path = f"{folder}/{name}"
            assert gfile.exists(path) and not gfile.isdir(path) and gfile.isdir(folder)
            assert path in gfile.glob(f"{folder}/*") and name in next(gfile.walk(folder))[2]
            with gfile.GFile(path, "rb") as file:
                data = file.read()
            image = tf.image.decode_png(data) if self.builder_config.name == "decoded" else io.BytesIO(data)
            yield name, {"image": image, "label": int(Path(name).stem)}


@pytest.fixture(scope="module", autouse=True)
def without_tensorflow_and_network():
    with archives.without_tensorflow_and_network():
        yield


@pytest.fixture
def offline(monkeypatch):
    """Makes even the attempt to reach another machine or this one fail the test."""

    def refuse(*args, **kwargs):
        pytest.fail(f"a connection was attempted: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def splits(shape: tuple[int, int, int], n_classes: int = 10, n_train: int = 23) -> tuple[Split, Split]:
    return random_split(n_train, shape, n_classes, 0), random_split(7, shape, n_classes, 1)


def error_of(name: str, data_dir: Path, download: bool = True) -> str:
    with pytest.raises(SettingsError) as error:
        reader.read(name, str(data_dir), download=download)
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"dataset: tfds:{reader.parse(name)}: ")
    return message


def same(data_dir: Path, name: str, train: Split, test: Split) -> None:
    contents = reader.read(name, str(data_dir), download=False)
    found = [contents.training, contents.test]
    assert [rows(split) for split in found] == [rows(train), rows(test)]


# Every data set whose archives are read without a connection; those of `test_tfds` are not repeated here.
IMAGENET_RESIZED = [(f"imagenet_resized:{size}x{size}", archives.imagenet_resized, size, 1000) for size in (8, 16, 64)]


@pytest.mark.parametrize(
    ("name", "write", "size", "n_classes"), [("svhn_cropped", archives.svhn_cropped, 32, 10), *IMAGENET_RESIZED]
)
def test_images_are_read_as_they_were_in_the_archives(tmp_path, offline, name, write, size, n_classes):
    train, test = splits((size, size, 3), n_classes)
    base = name.partition(":")[0]
    write(tmp_path / "downloads" / base, train, test)
    with archives.trusted(base):
        assert reader.read(name, str(tmp_path), download=False).n_classes == n_classes
    shutil.rmtree(tmp_path / "downloads")
    same(tmp_path, name, train, test)


def test_corrupted_images_of_each_severity(tmp_path, offline):
    clean = random_split(6, (32, 32, 3), 10, 0)
    everything = archives.cifar10_corrupted(tmp_path / "downloads/cifar10_corrupted", clean, "glass_blur")
    with archives.trusted("cifar10_corrupted"):
        for severity in (1, 5):
            name = f"cifar10_corrupted:frosted_glass_blur_{severity}"
            n_classes, test = reader.read_test(name, str(tmp_path), download=False)
            assert n_classes == 10
            assert rows(test) == rows(everything[6 * (severity - 1) : 6 * severity])


def test_imagenet_is_prepared_from_its_archives(tmp_path, offline):
    folder = tmp_path / "downloads/imagenet2012"
    cmyk, png = "n01739381_1309.JPEG", "n02105855_2933.JPEG"
    train = {
        "n01739381": {cmyk: encoded((8, 6), 0, mode="CMYK"), "n01739381_1.JPEG": encoded((5, 9), 1)},
        "n02105855": {png: encoded((7, 7), 2, "PNG")},
        "n15075141": {"n15075141_54.JPEG": encoded((4, 4), 3)},
    }
    # Not in the order of their names, in which TFDS has their labels.
    test = {f"ILSVRC2012_val_0000000{i}.JPEG": encoded((i, 9), i) for i in (3, 1, 2)}
    archives.imagenet2012(folder, train, test)
    with archives.trusted_by_hand("imagenet2012", folder):
        contents = reader.read("imagenet2012", str(tmp_path), download=False)
    assert contents.n_classes == 1000
    found = [contents.training, contents.test]
    names = tfds.builder("imagenet2012", data_dir=str(tmp_path)).info.features["label"].names
    labels = (Path(tfds.__file__).parent / "datasets/imagenet2012/validation_labels.txt").read_text().split()
    read = []
    for split in found:
        images = map(split.images.files.read, range(len(split)))
        read.append(sorted(zip(images, [names[label] for label in split.labels], strict=True)))
    ordered = sorted(test)
    assert read[1] == sorted((test[name], label) for name, label in zip(ordered, labels[:3], strict=True))
    untouched = [(data, label) for label, images in train.items() for name, data in images.items()]
    untouched = [pair for pair in untouched if pair[0] not in (train["n01739381"][cmyk], train["n02105855"][png])]
    assert set(untouched) < set(read[0]) and len(read[0]) == 4
    for data, label in set(read[0]) - set(untouched):
        original = {"n01739381": train["n01739381"][cmyk], "n02105855": train["n02105855"][png]}[label]
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        expected = np.asarray(Image.open(io.BytesIO(original)).convert("RGB"), int)
        # One colour survives JPEG at full quality but for the rounding of its three colour channels.
        np.testing.assert_allclose(np.asarray(image, int), expected, atol=2)


def test_local_file_functions_stand_in_for_those_of_tensorflow(tmp_path, offline):
    image = encoded((6, 4), 0, "PNG")
    for split in ("train", "test"):
        (tmp_path / "downloads/local" / split).mkdir(parents=True)
        for label in range(3):
            (tmp_path / "downloads/local" / split / f"{label}.png").write_bytes(image)
    train = reader.read("local:files", str(tmp_path), download=False).training
    assert sorted(train.labels.tolist()) == [0, 1, 2]
    np.testing.assert_array_equal(train.images, np.stack(3 * [np.asarray(Image.open(io.BytesIO(image)))]))


def test_a_need_for_tensorflow_is_said_with_what_to_do(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "downloads/local" / split).mkdir(parents=True)
        (tmp_path / "downloads/local" / split / "0.png").write_bytes(encoded((6, 4), 0, "PNG"))
    message = error_of("local:decoded", tmp_path)
    assert "TFDS needs TensorFlow to prepare this data set" in message and "pip install tensorflow" in message
    command = f"tfds build local/decoded --data_dir={tmp_path} --manual_dir={tmp_path}/downloads/local "
    assert command + "--file_format=array_record" in message
    assert not (tmp_path / "local/decoded/1.0.0").exists()


def test_tensorflow_is_used_where_it_is_installed(tmp_path, monkeypatch):
    class Installed:
        class image:
            @staticmethod
            def decode_png(data):
                return np.asarray(Image.open(io.BytesIO(data)))

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", Installed)
        patch.setattr(tfds_door.importlib, "import_module", lambda name: sys.modules[name])
        assert tfds_door._TENSORFLOW.image.decode_png(encoded((6, 4), 0, "PNG")).shape == (4, 6, 3)
    with pytest.raises(ImportError, match=r"tensorflow\.io\.gfile\.copy is needed"):
        tfds_door._TENSORFLOW.io.gfile.copy("a", "b")


def test_missing_archives_are_said_with_every_way_to_supply_them(tmp_path):
    without_network = error_of("svhn_cropped", tmp_path)
    switched_off = error_of("svhn_cropped", tmp_path, download=False)
    for message in (without_network, switched_off):
        for part in (
            f"not prepared in {tmp_path}/svhn_cropped/3.1.0, and extra_32x32.mat, test_32x32.mat, train_32x32.mat "
            f"not in {tmp_path}/downloads/svhn_cropped (",
            "http://ufldl.stanford.edu/housenumbers/",
            "; allow the download on a machine with a network, put what is missing into "
            f"{tmp_path}/downloads/svhn_cropped by hand, or set data_dir to a folder in which the data set is prepared",
        ):
            assert part in message
    assert "no answer from" in without_network and "is switched off" in switched_off


@pytest.mark.parametrize("name", ["cifar10", "mnist", "imagenet_resized:32x32", "imagenet2012"])
def test_nothing_is_fetched_where_that_is_switched_off(tmp_path, offline, name):
    message = error_of(name, tmp_path, download=False)
    assert f"not in {tmp_path}/downloads/{name.partition(':')[0]} (" in message


def test_only_what_is_missing_is_named(tmp_path):
    archives.svhn_cropped(tmp_path / "downloads/svhn_cropped", *splits((32, 32, 3)))
    (tmp_path / "downloads/svhn_cropped/extra_32x32.mat").unlink()
    with archives.trusted("svhn_cropped"):
        message = error_of("svhn_cropped", tmp_path, download=False)
    assert "and extra_32x32.mat not in" in message


def test_archives_that_only_their_publisher_gives_are_said(tmp_path):
    message = error_of("imagenet2012", tmp_path)
    assert "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar not in" in message
    assert "registered users" in message and "allow the download" not in message
    (tmp_path / "downloads/imagenet2012/ILSVRC2012_img_train.tar").write_bytes(b"too short")
    message = error_of("imagenet2012", tmp_path)
    assert "ILSVRC2012_img_train.tar is damaged or another file: expected 147897477120 bytes, found 9;" in message


def test_other_data_sets_that_are_put_there_by_hand_say_how(tmp_path):
    message = error_of("resisc45", tmp_path)
    assert f"what has to be put there by hand not in {tmp_path}/downloads/resisc45 (" in message
    assert "please extract it to the manual_dir" in message and "allow the download" not in message


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    # A file in place of the folder stands for a read-only disk: the superuser may write to every folder.
    (tmp_path / "downloads").write_text("no folder")
    message = error_of("cifar10", tmp_path)
    assert f"{tmp_path}/downloads/cifar10 cannot be written (Not a directory); allow the download" in message


class Server:
    """Serves a folder to CIFAR-10's builder in place of its publisher's server."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
        monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        url = f"http://127.0.0.1:{self.server.server_port}/{CIFAR10}"
        real = cifar.Cifar10._cifar_info.fget
        monkeypatch.setattr(cifar.Cifar10, "_cifar_info", property(lambda self: real(self)._replace(url=url)))

    def __enter__(self) -> None:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_missing_archive_is_downloaded(tmp_path, monkeypatch):
    train, test = splits((32, 32, 3))
    archives.cifar10(tmp_path / "web", train, test)
    with Server(tmp_path / "web", monkeypatch):
        assert "is switched off" in error_of("cifar10", tmp_path / "data", download=False)
        reader.read("cifar10", str(tmp_path / "data"))
    same(tmp_path / "data", "cifar10", train, test)


def test_an_archive_that_the_server_does_not_have_is_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / "web").mkdir()
    with Server(tmp_path / "web", monkeypatch):
        message = error_of("cifar10", tmp_path / "data")
    assert f"{CIFAR10} not in" in message and "404" in message and "allow the download" in message


def test_the_archive_of_another_data_set_is_refused(tmp_path):
    # The archives of both have the same names.
    archives.mnist(tmp_path / "downloads/mnist", *splits((28, 28, 1)))
    assert "is damaged or another file: expected " in error_of("mnist", tmp_path)
    assert "not in" in error_of("fashion_mnist", tmp_path)


@pytest.mark.parametrize("manual", [True, False])
def test_a_damaged_archive_is_named_with_what_was_expected_and_found(tmp_path, monkeypatch, manual):
    train, test = splits((32, 32, 3))
    archive = tmp_path / "downloads/cifar10" / CIFAR10
    archives.cifar10(archive.parent, train, test)
    info = tfds.core.download.checksums.compute_url_info(archive)
    (url,) = tfds.builder_cls("cifar10").url_infos
    monkeypatch.setitem(tfds.builder_cls("cifar10").url_infos, url, info)
    if not manual:
        # As TFDS leaves what it downloaded.
        resource = tfds.core.download.resource
        stored = archive.parent / resource.get_dl_fname(url, info.checksum)
        archive = archive.rename(stored)
        Path(f"{stored}.INFO").write_text("{}")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    message = error_of("cifar10", tmp_path, download=False)
    assert f"{archive} is damaged or another file: expected {len(whole)} bytes with SHA-256 {info.checksum}" in message
    assert f"found {len(whole) // 2} with " in message
    archive.write_bytes(whole)
    reader.read("cifar10", str(tmp_path), download=False)
    same(tmp_path, "cifar10", train, test)


def test_an_archive_that_breaks_off_is_one_clear_line_and_leaves_nothing_behind(tmp_path):
    train, test = splits((32, 32, 3))
    archive = tmp_path / "downloads/cifar10" / CIFAR10
    archives.cifar10(archive.parent, train, test)
    whole = archive.read_bytes()
    with archives.trusted("cifar10"):
        archive.write_bytes(whole[: len(whole) // 2])
        message = error_of("cifar10", tmp_path)
        assert f"an archive in {archive.parent} is damaged; replace it (ExtractError: " in message
        archive.write_bytes(whole)
        reader.read("cifar10", str(tmp_path))
    same(tmp_path, "cifar10", train, test)


class Snapshots:
    """Copies a folder again and again: what a process that is killed there and then leaves behind."""

    def __init__(self, folder: Path, where: Path) -> None:
        self.folder, self.where = folder, where
        self.taken: list[Path] = []

    def before(self, function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            self.taken.append(self.where / str(len(self.taken)))
            shutil.copytree(self.folder, self.taken[-1])
            return function(*args, **kwargs)

        return wrapped


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_whole(tmp_path, monkeypatch):
    train, test = splits((32, 32, 3), n_train=5)
    data_dir = tmp_path / "data"
    archives.cifar10(data_dir / "downloads/cifar10", train, test)
    snapshots = Snapshots(data_dir, tmp_path / "snapshots")
    with archives.trusted("cifar10"):
        with monkeypatch.context() as patch:
            patch.setattr(extractor, "_copy", snapshots.before(extractor._copy))
            patch.setattr(tfds_door, "_encode", snapshots.before(tfds_door._encode))
            for owner, name in (
                (tfds.core.writer.Writer, "finalize"),
                (tfds.core.DatasetInfo, "write_to_directory"),
                (type(tfds.core.Path(tmp_path)), "rename"),
                (type(tmp_path), "replace"),
            ):
                patch.setattr(owner, name, snapshots.before(getattr(owner, name)))
            reader.read("cifar10", str(data_dir), download=False)
        assert len(snapshots.taken) > 20
        unfinished = 0
        for snapshot in snapshots.taken[::3] + snapshots.taken[-8:]:
            archive = next(snapshot.glob(f"downloads/cifar10/{CIFAR10}"))
            prepared = (snapshot / "cifar10/3.0.2").exists()
            if not prepared:
                unfinished += 1
                whole = archive.read_bytes()
                archive.unlink()
                assert f"{CIFAR10} not in" in error_of("cifar10", snapshot, download=False)
                archive.write_bytes(whole)
            reader.read("cifar10", str(snapshot), download=False)
            same(snapshot, "cifar10", train, test)
        assert unfinished > 8


def test_two_processes_do_not_prepare_at_once(tmp_path, monkeypatch):
    archives.cifar10(tmp_path / "downloads/cifar10", *splits((32, 32, 3)))
    held, prepared = threading.Event(), []
    real = tfds.core.DatasetBuilder.download_and_prepare

    def slow(builder, **kwargs):
        held.set()
        prepared.append(builder)
        waiting.join(0.5)
        assert waiting.is_alive()
        real(builder, **kwargs)

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", slow)
    builders = [tfds.builder("cifar10", data_dir=str(tmp_path)) for _ in range(2)]
    # Locks are those of open files, so that two threads stand for two processes.
    waiting = threading.Thread(target=lambda: held.wait() and prepare.prepare(builders[1], download=False))
    with archives.trusted("cifar10"):
        waiting.start()
        prepare.prepare(builders[0], download=False)
        waiting.join()
    assert prepared == [builders[0]]
    assert reader.read("cifar10", str(tmp_path), download=False).n_classes == 10


def test_archives_packed_anew_are_taken_where_that_is_asked_for_and_told_apart(tmp_path):
    train, test = splits((32, 32, 3))
    for where in ("published", "anew"):
        archives.cifar10(tmp_path / where / "downloads/cifar10", train, test)
    with archives.trusted("cifar10"):
        published = sources.load("cifar10", data_dir=str(tmp_path / "published"))
    anew = str(tmp_path / "anew")
    assert "replace or remove it, or --config.data.verify=False takes it" in error_of("cifar10", anew)
    lines = []
    taken = sources.load("cifar10", sources.Options(verify=False), data_dir=anew, on_line=lines.append)
    archive = f"{anew}/downloads/cifar10/{CIFAR10}"
    said = f"tfds:cifar10: {archive} is not the archive that was published; it is taken, as data.verify=False says"
    assert said in lines
    assert rows(taken.train) == rows(published.train) and taken.fingerprint != published.fingerprint
    where = f"{anew}/cifar10/3.0.2 was prepared from archives that are not the published ones"
    assert where in taken.notes and not any("archives" in note for note in published.notes)
    # What was made of them does not lose the mark with the archives, and is not taken unasked.
    shutil.rmtree(tmp_path / "anew/downloads")
    again = sources.load("cifar10", sources.Options(verify=False), data_dir=anew)
    assert again.fingerprint == taken.fingerprint
    assert f"{where}; --config.data.verify=False takes it, or remove it" in error_of("cifar10", anew)
    # Where the archives are the published ones, not asking changes nothing.
    unasked = sources.load("cifar10", sources.Options(verify=False), data_dir=str(tmp_path / "published"))
    assert unasked.fingerprint == published.fingerprint


def test_archives_put_there_by_hand_may_be_others_too(tmp_path):
    folder = tmp_path / "downloads/imagenet2012"
    train = {"n01739381": {"n01739381_1.JPEG": encoded((5, 9), 1), "n01739381_2.JPEG": encoded((5, 9), 2)}}
    archives.imagenet2012(folder, train, {"ILSVRC2012_val_00000001.JPEG": encoded((4, 9), 3)})
    assert "--config.data.verify=False takes it" in error_of("imagenet2012", tmp_path)
    contents = reader.read("imagenet2012", str(tmp_path), verify=False)
    assert "ILSVRC2012_img_train.tar" in contents.marks[0] and "ILSVRC2012_img_val.tar" in contents.marks[0]


@pytest.mark.parametrize("found", [True, False])
def test_what_tfds_prints_comes_in_lines_of_ours(tmp_path, capfd, caplog, monkeypatch, found):
    monkeypatch.setattr(tfds_door, "SECONDS_BETWEEN_LINES", 0.0)
    train, test = splits((32, 32, 3))
    if found:
        archives.cifar10(tmp_path / "downloads/cifar10", train, test)
    lines = []
    with archives.trusted("cifar10"):
        if found:
            reader.read("cifar10", str(tmp_path), download=False, on_line=lines.append)
        else:
            error_of("cifar10", tmp_path, download=False)
            with pytest.raises(SettingsError):
                reader.read("cifar10", str(tmp_path), download=False, on_line=lines.append)
    printed = capfd.readouterr()
    assert (printed.out, printed.err, caplog.text) == ("", "", "")
    assert all(line.startswith("tfds:cifar10: ") and "\n" not in line for line in lines)
    assert lines[0].startswith(f"tfds:cifar10: preparing it once, in {tmp_path}/cifar10/3.0.2, from archives in ")
    assert not any("ownloading" in line for line in lines)
    if found:
        assert "tfds:cifar10: prepared 23 examples of split train" in lines
        assert "tfds:cifar10: reading the 23 records of split train; the next start need not" in lines
        lines.clear()
        reader.read("cifar10", str(tmp_path), on_line=lines.append)
        assert lines == []


def test_a_download_is_said(tmp_path, monkeypatch):
    lines = []
    archives.cifar10(tmp_path / "web", *splits((32, 32, 3)))
    with Server(tmp_path / "web", monkeypatch):
        reader.read("cifar10", str(tmp_path / "data"), on_line=lines.append)
    assert [line for line in lines if line.startswith("tfds:cifar10: downloading http://127.0.0.1:")]


def test_progress_is_told_every_few_seconds(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(tfds_door.time, "monotonic", lambda: now[0])
    bar = tfds_door._Progress(lines.append, desc="Dl Size...", total=0, unit=" MiB")
    with bar as inside:
        inside.update_total(30)
        for _ in range(25):
            now[0] += 1
            inside.update()
        inside.refresh()
    assert lines == ["downloaded 10 of 30 MiB", "downloaded 20 of 30 MiB"]
    assert list(tfds_door._Progress(lines.append, [1, 2])) == [1, 2]
