"""Whole experiments on real data, in this process."""

import contextlib
import errno
import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from PIL import Image
from safetensors.numpy import load_file

from ssoup_jax import trees
from ssoup_jax.data import sources
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import records, stages, walk
from ssoup_jax.experiment.stop import Stop, Stopped
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.allocation import phase_amount, prune_count
from ssoup_jax.pruning.masks import prunable_leaves
from ssoup_jax.stack import held
from ssoup_jax.storage.store import Store
from ssoup_jax.training import loop
from tests.experiment import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished experiment: its workdir, its summary and what it printed."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, *tiny.launch(workdir)


def assert_equal(a, b):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=trees.path_name(path))


def numbers(node):
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from numbers(value)
    elif isinstance(node, float):
        yield node


def test_every_phase_has_exactly_the_planned_number_of_zeros(finished):
    workdir, _, _ = finished
    plan = tiny.plan()
    kept = sum(leaf.size for leaf in jax.tree.leaves(tiny.artifact(workdir, plan.dense).mask))
    for members, soup in zip(plan.candidates, plan.soups, strict=True):
        kept -= prune_count(phase_amount(0.9, 2), kept)
        for stage in (*members, soup):
            artifact = tiny.artifact(workdir, stage)
            masks = prunable_leaves(artifact.mask, artifact.mask)
            assert sum(int(mask.sum()) for mask in masks.values()) == kept
            for name, weight in prunable_leaves(artifact.variables.params, artifact.mask).items():
                assert not np.any(weight[~masks[name]]), name


def test_members_and_soup_share_one_mask_and_phases_only_ever_prune(finished):
    workdir, _, _ = finished
    plan = tiny.plan()
    before = tiny.artifact(workdir, plan.dense).mask
    for members, soup in zip(plan.candidates, plan.soups, strict=True):
        mask = tiny.artifact(workdir, soup).mask
        for stage in members:
            assert_equal(tiny.artifact(workdir, stage).mask, mask)
        revived = jax.tree.map(lambda old, new: bool(np.any(new & ~old)), before, mask)
        assert not any(jax.tree.leaves(revived))
        before = mask


def test_soup_is_the_mean_of_its_members(finished):
    workdir, _, _ = finished
    plan = tiny.plan()
    for members, soup in zip(plan.candidates, plan.soups, strict=True):
        weights = [tiny.artifact(workdir, stage).variables.params for stage in members]
        assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, weights[:2]), strict=True))
        mean = jax.tree.map(lambda *leaves: np.mean(np.stack(leaves).astype(np.float64), axis=0), *weights)
        # Half a unit in the last place of float32, twice: the sum's and the division's rounding.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2.5e-7, atol=1e-9),
            tiny.artifact(workdir, soup).variables.params,
            mean,
        )


def test_summary_has_the_promised_shape(finished):
    workdir, summary, _ = finished
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert summary["settings"]["split_vals"] == [0, 1]
    assert set(summary["dense"]["test"]) >= {"accuracy", "loss", "macro_accuracy", "worst_class_accuracy", "ece", "mce"}
    assert [phase["phase"] for phase in summary["phases"]] == [1, 2]
    for phase in summary["phases"]:
        assert set(phase["sparsity"]) == {"prunable", "global"}
        assert [candidate["split_val"] for candidate in phase["candidates"]] == [0, 1]
        accuracies = [candidate["test"]["accuracy"] for candidate in phase["candidates"]]
        assert phase["candidates_mean"]["test"]["accuracy"] == pytest.approx(np.mean(accuracies), rel=1e-12)
        assert phase["candidates_max"]["test"]["accuracy"] == max(accuracies)
        assert phase["soup"]["ingredients"] == [0, 1]
        assert {"test", "val"} <= set(phase["soup"])
        assert 0 <= phase["prediction_ensemble"]["test"]["accuracy"] <= 1
        assert phase["distances"]["l2_mean"] > 0
        assert phase["soup"]["flops"]["speedup"] > 1
    assert summary["phases"][1]["sparsity"]["prunable"] == pytest.approx(0.9, abs=1e-5)
    assert all(math.isfinite(number) for number in numbers(summary))


def test_a_uniform_soups_ingredients_are_its_candidates_and_are_scored_once(tmp_path, monkeypatch):
    scored = []

    def watched(context, stack):
        scored.append(stack)
        return score(context, stack)

    score = records.describe_group
    monkeypatch.setattr(records, "describe_group", watched)
    summary, _ = tiny.launch(tmp_path, n_phases=1, n_epochs=1)
    (phase,) = summary["phases"]
    assert len(scored) == 1
    assert phase["selected"]["prediction_ensemble"] == phase["prediction_ensemble"]
    assert phase["selected"]["distances"] == phase["distances"]


def test_a_member_of_a_stack_is_fetched_once_to_be_described_and_stored(tmp_path, monkeypatch):
    fetched, member = [], held.member

    def watched(stack, index):
        fetched.extend([(trees.stack_size(stack), index)] if isinstance(stack, Variables) else [])
        return member(stack, index)

    monkeypatch.setattr(held, "member", watched)
    tiny.launch(tmp_path, n_phases=1, n_epochs=1)
    # The dense model, two candidates and the soup.
    assert fetched == [(1, 0), (2, 0), (2, 1), (1, 0)]


def test_the_training_split_need_not_be_scored(finished, tmp_path):
    def models(summary):
        yield summary["dense"]
        for phase in summary["phases"]:
            yield from (*phase["candidates"], phase["candidates_mean"], phase["candidates_max"], phase["soup"])

    _, scored, _ = finished
    summary, _ = tiny.launch(tmp_path, evaluate_train=False)
    assert (tmp_path / "summary.png").is_file()
    for without, everything in zip(models(summary), models(scored), strict=True):
        assert "train" in everything and "train" not in without
        # Nothing else changes.
        assert (without["val"], without["test"]) == (everything["val"], everything["test"])


def test_the_network_learned_and_the_plot_is_there(finished):
    workdir, summary, printed = finished
    # A tenth of the digits are guessed right by chance.
    assert summary["dense"]["test"]["accuracy"] > 0.8
    assert summary["phases"][1]["soup"]["test"]["accuracy"] > 0.8
    with Image.open(workdir / "summary.png") as image:
        assert min(image.size) > 400
    assert "gain" in printed


def test_metrics_are_logged_for_every_epoch(finished):
    workdir, _, _ = finished
    plan = tiny.plan()
    for stage, n_epochs in ((plan.dense, 2), (plan.candidates[0][1], 1)):
        records = tiny.curve(workdir, stage)
        assert [record["epoch"] for record in records] == list(range(1, n_epochs + 1))
        assert records[-1]["step"] == n_epochs * 21  # 1 293 training images in batches of 64


def test_every_epoch_says_how_good_and_how_sparse_its_models_are(finished):
    workdir, _, _ = finished
    plan, store = tiny.plan(), Store(workdir)
    for stage in (plan.dense, *plan.candidates[0]):
        last = tiny.curve(workdir, stage)[-1]
        record = store.record(stage.name)
        assert set(record["metrics"]["val"]) < set(last["val"])
        assert last["sparsity"] == {name: record["sparsity"][name] for name in ("global", "prunable")}
        # Nothing is recalibrated in this network, so the last epoch's model is the one that is described.
        assert {name: last["val"][name] for name in record["metrics"]["val"]} == record["metrics"]["val"]
        assert last["distance_to_origin"] == pytest.approx(record["distance_to_origin"], rel=1e-6)
        assert record["training"]["val"] == last["val"]


def test_looking_at_models_in_training_changes_none_of_them(tmp_path):
    changes = {"arch": "ResNet8", "n_phases": 1, "batch_size": 256, "execution": "auto"}
    runs = {every: tiny.launch(tmp_path / str(every), evaluate_every=every, **changes)[0] for every in (0, 1)}
    never, always = (left_behind(tmp_path / str(every)) for every in (0, 1))
    assert list(never) == list(always)
    for name in never:
        (_, lines, arrays), (_, more, same) = never[name], always[name]
        assert arrays == same
        beside = {"val", "sparsity", "distance_to_start", "distance_to_origin"}
        assert [{key: line[key] for key in line.keys() - beside} for line in more] == lines
        assert all(line.keys() >= beside for line in more)
    assert runs[0]["phases"][0]["soup"]["test"] == runs[1]["phases"][0]["soup"]["test"]


def test_the_default_is_said_with_its_cost_and_what_is_asked_for_is_not(finished, tmp_path):
    _, _, printed = finished
    # One block of 256 images for 1 293 training images, three passes each.
    assert "validation: every 3 epochs, 2.2% of training by count (evaluate_every)\n" in printed
    _, printed = tiny.launch(tmp_path, evaluate_every=1, strategy="Dense", n_epochs=1)
    assert "evaluate_every" not in printed


def test_second_start_skips_everything_and_says_so(finished, monkeypatch):
    workdir, summary, _ = finished
    monkeypatch.setattr(walk, "_run_group", lambda *_: pytest.fail("a finished stage was redone"))
    again, printed = tiny.launch(workdir)
    assert again == summary
    assert printed.count("finished earlier") == 7


def test_members_spread_over_launches_give_the_same_soup(finished, tmp_path):
    workdir, _, _ = finished
    tiny.launch(tmp_path, strategy="Dense")
    for phase in (1, 2):
        for split_val in (1, 0):
            tiny.launch(tmp_path, strategy="IMP", phase=phase, split_val=split_val)
        summary, _ = tiny.launch(tmp_path, strategy="Ensemble", phase=phase)
    assert len(summary["phases"]) == 2
    soup = tiny.plan().soups[1]
    # Under 'map' a member's arithmetic does not depend on the size of its stack.
    assert_equal(tiny.artifact(tmp_path, soup).variables, tiny.artifact(workdir, soup).variables)


@pytest.mark.parametrize(("module", "stage"), [(stages, "retrain"), (walk, "soup")])
def test_an_interrupted_experiment_goes_on_to_the_same_result(finished, tmp_path, monkeypatch, module, stage):
    workdir, summary, _ = finished

    def interrupt(context, *rest):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, stage, interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny.launch(tmp_path)
    resumed, printed = tiny.launch(tmp_path)
    assert "Dense: finished earlier" in printed
    soup = tiny.plan().soups[1]
    assert_equal(tiny.artifact(tmp_path, soup).variables, tiny.artifact(workdir, soup).variables)
    assert [phase["soup"]["test"] for phase in resumed["phases"]] == [
        phase["soup"]["test"] for phase in summary["phases"]
    ]


def test_one_more_member_trains_only_that_member(finished, tmp_path):
    workdir, _, _ = finished
    before = {path.name for path in (workdir / "artifacts").iterdir()}
    _, printed = tiny.launch(workdir, n_splits_total=3, n_phases=2)
    assert "IMP phase 1 (1 member)" in printed
    assert before < {path.name for path in (workdir / "artifacts").iterdir()}


def test_plain_imp_goes_from_phase_to_phase_without_a_soup(tmp_path):
    summary, _ = tiny.launch(tmp_path, ensemble_method=None)
    assert [phase["soup"] for phase in summary["phases"]] == [None, None]
    plan = tiny.plan(ensemble_method=None)
    for first, second in zip(*plan.candidates, strict=True):
        a, b = (tiny.artifact(tmp_path, stage).mask for stage in (first, second))
        assert all(jax.tree.leaves(jax.tree.map(lambda old, new: bool(np.all(old | ~new)), a, b)))
        assert b["fc1"]["kernel"].sum() < a["fc1"]["kernel"].sum()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"strategy": "IMP"}, "needs what is not in"),
        ({"strategy": "Ensemble"}, "IMP phase 1, member 0; IMP phase 1, member 1"),
        ({"strategy": "IMP", "phase": 2}, "Ensemble phase 1"),
        ({"batch_size": 2000}, "batch_size: found 2000; the training split has only 1293 images"),
        ({"retrain_batch_size": 2000}, "retrain_batch_size: found 2000; the training split has only 1293 images"),
        ({"arch": "VGG16"}, "VGG16 does not fit images of 8x8x1"),
        ({"prune_only": "conv1/*"}, "prune_only: "),
        ({"prune_except": "fc*"}, "prune_except: found 'fc*'; it leaves no parameter to prune"),
        ({"dataset": "npz:missing.npz"}, "missing.npz"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(tmp_path, monkeypatch, changes, expected):
    monkeypatch.setattr(walk, "_run_group", lambda *_: pytest.fail("something was trained"))
    with pytest.raises(SettingsError) as error:
        tiny.launch(tmp_path, **changes)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_candidates_are_named(tmp_path):
    tiny.launch(tmp_path, strategy="Dense")
    tiny.launch(tmp_path, strategy="IMP", split_val=0)
    with pytest.raises(SettingsError, match="IMP phase 1, member 1") as error:
        tiny.launch(tmp_path, strategy="Ensemble")
    assert "member 0" not in str(error.value)


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="workdir: cannot write to"):
        tiny.launch(tmp_path / "file")


def test_a_full_disk_ends_the_stage_with_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "state"))

    monkeypatch.setattr(Store, "finish", full)
    with pytest.raises(RunError, match="Dense: No space left on device") as error:
        tiny.launch(tmp_path)
    assert "\n" not in str(error.value)
    assert not Store(tmp_path).has(tiny.plan().dense.name)


TIMES = {"seconds", "images_per_second", "provenance"}
"""What a record says of time, and of when and where; all else is equal, however a run was cut."""


def untimed(record):
    """A record, or a part of one, without its times."""
    if isinstance(record, dict):
        return {name: untimed(value) for name, value in record.items() if name not in TIMES}
    return [untimed(value) for value in record] if isinstance(record, list) else record


def left_behind(workdir: Path) -> dict:
    """Every artifact's arrays as bytes and its files without times, by name."""
    found = {}
    for folder in sorted((workdir / "artifacts").iterdir()):
        lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
        found[folder.name] = [
            untimed(json.loads((folder / "record.json").read_text())),
            [untimed(json.loads(line)) for line in lines],
            jax.tree.map(lambda leaf: (leaf.shape, np.asarray(leaf).tobytes()), ocp.load(folder / "state")),
        ]
    return found


def test_a_run_cut_twice_and_moved_ends_as_one_that_was_not(finished, tmp_path, monkeypatch):
    whole, summary, _ = finished
    # One step a chunk, so that a stop can come after any of them: 42 steps for the dense model, 21 per phase.
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    with pytest.raises(Stopped):
        tiny.launch(tmp_path / "a", tiny.StopAfter(17))
    shutil.move(tmp_path / "a", tmp_path / "b")
    with pytest.raises(Stopped):
        # 25 steps are left of the dense model.
        tiny.launch(tmp_path / "b", tiny.StopAfter(25 + 11))
    found, printed = tiny.launch(tmp_path / "b")
    assert "Dense: finished earlier" in printed
    assert "IMP phase 1 (2 members): goes on after step 11, from a checkpoint" in printed
    assert untimed(found) == untimed(summary)
    own, expected = left_behind(tmp_path / "b"), left_behind(whole)
    assert len(own) == 7
    # Other tests may have added to the finished experiment.
    assert own == {name: expected[name] for name in own}
    assert list((tmp_path / "b/checkpoints").iterdir()) == []


def test_another_optimizer_trains_and_retrains_and_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    changes = {"optimizer": "AdamW", "learning_rate": "(Linear, 5e-3)", "pruning_selector": "uniform", "n_phases": 1}
    summary, _ = tiny.launch(tmp_path / "whole", **changes)
    assert summary["phases"][0]["soup"]["test"]["accuracy"] > 0.8
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    with pytest.raises(Stopped):
        tiny.launch(tmp_path / "cut", tiny.StopAfter(42 + 11), **changes)  # 42 steps for the dense model
    (member,) = (tmp_path / "cut/checkpoints").glob("*/*/*0.safetensors")
    assert any("nu" in name for name in load_file(member)), "Adam's second moments, of retraining"
    found, printed = tiny.launch(tmp_path / "cut", **changes)
    assert "IMP phase 1 (2 members): goes on after step 11, from a checkpoint" in printed
    assert untimed(found) == untimed(summary)
    assert left_behind(tmp_path / "cut") == left_behind(tmp_path / "whole")


def test_a_stop_waits_for_nothing_until_there_are_steps_to_save(tmp_path, monkeypatch):
    found, train = [], loop.train

    class Watched(Stop):
        inside = 0

        @contextlib.contextmanager
        def saving(self):
            self.inside += 1
            with super().saving():
                yield
            self.inside -= 1

    def watched(*arguments):
        *before, on_chunk, on_divergence, on_line, pod = arguments
        found.append(stop.inside)

        def and_look(*chunk):
            on_chunk(*chunk)
            found.append(stop.inside)

        return train(*before, and_look, on_divergence, on_line, pod)

    stop = Watched()
    monkeypatch.setattr(loop, "train", watched)
    tiny.launch(tmp_path, stop, strategy="Dense")
    assert found == [0, *[1] * (len(found) - 1)]
    assert len(found) > 1
    assert stop.inside == 0


def test_regular_checkpoints_change_nothing(tmp_path):
    plain, _ = tiny.launch(tmp_path / "plain", n_phases=1, checkpoint_every=None)
    often, _ = tiny.launch(tmp_path / "often", n_phases=1, checkpoint_every="5 steps")
    assert untimed(often) == untimed(plain) | {"settings": plain["settings"] | {"checkpoint_every": "5 steps"}}
    assert left_behind(tmp_path / "often") == left_behind(tmp_path / "plain")


def test_two_starts_from_nothing_end_with_the_same_bits(tmp_path):
    """The rule that chooses an executor knows no clock."""
    changes = {"execution": "auto", "arch": "ResNet8", "n_phases": 1, "n_epochs": 1, "batch_size": 256}
    one, other = (tiny.launch(tmp_path / name, **changes)[0] for name in ("one", "other"))
    plan = tiny.plan(**changes)
    for stage in plan.wanted:
        found = [tiny.artifact(tmp_path / name, stage, **changes).variables for name in ("one", "other")]
        assert_equal(*found)
    for summary in (one, other):
        records = [summary["dense"], *summary["phases"][0]["candidates"]]
        assert {record["training"]["execution"] for record in records} == {"loop"}


def test_what_is_measured_is_said_and_recorded(tmp_path):
    summary, printed = tiny.launch(tmp_path, execution="measured", n_phases=1)
    (line,) = [line for line in printed.splitlines() if line.startswith("execution: ")]
    chosen = line.split()[1]
    assert "s/step" in line
    assert str(tmp_path / "execution.json") in line
    assert {one["training"]["execution"] for one in summary["phases"][0]["candidates"]} == {chosen}


def test_layers_that_are_left_out_keep_their_weights(tmp_path):
    changes = {"prune_except": "fc2/*", "n_phases": 1}
    summary, _ = tiny.launch(tmp_path, **changes)
    layers = summary["phases"][0]["soup"]["sparsity"]["per_layer"]
    assert layers["fc2/kernel"] == 0
    # All that the goal asks for comes from the other layer, and it is reached.
    assert layers["fc1/kernel"] == pytest.approx(0.9, abs=1e-4)
    phase = summary["phases"][0]
    for model in (phase, phase["soup"], *phase["candidates"]):
        assert model["sparsity"]["prunable"] == layers["fc1/kernel"]
        assert model["sparsity"]["global"] < 0.9
    # Of what may go, no more than the one weight that rounding leaves would have to.
    assert phase["soup"]["distance_to_pruned"]["relative"] < 0.02


def test_the_training_split_is_evaluated_where_that_is_asked_for(tmp_path):
    without, printed = tiny.launch(tmp_path / "without", n_phases=1, evaluate_train=False)
    assert without["dense"].keys() & {"train", "val", "test"} == {"val", "test"}
    assert "Dense: test accuracy" in printed
    within, _ = tiny.launch(tmp_path / "within", n_phases=1)
    assert within["dense"]["test"] == without["dense"]["test"]
    assert "train" in within["dense"]


def test_what_is_said_of_the_data_is_in_the_summary(tmp_path):
    path = tmp_path / "odd.npz"
    digits = sources.load("digits")
    splits = {"train": digits.train, "test": digits.test}
    labels = {part: split.labels + 1 for part, split in splits.items()}  # nobody has class 0
    arrays = {f"x_{part}": split.images for part, split in splits.items()}
    np.savez(path, **arrays, **{f"y_{part}": own for part, own in labels.items()})
    summary, printed = tiny.launch(tmp_path / "runs", dataset=f"npz:{path}", strategy="Dense", n_epochs=1)
    (note,) = [note for note in summary["data"]["notes"] if "0" in note]
    assert f"data: {note}" in printed
    assert summary["data"]["description"] in printed
    assert summary["data"]["classes"] is None
