"""Settings that cannot be together are one line, and those of the data belong together."""

import json
import math

import pytest
from ml_collections import ConfigDict

from configs import base
from ssoup_jax.data import sources
from ssoup_jax.data.settings import DataSettings
from tests.config.made import error_of, settings


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"goal_sparsty": 0.5}, "setting: unknown value 'goal_sparsty'; allowed: strategy, "),
        ({"goal_sparsty": 0.5}, "did you mean 'goal_sparsity'?"),
        ({"n_epoch": 5}, "did you mean 'n_epochs'?"),
        ({"phase": 2, "n_phases": 1}, "phase: found 2; n_phases=1 allows 1 to 1"),
        ({"split_vals": ()}, "split_vals: found (); at least one value is needed, such as (0, 1, 2)"),
        ({"split_vals": []}, "split_vals: found ()"),
        ({"split_vals": (1, 2, 1)}, "split_vals: found 1 more than once; every member needs a value of its own"),
        ({"split_vals": (1, 1.0)}, "split_vals: found 1 more than once"),
        ({"split_vals": (0, -1)}, "split_vals: found -1; with ensemble_by='pruned_seed' it is a whole number from 0"),
        ({"split_vals": ("0", 1)}, "split_vals: found '0'; with ensemble_by='pruned_seed'"),
        ({"split_vals": (0, None)}, "split_vals: found None; with ensemble_by='pruned_seed'"),
        ({"split_vals": (0.5,)}, "split_vals: found 0.5; with ensemble_by='pruned_seed'"),
        ({"split_vals": (math.nan,)}, "split_vals: found nan; with ensemble_by='pruned_seed'"),
        (
            {"ensemble_by": "weight_decay", "split_vals": (-1e-4,)},
            "split_vals: found -0.0001; with ensemble_by='weight_decay' it is a weight decay, 0 or more",
        ),
        (
            {"ensemble_by": "retrain_length", "split_vals": (0,)},
            "split_vals: found 0; with ensemble_by='retrain_length' it is a whole number of epochs, 1 or more",
        ),
        (
            {"ensemble_by": "retrain_schedule", "split_vals": (0,)},
            "split_vals: found 0; with ensemble_by='retrain_schedule' it is a positive peak learning rate",
        ),
        (
            {"ensemble_by": "weight_decay", "n_splits_total": 3},
            "split_vals: not given; ensemble_by='weight_decay' needs",
        ),
        ({"ensemble_by": "weight_decay", "n_splits_total": 3}, "such as (1e-4, 5e-4, 1e-3)"),
        ({"ensemble_by": "retrain_length", "n_splits_total": 3}, "such as (5, 10, 15)"),
        ({"ensemble_by": "retrain_schedule"}, "such as (0.01, 0.05, 0.1)"),
        ({"split_val": 0}, "split_val: found 0.0; only strategy='IMP' retrains a single member"),
        ({"strategy": "Dense", "split_val": 0}, "split_val: found 0.0; only strategy='IMP'"),
        ({"strategy": "Ensemble", "split_val": 0}, "split_val: found 0.0; only strategy='IMP'"),
        (
            {"strategy": "IMP", "n_splits_total": 2, "split_val": 7},
            "split_val: found 7; the members' split_vals are (0, 1)",
        ),
        ({"strategy": "IMP", "split_val": 1.5}, "split_val: found 1.5; with ensemble_by='pruned_seed' it is a whole"),
        ({"strategy": "IMP", "split_val": math.nan}, "split_val: found nan; input should be a finite number"),
        (
            {"strategy": "Ensemble", "ensemble_method": None},
            "ensemble_method: found None; strategy='Ensemble' needs one",
        ),
        ({"members": [{}], "pool": "seed:0..9"}, "members: given together with pool='seed:0..9'; allowed: one of them"),
        ({"members": [{}], "split_vals": (0,)}, "members: given together with split_vals=(0,); allowed: one of them"),
        ({"members": [{}], "ensemble_by": "weight_decay"}, "members: given together with ensemble_by='weight_decay'; "),
        ({"pool": "seed:0..9", "split_vals": (0,)}, "pool: given together with split_vals=(0,); allowed: one of them"),
        ({"pool": "seed:0..9"}, "n_splits_total: not given; pool='seed:0..9' needs to know how many members to draw"),
        ({"pool": "seed:0..1", "n_splits_total": 3}, "pool: found 'seed:0..1', which has no more than 2 members"),
        ({"pool": "seed:3", "n_splits_total": 3}, "pool: found seed:3; allowed: LOW..HIGH or log(LOW,HIGH)"),
        (
            {"members": [{}, {"seed": 1}, {"seed": 0}]},
            "members: members 0 and 2 are equal; every member needs something",
        ),
        ({"members": [{"weight_decay": 1e-4}, {}]}, "members: members 0 and 1 are equal"),
        ({"members": ()}, "members: found (); allowed: a list with what each member has, such as"),
        (
            {"strategy": "IMP", "members": [{}, {"seed": 1}], "split_val": 2},
            "split_val: found 2.0; the members have the numbers (0, 1)",
        ),
        (
            {"retrain_schedule": "LRW", "members": [{"retrain_length": 11}, {}]},
            "members: found 11; retrain_schedule='LRW' repeats the end of the dense history, and n_epochs=10",
        ),
        (
            {"retrain_schedule": "LRW", "pool": "retrain_length:11..11, seed:0..9", "n_splits_total": 2},
            "pool: found 11; retrain_schedule='LRW' repeats",
        ),
        (
            {"retrain_schedule": "LRW", "members": [{"seed": 1}], "n_epochs_per_phase": 11},
            "n_epochs_per_phase: found 11; retrain_schedule='LRW' repeats",
        ),
        (
            {"retrain_schedule": "LRW", "n_epochs_per_phase": 11},
            "n_epochs_per_phase: found 11; retrain_schedule='LRW' repeats the end of the dense history, and n_epochs=",
        ),
        (
            {"retrain_schedule": "LRW", "ensemble_by": "retrain_length", "split_vals": (1, 11)},
            "split_vals: found 11; retrain_schedule='LRW' repeats the end of the dense history, and n_epochs=10",
        ),
    ],
)
def test_settings_that_do_not_fit_together(changes, expected):
    assert expected in error_of(**changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"download": "yes"}, "data.download: found 'yes'; input should be a valid boolean"),
        ({"on_device": 1}, "data.on_device: found 1; "),
        ({"image_size": 4}, "data.image_size: found 4; input should be greater than or equal to 8"),
        ({"workers": -1}, "data.workers: found -1; "),
        (
            {"split": "Reference"},
            "data.split: unknown value 'Reference'; allowed: reference, None; did you mean 'reference'?",
        ),
        ({"layout": "nchw"}, "data.layout: unknown value 'nchw'; allowed: NHWC, NCHW, None; did you mean 'NCHW'?"),
        ({"n_classes": 1}, "data.n_classes: found 1; input should be greater than or equal to 2"),
        ({"pad": -1}, "data.pad: found -1; input should be greater than or equal to 0"),
        ({"flip": 1}, "data.flip: found 1; input should be a valid boolean"),
        ({"rotate_degrees": 181.0}, "data.rotate_degrees: found 181.0; "),
        ({"mean": ("a", 0.5)}, "data.mean: found 'a'; input should be a valid number"),
        ({"mean": "a, b"}, "data.mean: found 'a, b'; input should be a valid tuple"),
        ({"std": (math.nan,)}, "data.std: found nan; input should be a finite number"),
        ({"verify": None}, "data.verify: found None; "),
        ({"worker": 1}, "setting: unknown value 'data.worker'; allowed: data.download, "),
        ({"worker": 1}, "did you mean 'data.workers'?"),
    ],
)
def test_settings_of_the_data(changes, expected):
    assert expected in error_of(data=dict(base.get_config().data) | changes)


@pytest.mark.parametrize("given", [(0.5, 0.25), [0.5, 0.25], "0.5, 0.25", "(0.5, 0.25)", "[0.5, 0.25,]"])
def test_numbers_of_channels_may_be_written_in_many_ways(given):
    found = settings(data=dict(base.get_config().data) | {"mean": given})
    assert found.data.mean == found.data.options().mean == (0.5, 0.25)
    assert json.loads(json.dumps(found.record())) == found.record()


def test_the_settings_of_the_data_are_the_options_of_their_sources():
    options = settings().data.options()
    assert options == sources.Options()
    assert set(vars(options)) | {"on_device", "workers"} == set(DataSettings.model_fields)


def test_names_that_do_not_compare_are_one_line():
    assert error_of(data=ConfigDict({1: 0, "download": True})) == "data: found names that are not all text"


@pytest.mark.parametrize("value", [3, None, "x", ["download"]])
def test_the_settings_of_the_data_belong_together(value):
    assert error_of(data=value).startswith("data: found ")
