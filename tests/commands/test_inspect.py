"""What a workdir holds is told as it is, whoever wrote it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssoup_jax.commands import inspect
from ssoup_jax.storage import lock, manifest
from ssoup_jax.storage.checkpoints import Checkpoints
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.store import Store
from tests.commands.test_provenance import FOUND
from tests.experiment import tiny

ROOT = Path(__file__).parents[2]
PLAN = tiny.plan(n_phases=1)
DENSE, (MEMBERS,), (SOUP,) = PLAN.dense, map(list, PLAN.candidates), PLAN.soups


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir with a finished dense model and member, and a member that is being trained."""
    workdir = tmp_path_factory.mktemp("made")
    store = Store(workdir)
    for stage, value in ((DENSE, None), (MEMBERS[0], 0)):
        store.begin(stage.name)
        record = {"split_val": value, "metrics": {"test": {"accuracy": 0.75}}, "sparsity": {"prunable": 0.5}}
        store.finish([stage.name], [{"w": np.ones(1000, np.float32)}], [record])
    (store.begin(MEMBERS[1].name) / "metrics.jsonl").write_text("{}\n")
    with Checkpoints(store.checkpoints([MEMBERS[1].name])) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, {0: {"w": np.ones(3)}}, 1, {"stages": [MEMBERS[1].name], "n_steps": 63})
    return workdir


@pytest.fixture
def workdir(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


def by_name(found):
    return {one.name: one for one in found}


def call(capsys, *arguments):
    code = inspect.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_stage_is_told_with_its_figures(workdir):
    found = by_name(inspect.survey(workdir))
    assert set(found) == {DENSE.name, *(member.name for member in MEMBERS)}
    dense, member, begun = (found[stage.name] for stage in (DENSE, *MEMBERS))
    assert (dense.kind, dense.phase, dense.member, dense.state) == ("Dense", 0, None, "finished")
    assert (dense.test_accuracy, dense.sparsity) == (0.75, 0.5)
    files = [path for path in (workdir / "artifacts" / DENSE.name).rglob("*") if path.is_file()]
    assert dense.bytes == sum(len(path.read_bytes()) for path in files)
    assert (member.kind, member.phase, member.member, member.state) == ("IMP", 1, 0, "finished")
    assert (begun.kind, begun.phase, begun.state, begun.step, begun.n_steps) == ("IMP", 1, "stopped", 20, 63)


def test_a_stage_whose_process_lives_is_running(workdir, capsys):
    with lock.hold([Workdir(workdir).lock(MEMBERS[1].name)], pytest.fail):
        assert by_name(inspect.survey(workdir))[MEMBERS[1].name].state == "running"
        code, printed, _ = call(capsys, workdir)
    assert code == 0
    assert "running, step 20 of 63" in printed


def test_a_stage_without_checkpoint_has_begun_too(workdir):
    Store(workdir).begin(SOUP.name)
    assert by_name(inspect.survey(workdir))[SOUP.name] == inspect.Found(SOUP.name, "Ensemble", 1, state="stopped")


def test_the_table_reads_well(workdir, capsys):
    code, printed, errors = call(capsys, workdir)
    assert (code, errors) == (0, "")
    assert "IMP phase 1, member 0" in printed
    assert "75.00%" in printed and "50.00%" in printed
    assert "3 stages" in printed and "every file is as it was stored" in printed


def test_json_is_for_programs(workdir, capsys):
    code, printed, _ = call(capsys, workdir, "--json")
    content = json.loads(printed)
    assert code == 0
    assert content["bytes"] == sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file())
    assert content["stages"][0]["name"] == DENSE.name
    assert content["stages"][0]["test_accuracy"] == 0.75


def test_it_shows_where_artifacts_came_from(workdir, capsys):
    for stage, host in ((DENSE, "node1"), (MEMBERS[0], "node2")):
        folder = workdir / "artifacts" / stage.name
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps(record | {"provenance": FOUND | {"host": host}}))
        manifest.write(folder)
    code, printed, _ = call(capsys, workdir)
    assert code == 0
    assert "1 stage made on node1 (8 x TPU v4)" in printed and "1 stage made on node2" in printed
    _, printed, _ = call(capsys, workdir / "artifacts" / DENSE.name)
    assert "command: launch.py --config=a.py\n" in printed
    _, printed, _ = call(capsys, workdir, "--json")
    stages = {stage["name"]: stage["provenance"] for stage in json.loads(printed)["stages"]}
    assert (stages[DENSE.name], stages[MEMBERS[1].name]) == (FOUND | {"host": "node1"}, None)


def test_an_artifact_alone(workdir, capsys):
    code, printed, _ = call(capsys, workdir / "artifacts" / MEMBERS[0].name)
    assert code == 0
    assert "IMP phase 1, member 0" in printed and MEMBERS[1].name not in printed


def test_damage_is_named_unless_nobody_asks(workdir, capsys):
    path = workdir / "artifacts" / DENSE.name / "state/_CHECKPOINT_METADATA"
    path.write_bytes(path.read_bytes()[::-1])
    code, printed, errors = call(capsys, workdir)
    assert (code, errors) == (1, "")
    assert f"damaged: {DENSE.name}: 'state/_CHECKPOINT_METADATA' has other content" in printed
    assert "as it was stored" not in printed
    code, printed, _ = call(capsys, workdir, "--no-verify")
    assert code == 0
    assert "as it was stored" not in printed
    assert path.is_file(), "looking must change nothing"


def test_a_damaged_checkpoint_is_named_and_the_one_before_counts(workdir):
    (group,) = (workdir / "checkpoints").iterdir()
    (group / "step-00000020" / "checkpoint.json").unlink()
    found = by_name(inspect.survey(workdir))
    assert found[f"{MEMBERS[1].name}/step-00000020"].problem == "'checkpoint.json' is missing"
    assert found[MEMBERS[1].name].step == 10


def test_what_was_set_aside_and_what_is_foreign_is_no_damage(workdir, capsys):
    manifest.set_aside(workdir / "artifacts" / DENSE.name, DENSE.name)
    (workdir / "artifacts/\x1b[2J").mkdir()
    code, printed, _ = call(capsys, workdir)
    assert code == 0
    assert "set aside" in printed and "foreign" in printed
    assert "\x1b" not in printed


MALICIOUS = [
    {"metrics": [], "sparsity": 3, "split_val": {}},
    {"metrics": {"test": {"accuracy": "\x1b[31m"}}, "sparsity": {"prunable": True}, "split_val": "[red]"},
    {"metrics": {"test": {"accuracy": 10**400}}, "sparsity": {"prunable": -(10**400)}, "split_val": [1] * 10},
]


@pytest.mark.parametrize("record", MALICIOUS)
def test_whatever_a_record_says_is_not_believed(workdir, capsys, record):
    folder = workdir / "artifacts" / DENSE.name
    (folder / "record.json").write_text(json.dumps(record))
    manifest.write(folder)
    code, printed, errors = call(capsys, workdir)
    assert (code, errors) == (0, "")
    assert all(line.isprintable() for line in printed.splitlines())
    assert by_name(inspect.survey(workdir))[DENSE.name].test_accuracy is None


INFOS = [
    [],
    {"stages": 3},
    {"stages": [1, "../../x", "\x1b"], "n_steps": "many"},
    {"stages": {"a": 1}, "n_steps": True},
]


@pytest.mark.parametrize("info", INFOS)
def test_whatever_a_checkpoint_says_is_not_believed(workdir, capsys, info):
    for folder in (workdir / "checkpoints").glob("*/step-*"):
        (folder / "checkpoint.json").write_text(json.dumps({"info": info}))
        manifest.write(folder)
    code, printed, _ = call(capsys, workdir)
    assert code == 0
    assert all(line.isprintable() for line in printed.splitlines())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "command line: the following arguments are required: PATH"),
        (["missing"], "missing: no folder"),
        (["."], ".: neither a workdir"),
        ([".", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    code, printed, errors = call(capsys, *arguments)
    assert (code, printed) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert expected in errors


def test_it_runs_as_a_module_without_jax(workdir):
    script = "import sys, runpy\ntry:\n    runpy.run_module('ssoup_jax.inspect', run_name='__main__')\nfinally:\n"
    script += "    print([name for name in ('jax', 'numpy', 'orbax') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("[]\n")
    assert DENSE.name in done.stdout
