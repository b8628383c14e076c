"""Folders of images: what is found, in which order, and one clear line for every mistake."""

import os
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def error_of(path) -> str:
    with pytest.raises(SettingsError) as error:
        folder.read(path)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_classes_by_name_and_images_by_path(tmp_path):
    n_classes, train, test = folder.read(write(tmp_path, GOOD))
    assert n_classes == 3
    assert contents(train) == [(b"0123", 0), (b"01234", 1), (b"01", 2), (b"0", 2), (b"012", 2)]
    assert contents(test) == [(b"012345", 1), (b"0123456", 2)]
    for split in (train, test):
        assert split.labels.dtype == np.int32 and split.images.indices.dtype == np.int64
    assert train.images.files.describe(4) == str(tmp_path / "train/cat/more/kittens/c.webp")


def test_the_layout_of_tiny_imagenet(tmp_path):
    n_classes, train, test = folder.read(write(tmp_path, TINY))
    assert n_classes == 2
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
    n_classes, train, test = folder.read(write(root, files))
    assert n_classes == len(sizes)
    labels = {name: label for label, name in enumerate(sorted(sizes))}
    for part, split in (("train", train), ("test", test)):
        expected = [(data, labels[name.split("/")[1]]) for name, data in files.items() if name.startswith(part)]
        assert sorted(contents(split)) == sorted(expected)


def test_test_images_with_labels_come_before_validation_images(tmp_path):
    write(tmp_path, GOOD | {"test/cat/t.jpg": b"test"})
    assert contents(folder.read(tmp_path)[2]) == [(b"test", 2)]
    # A folder without any of the classes has no labels.
    (tmp_path / "test/cat").rename(tmp_path / "test/images")
    assert contents(folder.read(tmp_path)[2]) == [(b"012345", 1), (b"0123456", 2)]


def test_what_is_no_image_is_ignored(tmp_path):
    expected = [contents(split) for split in folder.read(write(tmp_path / "a", GOOD))[1:]]
    more = {".DS_Store": b"x", "train/._cat.jpg": b"x", "train/cat/._b.jpg": b"x", "train/cat/notes.txt": b"x"}
    more |= {"train/readme.jpg": b"x", "train/.git/x.jpg": b"x", "train/cat/folder.jpg": None}
    found = folder.read(write(tmp_path / "b", GOOD | more))[1:]
    assert [contents(split) for split in found] == expected
    os.mkfifo(tmp_path / "a/train/cat/pipe.jpg")  # opening it would wait for ever
    assert [contents(split) for split in folder.read(tmp_path / "a")[1:]] == expected


def test_the_fingerprint_is_that_of_names_and_sizes(tmp_path):
    def fingerprints(root):
        return [split.images.files.fingerprint for split in folder.read(root)[1:]]

    first = fingerprints(write(tmp_path / "a", GOOD))
    assert first[0] != first[1]
    assert fingerprints(write(tmp_path / "elsewhere", dict(reversed(GOOD.items())))) == first
    for change in ({"train/cat/b.jpg": b"00"}, {"train/cat/d.jpg": b"0"}, {"train/dog/b.jpg": b"0"}):
        changed = fingerprints(write(tmp_path / next(iter(change.values())).hex() / next(iter(change)), GOOD | change))
        assert changed[0] != first[0] and changed[1] == first[1]


def test_a_split_travels_to_another_process(tmp_path):
    _, train, _ = folder.read(write(tmp_path, GOOD))
    travelled = pickle.loads(pickle.dumps(train))
    assert contents(travelled) == contents(train)
    assert contents(travelled[np.array([3, 0])]) == [(b"0", 2), (b"0123", 0)]


def test_an_image_that_is_gone_is_an_error(tmp_path):
    _, train, _ = folder.read(write(tmp_path, GOOD))
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
    _, train, test = folder.read(tmp_path)
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
    "an empty class": ({"train/dog/notes.txt": b"0"}, "train/dog", "no image is in it; looked for .bmp, .jpeg, "),
    "an empty test class": ({"val/ant/notes.txt": b"0"}, "val/ant", "no image is in it; looked for .bmp, .jpeg, "),
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
        "no image is in it; looked for",
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
        assert contents(folder.read(root)[2])[0] == (b"0123", 0)


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
