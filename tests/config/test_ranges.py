"""A value that no setting can have is one line that says what was found and what is allowed."""

import math

import pytest

from ssoup_jax import models
from ssoup_jax.data import sources
from ssoup_jax.schedules import grammar
from ssoup_jax.variants import VARIANTS
from tests.config.made import error_of, settings

NAN, INF = math.nan, math.inf


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
