"""Folders of images: what is found, in which order, and one clear line for every mistake."""

import dataclasses
import io
import os
import pickle
import shutil
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssoup_jax.data import sources
from ssoup_jax.data.pictures import FOLDERS
from ssoup_jax.data.sources import folder
from ssoup_jax.errors import SettingsError

GOOD = {
    "train/cat/b.jpg": b"0",
    "train/cat/a.PNG": b"01",
    "train/cat/more/kittens/c.webp": b"012",
    "train/ant/x.jpeg": b"0123",
    "train/bee/y.bmp": b"01234",
    "val/bee/1.jpg": b"012345",
    "val/cat/2.jpg": b"0123456",
}
TINY = {
    "wnids.txt": b"n2\nn1\n",
    "train/n1/images/n1_0.JPEG": b"a",
    "train/n1/n1_boxes.txt": b"n1_0.JPEG\t0\t0\t62\t57\n",
    "train/n2/images/n2_0.JPEG": b"b",
    "train/n2/images/n2_1.JPEG": b"c",
    "val/images/val_0.JPEG": b"d",
    "val/images/val_1.JPEG": b"e",
    "val/images/val_10.JPEG": b"f",
    "val/val_annotations.txt": b"val_0.JPEG\tn2\t0\t9\t4\t6\nval_10.JPEG\tn1\t5\t5\t6\t6\nval_1.JPEG\tn2\t0\t0\t1\t1\n",
    "test/images/test_0.JPEG": b"g",
}


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)
    return root


def contents(split) -> list[tuple[bytes, int]]:
    images = split.images
    return [(images.files.read(i), label) for i, label in zip(images.indices, split.labels.tolist(), strict=True)]


def splits_of(found):
    return [found.training, found.test]


def error_of(path) -> str:
    with pytest.raises(SettingsError) as error:
        folder.read(path)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_classes_by_name_and_images_by_path(tmp_path):
    found = folder.read(write(tmp_path, GOOD))
    train, test = splits_of(found)
    assert (found.n_classes, found.classes, found.val) == (3, ("ant", "bee", "cat"), None)
    assert contents(train) == [(b"0123", 0), (b"01234", 1), (b"01", 2), (b"0", 2), (b"012", 2)]
    assert contents(test) == [(b"012345", 1), (b"0123456", 2)]
    for split in (train, test):
        assert split.labels.dtype == np.int32 and split.images.indices.dtype == np.int64
    assert train.images.files.describe(4) == str(tmp_path / "train/cat/more/kittens/c.webp")


def test_the_layout_of_tiny_imagenet(tmp_path):
    found = folder.read(write(tmp_path, TINY))
    train, test = splits_of(found)
    assert (found.n_classes, found.classes) == (2, ("n1", "n2"))
    assert found.notes == ("val is taken for the test images: a tenth of train validates", "not used: test")
    assert contents(train) == [(b"a", 0), (b"b", 1), (b"c", 1)]
    assert contents(test) == [(b"f", 0), (b"d", 1), (b"e", 1)]


@settings(max_examples=20, deadline=None)
@given(
    # Names that cannot be hidden, and that some file systems do not fold together.
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["Ll", "Nd"]), min_size=1, max_size=6),
        st.lists(st.integers(1, 300), min_size=1, max_size=5),
        min_size=2,
        max_size=5,
    )
)
def test_every_image_is_found_once_with_its_label(tmp_path_factory, sizes):
    root = tmp_path_factory.mktemp("folder")
    files = {}
    for name, of_class in sizes.items():
        for i, size in enumerate(of_class):
            for part in ("train", "test"):
                files[f"{part}/{name}/{i}.jpg"] = f"{part} {name} {i} ".encode() + bytes(size)
    found = folder.read(write(root, files))
    train, test = splits_of(found)
    assert found.n_classes == len(sizes)
    labels = {name: label for label, name in enumerate(sorted(sizes))}
    for part, split in (("train", train), ("test", test)):
        expected = [(data, labels[name.split("/")[1]]) for name, data in files.items() if name.startswith(part)]
        assert sorted(contents(split)) == sorted(expected)


def test_validation_images_validate_where_there_are_test_images_with_labels(tmp_path):
    write(tmp_path, GOOD | {"test/cat/t.jpg": b"test"})
    found = folder.read(tmp_path)
    assert contents(found.test) == [(b"test", 2)]
    assert contents(found.val) == [(b"012345", 1), (b"0123456", 2)]
    assert found.notes == ()
    # A folder without any of the classes has no labels.
    (tmp_path / "test/cat").rename(tmp_path / "test/images")
    found = folder.read(tmp_path)
    assert (contents(found.test), found.val) == ([(b"012345", 1), (b"0123456", 2)], None)
    assert "not used: test" in found.notes


def test_what_is_no_image_is_ignored(tmp_path):
    expected = [contents(split) for split in splits_of(folder.read(write(tmp_path / "a", GOOD)))]
    more = {".DS_Store": b"x", "train/._cat.jpg": b"x", "train/cat/._b.jpg": b"x", "train/cat/notes.txt": b"x"}
    more |= {"train/readme.jpg": b"x", "train/.git/x.jpg": b"x", "train/cat/folder.jpg": None}
    found = folder.read(write(tmp_path / "b", GOOD | more))
    assert [contents(split) for split in splits_of(found)] == expected
    assert len(found.notes) == 2
    assert found.notes[0].startswith("2 files are no pictures, or in no class, and left out: 1 .jpg, 1 .txt; such as ")
    os.mkfifo(tmp_path / "a/train/cat/pipe.jpg")  # opening it would wait for ever
    assert [contents(split) for split in splits_of(folder.read(tmp_path / "a"))] == expected


def test_the_fingerprint_is_that_of_names_and_contents(tmp_path):
    def fingerprints(root):
        return [split.images.files.fingerprint for split in splits_of(folder.read(root))]

    first = fingerprints(write(tmp_path / "a", GOOD))
    assert first[0] != first[1]
    assert fingerprints(write(tmp_path / "elsewhere", dict(reversed(GOOD.items())))) == first
    for change in (
        {"train/cat/b.jpg": b"1"},
        {"train/cat/b.jpg": b"00"},
        {"train/cat/d.jpg": b"0"},
        {"train/dog/b.jpg": b"0"},
    ):
        changed = fingerprints(write(tmp_path / next(iter(change.values())).hex() / next(iter(change)), GOOD | change))
        assert changed[0] != first[0] and changed[1] == first[1]


def test_a_split_travels_to_another_process(tmp_path):
    train = folder.read(write(tmp_path, GOOD)).training
    travelled = pickle.loads(pickle.dumps(train))
    assert contents(travelled) == contents(train)
    assert contents(travelled[np.array([3, 0])]) == [(b"0", 2), (b"0123", 0)]


def test_an_image_that_is_gone_is_an_error(tmp_path):
    train = folder.read(write(tmp_path, GOOD)).training
    (tmp_path / "train/ant/x.jpeg").unlink()
    with pytest.raises(FileNotFoundError):
        train.images.files.read(0)


def test_names_of_any_bytes(tmp_path):
    odd = {b"train/a/\xff.jpg": b"odd", b"train/b/x\n.jpg": b"line", b"val/a/\xc3\xa4.jpg": b"umlaut"}
    for name, data in odd.items():
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    train, test = splits_of(folder.read(tmp_path))
    assert contents(train) == [(b"odd", 0), (b"line", 1)]
    assert contents(test) == [(b"umlaut", 0)]
    assert all("\n" not in train.images.files.describe(i) for i in range(2))


# Changes to a good folder, the path below it that the message begins with, and the message.
MISTAKES = {
    "nothing": (dict.fromkeys(GOOD), "train", "cannot be read (No such file or directory)"),
    "no test images": (
        {"val/bee/1.jpg": None, "val/cat/2.jpg": None},
        "",
        "no folder of test images is in it; allowed",
    ),
    "no classes": (
        {name: None for name in GOOD if name.startswith("train")} | {"train/a.jpg": b"0"},
        "train",
        "no folder of images, one for each class, is in it",
    ),
    "an empty class": ({"train/dog/notes.txt": b"0"}, "train/dog", "no image is in it; found notes.txt"),
    "an empty test class": ({"val/ant/notes.txt": b"0"}, "val/ant", "no image is in it; found notes.txt"),
    "an empty image": ({"train/cat/b.jpg": b""}, "train/cat/b.jpg", "the file is empty"),
    "another test class": ({"val/dog/1.jpg": b"0"}, "val/dog", "there is no such class in train"),
    "other test classes": (
        {"val/bee/1.jpg": None, "val/cat/2.jpg": None, "val/dog/1.jpg": b"0"},
        "val",
        "none of the classes of train has a folder in it",
    ),
}
ANNOTATIONS = "val/val_annotations.txt"
LINES = TINY[ANNOTATIONS]
TINY_MISTAKES = {
    "a class without images": ({"wnids.txt": b"n1\nn2\nn3\n"}, "wnids.txt", "there is no class 'n3' in train"),
    "an unknown class": ({ANNOTATIONS: LINES.replace(b"n1", b"n9")}, ANNOTATIONS, "line 2: there is no class 'n9' in"),
    "no class": ({ANNOTATIONS: b"val_0.JPEG\n"}, ANNOTATIONS, "line 1: there is no class '' in train"),
    "an image that is not there": (
        {"val/images/val_1.JPEG": None},
        ANNOTATIONS,
        "line 3: image 'val_1.JPEG' is not in images, or has a line already",
    ),
    "an image named twice": (
        {ANNOTATIONS: LINES + LINES},
        ANNOTATIONS,
        "line 4: image 'val_0.JPEG' is not in images, or has a line already",
    ),
    "an image without a line": (
        {"val/images/val_2.JPEG": b"x"},
        ANNOTATIONS,
        "no line says the class of image 'val_2.JPEG'",
    ),
    "no images": (
        {name: None for name in TINY if name.startswith("val/images")} | {"val/images/notes.txt": b"0"},
        "val/images",
        "no image is in it; found notes.txt",
    ),
} | {
    f"the name {name!r}": (
        {ANNOTATIONS: name + b"\tn1\t0\n"},
        ANNOTATIONS,
        f"line 1: found image {name.decode()!r}; allowed: the name of a file in images",
    )
    for name in (b"/etc/passwd", b"../../../etc/passwd", b"..", b".", b"", b"images/val_0.JPEG")
}


@pytest.mark.parametrize(
    ("good", "changes", "where", "says"),
    [(GOOD, *mistake) for mistake in MISTAKES.values()] + [(TINY, *mistake) for mistake in TINY_MISTAKES.values()],
    ids=[*MISTAKES, *TINY_MISTAKES],
)
def test_mistakes_are_one_clear_line(tmp_path, good, changes, where, says):
    root = tmp_path / "root"
    root.mkdir()
    write(root, {name: data for name, data in (good | changes).items() if data is not None})
    assert error_of(root).startswith(f"dataset: folder:{root / where}: {says}")


def test_a_path_that_is_no_folder(tmp_path):
    for path in (tmp_path / "absent", write(tmp_path, {"file": b"0"}) / "file"):
        assert error_of(path).startswith(f"dataset: folder:{path}")


def test_odd_names_do_not_break_the_line(tmp_path):
    write(tmp_path, GOOD | {"train/do\ng/notes.txt": b"0"})
    assert "no image is in it" in error_of(tmp_path)


def test_links_to_images_within_the_folder_are_followed(tmp_path):
    write(tmp_path / "root", GOOD | {"val/ant/x.jpeg": b"x"})
    (tmp_path / "root/val/ant/x.jpeg").unlink()
    (tmp_path / "root/val/ant/x.jpeg").symlink_to(tmp_path / "root/train/ant/x.jpeg")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    for root in (tmp_path / "root", tmp_path / "link"):
        assert contents(folder.read(root).test)[0] == (b"0123", 0)


# What is replaced by a link, what it leads to, and the message.
LINKS = {
    "image": ("train/cat/b.jpg", "../../../outside/a.jpg", "a link leads out of"),
    "image by its full path": ("train/cat/b.jpg", "/etc/passwd", "a link leads out of"),
    "class": ("train/cat", "../../outside", "a link leads out of"),
    "train": ("train", "../outside", "a link leads out of"),
    "val": ("val", "../outside", "a link leads out of"),
    "annotated images": ("val/images", "../../outside", "a link leads out of"),
    "annotations": (ANNOTATIONS, "../../outside/lines.txt", "a link leads out of"),
    "list of classes": ("wnids.txt", "../outside/lines.txt", "a link leads out of"),
    "circle": ("train/cat", "../train", "a link leads to a folder"),
    "itself": ("train/cat/b.jpg", "b.jpg", "cannot be read (Too many levels of symbolic links)"),
    "nothing": ("train/cat/b.jpg", "gone.jpg", "a link leads to nothing"),
}


@pytest.mark.parametrize(("link", "target", "says"), LINKS.values(), ids=LINKS)
def test_links_that_are_not_followed(tmp_path, link, target, says):
    tiny = link.startswith(("val/", "wnids"))
    root = write(tmp_path / "root", TINY if tiny else GOOD)
    write(tmp_path / "outside", {"a.jpg": b"secret", "cat/a.jpg": b"secret", "lines.txt": b"val_0.JPEG\tn1\t0\n"})
    path = root / link
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)
    assert error_of(root).startswith(f"dataset: folder:{path}: {says}")


def test_links_are_followed_where_that_is_asked_for(tmp_path):
    outside = write(tmp_path / "outside", {"cat/a.jpg": b"class", "b.jpg": b"file"})
    root = write(tmp_path / "root", {name: data for name, data in GOOD.items() if not name.startswith("train/cat")})
    (root / "train/cat").symlink_to(outside / "cat")
    (root / "train/ant/y.jpg").symlink_to("../../../outside/b.jpg")
    assert "--config.data.follow_links=True follows it" in error_of(root)
    found = folder.read(root, follow_links=True)
    assert contents(found.training) == [(b"0123", 0), (b"file", 0), (b"01234", 1), (b"class", 2)]


def test_links_are_never_followed_in_circles_nor_to_another_file_system(tmp_path):
    def error_with(link, target):
        root = write(tmp_path / str(len(list(tmp_path.iterdir()))), GOOD)
        (root / link).symlink_to(target)
        with pytest.raises(SettingsError) as error:
            folder.read(root, follow_links=True)
        return str(error.value)

    assert "a link leads back to a folder that it is in" in error_with("train/cat/again", "..")
    assert "a link leads back to a folder that it is in" in error_with("train/dog", "..")
    assert "a link leads to nothing" in error_with("train/cat/c.jpg", "gone.jpg")
    assert os.stat("/proc").st_dev != os.stat(tmp_path).st_dev
    assert "a link leads to another file system than that of" in error_with("train/cat/c.jpg", "/proc/version")


def test_pictures_are_known_by_their_ending_or_by_their_head(tmp_path):
    gif, png = b"GIF89a\x01\0\x01\0\0\0\0;", picture(3)
    more = {"train/ant/a.JFIF": b"jpeg", "train/ant/b.gif": gif, "train/ant/c": png, "train/ant/d.image": png}
    more |= {"train/ant/e.txt": b"no picture", "train/ant/f.csv": b"x", "train/ant/Thumbs.db": b"x" * 99}
    found = folder.read(write(tmp_path, GOOD | more))
    assert contents(found.training)[:5] == [(b"jpeg", 0), (gif, 0), (png, 0), (png, 0), (b"0123", 0)]
    (note,) = (note for note in found.notes if "left out" in note)
    assert note.startswith("3 files are no pictures, or in no class, and left out: ")
    assert all(f"1 {ending}" in note for ending in (".txt", ".csv", ".db")) and "such as train/ant/" in note


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_one_class(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    one, two = (unicodedata.normalize(which, "Äpfel") for which in (form, other))
    files = {f"train/{one}/1.jpg": b"1", f"train/{two}/2.jpg": b"2", "train/ant/3.jpg": b"3"}
    found = folder.read(write(tmp_path, files | {f"test/{two}/4.jpg": b"4"}))
    assert found.classes == ("ant", unicodedata.normalize("NFC", "Äpfel"))
    assert sorted(contents(found.training)) == [(b"1", 1), (b"2", 1), (b"3", 0)]
    assert contents(found.test) == [(b"4", 1)]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text + b"\n\n",
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.decode().encode("utf-16"),
    ],
    ids=["a byte order mark", "blank lines", "another end of line", "UTF-16"],
)
def test_text_files_of_tiny_imagenet_as_editors_leave_them(tmp_path, change):
    expected = contents(folder.read(write(tmp_path / "a", TINY)).test)
    changed = TINY | {name: change(TINY[name]) for name in (ANNOTATIONS, "wnids.txt")}
    assert contents(folder.read(write(tmp_path / "b", changed)).test) == expected


def test_large_folders_are_told_apart_by_times_of_change(tmp_path, monkeypatch):
    def fingerprint():
        return folder.read(tmp_path).training.images.files.fingerprint

    write(tmp_path, GOOD)
    by_contents = fingerprint()
    os.utime(tmp_path / "train/ant/x.jpeg", (1, 1))
    assert fingerprint() == by_contents
    monkeypatch.setattr(folder, "HASHED_UP_TO", 1)
    first = fingerprint()
    assert first == fingerprint() != by_contents
    os.utime(tmp_path / "train/ant/x.jpeg", (2, 2))
    assert fingerprint() != first
    assert "are told from others by their names, sizes and times of change" in folder.read(tmp_path).notes[-1]


def test_test_pictures_that_were_trained_on_are_counted(tmp_path):
    found = folder.read(write(tmp_path, GOOD | {"val/ant/copy.jpg": GOOD["train/cat/b.jpg"]}))
    note = "1 of 3 (33.3 %) test images are among the training and validation images as well, 1 of them with another "
    assert found.notes[-1] == note + "label"


def test_other_names_for_the_folders_are_shown(tmp_path):
    write(tmp_path, {name.replace("val/", "Testing/"): data for name, data in GOOD.items()})
    assert error_of(tmp_path).endswith("allowed: test, val, valid, validation; found: Testing, train")
    (tmp_path / "train").rename(tmp_path / "Train")
    assert error_of(tmp_path).endswith("cannot be read (No such file or directory); found: Testing, Train")


def picture(seed: int, dtype=np.uint8, shape=(9, 12, 3), **options) -> bytes:
    out = io.BytesIO()
    high = np.iinfo(dtype).max
    values = np.random.default_rng(seed).integers(0, high, shape, dtype=dtype)
    Image.fromarray(values >> options.pop("unused", 0)).save(out, "PNG", **options)
    return out.getvalue()


def pictures(**options) -> dict[str, bytes]:
    names = [f"{part}/{name}/{i}.png" for part in ("train", "val") for name in ("ant", "bee") for i in range(4)]
    return {name: picture(i, **options) for i, name in enumerate(names)}


def test_a_folder_is_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "own", pictures())
    data = sources.load("folder:~/own", sources.Options(image_size=8))
    assert (data.n_classes, data.classes, data.image_shape) == (2, ("ant", "bee"), (8, 8, 3))
    assert data.notes == ("val is taken for the test images: a tenth of train validates",)
    assert data.describe() == (
        f"folder:~/own: pictures seen as 8 x 8 x 3; 7 training, 1 validation and 8 test images; 2 classes of 3 "
        f"({data.classes[np.bincount(data.train.labels).argmin()]!r}) to 4 "
        f"({data.classes[np.bincount(data.train.labels).argmax()]!r}) training images"
    )


def test_own_validation_images_leave_all_training_images_in_training(tmp_path):
    own = pictures() | {f"test/{name}/0.png": picture(100 + i) for i, name in enumerate(("ant", "bee"))}
    data = sources.load(f"folder:{write(tmp_path, own)}")
    assert (len(data.train), len(data.val), len(data.test), data.notes) == (8, 8, 2, ())
    # Statistics are recalibrated on the first of them, so that classes must not follow one another.
    assert sorted(data.train.labels.tolist()) != data.train.labels.tolist()


def test_what_a_folder_holds_decides_how_its_pictures_are_decoded(tmp_path):
    plain = sources.load(f"folder:{write(tmp_path / 'a', pictures())}")
    assert plain.train.images.files.rules == FOLDERS
    wide = write(tmp_path / "b", pictures(dtype=np.uint16, shape=(9, 12), unused=4))
    data = sources.load(f"folder:{wide}")
    rules = {split.images.files.rules for split in (data.train, data.val, data.test)}
    assert rules == {dataclasses.replace(FOLDERS, bits=12)}
    assert any("12 bits are taken to be used" in note for note in data.notes)


def test_a_picture_that_cannot_be_decoded_is_found_before_training(tmp_path):
    write(tmp_path, pictures() | {"train/ant/2.png": picture(0)[:60]})
    with pytest.raises(SettingsError) as error:
        sources.load(f"folder:{tmp_path}")
    assert str(error.value).startswith(f"dataset: folder:{tmp_path}/train/ant/2.png: cannot be decoded: ")
    skipped = sources.load(f"folder:{tmp_path}", sources.Options(skip_undecodable=True))
    assert any("1 of 16 (6.25 %) cannot be decoded, such as " in note for note in skipped.notes)
