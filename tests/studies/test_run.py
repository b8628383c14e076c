"""A whole tiny study: shards, several launches, holes, and every cell against code that knows nothing of studies."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ssoup_jax.commands import table as table_command
from ssoup_jax.data import sources
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.pruning.masks import prunable_leaves
from ssoup_jax.report.console import Console
from ssoup_jax.storage import lock
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.store import Store
from ssoup_jax.studies import cells
from ssoup_jax.studies.run import run_study
from ssoup_jax.studies.table import Column
from tests.experiment import tiny

METHODS = "SMS, IMP_mx, IMP-RePrune, IMP-AVG, IMP, one-shot"
STUDY = {"methods": METHODS, "runs": (1, 2), "members": (2, 3), "goals": (0.9,), "vary": None, "reprune_epochs": 0}


def settings(study: dict | None = None, **changes):
    return tiny.settings(study=STUDY | (study or {}), n_splits_total=None, **changes)


def launch(workdir: Path, study: dict | None = None, **changes):
    printed = io.StringIO()
    return run_study(settings(study, **changes), workdir, Console(printed)), printed.getvalue()


def folder(workdir: Path) -> Path:
    (found,) = (workdir / "studies").iterdir()
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study whose two shards ran one after the other: its workdir, the tables of the second and what each printed."""
    workdir = tmp_path_factory.mktemp("study")
    _, first = launch(workdir, shard="1/2")
    tables, second = launch(workdir, shard="2/2")
    return workdir, tables, first, second


@pytest.fixture(scope="module")
def load(finished):
    """Loads an artifact of the study by its name."""
    like = artifacts.like(prepare(settings(), sources.load("digits"), Console(io.StringIO())).like)
    store = Store(finished[0])
    return lambda name: artifacts.from_tree(*store.load(name, like))


def accuracy(artifact: Artifact) -> float:
    """The test accuracy of the perceptron, by plain NumPy in double precision."""
    test = sources.load("digits").test
    layers = artifact.variables.params
    return np.mean(np.argmax(logits(layers, test.images), axis=1) == test.labels)


def logits(layers, images) -> np.ndarray:
    w1, b1, w2, b2 = (np.float64(layers[layer][leaf]) for layer in ("fc1", "fc2") for leaf in ("kernel", "bias"))
    return np.maximum(images.reshape(len(images), -1) / 255 @ w1 + b1, 0) @ w2 + b2


def sparsity(artifact: Artifact) -> float:
    weights = prunable_leaves(artifact.variables.params, artifact.mask).values()
    return sum(int(np.sum(leaf == 0)) for leaf in weights) / sum(leaf.size for leaf in weights)


def test_every_cell_is_what_its_artifacts_say(finished, load):
    workdir, tables, _, _ = finished
    _, found = cells.read([folder(workdir)])
    assert {cell.row for cell in found} - {"dense"} == set(tables[0].rows)
    for cell in found:
        assert cell.missing is None, cell
        models = [load(name) for name in cell.stages]
        scores = [accuracy(model) for model in models]
        if cell.row == "prediction ensemble":
            continue
        expected = {"best candidate": np.max, "mean candidate": np.mean}.get(cell.row, lambda only: only[0])(scores)
        assert cell.test["accuracy"] == pytest.approx(expected, abs=1e-12), cell
        assert cell.sparsity == pytest.approx(np.mean([sparsity(model) for model in models]), abs=1e-9), cell


def test_the_prediction_ensemble_averages_the_probabilities_of_the_candidates(finished, load):
    _, found = cells.read([folder(finished[0])])
    test = sources.load("digits").test
    ensembles = [cell for cell in found if cell.row == "prediction ensemble"]
    assert ensembles
    for cell in ensembles:
        (members,) = (one.stages for one in found if place(one) == ("mean candidate", *place(cell)[1:]))
        each = [logits(load(name).variables.params, test.images) for name in members]
        odds = [np.exp(one - one.max(axis=1, keepdims=True)) for one in each]
        mean = np.mean([one / one.sum(axis=1, keepdims=True) for one in odds], axis=0)
        assert cell.test["accuracy"] == pytest.approx(np.mean(mean.argmax(1) == test.labels), abs=1e-12)


def place(cell: cells.Cell) -> tuple:
    return cell.row, cell.run, cell.m, cell.phase


def test_entries_are_mean_deviation_and_paired_difference_of_the_cells(finished):
    workdir, (table,), _, _ = finished
    _, found = cells.read([folder(workdir)])
    by = {(cell.row, cell.phase, cell.m, cell.run): cell.test["accuracy"] for cell in found}
    entry = table.rows["IMP"][Column(2, 3)]
    values = [by["IMP", 2, None, run] for run in (1, 2)]
    assert (entry.figures.mean, entry.figures.n) == (pytest.approx(np.mean(values)), 2)
    assert entry.figures.std == pytest.approx(np.std(values, ddof=1))
    ours = [by["SMS", 2, 3, run] for run in (1, 2)]
    assert entry.of_ours.mean == pytest.approx(np.mean(np.subtract(ours, values)))
    assert table.missing == ()


def test_reprune_prunes_the_average_of_whole_runs_to_the_goal_exactly(finished, load):
    _, found = cells.read([folder(finished[0])])
    n = sum(leaf.size for leaf in prunable_leaves(*[load(found[0].stages[0]).mask] * 2).values())
    for m in (2, 3):
        average, pruned = (
            load(cell.stages[0])
            for row in ("IMP-AVG", "IMP-RePrune")
            for cell in found
            if (cell.row, cell.m, cell.run) == (row, m, 1)
        )
        kept = {name: np.asarray(leaf) for name, leaf in prunable_leaves(pruned.mask, pruned.mask).items()}
        assert sum(map(np.count_nonzero, kept.values())) == n - round(0.9 * n)
        weights = prunable_leaves(average.variables.params, average.mask)
        least_kept = min(np.abs(np.asarray(leaf)[kept[name]]).min() for name, leaf in weights.items())
        most_lost = max(np.abs(np.asarray(leaf)[~kept[name]]).max() for name, leaf in weights.items())
        assert most_lost <= least_kept
        for name, leaf in prunable_leaves(pruned.variables.params, pruned.mask).items():
            np.testing.assert_array_equal(leaf, np.where(kept[name], weights[name], 0))


FINGERPRINT = sources.load("digits").fingerprint


def test_average_keeps_what_any_of_the_runs_keeps(finished, load):
    _, found = cells.read([folder(finished[0])])
    (cell,) = (one for one in found if (one.row, one.m, one.run) == ("IMP-AVG", 3, 1))
    plan = make_plan(settings(study={"methods": None}, ensemble_method=None, split_vals=(0, 1, 2)), FINGERPRINT)
    members = [load(stage.name) for stage in plan.candidates[-1]]
    average = load(cell.stages[0])
    own = [prunable_leaves(member.mask, member.mask) for member in members]
    for name, leaf in prunable_leaves(average.mask, average.mask).items():
        np.testing.assert_array_equal(leaf, np.logical_or.reduce([one[name] for one in own]))
    assert sparsity(average) < min(map(sparsity, members))


def test_shards_do_the_work_between_them_and_say_what_is_missing(finished):
    _, _, first, second = finished
    assert "of which this launch does part 1/2" in first
    assert "missing:" in first and "not finished" in first
    assert "missing:" not in second


def test_what_methods_share_is_trained_once(finished):
    workdir, _, first, second = finished
    trained = (first + second).count("Dense: step 0/")
    assert trained == 2, "one dense model a run, for every method, m and shard"
    names = {path.name for path in Workdir(workdir).artifacts.iterdir() if not path.name.startswith(".")}
    _, found = cells.read([folder(workdir)])
    assert {name for cell in found for name in cell.stages} <= names
    # 2 runs of: dense; phase 1 m = 3 (and so m = 2 and IMP), 2x, 3x, one-shot; phase 2 of each soup, chain and length.
    phase_1 = sum(name.startswith("phase1-imp") for name in names)
    assert phase_1 == 2 * (3 + 2 + 1)


def test_a_second_start_trains_nothing_and_makes_the_same_table(finished):
    workdir, tables, _, _ = finished
    again, printed = launch(workdir)
    assert "step 0/" not in printed
    assert again == tables


def test_tables_are_made_from_the_files_of_results_alone(finished, tmp_path, capsys):
    source = folder(finished[0])
    for run in (1, 2):
        (tmp_path / f"run-{run}.json").write_bytes((source / f"run-{run}.json").read_bytes())
    assert table_command.main([str(tmp_path)]) == 0
    for name in ("table.txt", "table.md", "table.tex", "table.csv", "table.json", "table.html"):
        assert (tmp_path / name).read_bytes() == (source / name).read_bytes(), name
    assert (tmp_path / "table.png").stat().st_size > 10_000
    assert "SMS minus" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: found["settings"].update(n_epochs=9), "has n_epochs=9, .*run-1.json has n_epochs=2"),
        (lambda found: found.update(data="another"), "has other data than"),
        (lambda found: found.update(format=2), "has format 2; this version reads 1"),
        (lambda found: found.pop("cells"), "is no file of a study's results"),
        (
            lambda found: found["cells"][0].update(run=1),
            "dense, goal 0.9, phase 0, run 1 differs from what another file has for it",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_named(finished, tmp_path, capsys, change, expected):
    source = folder(finished[0])
    first, second = (json.loads((source / f"run-{run}.json").read_text()) for run in (1, 2))
    change(second)
    for run, found in ((1, first), (2, second)):
        (tmp_path / f"run-{run}.json").write_text(json.dumps(found))
    assert table_command.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(expected, error), error


def test_no_files_are_one_line(tmp_path, capsys):
    assert table_command.main([str(tmp_path)]) == 2
    assert "found no run-*.json in" in capsys.readouterr().err


def test_a_launch_passes_over_what_another_is_at(tmp_path):
    plan = make_plan(settings(study={"methods": None}), FINGERPRINT)
    held = Workdir(tmp_path).lock(plan.dense.name)
    order = []

    class Listening(io.StringIO):
        def write(self, text):
            if "waiting for" in text:
                stack.close()  # the other launch gives up
            order.append(text)
            return len(text)

    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.hold([held], print))
        run_study(settings({"methods": "IMP"}), tmp_path, Console(Listening()))
    printed = "".join(order)
    # Run 2 was done while run 1 could not be.
    assert printed.index("of run 2") < printed.index("waiting for")
    assert "missing:" not in printed


def test_a_run_that_diverges_is_a_hole_and_the_others_go_on(tmp_path):
    tables, printed = launch(
        tmp_path,
        {"methods": "SMS, IMP", "members": (2,), "runs": (1,), "vary": "learning_rate=(Linear, 0.1)|(Constant, 1e30)"},
    )
    healthy, sick = tables
    assert healthy.missing == () and healthy.n_runs == 1
    assert sick.n_runs == 0
    assert len(sick.missing) == 10 and all("Dense: training loss is nan at step 2" in line for line in sick.missing)
    assert "the study goes on without it" in printed


@pytest.mark.parametrize(
    ("study", "changes", "expected"),
    [
        ({"methods": "SMS, IMPS"}, {}, "study.methods: unknown value 'IMPS'; .*did you mean 'IMP'"),
        ({"methods": " , "}, {}, "study.methods: found ' , '; at least one is needed"),
        ({"runs": ()}, {}, r"study.runs: found \(\); at least one value is needed"),
        ({"members": (3, 3)}, {}, "study.members: found 3 more than once"),
        ({"goals": (1.5,)}, {}, "study.goals: found 1.5"),
        ({"vary": "arch=Simple|ResNet8"}, {}, "study.vary: unknown value 'arch'"),
        ({"vary": "run_id=1|2"}, {}, "study.vary: found 'run_id'; that is study.runs"),
        ({"vary": "weight_decay"}, {}, "study.vary: found 'weight_decay'; allowed: 'name=value|value"),
        ({"vary": "weight_decay=1e-4|1e-4"}, {}, "has a value more than once"),
        ({"vary": "retrain_schedule=LLR|LRR"}, {}, "retrain_schedule: unknown value 'LRR'"),
        ({"members": (4,)}, {"split_vals": (0, 1)}, "study.members: found 4; split_vals has 2 values"),
        ({"members": (4,)}, {"members": [{}, {"seed": 1}]}, "study.members: found 4; members has 2 values"),
        ({"vary": "retrain_use_amp=True|False"}, {}, "study.vary: unknown value 'retrain_use_amp'"),
        (
            {"methods": "IMP_mx"},
            {"retrain_schedule": "LRW"},
            "n_epochs_per_phase: found 3; .*n_epochs=2 is all",
        ),
        ({}, {"shard": "3/2"}, "shard: found '3/2'; allowed: 'I/N'"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line_before_anything_is_trained(tmp_path, study, changes, expected):
    with pytest.raises(SettingsError, match=expected):
        launch(tmp_path, study, **changes)
    assert not (tmp_path / "artifacts").exists() or not list((tmp_path / "artifacts").glob("dense-*"))
