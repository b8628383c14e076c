"""Data of one's own from a function: the same as from an npz file, and one line for every mistake."""

import numpy as np
import pytest

from ssoup_jax.data import sources
from ssoup_jax.data.sources import names
from ssoup_jax.errors import SettingsError

DATA = """
import numpy as np

def load():
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (20, 5, 4, 3), np.uint8),
        "y_train": np.arange(20) % 4,
        "x_test": random.integers(0, 256, (6, 5, 4, 3), np.uint8),
        "y_test": np.arange(6) % 4,
    }

def more():
    return load() | {"x_val": None, "years": [[1], [2, 3]]}

def where(data_dir):
    return load() | {"y_train": np.full(20, len(data_dir))}

def lists():
    return {name: array.tolist() for name, array in load().items()}

def without():
    return {name: array for name, array in load().items() if name != "y_test"}

def floats():
    return load() | {"y_train": np.arange(20) / 2}

def ragged():
    return load() | {"x_test": [[1], [2, 3]]}

def pair():
    return load()["x_train"], load()["y_train"]

def broken():
    return open("/nowhere/data.bin")

def asks(path):
    return load()

table = {}
"""


@pytest.fixture(autouse=True)
def written(own_module):
    own_module(DATA)


def test_it_is_what_an_npz_file_of_the_same_arrays_is(tmp_path):
    import mine

    np.savez(tmp_path / "own.npz", **mine.load())
    found, expected = sources.load("mine:load"), sources.load(f"npz:{tmp_path / 'own.npz'}")
    assert found.fingerprint == expected.fingerprint, "data are named by what they are"
    assert (found.name, found.n_classes, found.image_shape) == ("mine:load", 4, (5, 4, 3))


def test_what_is_no_array_but_like_one_is_taken():
    np.testing.assert_array_equal(sources.load("mine:lists").test.labels, np.arange(6) % 4)


def test_it_is_given_the_folder_of_data_if_it_asks():
    with pytest.raises(SettingsError, match=r"^dataset: mine:where: y_train has"):
        sources.load("mine:where", data_dir="d" * 200_000)
    assert sources.load("mine:where", sources.Options(n_classes=9), data_dir="data").n_classes == 9


def test_further_arrays_are_named_and_not_used():
    (note,) = (note for note in sources.load("mine:more").notes if "not used" in note)
    assert note == "mine:more: not used: x_val, years; a tenth of x_train validates"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("without", "dataset: mine:without: array y_test is missing; found: x_train, y_train, x_test; needed: "),
        ("floats", "dataset: mine:floats: y_train has dtype float64; allowed: integers"),
        ("ragged", "dataset: mine:ragged: x_test is a list that makes no array"),
        ("pair", "dataset: mine:pair: returns a tuple; allowed: a dict of arrays, x_train, y_train, x_test, y_test"),
        ("broken", "dataset: mine:broken raised FileNotFoundError: No such file or directory: /nowhere/data.bin"),
        ("asks", "dataset: mine:asks takes (path); allowed: (), and data_dir where it wants them"),
        ("table", "dataset: mine:table is dict; allowed: a function"),
        ("lod", "dataset: unknown value 'mine:lod'; allowed: mine:load, "),
    ],
)
def test_mistakes_are_one_clear_line(name, expected):
    with pytest.raises(SettingsError) as error:
        sources.load(f"mine:{name}")
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["asks", "table", "lod"])
def test_what_cannot_be_called_is_said_before_anything_is_read(name):
    with pytest.raises(SettingsError, match=r"^dataset: "):
        sources.check_name(f"mine:{name}")


def test_a_module_that_is_called_like_a_misspelt_kind_of_data_is_taken_where_it_is_there(own_module):
    with pytest.raises(SettingsError, match="did you mean 'folder:load'"):
        names.parse("floder:load")
    own_module(DATA, "floder")
    assert names.parse("floder:load") == ("own", "floder:load")


def test_channels_first_may_be_said():
    assert sources.load("mine:load", sources.Options(layout="NCHW")).image_shape == (4, 3, 5)
