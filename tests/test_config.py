"""Settings: the defaults, the command line, and every mistake a user can make."""

import ast
import inspect
import itertools
import json
import math
import operator
import tokenize

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import base, digits_sms
from ssoup_jax import models, pools
from ssoup_jax.config import Settings, make_settings
from ssoup_jax.config.study import StudySettings
from ssoup_jax.data import sources
from ssoup_jax.data.settings import DataSettings
from ssoup_jax.errors import SettingsError
from ssoup_jax.schedules import grammar
from ssoup_jax.variants import VARIANTS

NAN, INF = math.nan, math.inf
CONFIGS = {"base": base, "digits_sms": digits_sms}


def settings(**changes):
    return make_settings(dict(base.get_config()) | changes)


GROUPS = {"data": DataSettings, "study": StudySettings}


def error_of(**changes):
    with pytest.raises(SettingsError) as error:
        settings(**changes)
    message = str(error.value)
    assert "\n" not in message, "one line"
    return message


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


# A setting, what is given, and what must be said beyond the setting's name and the value.
OUT_OF_RANGE = [
    ("run_id", (-1, 2**31), ()),
    ("phase", (0, -1), ("greater than or equal to 1",)),
    ("phase", (3,), ("1 to 2",)),
    ("n_epochs", (0, -1), ("greater than or equal to 1",)),
    ("batch_size", (0, -1), ("greater than or equal to 1",)),
    ("n_epochs_warmup", (-1,), ("greater than or equal to 0",)),
    ("evaluate_every", (-1,), ("greater than or equal to 0",)),
    ("n_epochs_warmup", (10, 11), ("n_epochs=10",)),
    ("momentum", (1, 1.0, 1.5), ("less than 1",)),
    ("momentum", (-0.1,), ("greater than or equal to 0",)),
    ("momentum", (NAN, INF), ("finite",)),
    ("weight_decay", (-1e-4,), ("greater than or equal to 0",)),
    ("weight_decay", (NAN, INF), ("finite",)),
    ("retrain_batch_size", (0, -1), ("greater than or equal to 1",)),
    ("retrain_momentum", (1, 1.0, 1.5), ("less than 1",)),
    ("retrain_momentum", (-0.1,), ("greater than or equal to 0",)),
    ("retrain_weight_decay", (-1e-4,), ("greater than or equal to 0",)),
    ("retrain_weight_decay", (NAN, INF), ("finite",)),
    ("pool_seed", (-1, 2**31), ()),
    ("goal_sparsity", (1, 1.0, 90.0), ("less than 1",)),
    ("goal_sparsity", (0, 0.0, -0.1), ("greater than 0",)),
    ("goal_sparsity", (NAN, INF), ("finite",)),
    ("n_phases", (0, -1), ("greater than or equal to 1",)),
    ("n_epochs_per_phase", (-1,), ("greater than or equal to 0",)),
    ("n_splits_total", (0, -1), ("greater than or equal to 1",)),
    ("bn_recalibration_frac", (1.1,), ("less than or equal to 1",)),
    ("bn_recalibration_frac", (-0.1,), ("greater than or equal to 0",)),
    ("bn_recalibration_frac", (NAN, INF), ("finite",)),
]
WRONG_TYPE = [
    (
        ("run_id", "phase", "n_epochs", "batch_size", "n_phases", "n_epochs_per_phase"),
        ("5", 1.5, True, None),
        "integer",
    ),
    (
        ("n_epochs_warmup", "n_splits_total", "retrain_batch_size", "evaluate_every"),
        ("5", 1.5, True, (5,)),
        "integer",
    ),
    (("momentum", "weight_decay", "goal_sparsity"), ("0.5", True, None, (0.5,)), "number"),
    (
        ("bn_recalibration_frac", "split_val", "retrain_weight_decay", "retrain_momentum"),
        ("0.5", True, (0.5,)),
        "number",
    ),
    (("use_amp", "remat"), ("yes", 1, 0.0, None), "boolean"),
    (("evaluate_train", "retrain_use_amp"), ("yes", 1, 0.0), "boolean"),
    (("arch", "dataset"), (3, None, ["x"]), "string"),
    (
        (
            *("data_dir", "init_from", "ood", "prune_only", "prune_except", "checkpoint_every", "stop_signals", "loss"),
            "trackers",
        ),
        (3, True, ["x"]),
        "string",
    ),
    (("learning_rate",), (0.1, None, True), "(Linear, lr[, final])"),
    (("split_vals",), (5, "0,1", 0.5, {"a": 1}, {1, 2}), "tuple"),
]
NAMES = [
    ("strategy", "Ensembl", "Ensemble", ("SMS", "Dense", "IMP", "Ensemble")),
    ("optimizer", "sgd", "SGD", ("SGD", "Adam", "AdamW", "LARS")),
    ("init_mask", "zero", "zeros", ("auto", "zeros", "none")),
    ("init_head", "frsh", "fresh", ("fresh", "None")),
    ("pruning_selector", "globl", "global", ("global", "uniform", "random")),
    ("retrain_schedule", "LLRR", "LLR", ("FT", "LRW", "SLR", "CLR", "LLR", "ALLR")),
    ("ensemble_by", "weight-decay", "weight_decay", VARIANTS),
    ("ensemble_method", "GreedySoups", "GreedySoup", ("UniformEnsembling", "GreedySoup", "None")),
    ("greedy_metric", "acuracy", "accuracy", ("accuracy", "macro_accuracy")),
    ("bn_recalibration", "Moving", "moving", ("moving", "exact", "None")),
    ("on_divergence", "exlude", "exclude", ("exclude", "fail")),
    ("trackers", "tensorbord", "tensorboard", ("tensorboard", "wandb")),
    ("stop_signals", "SIGXCP", "SIGXCPU", ("SIGUSR1", "SIGUSR2", "SIGXCPU")),
    ("execution", "vmp", "vmap", ("auto", "map", "vmap", "unroll", "loop")),
    ("arch", "resnet20", "ResNet20", models.ARCHS),
    ("arch", "ResNet57", "ResNet56", ("ResNet<6n+2>",)),
    ("dataset", "cifar-10", "cifar10", sources.SOURCES),
    ("learning_rate", "(Liner, 0.1)", "Linear", grammar.SCHEDULES),
]


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [(setting, value, allowed) for setting, values, allowed in OUT_OF_RANGE for value in values],
)
def test_out_of_range(setting, value, allowed):
    message = error_of(**{setting: value})
    assert message.startswith(f"{setting}: found {value!r}; ")
    assert all(part in message for part in allowed)


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [(setting, value, allowed) for names, values, allowed in WRONG_TYPE for setting in names for value in values],
)
def test_wrong_type(setting, value, allowed):
    message = error_of(**{setting: value})
    assert message.startswith(f"{setting}: found {value!r}")
    assert allowed in message


@pytest.mark.parametrize(("setting", "value", "nearest", "allowed"), NAMES)
def test_unknown_names(setting, value, nearest, allowed):
    message = error_of(**{setting: value})
    assert message.startswith(f"{setting}: unknown value ")
    assert value.strip("()").split(",")[0] in message
    assert message.endswith(f"; did you mean {nearest!r}?")
    listed = message.split("allowed: ")[1]
    assert all(name in listed for name in allowed)


@pytest.mark.parametrize("setting", [name for name, *_ in NAMES[:10]])
@pytest.mark.parametrize("value", [3, ["SMS"], True, {}])
def test_names_of_the_wrong_type(setting, value):
    assert error_of(**{setting: value}).startswith(f"{setting}: unknown value {value!r}; allowed: ")


@pytest.mark.parametrize(
    ("value", "names"),
    [(None, ()), ("SIGUSR1", ("SIGUSR1",)), (" SIGXCPU ,SIGUSR2", ("SIGXCPU", "SIGUSR2"))],
)
def test_signals_that_ask_for_a_stop(value, names):
    assert settings(stop_signals=value).signals == names


@pytest.mark.parametrize("value", ["", "SIGKILL", "SIGTERM", "SIGUSR1,", "SIGUSR1 SIGUSR2"])
def test_other_signals_do_not(value):
    assert error_of(stop_signals=value).startswith("stop_signals: unknown value ")


@pytest.mark.parametrize("setting", ["strategy", "optimizer", "pruning_selector", "greedy_metric", "on_divergence"])
def test_none_is_a_name_only_where_it_says_so(setting):
    assert error_of(**{setting: None}).startswith(f"{setting}: unknown value None; allowed: ")


@pytest.mark.parametrize("setting", ["prune_only", "prune_except"])
@pytest.mark.parametrize("value", ["", " ", ",", "fc/kernel,", "a,,b"])
def test_malformed_patterns(setting, value):
    assert error_of(**{setting: value}).startswith(f"{setting}: found {value!r}; allowed: patterns over parameter name")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("npz:", "npz:PATH"),
        ("tfds:", "tfds:NAME"),
        ("npz", "npz:PATH"),
        ("", "digits"),
    ],
)
def test_malformed_dataset(value, expected):
    message = error_of(dataset=value)
    assert message.startswith("dataset: ")
    assert repr(value) in message
    assert expected in message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Linear, 0.1", [grammar.usage(schedule) for schedule in grammar.SCHEDULES.values()]),
        ("0.1", [grammar.usage(schedule) for schedule in grammar.SCHEDULES.values()]),
        ("", [grammar.usage(schedule) for schedule in grammar.SCHEDULES.values()]),
        ("(Linear,\n0.1", [grammar.usage(schedule) for schedule in grammar.SCHEDULES.values()]),
        ("(Linear)", ["(Linear)", "(Linear, lr[, final])"]),
        ("(Linear, 0.1, 0, 0)", ["3 arguments", "(Linear, lr[, final])"]),
        ("(Linear, fast)", ["'fast'", "(Linear, lr[, final])"]),
        ("(Linear, -1)", ["-1.0", "above 0", "(Linear, lr[, final])"]),
        ("(Cosine, nan)", ["nan", "(Cosine, lr)"]),
        ("(StepLR, 0.1, 1.5, 0.1)", ["'1.5'", "(StepLR, lr, epochs, gamma)"]),
        ("(ExponentialLR, 0.1, 2)", ["2.0", "(ExponentialLR, lr, gamma)"]),
        ("(MultiStepLR, 0.1, [6|3], 0.1)", ["[6|3]", "(MultiStepLR, lr, [e1|e2|...], gamma)"]),
        ("(MultiStepLR, 0.1, 3, 0.1)", ["'3'", "(MultiStepLR, lr, [e1|e2|...], gamma)"]),
    ],
)
def test_malformed_schedules_show_their_grammar(value, expected):
    message = error_of(learning_rate=value)
    assert message.startswith("learning_rate: ")
    assert "allowed: " in message
    assert all(part in message for part in expected)


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
        ({"split_vals": (NAN,)}, "split_vals: found nan; with ensemble_by='pruned_seed'"),
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
        ({"strategy": "IMP", "split_val": NAN}, "split_val: found nan; input should be a finite number"),
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
        ({"std": (NAN,)}, "data.std: found nan; input should be a finite number"),
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


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_a_missing_setting_is_named(setting):
    config = dict(base.get_config())
    del config[setting]
    with pytest.raises(SettingsError, match=f"^{setting}: missing; start from configs/base.py"):
        make_settings(config)


# ml_collections loads a config file in a way that Python has deprecated.
loads_a_file = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def from_command_line(*overrides, config="base"):
    """Returns the settings of `--config configs/NAME.py` with `--config.KEY=VALUE` for each override."""
    argv = ["launch.py", f"--config={CONFIGS[config].__file__}", *(f"--config.{override}" for override in overrides)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    return make_settings(holder.value)


@loads_a_file
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("split_vals=(0,1,2)", (0, 1, 2)),
        ("split_vals=0,1,2", (0, 1, 2)),
        ("split_vals=[0, 1]", (0, 1)),
        ("split_vals=(3,)", (3,)),
        ("split_vals=2", (2,)),
        ("split_vals=None", None),
        ("n_splits_total=5", 5),
        ("n_epochs_warmup=3", 3),
        ("evaluate_every=0", 0),
        ("ensemble_method=None", None),
        ("ensemble_method=GreedySoup", "GreedySoup"),
        ("bn_recalibration=None", None),
        ("bn_recalibration=exact", "exact"),
        ("bn_recalibration_frac=0.5", 0.5),
        ("bn_recalibration_frac=0", 0.0),
        ("data_dir=None", None),
        ("init_from=None", None),
        ("init_from=dense.pt", "dense.pt"),
        ("init_mask=none", "none"),
        ("data_dir=/data/tfds", "/data/tfds"),
        ("goal_sparsity=.98", 0.98),
        ("weight_decay=0", 0.0),
        ("use_amp=true", True),
        ("retrain_use_amp=true", True),
        ("retrain_batch_size=32", 32),
        ("retrain_weight_decay=0", 0.0),
        ("retrain_momentum=0.5", 0.5),
        ("learning_rate=(Cosine, 0.2)", "(Cosine, 0.2)"),
        ("run_id=7", 7),
        ("ood=None", None),
        ("ood=computed:brightness:5", "computed:brightness:5"),
        ("prune_only=layer1_*, fc/kernel", "layer1_*, fc/kernel"),
        ("prune_except=fc/*", "fc/*"),
        ("prune_except=None", None),
        ("checkpoint_every=None", None),
        ("stop_signals=SIGUSR1,SIGXCPU", "SIGUSR1,SIGXCPU"),
        ("trackers=tensorboard, wandb", "tensorboard, wandb"),
        ("trackers=None", None),
        ("checkpoint_every=5 epochs", "5 epochs"),
        ("data.download=false", False),
        ("data.on_device=true", True),
        ("data.workers=3", 3),
        ("data.layout=NCHW", "NCHW"),
        ("data.layout=None", None),
        ("data.split=reference", "reference"),
        ("data.split=None", None),
        ("data.verify=false", False),
        ("data.pad=4", 4),
        ("data.rotate_degrees=15", 15.0),
        ("data.mean=(0.5, 0.25, 1)", (0.5, 0.25, 1.0)),
        ("data.mean=0.5,0.25,0.75", (0.5, 0.25, 0.75)),
        ("data.std=0.5", (0.5,)),
        ("data.std=None", None),
    ],
)
def test_overrides_on_the_command_line(override, expected):
    name = operator.attrgetter(override.partition("=")[0])
    found = name(from_command_line(override))
    assert (found, type(found)) == (expected, type(expected))
    default = name(settings())
    assert found != default or expected is None


@loads_a_file
@pytest.mark.parametrize(
    ("overrides", "members", "selected"),
    [
        (["n_splits_total=5"], (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)),
        (["split_vals=(4,2)"], (4, 2), (4, 2)),
        (["ensemble_by=weight_decay", "split_vals=(1e-4,5e-4)"], (1e-4, 5e-4), (1e-4, 5e-4)),
        (["strategy=IMP", "n_splits_total=3", "split_val=2"], (0, 1, 2), (2,)),
        (["strategy=IMP", "split_val=2"], (2,), (2,)),
        (["strategy=IMP", "ensemble_by=retrain_schedule", "split_vals=(0.1,1)", "split_val=1"], (0.1, 1.0), (1.0,)),
    ],
)
def test_members_on_the_command_line(overrides, members, selected):
    found = from_command_line(*overrides)
    assert (found.all_splits, found.selected_splits) == (members, selected)
    assert [type(value) for value in found.selected_splits] == [type(value) for value in selected]


@loads_a_file
@pytest.mark.parametrize(
    "text",
    ['[{"seed": 1, "weight_decay": 1e-3}, {"peak": 0.5}]', '{"seed":1,"weight_decay":1e-3},{"retrain_schedule":0.5}'],
)
def test_members_that_differ_in_several_things_on_the_command_line(text):
    found = from_command_line(f"members={text}", config="digits_sms")
    assert found.members == found.listed == ({"seed": 1, "weight_decay": 1e-3}, {"peak": 0.5})
    assert from_command_line("members=None").members is None
    assert from_command_line("pool=seed:0..9", "pool_seed=3", "n_splits_total=2").listed == pools.draw(
        "seed:0..9", 3, 2
    )


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


@loads_a_file
@pytest.mark.parametrize("setting", ["strategy", "arch", "dataset", "learning_rate", "execution"])
def test_none_on_the_command_line_is_no_value_where_one_is_needed(setting):
    with pytest.raises(SettingsError, match=f"^{setting}: .*None"):
        from_command_line(f"{setting}=None")


@loads_a_file
def test_values_on_the_command_line_replace_the_number_that_an_experiment_has_set():
    found = from_command_line("ensemble_by=weight_decay", "split_vals=(1e-4,5e-4)", config="digits_sms")
    assert found.record()["n_splits_total"] == 2
    assert found.all_splits == (1e-4, 5e-4)
