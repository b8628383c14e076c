"""The benchmarks' commands run and leave a table and its figures behind; how fast anything is, is not tested."""

import json
import sys

import pytest
import torch

from benchmarks import experiment, reference_experiment, step, tpu_program
from ssoup_jax.data import sources
from tests.interop import twins


def stored(folder, name):
    (figures,), (table,) = folder.glob(f"{name}-*.json"), folder.glob(f"{name}-*.md")
    return json.loads(figures.read_text()), table.read_text()


@pytest.mark.parametrize(("arguments", "scale"), [([], "cpu"), (["--quick"], "quick")])
def test_what_is_not_given_depends_on_the_scale(arguments, scale):
    options = step.parse([*arguments, "--rounds", "4"])
    defaults = {name: value for name, value in step.DEFAULTS[scale].items() if name != "rounds"}
    assert options.rounds == 4
    assert {name: getattr(options, name) for name in defaults} == defaults


def test_quick_options_of_the_experiment_can_be_overridden():
    options = experiment.parse(["--quick", "--seeds", "2"])
    assert (options.seeds, options.epochs) == (2, experiment.QUICK["epochs"])


def test_step_measures_every_contender_and_stores_the_table(tmp_path):
    step.main(
        "--archs Simple --members 1 2 --executions map vmap --peers loader eager --batch-size 4 --rounds 2 "
        f"--round-seconds 0 --matmul-size 64 --results {tmp_path}".split()
    )
    result, table = stored(tmp_path, "step")
    found = [(row["how"], row["m"]) for row in result["rows"]]
    assert found == [("loader", 1), ("eager", 1), ("map", 1), ("map", 2), ("vmap", 2)]
    # Two linear layers, 3072 x 512 and 512 x 10; two operations each, three passes, four images.
    assert {row["flops_per_member_step"] for row in result["rows"]} == {(3072 * 512 + 512 * 10) * 2 * 3 * 4}
    for row in result["rows"]:
        assert len(row["rounds"]) == 2
        assert row["images_per_second"] == pytest.approx(4 / row["seconds_per_member_step"])
        assert row["images_per_second_and_member"] == pytest.approx(row["images_per_second"] / row["m"])
        assert row["label"] in table
    assert all(row["peak_bytes"] > 0 for row in result["rows"] if row["how"] not in ("loader", "eager"))


def test_pytorch_prunes_the_smallest_of_the_weights_that_it_was_given():
    settings = experiment.settings_of(experiment.parse(["--arch", "Simple"]), 1)
    torchs = reference_experiment.Experiment(settings, sources.load("digits"), torch.device("cpu"))
    state = torchs.unpruned().state_dict()
    generator = torch.Generator().manual_seed(2)
    for name in ("fc1.weight_orig", "fc2.weight_orig"):
        state[name] = torch.randn(state[name].shape, generator=generator)
    model = torchs.load(state)
    twins.prune_globally(model, 0.5)
    kept = torch.cat([layer.weight_mask.flatten() for layer in (model.fc1, model.fc2)]).bool()
    weights = torch.cat([state[f"{name}.weight_orig"].flatten() for name in ("fc1", "fc2")]).abs()
    assert kept.sum() == round(len(kept) / 2)
    assert weights[kept].min() >= weights[~kept].max()


@pytest.mark.slow
def test_both_sides_of_the_experiment_learn_the_digits(tmp_path):
    experiment.main(
        "--arch Simple --epochs 6 --epochs-per-phase 3 --members 2 --goal-sparsity 0.5 --seeds 1 "
        f"--results {tmp_path}".split()
    )
    result, table = stored(tmp_path, "experiment")
    assert set(result["runs"]) == {"ours, empty cache", "ours, programs on disk", "PyTorch"}
    for name, (run,) in result["runs"].items():
        # Either side reaches about 97 %; a mistake in the pipeline, such as a wrong mask, leaves far less.
        assert min(run["dense"], run["soup"]) > 0.93, name
        assert name in table


def test_copies_of_all_images_are_found_in_a_compiled_program():
    text = """
      %p = u8[50000,3072]{1,0:T(8,128)(4,1)} parameter(0)
      %copy.1 = u8[50000,32,32,3]{3,2,1,0} copy(%p)
      ROOT %gathered = u8[128,3072]{1,0} gather(%p, %i)
    """
    assert tpu_program.copied_images(text) == ["copy u8[50000,32,32,3]"]


def test_a_program_for_a_tpu_asks_for_what_compiles_it_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert tpu_program.main(["--topology", "v5e:2x4"]) == 2
    assert "requirements-tpu.txt" in capsys.readouterr().err
    assert tpu_program.main(["--topology", "v5f:2x4"]) == 2
    assert "did you mean 'v5p:2x4'" in capsys.readouterr().err
