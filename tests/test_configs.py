"""Every experiment file: its settings are valid, its arguments checked, and its whole path runs on its own data set."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from configs import (
    cifar10_table,
    cifar100_imp,
    cifar100_table,
    cifar_bimp,
    cifar_imp,
    digits_sms,
    digits_table,
    fashion_table,
    imagenet_imp,
    imagenet_table,
    mnist_imp,
    tinyimagenet_imp,
)
from ssoup_jax.config import make_settings
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.run import run
from ssoup_jax.report.console import Console
from ssoup_jax.studies import grid
from ssoup_jax.studies.run import run_study
from tests.data import archives

CONFIGS = {
    "digits_sms": digits_sms,
    "digits_table": digits_table,
    "mnist_imp": mnist_imp,
    "cifar_imp": cifar_imp,
    "cifar100_imp": cifar100_imp,
    "tinyimagenet_imp": tinyimagenet_imp,
    "imagenet_imp": imagenet_imp,
    "cifar_bimp": cifar_bimp,
    "cifar10_table": cifar10_table,
    "cifar100_table": cifar100_table,
    "imagenet_table": imagenet_table,
    "fashion_table": fashion_table,
}
STUDIES = [name for name in CONFIGS if name.endswith("_table") and name != "digits_table"]


def test_this_list_of_experiments_is_complete():
    found = {path.stem for path in Path("configs").glob("*_*.py") if path.stem != "__init__"}
    assert found == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_opens_with_its_command_and_its_settings_are_valid(name):
    module = CONFIGS[name]
    assert f"python launch.py --config configs/{name}.py" in module.__doc__
    assert "Cost:" in module.__doc__
    make_settings(module.get_config())


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_the_rows_of_the_published_tables_and_shrinks_to_two_runs(name):
    asked = {point.method for point in grid.points(make_settings(CONFIGS[name].get_config()))}
    assert asked == {"dense", "SMS", "IMP_mx", "IMP-RePrune", "IMP"}
    points = grid.points(make_settings(CONFIGS[name].get_config("smoke")))
    assert {point.run for point in points} == {1, 2}
    assert {point.m for point in points} == {2, None}
    assert {point.settings.n_epochs_per_phase * point.settings.n_phases for point in points} == {1}


def test_the_first_example_compares_soups_with_imp_over_three_runs():
    points = grid.points(make_settings(digits_table.get_config()))
    assert [(point.method, point.run, point.m) for point in points] == [
        (method, run, m) for run in (1, 2, 3) for method, m in (("dense", None), ("SMS", 3), ("IMP", None))
    ]
    assert "--config configs/digits_table.py" in Path("README.md").read_text().split("Run the tests")[0]


def test_budgeted_imp_spends_its_budget():
    settings = make_settings(cifar_bimp.get_config("budget=130,dense=100,phases=6"))
    assert settings.n_epochs + settings.n_phases * settings.n_epochs_per_phase == 130
    assert (settings.ensemble_method, settings.all_splits, settings.retrain_schedule) == (None, (0,), "ALLR")
    with pytest.raises(SettingsError, match=r"found budget=100,dense=90; .* has to be a multiple of phases=3"):
        cifar_bimp.get_config("dense=90")


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


SEVERITY_3 = slice(80, 120)  # of five severities with 40 images each


def published(folder: Path, make, shape, n_classes) -> None:
    """Writes a small archive in the published layout, of 150 training and 40 test images."""
    folder.mkdir(parents=True)
    make(folder, *(archives.random_split(n, shape, n_classes, seed=n) for n in (150, 40)))


def corrupted(folder: Path, n_classes: int) -> None:
    """Writes the published files of one corruption of 40 test images."""
    folder.mkdir(parents=True)
    images = archives.random_split(200, (32, 32, 3), n_classes, seed=3)
    np.save(folder / "gaussian_noise.npy", images.images)
    np.save(folder / "labels.npy", np.tile(images.labels[:40], 5).astype(np.int64))


def smoke(module, tmp_path, text="smoke", **changes) -> tuple[dict, str]:
    """Runs a config's smoke argument, with a network that compiles in seconds: the data's path is what matters here."""
    config = module.get_config(text)
    config.update({"data_dir": str(tmp_path / "data"), "arch": "Simple", "execution": "map"} | changes)
    printed = io.StringIO()
    with archives.without_tensorflow_and_network():
        summary = run(make_settings(config), tmp_path / "runs", Console(printed))
    assert summary["phases"][0]["soup"]["ingredients"] == [0, 1]
    assert summary["dense"]["model"]["image_shape"][:2] in ([28, 28], [32, 32])
    return summary, printed.getvalue()


def test_smoke_of_cifar10_with_published_corruptions(tmp_path):
    published(tmp_path / "data/downloads/cifar10", archives.cifar10, (32, 32, 3), 10)
    corrupted(tmp_path / "data/CIFAR-10-C", 10)
    with archives.trusted("cifar10"):
        summary, _ = smoke(cifar_imp, tmp_path, ood="default, computed:gaussian_noise:3")
    models = [summary["dense"], summary["phases"][0]["soup"], *summary["phases"][0]["candidates"]]
    for model in models:
        assert list(model["ood_by_corruption"]) == ["gaussian_noise:3", "computed:gaussian_noise:3"]
        # Of 40 images each, so the mean is a whole number of eightieths.
        assert (80 * model["ood"]["accuracy"]) % 1 == pytest.approx(0, abs=1e-9)
    # Streamed instead of kept on the device, the same batches train the same networks, to the bit.
    config = cifar_imp.get_config("smoke")
    config.update({"data_dir": str(tmp_path / "data"), "arch": "Simple", "execution": "map", "ood": None})
    config.data.update({"on_device": False, "download": False})
    printed = io.StringIO()
    again = run(make_settings(config), tmp_path / "again", Console(printed))
    assert "streamed to the device" in printed.getvalue()
    for one, other in zip(models, [again["dense"], again["phases"][0]["soup"]], strict=False):
        assert (one["test"], one["distance_to_origin"]) == (other["test"], other["distance_to_origin"])


def test_smoke_of_cifar100_without_published_corruptions(tmp_path):
    published(tmp_path / "data/downloads/cifar100", archives.cifar100, (32, 32, 3), 100)
    with archives.trusted("cifar100"):
        summary, printed = smoke(cifar100_imp, tmp_path)
    assert "not evaluated out of distribution: ood: gaussian_noise:3 of cifar100" in printed
    assert "ood" not in summary["dense"]


@pytest.mark.slow
def test_smoke_of_mnist(tmp_path, monkeypatch):
    published(tmp_path / "data/downloads/mnist", archives.mnist, (28, 28, 1), 10)
    # The builder knows how many images the published files hold.
    module = sys.modules[tfds.builder_cls("mnist").__module__]
    monkeypatch.setattr(module, "_TRAIN_EXAMPLES", 150)
    monkeypatch.setattr(module, "_TEST_EXAMPLES", 40)
    with archives.trusted("mnist"):
        smoke(mnist_imp, tmp_path)


def test_smoke_of_imagenet_streams_encoded_images(tmp_path):
    folder = tmp_path / "data/downloads/imagenet2012"
    classes = ("n01739381", "n02105855", "n15075141")
    train = {
        name: {f"{name}_{i}.JPEG": archives.encoded((50 + i, 40), 20 * c + i) for i in range(20)}
        for c, name in enumerate(classes)
    }
    test = {f"ILSVRC2012_val_0000000{i}.JPEG": archives.encoded((40, 60), 100 + i) for i in range(1, 9)}
    archives.imagenet2012(folder, train, test)
    with archives.trusted_by_hand("imagenet2012", folder):
        smoke(imagenet_imp, tmp_path, ood="computed:brightness:2")


@pytest.mark.slow
def test_smoke_of_tinyimagenet(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for i in range(60):
        path = root / f"train/n{i % 3}/images/n{i % 3}_{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archives.encoded((64, 64), i))
    (root / "val/images").mkdir(parents=True)
    lines = []
    for i in range(9):
        (root / f"val/images/val_{i}.JPEG").write_bytes(archives.encoded((64, 64), 100 + i))
        lines.append(f"val_{i}.JPEG\tn{i % 3}\t0\t0\t63\t63")
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("n0\nn1\nn2\n")
    smoke(tinyimagenet_imp, tmp_path, f"smoke,path={root}")


def test_smoke_of_the_fashion_study(tmp_path):
    folder = tmp_path / "fashion"
    folder.mkdir()
    archives.mnist(folder, *(archives.random_split(n, (28, 28, 1), 10, seed=n) for n in (150, 40)))
    config = fashion_table.get_config(f"folder={folder},smoke")
    config.update({"arch": "Simple", "execution": "map"})
    config.data.n_train = 100
    printed = io.StringIO()
    tables = run_study(make_settings(config), tmp_path / "runs", Console(printed))
    assert [(table.goal, table.n_runs, table.missing) for table in tables] == [(0.9, 2, ()), (0.98, 2, ())]
    assert "images of 14 x 14 x 1" in printed.getvalue() and "100 training, 15 validation" in printed.getvalue()
