"""A sweep's agent starts `launch.py` as it starts the authors' main program; here without a server."""

import json
import os
import sys
from pathlib import Path

import pytest
from wandb.wandb_agent import Agent

from tests.report.trackers import wandb_files
from tests.test_launch import launch

ROOT = Path(__file__).parents[1]
STAGE = {
    **{"dataset": "digits", "arch": "Simple", "n_epochs": 2, "batch_size": 256, "learning_rate": "(Linear, 0.1)"},
    **{"n_phases": 1, "n_epochs_per_phase": 1, "n_splits_total": 1, "weight_decay": "1e-4", "run_id": 3},
}


class Command:
    """What a sweep's server would send to an agent."""

    def __init__(self, number, **settings):
        self.id = f"sweeprun{number}"
        values = {name: {"value": value} for name, value in (STAGE | settings).items()}
        self.content = {"type": "run", "run_id": self.id, "program": str(ROOT / "launch.py"), "args": values}


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """Returns a function with which wandb's own agent runs a command to its end, in an environment without a server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep0")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_RUN_ID", "")  # the agent sets these two, and they are to be gone after the test
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    monkeypatch.chdir(tmp_path)

    def run(command, sweep_command=None):
        own = Agent(api=None, queue=None, sweep_id="sweep0")
        own._sweep_command = sweep_command
        answer = own._process_command(command.content)
        assert "exception" not in answer, answer
        return own._run_processes[command.id]._popen.wait(timeout=300)

    return run


def found(workdir):
    return {run["id"]: run for run in wandb_files.read(workdir / "trackers")}


def test_a_sweep_goes_through_the_stages_as_the_authors_does(agent, tmp_path):
    commands = [
        Command(0, strategy="Dense"),
        Command(1, strategy="IMP", phase=1, split_val=0),
        Command(2, strategy="Ensemble", phase=1),
    ]
    # Without a `command`, the sweep's default: every parameter is an argument, too.
    assert [agent(command) for command in commands] == [0] * 3
    runs = found(tmp_path / "runs")
    assert {run["sweep"] for run in runs.values()} == {"sweep0"}
    dense, member, soup = (runs[command.id] for command in commands)
    assert [own["epoch"] for own in dense["history"]] == [1, 2]
    assert [own["finetune"]["train"]["loss"] > 0 for own in member["history"]] == [True]
    assert soup["history"] == []
    summary = json.loads((tmp_path / "runs/summary.json").read_text())
    test = {"Dense": summary["dense"], "Ensemble": summary["phases"][0]["soup"]}
    for run in (dense, soup):
        assert run["summary"]["final.test"] == test[run["config"]["strategy"]]["test"]
        assert run["config"]["weight_decay"] == "1e-4", "what the sweep has set stays as it is"
        assert run["config"]["momentum"] == 0.9, "and the rest is beside it"


@pytest.mark.slow
def test_a_sweep_over_whole_experiments_has_the_soups_results(agent, tmp_path):
    workdir = tmp_path / "elsewhere"
    command = ["${env}", "python", "${program}", "--from_wandb", f"--workdir={workdir}"]
    once, again = Command(0, trackers="wandb"), Command(1, trackers="wandb")
    assert [agent(own, command) for own in (once, again)] == [0, 0]
    summary = json.loads((workdir / "summary.json").read_text())
    runs = found(workdir)
    assert set(runs) == {once.id, again.id}
    for run in runs.values():
        assert run["summary"]["final.test"] == summary["phases"][0]["soup"]["test"]
    # What was finished by then is not trained again, and its results are the same.
    assert ([own["epoch"] for own in runs[once.id]["history"]], runs[again.id]["history"]) == ([1, 2], [])


def test_a_mistake_in_a_sweep_is_one_line(agent, tmp_path, capfd):
    assert agent(Command(0, lerning_rate=0.1), ["${env}", "python", "${program}", "--from_wandb"]) == 2
    assert "error: setting: unknown value 'lerning_rate'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--from_wandb", "--distributed=auto"], "--from_wandb: found with --distributed"),
        (["--from_wandb"], "error: trackers: wandb cannot be used here: "),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, arguments, expected):
    failed = launch(*arguments, cwd=tmp_path, WANDB_MODE="nonsense")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert expected in failed.stderr and failed.stderr.count("\n") == 1
