"""`python -m ssoup_jax.report`, as a user types it, on workdirs in every state."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from configs import digits_sms
from ssoup_jax.commands import report
from ssoup_jax.config import make_settings
from ssoup_jax.storage.store import Store
from tests.experiment import tiny

ROOT = Path(__file__).parents[2]
CHANGES = {"n_phases": 1, "ensemble_method": "GreedySoup"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The workdir of a finished experiment."""
    workdir = tmp_path_factory.mktemp("made")
    tiny.launch(workdir, **CHANGES)
    return workdir


@pytest.fixture
def workdir(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


def call(capsys, *arguments):
    code = report.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def parsed(path):
    return BeautifulSoup(path.read_text(), "html.parser")


def test_a_run_leaves_a_page_with_its_figures_and_curves(made):
    summary = json.loads((made / "summary.json").read_text())
    found = parsed(made / "report.html")
    assert found.title.get_text() == "digits, Simple, m = 2 by pruned_seed"
    soup = f"{100 * summary['phases'][0]['soup']['test']['accuracy']:.2f} %"
    assert found.select_one(".tiles dd").get_text() == soup
    # Of training loss, accuracy and learning rate; of every validation, of sparsity and of distances the others.
    shown = [caption.get_text() for caption in found.select("#curves figcaption")]
    for whose in ("Dense", "Phase 1"):
        own = {caption.removeprefix(f"{whose}: ") for caption in shown if caption.startswith(whose)}
        assert own >= {"loss", "accuracy in %", "learning rate", "ece", "sparsity prunable in %", "distance to start"}
    assert len(found.select("#greedy tbody tr")) == 2
    (folder,) = (made / "experiments").iterdir()
    assert (folder / "report.html").read_bytes() == (made / "report.html").read_bytes()


def test_page_and_picture_are_made_again_as_they_were(workdir, capsys):
    page = (workdir / "report.html").read_bytes()
    for name in ("report.html", "summary.png"):
        (workdir / name).unlink()
    code, printed, errors = call(capsys, workdir)
    assert (code, errors) == (0, "")
    assert printed.split() == [str(workdir / "report.html"), str(workdir / "summary.png")]
    assert (workdir / "report.html").read_bytes() == page
    with Image.open(workdir / "summary.png") as image:
        assert image.format == "PNG"


def test_one_experiment_of_a_workdir(workdir, capsys):
    (folder,) = (workdir / "experiments").iterdir()
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert call(capsys, folder)[0] == 0
    assert (folder / "report.html").read_bytes() == page


def test_a_workdir_in_which_a_run_goes_on_says_what_is_not_in_the_page(workdir, capsys):
    Store(workdir).begin(tiny.plan(n_phases=1, n_splits_total=3).candidates[0][2].name)
    assert call(capsys, workdir)[0] == 0
    assert parsed(workdir / "report.html").select_one(".warning").get_text() == (
        "not in this summary yet: IMP phase 1, stopped"
    )


def test_a_first_run_that_goes_on_is_one_line(workdir, capsys):
    (workdir / "summary.json").unlink()
    Store(workdir).begin(tiny.plan(n_phases=1, n_splits_total=3).candidates[0][2].name)
    code, printed, errors = call(capsys, workdir)
    assert (code, printed) == (2, "")
    assert errors == (
        f"error: {workdir}/summary.json: not there yet, a run writes it when it ends; "
        "so far: 4 stages finished; IMP phase 1, stopped\n"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "summary.json: cannot be read: No such file or directory"),
        ("{", "summary.json: not a summary: Expecting property name"),
        ('{"settings": {}, "phases": [{}]}', "summary.json: not a summary: phases.0.phase: field required"),
    ],
)
def test_what_is_no_summary_is_one_line(tmp_path, capsys, text, said):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    code, printed, errors = call(capsys, tmp_path)
    assert (code, printed) == (2, "")
    assert errors.startswith(f"error: {tmp_path}/{said}") and errors.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_run_says_which_settings_are_not_the_defaults():
    config = digits_sms.get_config()
    defaults = make_settings(config)
    config.data.pad, config.momentum = 4, 0.5
    changed = {"momentum": {"default": 0.9, "value": 0.5}, "data.pad": {"default": None, "value": 4}}
    assert make_settings(config).changed(defaults) == changed
    assert defaults.changed(defaults) == {}


def test_it_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "ssoup_jax.report", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}/summary.json: cannot be read: No such file or directory\n"
