"""What the splits say about each other: every note with its figures, and none where all is well."""

import numpy as np
import pytest

from ssoup_jax.data import checks
from ssoup_jax.data.dataset import Split
from ssoup_jax.errors import SettingsError

RANDOM = np.random.default_rng(0)


def split(labels, high: int = 256, shape=(4, 4, 1)) -> Split:
    images = RANDOM.integers(0, high, (len(labels), *shape), dtype=np.uint8)
    images[0].flat[:2] = 0, high - 1
    return Split(images, np.array(labels, np.int32))


def notes(train, val, test, n_classes: int = 3, **rest) -> tuple[str, ...]:
    return checks.notes(train, val, test, n_classes, **rest)


GOOD = [0, 1, 2] * 5


def test_nothing_is_said_where_all_is_well():
    assert notes(split(GOOD), split(GOOD), split(GOOD)) == ()


LABELS = {
    "start at 1": (
        ([1, 2, 3], [1, 2, 3], [1, 2, 3], 4),
        [
            "labels start at 1, and the network has an output for a class 0 without images: the labels minus 1 would "
            "be 0 to 2"
        ],
    ),
    "leave numbers out": (
        ([0, 2, 9], [0, 2], [0, 2, 9], 10),
        ["7 of 10 classes have no image at all: 1, 3, 4, 5, 6 and 2 more"],
    ),
    "unseen": (
        ([0, 0, 1], [0, 2], [0, 2, 2, 1], 3),
        [
            "1 of 2 (50 %) validation images are of classes without a training image: 2",
            "2 of 4 (50 %) test images are of classes without a training image: 2",
        ],
    ),
    "untested": (([0, 1, 2], [0], [1], 3), ["2 of 3 trained classes have no test image: 0, 2"]),
}


@pytest.mark.parametrize(("labels", "expected"), LABELS.values(), ids=LABELS)
def test_labels(labels, expected):
    *labels, n_classes = labels
    assert list(notes(*map(split, labels), n_classes)) == expected


def test_classes_are_named_and_a_given_number_of_them_is_no_surprise():
    splits = split([0]), split([0]), split([2])
    assert "1 of 3 classes have no image at all: 1 ('bee')" in notes(*splits, classes=("ant", "bee", "cat"))
    assert not any("no image at all" in note for note in notes(*splits, is_counted=True))


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("high", "says"),
    [
        (2, None),
        (17, "training images 0 to 16 and test images 0 to 255: they seem to be on different scales"),
        (63, "training images 0 to 62 and test images 0 to 255: they seem to be on different scales"),
        (130, ""),
    ],
)
def test_scales(high, says, swap):
    train, test = (split(GOOD, high), split(GOOD)) if not swap else (split(GOOD), split(GOOD, high))
    if says is None:
        with pytest.raises(SettingsError, match="are on different scales; bring both to 0 to 255"):
            notes(train, split(GOOD), test)
        return
    if swap and says:
        says = says.replace("training images 0 to " + str(high - 1), "training images 0 to 255")
        says = says.replace("test images 0 to 255:", f"test images 0 to {high - 1}:")
    assert list(notes(train, split(GOOD), test)) == [says] * bool(says)


def test_dark_images():
    found = notes(split(GOOD, 17), split(GOOD, 17), split(GOOD, 17))
    assert found == (
        "training images 0 to 16 and test images 0 to 16: images are nearly black unless another scale than 0 to 255 "
        "was meant",
    )


def test_images_of_one_value():
    train = split(GOOD)
    train.images[[2, 5]] = [[[[3]]], [[[9]]]]
    assert notes(train, split(GOOD), split(GOOD)) == ("2 of 15 (13.3 %) training images are of one value each",)
    black = Split(np.zeros((5, 4, 4, 1), np.uint8), np.zeros(5, np.int32))
    with pytest.raises(SettingsError, match="every value of all 5 test images is 0; nothing can be learnt from that"):
        notes(train, split(GOOD), black)


def test_test_images_that_were_trained_on():
    train, val, test = split(GOOD), split(GOOD), split(GOOD)
    test.images[:3] = train.images[3:6]
    test.images[3] = val.images[3]
    assert notes(train, val, test) == (
        "4 of 15 (26.7 %) test images are among the training and validation images as well",
    )
    test.labels[0] = 1
    assert notes(train, val, test)[0].endswith("as well, 1 of them with another label")
