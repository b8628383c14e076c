"""What wandb was told is read back from its own files."""

import math
import os
import subprocess
import sys

import pytest
import wandb

from ssoup_jax.errors import SettingsError
from ssoup_jax.report.trackers import chosen, reference_names, tracking, weights_and_biases
from ssoup_jax.report.trackers.weights_and_biases import WandbTracker
from tests.report.trackers import wandb_files
from tests.report.trackers.test_reference_names import LINE, PRUNED, RECORD, SCORES
from tests.report.trackers.told import a_run


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()


def read(folder):
    wandb.teardown()  # what it still writes is written
    return wandb_files.read(folder)


def line(epoch, **changes):
    return LINE | {"epoch": epoch} | changes


def test_a_run_is_read_back_with_all_that_was_told(tmp_path):
    run = a_run(config={"arch": "Simple", "split_vals": [0, 1], "split_val": 1, "data": {"pad": None}})
    tracker = WandbTracker(tmp_path)
    with tracking(tracker, [run]):
        for epoch in (1, 2):
            tracker.log(run, line(epoch))
        tracker.log(run, line(3, train_loss=math.nan))
        tracker.summary(run, RECORD | {"pruned": PRUNED, "ood": None})
        tracker.summary(run, {"ood": SCORES})
    (found,) = read(tmp_path)
    assert (found["name"], found["group"], found["kind"]) == ("IMP phase 1, member 0", "digits", "IMP")
    assert (found["project"], found["exit"]) == ("ssoup_jax", 0)
    assert found["config"] == run.config
    assert [own["_step"] for own in found["history"]] == [1, 2, 3]
    for own, epoch in zip(found["history"][:2], (1, 2), strict=True):
        assert {name: own[name] for name in ("epoch", "finetune")} == reference_names.epoch("IMP", line(epoch))
    assert math.isnan(found["history"][2]["finetune"]["train"]["loss"])
    expected = reference_names.final(RECORD | {"pruned": PRUNED})
    assert {name: found["summary"][name] for name in expected} == expected


def test_the_members_of_a_stack_have_a_run_each_at_the_same_time(tmp_path):
    runs = [a_run(f"phase1-imp-{i}", title=f"member {i}", member=i) for i in range(3)]
    tracker = WandbTracker(tmp_path)
    with tracking(tracker, runs):
        for epoch in (1, 2):
            for run in runs[: 3 - epoch]:
                tracker.log(run, line(epoch, train_loss=run.member))
    found = {run["name"]: run for run in read(tmp_path)}
    assert len({run["id"] for run in found.values()}) == 3
    losses = {name: [own["finetune"]["train"]["loss"] for own in run["history"]] for name, run in found.items()}
    assert losses == {"member 0": [0, 0], "member 1": [1], "member 2": []}


def test_a_run_that_was_cut_off_goes_on_under_its_id_with_every_epoch_once(tmp_path):
    run, other = a_run(), a_run("phase1-imp-other")
    first = WandbTracker(tmp_path)
    with pytest.raises(KeyboardInterrupt), tracking(first, [run, other]):
        for epoch in (1, 2, 3):
            first.log(run, line(epoch))
        raise KeyboardInterrupt
    second = WandbTracker(tmp_path)
    with tracking(second, [run]):
        for epoch in (1, 2, 3, 4):
            second.log(run, line(epoch))
    apart, cut, whole = sorted(read(tmp_path), key=lambda one: len(one["history"]))
    assert cut["id"] == whole["id"] != apart["id"]
    assert [own["_step"] for own in cut["history"]] == [1, 2, 3]
    assert (cut["exit"], whole["exit"]) == (1, 0)
    assert [own["_step"] for own in whole["history"]] == [1, 2, 3, 4]
    assert [own["epoch"] for own in whole["history"]] == [1, 2, 3, 4]


def test_epochs_that_the_server_knows_are_not_sent_again(tmp_path, monkeypatch):
    class Resumed:
        """A run as wandb makes it when its server knows three steps."""

        step, sent = 4, []

        def log(self, figures, step, commit):
            self.sent.append(step)
            self.step = step + 1

    monkeypatch.setattr(wandb, "init", lambda **_: Resumed())
    tracker = WandbTracker(tmp_path)
    tracker.start(a_run())
    for epoch in range(1, 7):
        tracker.log(a_run(), line(epoch))
    assert Resumed.sent == [4, 5, 6]


def test_the_same_stage_in_another_workdir_is_another_run(tmp_path):
    for name in ("one", "two"):
        with tracking(WandbTracker(tmp_path / name), [a_run()]):
            pass
    one, two = (read(tmp_path / name)[0]["id"] for name in ("one", "two"))
    assert one != two


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"id": 3}'])
def test_an_id_that_cannot_be_read_is_made_anew(tmp_path, damaged):
    path = tmp_path / "wandb_ids" / f"{a_run().name}.json"
    path.parent.mkdir()
    path.write_text(damaged)
    with tracking(WandbTracker(tmp_path), [a_run()]):
        pass
    assert read(tmp_path)[0]["id"] in path.read_text()


def test_its_own_environment_names_project_and_group(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_RUN_GROUP", "together")
    with tracking(WandbTracker(tmp_path), [a_run()]):
        pass
    (found,) = read(tmp_path)
    assert (found["project"], found["group"]) == ("theirs", "together")


LOGIN = "trackers: nobody is logged in to wandb; allowed: `wandb login`, WANDB_API_KEY=..., or WANDB_MODE=offline"
UNUSABLE = "trackers: wandb cannot be used here: "
ENVIRONMENTS = [
    ({}, LOGIN),
    ({"WANDB_MODE": "online"}, LOGIN),
    ({"WANDB_MODE": "offline"}, ""),
    ({"WANDB_MODE": "disabled"}, ""),
    ({"WANDB_MODE": "nonsense"}, UNUSABLE),
    ({"WANDB_API_KEY": "short"}, UNUSABLE),
    # Last, for a process stays logged in.
    ({"WANDB_API_KEY": 40 * "a"}, ""),
]


def test_whoever_is_not_logged_in_is_told_before_anything_is_trained(tmp_path):
    script = f"""
import os, wandb
from ssoup_jax.errors import SettingsError
from ssoup_jax.report.trackers import chosen
for environment in {[environment for environment, _ in ENVIRONMENTS]}:
    os.environ.update(environment)
    try:
        print(chosen.check("wandb") or "")
    except SettingsError as error:
        print(error)
    wandb.teardown()
    for name in environment:
        del os.environ[name]
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "NETRC": str(tmp_path / "netrc")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    for said, (_, expected) in zip(done.stdout.splitlines(), ENVIRONMENTS, strict=True):
        assert said.startswith(expected) if expected == UNUSABLE else said == expected


def test_what_goes_wrong_inside_is_one_line(monkeypatch):
    def broken(*_):
        raise RuntimeError("of its\nown")

    monkeypatch.setattr(wandb, "setup", broken)
    with pytest.raises(SettingsError) as error:
        weights_and_biases.check()
    assert str(error.value) == "trackers: wandb cannot be used here: of its own"


def test_a_server_that_fails_in_the_middle_costs_nothing_else(tmp_path, monkeypatch):
    lines, run = [], a_run(folder=tmp_path / "artifact")
    tracker = chosen.make("wandb, tensorboard", tmp_path / "trackers", lines.append)

    def gone(*_, **__):
        raise wandb.errors.CommError("connection refused")

    with tracking(tracker, [run]):
        tracker.log(run, line(1))
        monkeypatch.setattr(wandb.Run, "log", gone)
        for epoch in (2, 3):
            tracker.log(run, line(epoch))
        tracker.summary(run, RECORD)
    assert [said.split(":")[1] for said in lines] == [" wandb failed, and is told nothing more"]
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 3
    (found,) = read(tmp_path / "trackers")
    assert [own["epoch"] for own in found["history"]] == [1]
