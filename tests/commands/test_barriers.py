"""What lies between models is what an independent look finds, and looking changes nothing."""

import contextlib
import hashlib
import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from ssoup_jax.commands import barriers
from ssoup_jax.data import sources
from tests.experiment import tiny

CHANGES = {"n_phases": 1, "n_epochs": 1, "execution": "auto"}
WITH_BATCHNORM = {"arch": "ResNet8", "batch_size": 256, "n_splits_total": 2, **CHANGES}
FAST = ("--points", "3", "--plane", "3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir with soups of two and of three members."""
    workdir = tmp_path_factory.mktemp("made")
    for m in (2, 3):
        tiny.launch(workdir, **CHANGES, n_splits_total=m)
    return workdir


def call(capsys, *arguments):
    code = barriers.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def found(workdir, phase=1, **changes):
    folder = workdir / "experiments" / tiny.plan(**changes).digest
    return json.loads((folder / f"barriers-phase{phase}.json").read_text()), folder / f"barriers-phase{phase}.png"


def contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def test_lines_planes_and_soups_of_different_m_are_looked_at_and_nothing_is_changed(made, capsys):
    before = contents(made)
    code, printed, errors = call(capsys, made, *FAST)
    assert (code, errors) == (0, "")
    content, picture = found(made, **CHANGES, n_splits_total=3)
    added = {picture, picture.with_suffix(".json")}
    assert {path: own for path, own in contents(made).items() if path not in added} == before
    assert [(line["of"], line["ends"]) for line in content["lines"]] == [
        ("members", [0, 1]),
        ("members", [0, 2]),
        ("members", [1, 2]),
        ("soups", ["m = 2", "m = 3"]),
    ]
    assert all(line["same_mask"] and line["after"] is None for line in content["lines"])
    assert content["images"] == {"train": 1000, "test": 360}
    assert np.shape(content["plane"]["before"]["test"]["loss"]) == (3, 3)
    with Image.open(picture) as image:
        assert min(image.size) > 400
    assert "barriers of phase 1: 7 steps" in printed
    assert "phase 1: highest barrier between members on test images: loss " in printed
    assert "phase 1: highest barrier between soups on test images: loss " in printed
    assert f"barriers: {picture.with_suffix('.json')}, {picture}" in printed


def accuracy_by_numpy(params, split):
    """The two layers of `Simple` by hand; returns loss and accuracy."""
    x = split.images.reshape(len(split), -1).astype(np.float64) / 255
    hidden = np.maximum(x @ params["fc1"]["kernel"] + params["fc1"]["bias"], 0)
    logits = hidden @ params["fc2"]["kernel"] + params["fc2"]["bias"]
    logits -= logits.max(1, keepdims=True)
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(split)), split.labels]
    return loss.mean(), (logits.argmax(1) == split.labels).mean()


def test_every_figure_is_what_numpy_makes_of_the_artifacts(made, capsys):
    call(capsys, made, *FAST, "--images", 100000)
    content, _ = found(made, **CHANGES, n_splits_total=3)
    members = [
        tiny.artifact(made, stage).variables.params for stage in tiny.plan(**CHANGES, n_splits_total=3).candidates[0]
    ]
    members = [jax.tree.map(np.float64, params) for params in members]
    digits = sources.load("digits")
    assert content["images"] == {"train": len(digits.train), "test": len(digits.test)}
    for line, (a, b) in zip(content["lines"], ((0, 1), (0, 2), (1, 2)), strict=False):
        for split in ("train", "test"):
            scores = [
                accuracy_by_numpy(
                    jax.tree.map(lambda x, y, s=s: (1 - s) * x + s * y, members[a], members[b]), getattr(digits, split)
                )
                for s in line["position"]
            ]
            losses, accuracies = np.transpose(scores)
            np.testing.assert_allclose(line["before"][split]["loss"], losses, rtol=1e-4)
            np.testing.assert_allclose(line["before"][split]["accuracy"], accuracies, atol=2 / 1293)
            errors = 1 - np.array(line["before"][split]["accuracy"])
            barrier = line["barrier"]["before"][split]
            assert barrier["loss"]["height"] == pytest.approx(losses.max() - (losses[0] + losses[-1]) / 2, rel=1e-2)
            assert barrier["error"]["height"] == pytest.approx(errors.max() - (errors[0] + errors[-1]) / 2)
        flat = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(members[i])]) for i in (a, b)]
        assert line["distance"] == pytest.approx(np.linalg.norm(flat[0] - flat[1]), rel=1e-5)
    plane, flat = (
        content["plane"],
        np.stack([np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(own)]) for own in members]),
    )
    u = flat[1] - flat[0]
    v = flat[2] - flat[0] - (flat[2] - flat[0]) @ u / (u @ u) * u
    point = flat[0] + plane["x"][0] * u / np.linalg.norm(u) + plane["y"][2] * v / np.linalg.norm(v)
    sizes = np.cumsum([leaf.size for leaf in jax.tree.leaves(members[0])])[:-1]
    leaves = [
        part.reshape(leaf.shape) for part, leaf in zip(np.split(point, sizes), jax.tree.leaves(members[0]), strict=True)
    ]
    loss, _ = accuracy_by_numpy(jax.tree.unflatten(jax.tree.structure(members[0]), leaves), digits.test)
    assert plane["before"]["test"]["loss"][2][0] == pytest.approx(loss, rel=1e-3)


def test_the_middle_of_two_members_is_their_soup_once_it_is_recalibrated(tmp_path, capsys):
    summary, _ = tiny.launch(tmp_path, **WITH_BATCHNORM)
    code, printed, _ = call(capsys, tmp_path, "--points", 3, "--images", 100000)
    assert code == 0
    content, _ = found(tmp_path, **WITH_BATCHNORM)
    (line,), phase = content["lines"], summary["phases"][0]
    for split in ("train", "test"):
        for metric in ("loss", "accuracy"):
            first, middle, last = line["before"][split][metric]
            assert (first, last) == tuple(one[split][metric] for one in phase["candidates"])
            assert line["after"][split][metric][1] == phase["soup"][split][metric]
            if metric == "loss":
                assert middle != line["after"][split][metric][1]
    assert content["plane"] is None
    assert "before recalibration loss " in printed and "after recalibration loss " in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "command line: the following arguments are required: WORKDIR"),
        (["missing"], "missing/summary.json: not there, so no experiment is known"),
        (["made", "--experiment", "0123"], "experiments there: "),
        (["made", "--phase", "2"], "--phase: found 2; the experiment has phases 1 to 1"),
        (["made", "--phase", "one"], "command line: argument --phase: invalid int value: 'one'"),
        (["made", "--points", "2"], "--points: found 2; allowed: 3 or more"),
        (["made", "--plane", "1"], "--plane: found 1; allowed: 3 or more, or 0 for none"),
        (["made", "--members", "1"], "--members: found 1; allowed: 2 or more"),
        (["made", "--images", "0"], "--images: found 0; allowed: 1 or more"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(made, tmp_path, capsys, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").symlink_to(made)
    code, _, errors = call(capsys, *arguments)
    assert code == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert expected in errors


def test_a_workdir_of_studies_is_told_how_to_make_an_experiment_of_one(tmp_path, capsys):
    (tmp_path / "studies/0123").mkdir(parents=True)
    code, _, errors = call(capsys, tmp_path)
    assert code == 2
    assert errors.endswith(
        "of a study, the same launch with --config.study.methods=None makes one of what is finished\n"
    )


def test_a_workdir_without_members_is_one_line(tmp_path, capsys):
    tiny.launch(tmp_path, **CHANGES, strategy="Dense")
    code, _, errors = call(capsys, tmp_path)
    assert code == 2
    assert errors == f"error: {tmp_path}: no phase has two finished members, so there is nothing between them\n"


def test_a_damaged_artifact_is_one_line_and_stays_where_it_is(made, tmp_path, capsys):
    workdir = shutil.copytree(made, tmp_path / "runs")
    stage = tiny.plan(**CHANGES, n_splits_total=3).candidates[0][1]
    record = workdir / "artifacts" / stage.name / "record.json"
    record.write_text(record.read_text() + " ")
    code, _, errors = call(capsys, workdir, *FAST)
    assert code == 2
    assert "damaged: 'record.json' has" in errors and errors.count("\n") == 1
    assert record.is_file()


def test_a_summary_of_other_settings_or_data_is_one_line(made, tmp_path, capsys):
    workdir = shutil.copytree(made, tmp_path / "runs")
    summary = json.loads((workdir / "summary.json").read_text())
    for changed, expected in (
        ({"arch": "ResNet21"}, "summary.json: its settings are of no use (arch: unknown value 'ResNet21'"),
        ({"n_epochs": 2}, "its settings lead to other names than it has"),
    ):
        (workdir / "summary.json").write_text(json.dumps(summary | {"settings": summary["settings"] | changed}))
        code, _, errors = call(capsys, workdir, *FAST)
        assert (code, errors.count("\n")) == (2, 1)
        assert expected in errors


def test_equal_members_have_no_plane_and_lines_without_barrier(tmp_path, capsys):
    tiny.launch(tmp_path, **CHANGES | {"n_epochs_per_phase": 0, "n_splits_total": 3})
    code, printed, _ = call(capsys, tmp_path, *FAST)
    assert code == 0
    assert "phase 1: plane: the three models lie on one line, so there is no plane through them" in printed
    assert "highest barrier between members on test images: loss 0.0000, error 0.00 points" in printed
    content, _ = found(tmp_path, **CHANGES | {"n_epochs_per_phase": 0, "n_splits_total": 3})
    assert content["plane"] is None
    assert {line["distance"] for line in content["lines"]} == {0}


def test_it_runs_as_a_module(made):
    import ssoup_jax.barriers as door

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert door.main([str(made), *FAST, "--members", "2"]) == 0
    assert "barriers of phase 1: 2 steps" in printed.getvalue()
