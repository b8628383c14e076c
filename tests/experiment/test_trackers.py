"""Whole experiments under every tracker: what each wrote is read back and compared with the records."""

import json

import pytest
import wandb

from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import walk
from ssoup_jax.experiment.stop import Stopped
from ssoup_jax.report.trackers import chosen, reference_names
from ssoup_jax.report.trackers.tensorboard import leaves
from ssoup_jax.storage.store import Store
from ssoup_jax.training import loop
from tests.experiment import tiny
from tests.report.trackers import test_tensorboard as tensorboard
from tests.report.trackers import wandb_files

CHANGES = {
    **{"ensemble_by": "retrain_length", "n_splits_total": None, "split_vals": (1, 2), "n_phases": 1, "n_epochs": 3},
    **{"ood": "computed:gaussian_noise:3", "evaluate_every": 2, "trackers": "tensorboard, wandb"},
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """An experiment that was stopped in the dense model and between members' ends, and went on."""
    workdir = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANDB_MODE", "offline")
        patched.setattr(loop, "CHUNK_SECONDS", 0.0)  # one step a chunk
        # 63 steps for the dense model in epochs of 21; 8 are left after the first stop.
        for chunk in (55, 8 + 30):
            with pytest.raises(Stopped):
                tiny.launch(workdir, tiny.StopAfter(chunk), **CHANGES)
        summary, printed = tiny.launch(workdir, **CHANGES)
        wandb.teardown()
    assert "warning" not in printed
    return workdir, summary


def stages():
    plan = tiny.plan(**CHANGES)
    return [plan.dense, *plan.candidates[0], *plan.soups]


def records(workdir, stage):
    """A stage's lines, its record and what is known out of distribution."""
    store = Store(workdir)
    path = store.path(stage.name) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    ood = json.loads(store.workdir.ood(stage.name).read_text())["computed:gaussian_noise:3"]
    return lines, store.record(stage.name), ood


def test_tensorboard_has_every_epoch_once_and_what_came_out(tracked):
    workdir, _ = tracked
    folders = {path.name.rpartition("-")[2]: path for path in (workdir / "trackers/tensorboard").iterdir()}
    assert len(folders) == 4
    for stage in stages():
        lines, record, ood = records(workdir, stage)
        scalars, events = tensorboard.read(folders[stage.digest[:8]])
        curves = {tag: values for tag, values in scalars.items() if not tag.startswith("final/")}
        expected = {}
        for line in lines:
            for tag, value in leaves({name: own for name, own in line.items() if name not in ("epoch", "step")}):
                # Event files have float32.
                expected.setdefault(tag, []).append((line["epoch"], pytest.approx(value, rel=1e-6)))
        assert curves == expected
        assert scalars["final/test/accuracy"][0][1] == pytest.approx(record["metrics"]["test"]["accuracy"])
        assert scalars["final/ood/accuracy"][0][1] == pytest.approx(ood["accuracy"])
        assert f"| strategy | {stage.kind} |".encode() in events.Tensors("settings")[0].tensor_proto.string_val[0]


def test_wandb_has_a_run_a_stage_which_goes_on_after_a_stop(tracked):
    workdir, summary = tracked
    found = wandb_files.read(workdir / "trackers")
    by_stage = {}
    for run in found:
        key = run["config"]["strategy"], run["config"]["split_val"]
        by_stage.setdefault(key, []).append(run)
    # Two folders where a stage was stopped once, and one id.
    assert {key: len(runs) for key, runs in by_stage.items()} == {
        **{("Dense", None): 2, ("IMP", 1): 2, ("IMP", 2): 2, ("Ensemble", None): 1}
    }
    assert len({run["id"] for run in found}) == 4
    assert len({run["group"] for run in found}) == 1
    phase = summary["phases"][0]
    for stage in stages():
        runs = by_stage[stage.kind, stage.label if stage.kind == "IMP" else None]
        (run,) = [run for run in runs if run["exit"] == 0]
        assert {own["id"] for own in runs} == {run["id"]}
        assert run["name"] == stage.title
        assert run["config"]["learning_rate"] == tiny.settings(**CHANGES).learning_rate
        lines, record, ood = records(workdir, stage)
        history = [{name: value for name, value in own.items() if name[0] != "_"} for own in run["history"]]
        assert history == [reference_names.epoch(stage.kind, line) for line in lines]
        record |= {"ood": ood}
        if stage.kind == "Ensemble":
            for name in ("candidates", "selected"):
                record[name] |= {"mean": phase["candidates_mean"], "max": phase["candidates_max"]}
                # These are evaluated later than the soup is made.
                record[name] = {key: _without_ood(value) for key, value in record[name].items()}
        expected = reference_names.final(record)
        assert {name: run["summary"].get(name) for name in expected} == expected


def _without_ood(value):
    return {split: own for split, own in value.items() if split != "ood"}


def test_what_cannot_be_used_is_said_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "_run_group", lambda *_: pytest.fail("something was trained"))
    monkeypatch.setattr(chosen.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="trackers: wandb is not installed; pip install wandb, or leave it out"):
        tiny.launch(tmp_path, trackers="wandb")
