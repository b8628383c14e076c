"""Settings: the defaults, the members that they name, and their record."""

import ast
import inspect
import itertools
import json
import tokenize

import pytest

from configs import base
from ssoup_jax.config import Settings, make_settings
from ssoup_jax.errors import SettingsError
from tests.config.made import CONFIGS, GROUPS, settings


def test_base_has_exactly_the_fields_of_the_settings():
    assert set(base.get_config()) == set(Settings.model_fields)
    for group, kind in GROUPS.items():
        assert set(base.get_config()[group]) == set(kind.model_fields)


def test_every_setting_in_base_is_explained_where_it_is_set():
    source = inspect.getsource(base)
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__)
        if token.type == tokenize.COMMENT
    }
    lines = {
        ast.unparse(node.targets[0]).removeprefix("config."): node.end_lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)
    }
    inner = {group: [f"{group}.{name}" for name in kind.model_fields] for group, kind in GROUPS.items()}
    for group, names in inner.items():
        begins = lines.pop(group)
        assert begins < min(lines[name] for name in names)
    assert set(lines) == {*Settings.model_fields, *itertools.chain(*inner.values())} - set(GROUPS)
    for name, line in lines.items():
        assert len(comments.get(line, "").strip("# ")) > 5, name


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_are_valid_and_locked(config):
    found = CONFIGS[config].get_config()
    assert isinstance(make_settings(found), Settings)
    with pytest.raises(AttributeError, match="n_epoch"):
        found.n_epoch = 3


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        settings().n_epochs = 3


def test_the_record_is_json_with_the_members_complete():
    record = settings(n_splits_total=3).record()
    assert json.loads(json.dumps(record)) == record
    assert (record["split_vals"], record["n_splits_total"]) == ([0, 1, 2], 3)
    assert set(record) == set(Settings.model_fields)


def test_a_record_makes_the_same_settings_again():
    for changes in (
        {},
        {"n_splits_total": 3},
        {"members": [{"seed": 5}, {}]},
        {"pool": "seed:0..9", "n_splits_total": 2},
    ):
        found = settings(**changes)
        again = make_settings(json.loads(json.dumps(found.record())))
        assert again.record() == found.record()
        assert list(map(again.retraining_of, again.all_splits)) == list(map(found.retraining_of, found.all_splits))


@pytest.mark.parametrize(
    ("written", "canonical"),
    [("( Linear ,0.10 )", "(Linear, 0.1)"), ("(MultiStepLR, 1e-1, [3|6], .2)", "(MultiStepLR, 0.1, [3|6], 0.2)")],
)
def test_one_schedule_has_one_spelling(written, canonical):
    assert settings(learning_rate=written).learning_rate == canonical


@pytest.mark.parametrize(
    ("changes", "members", "selected"),
    [
        ({}, (0,), (0,)),
        ({"n_splits_total": 3}, (0, 1, 2), (0, 1, 2)),
        ({"n_splits_total": 3, "split_vals": (5, 1)}, (5, 1), (5, 1)),
        (
            {"strategy": "IMP", "ensemble_by": "weight_decay", "n_splits_total": 3, "split_val": 1e-3},
            (1e-3,),
            (1e-3,),
        ),
        ({"split_vals": [4, 7]}, (4, 7), (4, 7)),
        ({"strategy": "IMP", "n_splits_total": 3, "split_val": 2}, (0, 1, 2), (2,)),
        ({"strategy": "IMP", "split_val": 2.0}, (2,), (2,)),
        ({"ensemble_by": "weight_decay", "weight_decay": 5e-4}, (5e-4,), (5e-4,)),
        ({"ensemble_by": "weight_decay", "retrain_weight_decay": 5e-4}, (5e-4,), (5e-4,)),
        ({"ensemble_by": "retrain_length", "n_epochs_per_phase": 4}, (4,), (4,)),
        ({"ensemble_by": "retrain_length", "split_vals": (1, 10)}, (1, 10), (1, 10)),
        ({"ensemble_by": "retrain_schedule", "split_vals": (1, 0.5)}, (1.0, 0.5), (1.0, 0.5)),
        ({"strategy": "IMP", "ensemble_by": "retrain_schedule", "split_val": 0.5}, (0.5,), (0.5,)),
        ({"n_epochs_per_phase": 0}, (0,), (0,)),
        ({"members": [{"seed": 5}, {"weight_decay": 0}]}, (0, 1), (0, 1)),
        ({"members": [{"seed": 5}], "n_splits_total": 3}, (0,), (0,)),
        ({"strategy": "IMP", "members": [{"seed": 5}, {}], "split_val": 1.0}, (0, 1), (1,)),
        ({"pool": "weight_decay:log(1e-5,1e-3)", "n_splits_total": 3}, (0, 1, 2), (0, 1, 2)),
        ({"strategy": "IMP", "pool": "seed:0..9", "n_splits_total": 3, "split_val": 2}, (0, 1, 2), (2,)),
        # LRW's history counts only where LRW is used, and its end is long enough.
        ({"retrain_schedule": "LRW", "n_epochs_per_phase": 10}, (0,), (0,)),
        ({"retrain_schedule": "LRW", "ensemble_by": "retrain_length", "split_vals": (10,)}, (10,), (10,)),
        (
            {"retrain_schedule": "LRW", "n_epochs_per_phase": 11, "ensemble_by": "retrain_length", "split_vals": (2,)},
            (2,),
            (2,),
        ),
        ({"n_epochs_per_phase": 11}, (0,), (0,)),
    ],
)
def test_members(changes, members, selected):
    found = settings(**changes)
    assert (found.all_splits, found.selected_splits) == (members, selected)
    assert [type(value) for value in found.selected_splits] == [type(value) for value in selected]


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_a_missing_setting_is_named(setting):
    config = dict(base.get_config())
    del config[setting]
    with pytest.raises(SettingsError, match=f"^{setting}: missing; start from configs/base.py"):
        make_settings(config)
