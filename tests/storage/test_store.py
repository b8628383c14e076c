"""Artifacts are finished or absent, come back as they went in, and are not used once damaged."""

import errno
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.storage import manifest
from ssoup_jax.storage import store as module
from ssoup_jax.storage.artifact_folder import load
from ssoup_jax.storage.store import Store

NAME = "dense-0123456789abcdef"
MEMBERS = [f"phase1-imp-000000000000000{value}" for value in range(3)]
RECORD = {"metrics": {"test": {"accuracy": 0.5}}}
STORED = Path(__file__).parent / "stored"


def model(batch_stats=None, first=0.0):
    params = {"fc": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}}
    params["fc"]["kernel"][0, 0] = first
    mask = jax.tree.map(lambda leaf: leaf > 2, params)
    return {"params": params, "batch_stats": batch_stats or {}, "mask": mask}


def stored_model():
    """Numbers whose every bit matters; what `stored/` was written from."""
    bits = np.array([0x7FC00001, 0x80000000, 0x00000001, 0x7F800000, 0x3F800000, 0xBF000001], np.uint32)
    params = {"fc": {"kernel": bits.view(np.float32).reshape(2, 3), "bias": np.array([1e-3, -1, 2], np.float32)}}
    mask = {"fc": {"kernel": np.array([[True, False, True], [True, True, False]]), "bias": np.ones(3, bool)}}
    stats = {"bn": {"mean": np.array([0.5], np.float32), "var": np.array([2.0], np.float32)}}
    return {"params": params, "batch_stats": stats, "mask": mask}


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape, np.asarray(x).tobytes()) == (y.dtype, y.shape, np.asarray(y).tobytes())


@pytest.fixture
def told():
    return []


@pytest.fixture
def store(tmp_path, told):
    return Store(tmp_path, told.append)


def finish(store, *names, **changes):
    for name in names:
        store.begin(name)
    store.finish(names, [model(**changes) for _ in names], [RECORD for _ in names])


def folders(store):
    return sorted(path.name for path in store.workdir.artifacts.iterdir())


@pytest.mark.parametrize("batch_stats", [{}, {"bn": {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}}])
def test_what_was_stored_comes_back_bit_for_bit(tmp_path, store, batch_stats):
    stored = model(batch_stats)
    (store.begin(NAME) / "metrics.jsonl").write_text("{}\n")
    store.finish([NAME], [stored], [RECORD])
    for tree, record in (Store(tmp_path).load(NAME, stored), load(store.path(NAME), jax.eval_shape(lambda: stored))):
        assert record == RECORD
        assert_same_bits(tree, stored)
    assert (store.path(NAME) / "metrics.jsonl").read_text() == "{}\n"


def test_an_artifact_stored_by_version_0_1_loads_bit_for_bit():
    expected = stored_model()
    tree, record = load(STORED / "dense-0000000000000000", jax.eval_shape(lambda: expected))
    assert_same_bits(tree, expected)
    assert record == {"stage": "Dense", "metrics": {"test": {"accuracy": 0.25}}}


def test_a_stage_is_absent_until_it_is_finished(store):
    (store.begin(NAME) / "metrics.jsonl").write_text("half")
    assert not store.has(NAME)
    assert list(store.begin(NAME).iterdir()) == [], "what an interrupted start left must be gone"
    store.finish([NAME], [model()], [RECORD])
    assert store.has(NAME)


def test_the_same_stage_finished_twice_keeps_the_first(tmp_path):
    first, second = Store(tmp_path), Store(tmp_path)
    first.begin(NAME)
    second.begin(NAME)
    first.finish([NAME], [model(first=1.0)], [RECORD])
    second.finish([NAME], [model(first=2.0)], [RECORD])
    assert second.load(NAME, model())[0]["params"]["fc"]["kernel"][0, 0] == 1.0
    assert folders(first) == [NAME]


def test_an_artifact_of_another_structure_is_named(store):
    finish(store, NAME)
    other = {"fc": {"kernel": np.zeros((5, 3), np.float32), "bias": np.zeros(3, np.float32)}}
    with pytest.raises(RunError, match=NAME) as error:
        store.load(NAME, model() | {"params": other})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["record", "load"])
def test_what_is_not_there_is_said(store, method):
    with pytest.raises(RunError, match=f"{NAME}: is not there or was damaged; start again to redo it"):
        getattr(store, method)(NAME, *[model()] * (method == "load"))


def test_a_damaged_artifact_counts_as_absent_and_is_made_again(tmp_path, told, store):
    finish(store, NAME)
    (store.path(NAME) / "record.json").write_text("{}")
    again = Store(tmp_path, told.append)
    assert not again.has(NAME)
    (line,) = told
    assert line.startswith(f"artifact {NAME} is not used: 'record.json' has 2 bytes")
    assert "\n" not in line
    assert folders(store) == [f"damaged-{NAME}-1"]
    finish(again, NAME)
    assert again.load(NAME, model())[1] == RECORD


def test_an_artifact_without_manifest_is_set_aside_not_trusted(told, store):
    """One of a version before there were manifests cannot be told from one that was not stored to the end."""
    finish(store, NAME)
    (store.path(NAME) / manifest.NAME).unlink()
    again = Store(store.workdir.path, told.append)
    assert not again.has(NAME)
    assert "stored before there were manifests" in told[0]
    assert (store.path(NAME).parent / f"damaged-{NAME}-1" / "record.json").is_file()


def test_a_newer_artifact_is_refused_with_its_version_and_stays(told, store, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(manifest, "FORMAT", 7)
        newer.setattr(manifest, "VERSION", "4.2.0")
        finish(store, NAME)
    with pytest.raises(RunError, match=r"format 7, written by ssoup_jax '4\.2\.0'"):
        Store(store.workdir.path, told.append).has(NAME)
    assert folders(store) == [NAME]
    assert told == []


def test_damage_is_seen_by_whoever_meets_it_first(told, store):
    finish(store, NAME)
    os.truncate(store.path(NAME) / "record.json", 5)
    with pytest.raises(RunError, match="start again to redo it"):
        Store(store.workdir.path, told.append).record(NAME)
    assert len(told) == 1


def test_what_is_finished_in_the_place_of_something_damaged_is_kept(told, store):
    finish(store, NAME)
    (store.path(NAME) / "record.json").unlink()
    other = Store(store.workdir.path, told.append)
    finish(other, NAME, first=5.0)
    assert other.load(NAME, model())[0]["params"]["fc"]["kernel"][0, 0] == 5.0
    assert len(told) == 1


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_group_cut_off_between_its_renames_is_completed(tmp_path, store, monkeypatch, done):
    rename, count = Path.rename, iter(range(10))
    own, others = store.checkpoints(MEMBERS), store.checkpoints(MEMBERS[:2])
    for folder in (own, others):
        (folder / "step-00000001").mkdir(parents=True)

    def kill(self, target):
        if self.name.endswith(".partial") and next(count) == done:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", kill)
        if done < 3:
            with pytest.raises(Killed):
                finish(store, *MEMBERS)
        else:
            finish(store, *MEMBERS)
    assert sum(store.path(name).exists() for name in MEMBERS) == done
    again = Store(tmp_path)
    assert all(again.has(name) for name in MEMBERS)
    assert folders(again) == MEMBERS
    assert [*own.parent.iterdir()] == [others]


def test_checkpoints_that_a_kill_left_beside_their_stages_are_removed(tmp_path, store, monkeypatch):
    folder = store.checkpoints(MEMBERS)
    (folder / "step-00000001").mkdir(parents=True)
    remove = module.shutil.rmtree

    def kill(path, **options):
        if path == folder:
            raise Killed
        remove(path, **options)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(module.shutil, "rmtree", kill)
        finish(store, *MEMBERS)
    assert all(store.path(name).exists() for name in MEMBERS) and folder.exists()
    Store(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_group_cut_off_before_all_is_written_is_left_to_be_redone(tmp_path, store, monkeypatch, written):
    write, count = module.artifact_folder.write, iter(range(10))

    def kill(*arguments):
        if next(count) == written:
            raise Killed
        write(*arguments)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(module.artifact_folder, "write", kill)
        finish(store, *MEMBERS)
    group = store.workdir.group(MEMBERS)
    (group.parent / f".{group.name}.1234.tmp").touch()  # as by a kill while the list is written
    again = Store(tmp_path)
    assert not any(again.has(name) for name in MEMBERS)
    finish(again, *MEMBERS)
    assert all(again.has(name) for name in MEMBERS)
    assert folders(again) == MEMBERS


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"stages": []}', '{"stages": 3}', '{"stages": ["../../escaped"]}', '{"stages": [["a"]]}', "[" * 10**5],
)
def test_a_foreign_list_of_a_group_moves_nothing(tmp_path, content):
    root = tmp_path / "work/artifacts"
    for name in ("work/artifacts", ".../escaped.partial", "work/artifacts/.../../escaped.partial"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (root / ".group-0.json").write_text(content)
    before = sorted(path for path in tmp_path.rglob("*") if path.name != ".group-0.json")
    Store(tmp_path / "work")
    assert sorted(tmp_path.rglob("*")) == before


FAILURES = {
    "disk full": (lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")), "No space left"),
    "read only": (lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")), "Read-only file"),
    "Orbax": (
        lambda *_: (_ for _ in ()).throw(ValueError("RESOURCE_EXHAUSTED: Failed:\n No space left on device [os=28]")),
        "(No space left on device)",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_disk_leaves_the_group_absent_and_the_finished_intact(store, monkeypatch, case):
    failure, expected = FAILURES[case]
    finish(store, NAME)
    with monkeypatch.context() as patched, pytest.raises(RunError) as error:
        patched.setattr(manifest, "write", failure)
        finish(store, *MEMBERS[:2])
    assert expected in str(error.value)
    assert f"{MEMBERS[0]}, {MEMBERS[1]}: cannot be stored" in str(error.value)
    assert "\n" not in str(error.value)
    again = Store(store.workdir.path)
    assert again.has(NAME)
    assert not again.has(MEMBERS[0])


def test_a_workdir_that_went_away_is_one_line(store):
    store.begin(NAME)
    shutil.rmtree(store.workdir.path)
    with pytest.raises(RunError, match=rf"{NAME}: cannot be stored \(No such file or directory") as error:
        store.finish([NAME], [model()], [RECORD])
    assert "\n" not in str(error.value)
    assert not store.has(NAME)


def test_a_folder_that_went_away_while_it_was_written_is_said(store, monkeypatch):
    def gone(folder, tree):
        shutil.rmtree(folder.parent)
        folder.mkdir(parents=True)

    monkeypatch.setattr(module.artifact_folder.arrays, "write", gone)
    with pytest.raises(RunError, match="was removed while it was written"):
        finish(store, NAME)
    assert not store.has(NAME)


def test_what_went_away_after_it_was_checked_is_absent(store):
    finish(store, NAME)
    assert store.has(NAME)
    shutil.rmtree(store.path(NAME))
    assert not store.has(NAME)


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="workdir: cannot write to"):
        Store(tmp_path / "file")


def test_every_file_is_compared_once_per_process(store, monkeypatch):
    finish(store, NAME)
    again, seen = Store(store.workdir.path), []
    check = manifest.check
    monkeypatch.setattr(manifest, "check", lambda folder: seen.append(folder) or check(folder))
    for _ in range(3):
        again.has(NAME), again.record(NAME), again.load(NAME, model())
    assert seen == [store.path(NAME)]


def test_checkpoints_of_different_groups_lie_apart(store):
    places = {store.checkpoints(group) for group in (MEMBERS, MEMBERS[:2], MEMBERS[1:], MEMBERS[:1], [NAME])}
    assert len(places) == 5
    assert store.checkpoints([NAME]).name == NAME
    assert store.checkpoints(MEMBERS).name.startswith("phase1-imp-3-members-")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a\\b", "has a backslash"),
        ("lr[1]", "is a pattern"),
        ("a**b", "is a pattern"),
        ("a\udcff", "is not UTF-8"),
        ("gs:/bucket", "looks like a bucket's"),
    ],
)
def test_a_path_that_orbax_misreads_is_refused_before_anything_is_written(tmp_path, name, problem):
    with pytest.raises(SettingsError, match=f"workdir: found .*{problem}") as error:
        Store(tmp_path / name)
    assert str(error.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a$b", "ü 漢", "a b%20{c}", "a'b\"c", "x*y?", "a:b", "a\nb", "a[b", "-x", "~"])
def test_what_is_stored_below_any_other_path_is_found_again(tmp_path, name):
    store, tree = Store(tmp_path / name), {"a": np.arange(3.0)}
    store.begin("dense-1")
    store.finish(["dense-1"], [tree], [{}])
    found, _ = store.load("dense-1", tree)
    np.testing.assert_array_equal(found["a"], tree["a"])
