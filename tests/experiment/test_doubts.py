"""A layer without weights, a network with one answer and a soup that is worse are said, recorded and summarised."""

import json
import math

import numpy as np
import pytest

from ssoup_jax.experiment import doubts, results
from ssoup_jax.experiment.doubts import Answers
from ssoup_jax.storage.store import Store
from tests.experiment import tiny

FINE = {"val": {"loss": 0.1, "accuracy": 0.9}, "test": {"loss": 0.1, "accuracy": 0.9}}
SIZES = {"train": 1293, "val": 144, "test": 360}
DISTANCES = {"l2_max": 2.94748, "l2_min": 2.66304, "angle_max": 8.14822}


def answers(labels, predicted):
    return Answers(np.array(labels), np.array(predicted))


def of_answers(classes=None, **splits):
    return doubts.of_model({"fc/kernel": 0.9}, FINE, {name: answers(*own) for name, own in splits.items()}, classes)


@pytest.mark.parametrize(
    ("per_layer", "expected"),
    [
        ({"conv1/kernel": 0.999, "bn1/scale": 0.0, "fc/kernel": 0.5}, []),
        ({"conv1/kernel": 0.5, "fc/kernel": 1.0}, ["layer fc/kernel has lost all its weights"]),
        (
            {"conv1/kernel": 1.0, "bn1/scale": 1.0, "fc/kernel": 0.0},
            ["layers conv1/kernel, bn1/scale have lost all their weights"],
        ),
        (
            {f"conv{i}/kernel": 1.0 for i in range(1, 8)},
            [
                "layers conv1/kernel, conv2/kernel, conv3/kernel, conv4/kernel, conv5/kernel and 2 more have lost all "
                "their weights"
            ],
        ),
    ],
)
def test_layers_without_weights_are_named(per_layer, expected):
    assert doubts.of_model(per_layer, FINE, {}, None) == expected


@pytest.mark.parametrize(
    ("labels", "predicted", "expected"),
    [
        ([5, 5, 10], [0, 0, 20], ["it answers class 2 to 20 of 20 (100 %) test images"]),
        ([50, 50], [3, 97], ["it answers class 1 to 97 of 100 (97 %) test images"]),
        ([50, 50], [6, 94], []),
        # Where nearly all images are of one class, to answer nearly always that one is no sign of death.
        ([2, 98], [1, 99], []),
        # To answer nothing else is.
        ([2, 98], [0, 100], ["it answers class 1 to 100 of 100 (100 %) test images"]),
        ([0, 100], [0, 100], []),
        ([30, 35, 35], [33, 33, 34], []),
    ],
)
def test_a_network_with_one_answer_is_told_from_one_whose_images_are_of_one_class(labels, predicted, expected):
    assert of_answers(test=(labels, predicted)) == expected


def test_both_splits_are_looked_at_and_the_class_is_named():
    assert of_answers(("cat", "d\udcffg"), val=([4, 6], [10, 0]), test=([10, 10], [0, 20])) == [
        "it answers class 0 ('cat') to 10 of 10 (100 %) validation images and "
        "class 1 ('d\\udcffg') to 20 of 20 (100 %) test images"
    ]
    assert of_answers(train=([5, 5], [10, 0])) == [], "what is said of training is the loss's to say"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_outputs_that_are_no_numbers_are_said_rather_than_the_class_that_is_read_from_them(loss):
    sick = FINE | {"test": {"loss": loss, "accuracy": 0.1}}
    found = doubts.of_model({}, sick, {"test": answers([5, 5], [10, 0])}, None)
    assert found == ["the loss on test images is not a number"]


def scored(test, val=0.9):
    return {"val": {"accuracy": val}, "test": {"accuracy": test}}


def soup(accuracy, members, **more):
    return doubts.of_soup(scored(accuracy), list(map(scored, members)), SIZES, DISTANCES, **more)


def test_a_soup_below_its_members_by_more_than_they_differ_is_said_with_images_and_distances():
    assert soup(354 / 360, [356 / 360, 355 / 360, 355 / 360]) == [
        "it is below its members' mean: test accuracy 98.33 % against 98.70 %, which is 0.37 points (1.33 of 360 "
        "images) where they differ by 0.28; distances between them: l2_max 2.947, l2_min 2.663, angle_max 8.148"
    ]


@pytest.mark.parametrize(
    ("accuracy", "members", "n"),
    [
        (0.95, [0.94, 0.96], 0),
        (0.94, [0.94, 0.96], 0),
        (0.93, [0.94, 0.96], 0),  # by exactly as much as they differ, whatever subtractions round to
        (0.9299, [0.94, 0.96], 1),
        (355 / 360, [356 / 360, 356 / 360], 1),  # who do not differ at all
        (356 / 360, [356 / 360, 356 / 360], 0),
        (0.65, [0.3, 0.9], 0),
        (0.55, [0.3, 0.9], 0),  # five points, exactly
        (0.54, [0.3, 0.9], 1),  # too far, however much they differ
        (0.1, [0.9], 0),  # of one member there is no mean
    ],
)
def test_only_what_is_below_by_more_than_the_members_differ_or_far_below_is_said(accuracy, members, n):
    assert len(soup(accuracy, members)) == n


def test_validation_counts_as_well_as_test():
    (line,) = doubts.of_soup(scored(0.9, val=0.5), [scored(0.9, val=0.8)] * 2, SIZES, DISTANCES)
    assert "validation accuracy 50.00 % against 80.00 %" in line
    assert "test accuracy" not in line


def test_statistics_that_were_only_averaged_are_named_where_the_soup_is_worse():
    (line,) = soup(0.5, [0.9, 0.9], mean_statistics=True)
    assert line.endswith("; without bn_recalibration its BatchNorm statistics are the mean of theirs")
    assert soup(0.9, [0.9, 0.9], mean_statistics=True) == []


@pytest.mark.parametrize(
    ("smallest", "largest", "expected"),
    [
        (0.0, 0.0, ["its 2 members have the same weights"]),
        (0.0, 1.5, ["some of its members have the same weights"]),
        (0.1, 1.5, []),
    ],
)
def test_members_that_do_not_differ_are_said(smallest, largest, expected):
    distances = {"l2_max": largest, "l2_min": smallest}
    assert doubts.of_soup(scored(0.9), [scored(0.9)] * 2, SIZES, distances) == expected


def warned(printed):
    return [line for line in printed.splitlines() if line.startswith("warning: ")]


def test_a_dead_layer_is_one_line_where_it_dies_and_is_in_every_record(tmp_path):
    changes = {"goal_sparsity": 0.9999, "n_epochs": 1, "n_phases": 1}
    summary, printed = tiny.launch(tmp_path, **changes)
    lost, answer = warned(printed)
    assert lost == "warning: IMP phase 1: layer fc1/kernel has lost all its weights"
    assert answer.startswith("warning: IMP phase 1: it answers class ")
    assert "to 360 of 360 (100 %) test images" in answer
    assert [f"warning: {line}" for line in summary["warnings"]] == warned(printed)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    last = summary["phases"][-1]
    for model in (last["soup"], *last["candidates"]):
        assert "layer fc1/kernel has lost all its weights" in model["warnings"]
    soup = tiny.plan(**changes).soups[-1]
    record = json.loads((tmp_path / "artifacts" / soup.name / "record.json").read_text())
    assert record["warnings"] == last["soup"]["warnings"]
    # A start that finds everything finished says it again.
    assert warned(tiny.launch(tmp_path, **changes)[1]) == warned(printed)


def test_what_one_member_answers_and_a_soup_that_it_spoils_are_said(tmp_path):
    changes = {"n_phases": 1, "ensemble_by": "retrain_schedule", "n_splits_total": None, "goal_sparsity": 0.8}
    summary, printed = tiny.launch(tmp_path, **changes, split_vals=(5.0, 0.1, 8.0))
    phase = summary["phases"][0]
    mean, own = phase["candidates_mean"]["test"]["accuracy"], phase["soup"]["test"]["accuracy"]
    assert own < mean - doubts.FAR_BELOW, "averaged with two that were destroyed"
    (line,) = [line for line in warned(printed) if "Ensemble phase 1" in line]
    assert f"test accuracy {100 * own:.2f} % against {100 * mean:.2f} %" in line
    assert f"l2_max {phase['distances']['l2_max']:.4g}" in line
    assert f"warning: {summary['warnings'][-1]}" == line
    assert phase["candidates"][1]["warnings"] == [], "the member in the middle is well"


def test_members_that_are_not_retrained_are_equal_and_that_is_said(tmp_path):
    summary, printed = tiny.launch(tmp_path, n_phases=1, n_epochs=1, n_epochs_per_phase=0)
    assert warned(printed) == ["warning: Ensemble phase 1: its 2 members have the same weights"]
    assert summary["phases"][0]["soup"]["warnings"] == ["its 2 members have the same weights"]


def test_a_healthy_experiment_is_not_doubted(tmp_path):
    summary, printed = tiny.launch(tmp_path, n_phases=1)
    assert warned(printed) == []
    assert summary["warnings"] == summary["dense"]["warnings"] == []


def test_records_that_were_stored_before_are_summarised_without(tmp_path, monkeypatch):
    tiny.launch(tmp_path, n_phases=1, n_epochs=1, strategy="Dense")
    record = Store.record

    def older(store, name):
        return {key: value for key, value in record(store, name).items() if key != "warnings"}

    monkeypatch.setattr(Store, "record", older)
    changes = {"n_phases": 1, "n_epochs": 1}
    assert results.warnings(Store(tmp_path), [tiny.plan(**changes).dense]) == []
