"""A file is replaced whole or not at all."""

import pytest

from ssoup_jax.storage import atomic


@pytest.mark.parametrize("before", ["old", None])
def test_the_new_file_takes_the_place(tmp_path, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    with atomic.replacing(path) as beside:
        beside.write_text("new")
        assert (path.read_text() if path.exists() else None) == before
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", ["old", None])
def test_an_error_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    with pytest.raises(ZeroDivisionError), atomic.replacing(path) as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == ([("a.txt", before)] if before else [])


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic.replacing(tmp_path / "none" / "a.txt") as beside:
        beside.write_text("new")
