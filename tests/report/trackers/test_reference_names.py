"""Every figure that the authors' code logs is logged under its name, as far as there is one of ours."""

import json
from pathlib import Path

import pytest

from ssoup_jax.report.trackers import reference_names

STAGES = json.loads((Path(__file__).parents[2] / "reference/data/trajectory_simple.json").read_text())["stages"]
DENSE = STAGES["dense"]
MEMBER, SOUP = (STAGES[f"weight_decay/phase1/{name}"] for name in ("member0", "ensemble"))

SCORES = {"loss": 0.5, "accuracy": 0.75, "macro_accuracy": 0.7, "worst_class_accuracy": 0.6, "ece": 0.1, "mce": 0.2}
LINE = {
    "epoch": 2,
    "step": 42,
    "train_loss": 0.25,
    "train_accuracy": 0.875,
    "learning_rate": 0.1,
    "seconds": 3.0,
    "images_per_second": 1000.0,
    "val": {**SCORES, "seconds": 0.5, "images_per_second": 2000.0},
    "sparsity": {"global": 0.68, "prunable": 0.7},
    "distance_to_start": 1.5,
    "distance_to_origin": 12.0,
}
DISTANCES = {
    **{"l2_max": 0, "l2_min": 1, "l2_mean": 2, "angle_max": 3, "angle_min": 4, "angle_mean": 5},
    **{"barycentre_max": 6, "barycentre_min": 7},
}
GROUP = {
    "distances": DISTANCES,
    "prediction_ensemble": {"val": SCORES, "test": SCORES},
    "mean": {"val": SCORES, "test": SCORES},
    "max": {"val": SCORES, "test": SCORES},
}
RECORD = {
    "metrics": {"train": SCORES, "val": SCORES, "test": SCORES},
    "training": LINE,
    "sparsity": {"global": 0.68, "prunable": 0.7, "n_params": 100, "n_nonzero_params": 32, "per_layer": {"fc": 0.7}},
    "flops": {"dense": 90, "nonzero": 30, "speedup": 3.0, "per_layer": {"fc": 90}},
    "distance_to_origin": 12.0,
    "distance_to_pruned": {"absolute": 8.0, "relative": 0.6},
    "ood": SCORES,
}
PRUNED = {"metrics": {"val": SCORES, "test": SCORES}, "norm_drop": 7.0, "relative_norm_drop": 0.5, "instability": 0.25}


def names(tree, path=()):
    """The paths of all values that there are."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from names(value, (*path, name))
        elif value is not None:
            yield (*path, name)


def missing(theirs, ours):
    # Its files are not ours, and where it has no images it logs zeros.
    own = {path for path in names(theirs) if path[0] != "final_model_file" and not {"ood", "final.ood"} & set(path)}
    return own - set(names(ours))


@pytest.mark.parametrize(("kind", "stage"), [("Dense", DENSE), ("IMP", MEMBER)])
def test_epochs(kind, stage):
    found = reference_names.epoch(kind, LINE)
    # It counts parameters and operations in every epoch, though these do not change, and measures the distance that
    # pruning would be; the summary has them.
    constant = {"n_total_params", "n_nonzero_params", "nonzero_inference_flops", "baseline_inference_flops"}
    constant |= {"theoretical_speedup", "distance_to_pruned", "rel_distance_to_pruned", "test"}
    theirs = stage["history"][0 if kind == "IMP" else -1]
    assert {path for path in missing(theirs, found) if not constant & set(path)} == set()
    own = found if kind == "Dense" else found["finetune"]
    assert found["epoch"] == 2
    assert own["train"] == {"loss": 0.25, "accuracy": 0.875, "ips_throughput": 1000.0}
    assert own["val"] == {**SCORES, "ips_throughput": 2000.0}
    assert (own["global_sparsity"], own["modular_sparsity"], own["epoch_run_time"]) == (0.68, 0.7, 3.0)
    assert own["learning_rate"] == 0.1 and own["distance_to_start"] == 1.5


def test_an_epoch_without_validation_has_none():
    line = {name: LINE[name] for name in ("epoch", "train_loss", "learning_rate")} | {"train_accuracy": None}
    expected = {"train": {"loss": 0.25}, "learning_rate": 0.1}
    assert reference_names.epoch("Dense", line) == {"epoch": 2, **expected}
    assert reference_names.epoch("IMP", line) == {"epoch": 2, "finetune": expected}


def test_what_came_of_a_dense_model():
    found = reference_names.final(RECORD)
    assert missing(DENSE["summary"], found) == set()
    assert found["final.test"] == SCORES
    assert found["final.train"] == SCORES | {"ips_throughput": 1000.0}
    assert found["final.val"] == SCORES | {"ips_throughput": 2000.0}
    assert found["final.ood"] == SCORES
    assert (found["final.n_total_params"], found["final.n_nonzero_params"]) == (100, 32)
    assert found["final.theoretical_speedup"] == 3.0
    assert not any(name.startswith(("pruned.", "final.soup_metrics", "final.diverged")) for name in found)


def test_what_came_of_a_member():
    found = reference_names.final(RECORD | {"pruned": PRUNED, "diverged": None})
    assert missing(MEMBER["summary"], found) == set()
    assert (found["pruned.pruning_instability"], found["pruned.pruning_stability"]) == (0.25, 0.75)
    assert (found["final.distance_to_pruned"], found["final.rel_distance_to_pruned"]) == (8.0, 0.6)
    assert (found["pruned.norm_drop"], found["pruned.test"]) == (7.0, SCORES)


def test_what_came_of_a_member_that_diverged():
    record = {"metrics": {}, "diverged": 7, "training": LINE, "pruned": PRUNED | {"instability": None}}
    found = reference_names.final(record)
    assert found["final.diverged"] == 7
    assert not {"final.test", "final.val", "pruned.pruning_stability"} & found.keys()


def test_what_came_of_a_soup():
    record = {**RECORD, "training": None, "candidates": GROUP, "selected": GROUP}
    found = reference_names.final(record)
    # There is no training, and its learning rate is that of an optimizer that does nothing.
    nothing = {("final.train", "accuracy"), ("final.learning_rate",)}
    assert missing(SOUP["summary"], found) - nothing == set()
    soup = found["final.soup_metrics"]["candidates"]
    assert (soup["max_l2_distance"], soup["mean_angle"], soup["min_barycentre_distance"]) == (0, 5, 7)
    assert (soup["test.accuracy_mean"], soup["test.ece_max"]) == (0.75, 0.1)
    assert soup["pred_ensemble.test"] == SCORES


def test_what_is_added_later_is_only_that():
    assert reference_names.final({"ood": SCORES}) == {"final.ood": SCORES}
    assert reference_names.final({"ood": None}) == {}
