"""Settings as one dictionary: over those of an experiment, typed as YAML leaves them."""

import pytest

from configs import base, dictionary, digits_sms
from ssoup_jax.config import make_settings
from ssoup_jax.errors import SettingsError

THEIRS = {
    **{"run_id": 1, "computer": "node7", "dataset": "mnist", "arch": "Simple", "n_epochs": 2, "batch_size": 1028},
    **{"use_amp": True, "optimizer": "SGD", "learning_rate": "(Linear, 0.1)", "n_epochs_warmup": None},
    **{
        "momentum": 0.9,
        "weight_decay": "1e-4",
        "strategy": "Dense",
        "goal_sparsity": 0.9,
        "pruning_selector": "global",
    },
    **{"phase": 1, "n_phases": 1, "n_epochs_per_phase": 1, "retrain_schedule": "LLR", "split_val": None},
    **{"ensemble_method": "UniformEnsembling", "ensemble_by": "pruned_seed", "n_splits_total": 2},
    **{"bn_recalibration_frac": 0.2, "device": "cuda:0", "tmp_dir": "/scratch/tmp", "seed": 4, "_wandb": {}},
}
"""The dictionary of the authors' main program, with what it adds."""


def test_the_authors_dictionary_is_taken_as_it_is():
    settings = make_settings(dictionary.merged(base.get_config(), THEIRS))
    for name, value in THEIRS.items():
        if name not in dictionary.BOOKKEEPING and name != "_wandb":
            assert getattr(settings, name) == (1e-4 if name == "weight_decay" else value), name


def test_what_is_not_given_is_the_experiments():
    settings = make_settings(dictionary.merged(digits_sms.get_config(), {"n_epochs": 3, "data.pad": 2}))
    expected = make_settings(digits_sms.get_config()).model_dump()
    assert settings.model_dump() == expected | {"n_epochs": 3, "data": expected["data"] | {"pad": 2}}


@pytest.mark.parametrize(
    "given",
    [{"data": {"pad": 2, "flip": True}}, {"data.pad": 2, "data.flip": True}, {"config.data.pad": 2, "data.flip": True}],
)
def test_settings_of_the_data_may_be_nested_or_not(given):
    data = make_settings(dictionary.merged(base.get_config(), given)).data
    assert (data.pad, data.flip, data.download) == (2, True, True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lerning_rate": 0.1}, "setting: unknown value 'lerning_rate'; allowed: "),
        ({"lerning_rate": 0.1}, "did you mean 'learning_rate'?"),
        ({"data.padd": 2}, "did you mean 'data.pad'?"),
        ({"data": {"padd": 2}}, "did you mean 'data.pad'?"),
        ({"data": 3}, "data: found 3; allowed: a dictionary"),
        ({"study": 3}, "study: found 3; allowed: a dictionary"),
        ({"study.run": 3}, "did you mean 'study.runs'?"),
        ({"pruning_selector": "LAMP"}, "pruning_selector: unknown value 'LAMP'; allowed: global, uniform, random"),
        ({"weight_decay": "small"}, "weight_decay: found 'small'; input should be a valid number"),
        ({"n_epochs": 2.5}, "n_epochs: found 2.5; "),
    ],
)
def test_a_mistake_is_one_line(given, expected):
    with pytest.raises(SettingsError) as error:
        make_settings(dictionary.merged(base.get_config(), given))
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_arguments_that_repeat_the_dictionary_are_left_out():
    own = ["--config=configs/digits_sms.py", "--workdir=runs", "--config.n_epochs=3", "--from_wandb"]
    repeated = [
        "--arch=ResNet18",
        "--learning_rate=(Linear, 0.1)",
        "--computer=node7",
        "--data.pad=4",
        "--use_amp=True",
    ]
    assert dictionary.without([*repeated, *own], base.get_config()) == own


def test_groups_of_settings_are_known_by_the_names_of_what_is_in_them():
    config = base.get_config()
    assert {"data.pad", "study.methods", "study.runs"} < {*dictionary.names(config)}
    merged = dictionary.merged(config, {"study.methods": "IMP", "study": {"runs": (1, 2)}})
    assert (merged["study"]["methods"], merged["study"]["runs"]) == ("IMP", (1, 2))
    assert config.study.methods is None, "the settings that were given stay"
