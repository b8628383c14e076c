"""The command line, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "configs" / "digits_sms.py"
SMALL = [
    f"--config.{setting}"
    for setting in ("arch=Simple", "n_epochs=1", "n_epochs_per_phase=1", "n_phases=1", "n_splits_total=2")
]


def launch(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    return folder / "runs", launch("--config", DIGITS, *SMALL, cwd=folder)


def test_one_line_trains_prunes_retrains_and_soups(first):
    workdir, done = first
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for expected in ("Dense:", "IMP phase 1 (2 members)", "Ensemble phase 1", "predict.", "summary.json"):
        assert expected in done.stdout
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["phases"][0]["soup"]["ingredients"] == [0, 1]
    assert (workdir / "summary.png").stat().st_size > 10_000


def test_the_same_line_again_only_reports(first):
    workdir, _ = first
    before = (workdir / "summary.json").read_text()
    again = launch("--config", DIGITS, *SMALL, cwd=workdir.parent)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished earlier") == 4
    assert (workdir / "summary.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config: not given"),
        (["--config", "configs/digits_smss.py"], "did you mean 'configs/digits_sms.py'?"),
        (["--config", "configs/digits_sms.py", "--config.goal_sparcity=0.5"], "did you mean 'goal_sparsity'?"),
        (["--config", "configs/digits_sms.py", "--config.n_epochs=many"], "n_epochs"),
        (["--config", "configs/digits_sms.py", "--wrkdir=x"], "workdir"),
        (["--config", "configs/digits_sms.py", "extra"], "extra"),
        (["--config", "configs/digits_sms.py", "--config.arch=ResNet21"], "arch: unknown value 'ResNet21'"),
        (["--config", "configs/digits_sms.py", "--workdir", "README.md"], "workdir: cannot write to README.md"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, expected):
    failed = launch(*arguments)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
    assert expected in failed.stderr


@pytest.mark.parametrize("config", [["--config=~/own.py"], ["--config", "~/own.py"], ["-config=~/own.py"]])
def test_a_home_directory_is_spelt_out(tmp_path, monkeypatch, config):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.py").write_text(DIGITS.read_text())
    (tmp_path / "README.md").touch()
    failed = launch(*config, "--workdir=~/README.md")
    assert failed.stderr == f"error: workdir: cannot write to {tmp_path}/README.md: Not a directory\n"
    assert failed.returncode == 2


def test_a_failure_in_the_middle_is_one_line_and_exit_code_1(tmp_path):
    failed = launch(
        "--config", "configs/digits_sms.py", "--workdir", tmp_path, *SMALL, "--config.learning_rate=(Linear, 1e30)"
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: Dense: ")
    assert failed.stderr.count("\n") == 1
