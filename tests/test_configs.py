"""Every experiment file: its settings are valid, its arguments checked, and its whole path runs on its own data set."""

import io
from pathlib import Path

import pytest

from configs import cifar100_imp, cifar_imp, digits_sms
from ssoup_jax.config import make_settings
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.run import run
from ssoup_jax.report.console import Console
from tests.data import archives

CONFIGS = {"digits_sms": digits_sms, "cifar_imp": cifar_imp, "cifar100_imp": cifar100_imp}


def test_this_list_of_experiments_is_complete():
    found = {path.stem for path in Path("configs").glob("*_*.py") if path.stem != "__init__"}
    assert found == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_opens_with_its_command_and_its_settings_are_valid(name):
    module = CONFIGS[name]
    assert f"python launch.py --config configs/{name}.py" in module.__doc__
    assert "Cost:" in module.__doc__
    make_settings(module.get_config())


def test_arguments_change_what_they_say():
    settings = make_settings(cifar_imp.get_config("arch=ResNet56,m=5"))
    assert (settings.arch, settings.all_splits) == ("ResNet56", (0, 1, 2, 3, 4))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("epochs=3", "unknown value 'epochs'"), ("mm=3", "did you mean"), ("m=many", "found m=many; m is of type int")],
)
def test_a_mistake_in_an_argument_is_one_line(text, expected):
    with pytest.raises(SettingsError, match=expected):
        cifar_imp.get_config(text)


@pytest.mark.parametrize(("name", "make", "n_classes"), [("cifar10", archives.cifar10, 10)])
def test_smoke_runs_the_whole_path_on_archives_in_the_published_layout(tmp_path, name, make, n_classes):
    shape = (32, 32, 3)
    train, test = (archives.random_split(n, shape, n_classes, seed=n) for n in (150, 40))
    (tmp_path / "data" / "downloads" / name).mkdir(parents=True)
    make(tmp_path / "data" / "downloads" / name, train, test)
    config = cifar_imp.get_config("smoke")
    config.data_dir = str(tmp_path / "data")
    config.arch = "Simple"  # compiles in seconds; the data's path is what matters here
    with archives.trusted(name):
        summary = run(make_settings(config), tmp_path / "runs", Console(io.StringIO()))
    assert summary["phases"][0]["soup"]["ingredients"] == [0, 1]
    assert summary["dense"]["model"]["image_shape"] == list(shape)
