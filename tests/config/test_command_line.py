"""Settings on the command line, typed as they are in a file."""

import operator

import pytest
from absl import flags
from ml_collections import config_flags

from ssoup_jax import pools
from ssoup_jax.config import make_settings
from ssoup_jax.errors import SettingsError
from tests.config.made import CONFIGS, settings

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
