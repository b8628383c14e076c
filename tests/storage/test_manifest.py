"""A manifest tells a folder that is as it was stored from any other."""

import errno
import json
import os

import pytest

from ssoup_jax.errors import RunError
from ssoup_jax.storage import manifest
from ssoup_jax.storage.manifest import Damaged


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    (made / "state/d").mkdir(parents=True)
    (made / "record.json").write_text('{"a": 1}\n')
    (made / "state/d/weights").write_bytes(bytes(range(256)))
    (made / "empty").touch()
    manifest.write(made)
    return made


def rewrite(folder, **changes):
    """Writes a manifest that is well formed but for what is changed in it."""
    content = json.loads((folder / manifest.NAME).read_text())
    del content["sha256"]
    (folder / manifest.NAME).write_text(manifest._spell(content | changes))


def flip(path, position=0, bit=0):
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1 << bit
    path.write_bytes(raw)


def test_lists_every_file_with_size_and_digest(folder):
    content = json.loads((folder / manifest.NAME).read_text())
    assert content["format"] == manifest.FORMAT
    assert {name: entry["bytes"] for name, entry in content["files"].items()} == {
        "empty": 0,
        "record.json": 9,
        "state/d/weights": 256,
    }
    # The SHA-256 of nothing, as published with the algorithm.
    assert content["files"]["empty"]["sha256"].startswith("e3b0c44298fc1c149afbf4c8996fb924")
    manifest.check(folder)


DAMAGE = {
    "a file is gone": (lambda f: (f / "empty").unlink(), "'empty' is missing"),
    "a folder is gone": (lambda f: os.rename(f / "state", f.parent / "away"), "'state/d/weights' is missing"),
    "truncated": (lambda f: os.truncate(f / "state/d/weights", 100), "'state/d/weights' has 100 bytes, not 256"),
    "grown": (lambda f: os.truncate(f / "state/d/weights", 257), "has 257 bytes, not 256"),
    "one bit": (lambda f: flip(f / "state/d/weights", 77, 3), "'state/d/weights' has other content"),
    "one too many": (lambda f: (f / "state/new\n").touch(), r"'state/new\n' is not listed"),
    "a link": (
        lambda f: ((f / "empty").unlink(), (f / "empty").symlink_to("/dev/null")),
        "'empty' is a link",
    ),
    "a folder behind a link": (
        lambda f: (os.rename(f / "state", f.parent / "away"), (f / "state").symlink_to(f.parent / "away")),
        "'state' is a link",
    ),
    "a pipe": (lambda f: ((f / "empty").unlink(), os.mkfifo(f / "empty")), "'empty' is not a plain file"),
    "a folder for a file": (lambda f: ((f / "empty").unlink(), (f / "empty").mkdir()), "'empty' is missing"),
    "no manifest": (lambda f: (f / manifest.NAME).unlink(), "'manifest.json' is missing (stored before"),
    "manifest is a pipe": (
        lambda f: ((f / manifest.NAME).unlink(), os.mkfifo(f / manifest.NAME)),
        "'manifest.json' cannot be read",
    ),
    "manifest is empty": (lambda f: (f / manifest.NAME).write_text(""), "manifest.json is not JSON"),
    "manifest is a list": (lambda f: (f / manifest.NAME).write_text("[]"), "holds no JSON object"),
    "manifest is deep": (lambda f: (f / manifest.NAME).write_text("[" * 10**5), "manifest.json is not JSON"),
    "manifest is not text": (lambda f: (f / manifest.NAME).write_bytes(b"\xff\xfe"), "manifest.json is not text"),
    "manifest has one more space": (
        lambda f: (f / manifest.NAME).write_text((f / manifest.NAME).read_text() + " "),
        "manifest.json is not as it was written",
    ),
    "absolute name": (lambda f: rewrite(f, files={"/etc/passwd": {"bytes": 1, "sha256": ""}}), "'/etc/passwd', which"),
    "name outside": (lambda f: rewrite(f, files={"a/../../b": {"bytes": 1, "sha256": ""}}), "which is no name"),
    "name of no file": (lambda f: rewrite(f, files={"\ud800\0": {"bytes": 1, "sha256": ""}}), "which is no name"),
    "size of no number": (lambda f: rewrite(f, files={"empty": {"bytes": True, "sha256": ""}}), "in no known form"),
    "files of no kind": (lambda f: rewrite(f, files=[1]), "lists no files"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_in_one_line(folder, case):
    damage, expected = DAMAGE[case]
    damage(folder)
    with pytest.raises(Damaged) as error:
        manifest.check(folder)
    assert expected in error.value.problem
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_flipped_bit_anywhere_in_the_manifest_itself_is_seen(folder):
    path = folder / manifest.NAME
    whole = path.read_bytes()
    for position in range(0, len(whole), 5):
        flip(path, position, position % 8)
        with pytest.raises(Damaged):
            manifest.check(folder)
        path.write_bytes(whole)
    manifest.check(folder)


def test_a_newer_form_is_refused_with_its_version_and_is_no_damage(folder):
    rewrite(folder, format=2, ssoup_jax="9.1", more=[1])
    with pytest.raises(RunError, match=r"format 2, written by ssoup_jax '9\.1'; this is ssoup_jax") as error:
        manifest.check(folder)
    assert not isinstance(error.value, Damaged)


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, Damaged), (errno.EACCES, RunError), (errno.ESTALE, RunError)])
def test_a_disk_that_may_come_back_is_no_damage(folder, monkeypatch, number, kind):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(manifest, "_sha256", fail)
    with pytest.raises(RunError, match="cannot be read") as error:
        manifest.check(folder)
    assert type(error.value) is kind


def test_writing_again_describes_what_is_there_now(folder):
    (folder / "empty").write_text("no more")
    manifest.write(folder)
    manifest.check(folder)


def test_files_that_others_have_described_are_listed_unseen(folder):
    entries = {name: manifest.describe(folder / name) for name in ("empty",)}
    elsewhere = (folder / "empty").rename(folder.parent / "empty")
    manifest.write(folder, entries)
    with pytest.raises(Damaged, match="'empty' is missing"):
        manifest.check(folder)
    elsewhere.rename(folder / "empty")
    manifest.check(folder)
    before = (folder / manifest.NAME).read_bytes()
    manifest.write(folder)
    assert (folder / manifest.NAME).read_bytes() == before


def test_what_cannot_be_vouched_for_is_not_written(folder):
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(RunError, match="'link' is a link"):
        manifest.write(folder)
    assert not manifest.present(folder)


def test_told_how_far_it_is(folder):
    counts = []
    manifest.check(folder, counts.append)
    assert sum(counts) == 256 + 9


def test_set_aside_takes_the_first_free_name(folder):
    (folder.parent / "damaged-7-1").touch()
    aside = manifest.set_aside(folder, "7")
    assert aside == folder.parent / "damaged-7-2"
    assert manifest.is_aside(aside)
    assert not folder.exists()
    manifest.check(aside)


def test_what_cannot_be_set_aside_is_said(folder):
    (folder.parent / "file").touch()
    with pytest.raises(RunError, match="cannot be set aside: Not a directory"):
        manifest.set_aside(folder.parent / "file" / "folder", "7")
