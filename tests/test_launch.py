"""The command line, as a user types it."""

import json
import os
import re
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


def launch(*arguments, cwd=ROOT, redirection="", **environment):
    """Starts it from a shell, which redirects its streams; what is not redirected comes back."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, str(ROOT / "launch.py"), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
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
    assert "Settings that are not the defaults" in (workdir / "report.html").read_text()


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
        (["--config", "configs/digits_sms.py", "--config.study.methods=IMPS"], "study.methods: unknown value 'IMPS'"),
        (["--config", "configs/digits_sms.py", "--wrkdir=x"], "workdir"),
        (["--config", "configs/digits_sms.py", "extra"], "extra"),
        (["--config", "configs/digits_sms.py", "--config.arch=ResNet21"], "arch: unknown value 'ResNet21'"),
        (
            ["--config", "configs/digits_sms.py", '--config.members=[{"seed": 1]'],
            "members: found '[{\"seed\": 1]'; allowed: a list",
        ),
        (
            ["--config", "configs/digits_sms.py", '--config.members=[{"seed": -1}]'],
            "members: found seed=-1 in member 0; it is",
        ),
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


def test_an_experiment_is_found_from_any_folder(first):
    workdir, _ = first
    done = launch("--config", "configs/digits_sms.py", *SMALL, cwd=workdir.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished earlier") == 4


def test_an_experiment_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    failed = launch("--config", "configs/digits_smss.py", cwd=tmp_path)
    assert failed.returncode == 2
    for path in (ROOT / "configs").glob("*_*.py"):
        assert f"configs/{path.name}" in failed.stderr
    assert "did you mean 'configs/digits_sms.py'?" in failed.stderr


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    failed = subprocess.run(
        ["sh", "-c", 'rmdir ../gone && "$@"', "sh", sys.executable, ROOT / "launch.py", "--config", DIGITS],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("error: the current folder cannot be used")
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", ">/dev/full 2>&1", "| true", "2>&1 | head -n 1"])
def test_output_that_nobody_gets_costs_no_training(tmp_path, redirection):
    done = launch("--config", DIGITS, *SMALL, cwd=tmp_path, redirection=redirection)
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "runs" / "summary.json").read_text())["phases"][0]["soup"]["ingredients"] == [0, 1]
    assert len(list((tmp_path / "runs" / "artifacts").iterdir())) == 4
    if redirection == ">/dev/full":
        assert done.returncode == 0
        assert re.fullmatch(
            r"standard output: \d+ lines could not be written \(No space left on device\)\n", done.stderr
        )


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "20"},
    ],
)
def test_a_plain_locale_prints_what_it_can(first, environment):
    workdir, _ = first
    named = workdir.parent / "läufe"
    named.symlink_to(workdir)
    done = launch("--config", DIGITS, *SMALL, "--workdir", "läufe", cwd=workdir.parent, **environment)
    named.unlink()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] in (
        "summary: läufe/summary.json, läufe/summary.png, läufe/report.html",
        r"summary: l\xe4ufe/summary.json, l\xe4ufe/summary.png, l\xe4ufe/report.html",
    )


def test_several_devices_give_the_same_figures(tmp_path, first):
    workdir, _ = first
    done = launch("--config", DIGITS, *SMALL, "--workdir", tmp_path, JAX_NUM_CPU_DEVICES="2")
    assert (done.returncode, done.stderr) == (0, "")
    found, expected = (json.loads((path / "summary.json").read_text())["phases"][0] for path in (tmp_path, workdir))
    # Rounding depends on how members are spread, and may move a figure by an image of the 360.
    assert found["soup"]["test"]["accuracy"] == pytest.approx(expected["soup"]["test"]["accuracy"], abs=0.003)
    assert found["prediction_ensemble"]["test"]["loss"] == pytest.approx(
        expected["prediction_ensemble"]["test"]["loss"], rel=1e-3
    )


def test_a_member_that_diverges_is_left_out_under_jax_s_own_checks_too(tmp_path):
    members = ["--config.ensemble_by=retrain_schedule", "--config.split_vals=(0.01, 1e30, 0.02)"]
    done = launch(
        *("--config", DIGITS, "--workdir", tmp_path, *SMALL[:-1], *members),
        JAX_DEBUG_NANS="1",
        JAX_DEBUG_INFS="1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Ensemble phase 1: without member 1e+30, which diverged" in done.stdout


def test_ones_own_network_in_the_current_folder_is_found_and_named_by_its_source(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from flax import linen as nn\n\n\n"
        "def make(n_classes):\n    return nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(n_classes)])\n"
    )
    (tmp_path / "mine_sms.py").write_text(f"import mine\n{DIGITS.read_text()}")  # a config may use it, too
    own = [*SMALL[1:], "--config.arch=mine:make", "--config.strategy=Dense", "--config.ood=None"]
    done = launch("--config", "mine_sms.py", *own, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/artifacts/*/record.json"))
    assert re.fullmatch("mine:make [0-9a-f]{16}", record["model"]["arch"])
    assert record["metrics"]["test"]["accuracy"] > 0.5, "0.1 is chance"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("arch=mine:make", "arch: there is no module 'mine', neither in the current folder nor installed"),
        ("dataset=mine:load", "dataset: there is no module 'mine', neither in the current folder nor installed"),
        ("optimizer=optax:nothing", "optimizer: unknown value 'optax:nothing'; allowed: "),
        ("arch=math:floor", "arch: math:floor takes (x); allowed: (n_classes), and image_shape, dtype, remat where it"),
    ],
)
def test_a_part_of_ones_own_that_is_not_there_is_one_line(tmp_path, setting, expected):
    failed = launch("--config", DIGITS, f"--config.{setting}", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith(f"error: {expected}") and failed.stderr.count("\n") == 1
