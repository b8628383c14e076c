"""Arrays kept on disk: read as they were written, or not at all."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.data.sources import cache


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"images": rng.integers(0, 256, (5, 3, 2, 3), dtype=np.uint8), "labels": np.arange(5, dtype=np.int32)}


class Maker:
    """Counts how often the arrays are made."""

    def __init__(self, made: dict[str, np.ndarray] | None = None) -> None:
        self.made = arrays() if made is None else made
        self.times = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.times += 1
        return self.made


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


SHAPES = st.lists(st.integers(0, 4), max_size=4)


@settings(max_examples=30, deadline=None)
@given(
    described=st.dictionaries(st.text(max_size=5), st.tuples(st.sampled_from(["u1", "<i4", "<f8", "?"]), SHAPES)),
    key=st.text(max_size=10),
)
def test_what_was_made_once_is_read_from_then_on(tmp_path_factory, described, key):
    path = tmp_path_factory.mktemp("cache") / "arrays"
    rng = np.random.default_rng(0)
    make = Maker({name: rng.integers(0, 2, shape).astype(dtype) for name, (dtype, shape) in described.items()})
    for _ in range(3):
        same(cache.through(path, key, make), make.made)
    assert make.times == 1
    assert os.listdir(path.parent) == ["arrays"]


def test_another_key_is_out_of_date(tmp_path):
    path = tmp_path / "arrays"
    cache.through(path, "old", Maker(arrays(1)))
    make = Maker(arrays(2))
    same(cache.through(path, "new", make), arrays(2))
    same(cache.through(path, "new", make), arrays(2))
    assert make.times == 1


def test_arrays_that_are_not_contiguous_are_kept_as_they_look(tmp_path):
    make = Maker({"images": arrays()["images"].transpose(0, 3, 1, 2)[:, ::-1]})
    for _ in range(2):
        same(cache.through(tmp_path / "arrays", "key", make), make.made)
    assert make.times == 1


def test_no_damage_goes_unnoticed(tmp_path):
    path = tmp_path / "arrays"
    cache.through(path, "key", Maker())
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    cut = [whole[:i] for i in range(0, len(whole), 7)]
    for damaged in [*flipped, *cut, whole + b"\0", b"\n\n", b"\0" * 500]:
        path.write_bytes(damaged)
        make = Maker()
        same(cache.through(path, "key", make), arrays())
        assert make.times == 1
        assert path.read_bytes() == whole


def test_what_a_killed_writer_leaves_is_not_taken_for_whole(tmp_path, monkeypatch):
    path = tmp_path / "arrays"

    class Killed(BaseException):
        pass

    def killed(self, target):
        raise Killed

    with monkeypatch.context() as patch:
        # All is written but not renamed, and nobody cleans up.
        patch.setattr(type(path), "replace", killed)
        patch.setattr(type(path), "unlink", lambda self, missing_ok: None)
        with pytest.raises(Killed):
            cache.through(path, "key", Maker(arrays(1)))
    assert len(list(tmp_path.iterdir())) == 1 and not path.exists()
    make = Maker()
    same(cache.through(path, "key", make), arrays())
    assert make.times == 1


def test_a_place_that_cannot_be_written_is_left_alone(tmp_path):
    # A file in place of the folder stands for a read-only disk: the superuser may write to every folder.
    (tmp_path / "file").write_text("no folder")
    make = Maker()
    for _ in range(2):
        same(cache.through(tmp_path / "file" / "arrays", "key", make), arrays())
    assert make.times == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "replace", full)
    same(cache.through(tmp_path / "arrays", "key", Maker()), arrays())
    assert not list(tmp_path.iterdir())


def test_what_fails_to_be_made_is_not_kept(tmp_path):
    def fail():
        raise ValueError("cannot be made")

    with pytest.raises(ValueError, match="cannot be made"):
        cache.through(tmp_path / "arrays", "key", fail)
    assert not list(tmp_path.iterdir())
