"""Workdirs of several machines become one, or stay as they are."""

import errno
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ssoup_jax.commands import merge as command
from ssoup_jax.data import sources
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.report.console import Console
from ssoup_jax.storage import artifact_folder, lock, merge
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.store import Store
from ssoup_jax.store import main
from tests.experiment import tiny

CHANGES = {"n_phases": 1, "n_epochs": 1}
PLAN = tiny.plan(**CHANGES, n_splits_total=3)
DENSE, MEMBERS, SOUP = PLAN.dense.name, [stage.name for stage in PLAN.candidates[0]], PLAN.soups[0].name
OOD = {"ood": "computed:brightness:1"}


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """Two workdirs: each has trained the dense model, one members 0 and 1 and their soup, the other member 2."""
    folder = tmp_path_factory.mktemp("machines")
    tiny.launch(folder / "a", **CHANGES, **OOD, n_splits_total=2)
    tiny.launch(folder / "b", **CHANGES, strategy="Dense")
    tiny.launch(folder / "b", **CHANGES, strategy="IMP", n_splits_total=3, split_val=2)
    return folder


@pytest.fixture
def both(machines, tmp_path):
    return tuple(Path(shutil.copytree(machines / name, tmp_path / name)) for name in ("a", "b"))


def call(capsys, *arguments):
    code = main(["merge", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def contents(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def finished(workdir):
    return sorted(folder.name for folder in (workdir / "artifacts").iterdir())


def rewritten(workdir, name, change):
    """Stores an artifact again after a function has changed its arrays and its record, as another machine would."""
    folder = workdir / "artifacts" / name
    context = prepare(tiny.settings(**CHANGES), sources.load("digits"), Console(io.StringIO()))
    tree, record = artifact_folder.load(folder, artifacts.like(context.like))
    change(tree, record)
    artifact_folder.write(folder, tree, record)


def test_what_one_machine_has_the_other_gets_and_goes_on_with(both, capsys):
    a, b = both
    before = contents(a), contents(b)
    code, printed, errors = call(capsys, a, b)
    assert (code, errors) == (0, "")
    soup_of_two = tiny.plan(**CHANGES, n_splits_total=2).soups[0].name
    assert finished(b) == sorted([DENSE, *MEMBERS, soup_of_two])
    assert "the same in both, bit for bit: 1 artifacts; their records tell otherwise of " in printed
    assert "seconds" in printed and "which makes no other artifact" in printed
    assert f"merged {a} into {b}: 3 artifacts (" in printed and "copied, 1 were there already" in printed
    after = contents(b)
    assert contents(a) == before[0]
    assert {path: after[path] for path in before[1]} == before[1]
    for path, digest in before[0].items():
        if path.parts[0] == "artifacts" and path.parts[1] != DENSE:
            assert after[path] == digest
    scored = {path.stem for path in after if path.parts[0] == "ood"}
    assert scored == {DENSE, *MEMBERS[:2], soup_of_two}
    assert not {path for path in after if path.parts[0] not in ("artifacts", "ood")} - before[1].keys()
    _, printed = tiny.launch(b, **CHANGES, n_splits_total=3)
    assert printed.count("finished earlier") == 4
    assert "Ensemble phase 1: test accuracy" in printed


def test_a_second_time_there_is_nothing_to_do(both, capsys):
    a, b = both
    call(capsys, a, b)
    before = contents(b)
    code, printed, _ = call(capsys, a, b)
    assert code == 0
    assert "0 artifacts (0.0 kB) copied, 4 were there already" in printed
    assert contents(b) == before


def test_a_dry_run_says_all_and_does_nothing(both, tmp_path, capsys):
    a, b = both
    before = contents(a), contents(b)
    code, printed, _ = call(capsys, "--dry-run", a, b)
    assert code == 0
    assert printed.count("\nnew: ") == 3 and f"new: {MEMBERS[0]} (" in printed
    assert "would copy 3 artifacts" in printed
    assert (contents(a), contents(b)) == before
    code, printed, _ = call(capsys, "--dry-run", a, tmp_path / "new")
    assert code == 0 and "would copy 4 artifacts" in printed
    assert not (tmp_path / "new").exists()


def test_a_workdir_may_be_new(both, tmp_path, capsys):
    a, _ = both
    code, _, _ = call(capsys, a, tmp_path / "new/one")
    assert code == 0
    assert finished(tmp_path / "new/one") == finished(a)


def next_float(tree, record):
    kernel = np.array(tree["params"]["fc1"]["kernel"])
    kernel[0, 0] = np.nextafter(kernel[0, 0], np.float32(1))
    tree["params"]["fc1"]["kernel"] = kernel


def other_loss(tree, record):
    record["metrics"]["test"]["loss"] += 1e-9


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (next_float, "state: params/fc1/kernel has other values, 1 of 32768, the largest by "),
        (other_loss, "record.json: metrics/test/loss is "),
    ],
)
def test_artifacts_that_differ_are_named_and_nothing_is_copied(both, capsys, change, expected):
    a, b = both
    rewritten(b, DENSE, change)
    before = contents(b)
    for options in ([], ["--dry-run"]):
        code, printed, errors = call(capsys, *options, a, b)
        assert (code, errors) == (1, "")
        assert f"refused: {DENSE}: {expected}" in printed
        assert "nothing is copied: what is refused differs or is damaged" in printed
        assert contents(b) == before


@pytest.mark.parametrize("where", ["a", "b"])
def test_a_damaged_artifact_is_named_and_nothing_is_copied(both, capsys, where):
    a, b = both
    record = dict(zip("ab", both, strict=True))[where] / "artifacts" / DENSE / "record.json"
    record.write_text(record.read_text().replace("0.", "1.", 1))
    before = contents(b)
    code, printed, _ = call(capsys, a, b)
    assert code == 1
    assert f"refused: {DENSE}: {record.parent}: damaged: 'record.json' has other content" in printed
    assert contents(b) == before
    assert record.is_file(), "nothing is set aside"


def test_a_kill_while_copying_leaves_nothing_with_a_name(both, capsys, monkeypatch):
    a, b = both
    before, copy = finished(b), artifact_folder.copy

    class Killed(BaseException):
        pass

    def killed(folder, into):
        if folder.name == MEMBERS[1]:
            shutil.copyfile(folder / "record.json", into / "record.json")
            raise Killed
        copy(folder, into)

    monkeypatch.setattr(artifact_folder, "copy", killed)
    with pytest.raises(Killed):
        main(["merge", str(a), str(b)])
    Store(b)
    assert [name for name in finished(b) if not name.startswith(".")] == before
    monkeypatch.undo()
    assert call(capsys, a, b)[0] == 0
    assert len([name for name in finished(b) if name.startswith(".")]) == 0
    assert set(MEMBERS) < set(finished(b))


def test_a_kill_between_two_names_is_made_good_by_the_next_start(both, capsys, monkeypatch):
    a, b = both
    before, rename, n_renamed = finished(b), Path.rename, 0

    class Killed(BaseException):
        pass

    def killed(self, target):
        nonlocal n_renamed
        if n_renamed == 1:
            raise Killed
        n_renamed += 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        main(["merge", str(a), str(b)])
    monkeypatch.undo()
    assert len([name for name in finished(b) if not name.startswith(".")]) == len(before) + 1
    store = Store(b)
    assert set(finished(b)) == {*before, *finished(a)}
    assert all(map(store.has, finished(b)))


def test_a_full_disk_is_one_line_and_nothing_is_left(both, capsys, monkeypatch):
    a, b = both
    before = contents(b)

    def full(source, target, **_):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(artifact_folder.shutil, "copyfile", full)
    code, _, errors = call(capsys, a, b)
    assert code == 2
    assert errors.count("\n") == 1 and "cannot be stored (No space left on device" in errors
    monkeypatch.undo()
    assert contents(b) == before
    assert not [name for name in finished(b) if name.startswith(".")]


def test_a_source_that_changes_meanwhile_is_seen(both, capsys, monkeypatch):
    a, b = both
    before, plan = contents(b), merge.plan

    def planned(source, *others):
        found = plan(source, *others)
        record = a / "artifacts" / MEMBERS[0] / "record.json"
        record.write_text(record.read_text() + " ")
        return found

    monkeypatch.setattr(merge, "plan", planned)
    code, _, errors = call(capsys, a, b)
    assert code == 2 and errors.count("\n") == 1
    assert "'record.json' has other content than was stored" in errors
    assert contents(b) == before


def test_what_is_being_made_there_is_waited_for_and_not_overwritten(both, capsys, monkeypatch):
    a, b = both
    hold = lock.hold

    def held(paths, on_wait, **how):
        shutil.copytree(a / "artifacts" / MEMBERS[0], b / "artifacts" / MEMBERS[0])  # by somebody who was at it
        return hold(paths, on_wait, **how)

    monkeypatch.setattr(command.lock, "hold", held)
    code, _, errors = call(capsys, a, b)
    assert code == 2
    assert f"{MEMBERS[0]}: was made in {b} meanwhile; nothing is copied, merge again" in errors
    assert MEMBERS[1] not in finished(b)
    monkeypatch.undo()
    assert call(capsys, a, b)[0] == 0


def test_scores_out_of_distribution_are_joined_and_must_agree(both, capsys):
    a, b = both
    there = Workdir(b).ood(DENSE)
    there.parent.mkdir(exist_ok=True)
    own = json.loads(Workdir(a).ood(DENSE).read_text())
    (name,) = own
    there.write_text(json.dumps({"other:1": {"accuracy": 0.5}}))
    assert call(capsys, a, b)[0] == 0
    assert json.loads(there.read_text()) == own | {"other:1": {"accuracy": 0.5}}
    there.write_text(json.dumps({name: own[name] | {"accuracy": 0.125}}))
    code, printed, _ = call(capsys, a, b)
    assert code == 1
    assert f"refused: ood/{DENSE}.json: {name}/accuracy is {own[name]['accuracy']}, where 0.125 is wanted" in printed
    there.write_text("[]")
    code, printed, _ = call(capsys, a, b)
    assert code == 1 and f"refused: ood/{DENSE}.json: " in printed
    assert there.read_text() == "[]"


def test_what_is_no_finished_stage_is_left_out(both, capsys):
    a, b = both
    (a / "artifacts/damaged-dense-1").mkdir()
    (a / "artifacts/mine").mkdir()
    (a / "artifacts" / f".{SOUP}.partial").mkdir()
    code, printed, _ = call(capsys, a, b)
    assert code == 0
    assert "left out, being no finished stage: damaged-dense-1, mine\n" in printed
    assert not {"damaged-dense-1", "mine"} & set(finished(b))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "command line: the following arguments are required: merge"),
        (["merge", "a"], "command line: the following arguments are required: B"),
        (["merg", "a", "b"], "command line: argument merge: invalid choice: 'merg'"),
        (["merge", "missing", "b"], "missing: no workdir (no artifacts in it)"),
        (["merge", "a", "a/../a"], "a/../a: the same workdir as a"),
        (["merge", "a", "file"], "workdir: cannot write to file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "a")
    store.begin(DENSE)
    store.finish([DENSE], [{"w": np.ones(3)}], [{}])
    (tmp_path / "file").write_text("")
    code = main(arguments)
    errors = capsys.readouterr().err
    assert code == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert expected in errors
