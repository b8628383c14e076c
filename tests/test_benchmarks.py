"""The benchmarks' commands run and leave a table and its figures behind; how fast anything is, is not tested."""

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import compiled, experiment, pod, reference_experiment, step, tpu_program, tracking
from ssoup_jax.data import sources
from ssoup_jax.errors import SettingsError
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
      %while.1 = (s32[], u8[50000,3072]{1,0}) while(%tuple), body=%body
      %start = (u8[50000,3072]{1,0}, u8[50000,3072]{1,0}, u32[]) copy-start(%p)
    """
    assert compiled.copies(text, 50_000 * 3072) == ["copy u8[50000,32,32,3]"] + ["copy-start u8[50000,3072]"] * 2


def test_exchanges_are_found_with_their_bytes_and_how_often_they_are_made():
    text = """
      %psum.1 = f32[64]{0:T(128)S(1)} all-reduce(%x), replica_groups={{0,1}}, metadata={op_name="a/jit(step)/bn/psum"}
      %all.2 = (f32[3,16]{1,0}, bf16[]) all-reduce-start(%x, %y), metadata={op_name="a/while/body/jit(step)/psum"}
      %end.2 = (f32[3,16]{1,0}, bf16[]) all-reduce-done(%all.2)
      ROOT %gather = f32[2,8]{1,0} all-gather(%figures), dimensions={0}
      %fusion.3 = f32[64]{0} fusion(%psum.1), metadata={op_name="a/jit(step)/add"}
    """
    assert compiled.collectives(text) == [
        compiled.Collective("all-reduce", 256, True),
        compiled.Collective("all-reduce", 194, True),
        compiled.Collective("all-gather", 64, False),
    ]


def test_exchanges_take_their_latency_and_their_bytes():
    chip = compiled.Chip(1.0, 1.0, 1.0, 1e6)
    small, large = compiled.Collective("all-reduce", 0, True), compiled.Collective("all-reduce", 10**6, True)
    assert compiled.exchange_seconds([small] * 3, 2, chip) == pytest.approx(3 * 1.05 * compiled.SMALL_SECONDS)
    # Of a sum over four, every device passes on three quarters of it twice.
    assert compiled.exchange_seconds([large], 4, chip) == pytest.approx(1.5, rel=1e-4)
    assert compiled.exchange_seconds([], 1, chip) == 0


def test_a_program_is_bound_by_what_takes_longer():
    chip = compiled.Chip(100.0, 10.0, 1.0, 1.0)
    assert compiled.compute_seconds(200.0, 10.0, chip) == 2
    assert compiled.compute_seconds(200.0, 50.0, chip) == 5


def test_what_is_compiled_for_which_chips(monkeypatch):
    monkeypatch.setattr(tpu_program, "devices", lambda topology: range({"v5e:2x4": 8, "v5e:4x4": 16}[topology]))
    options = tpu_program.parse(["--topology", "v5e:2x4", "v5e:4x4", "--members", "8", "--executions", "loop", "shard"])
    assert tpu_program.programs(options) == [
        ("loop", "v5e:2x4", range(1)),
        ("8x1:map", "v5e:2x4", range(8)),
        ("8x2:map", "v5e:4x4", range(16)),
    ]
    options.executions = ["4x4:map"]
    with pytest.raises(SettingsError, match="mesh: found '4x4'; 8 devices allow"):
        tpu_program.programs(options)


def test_a_mesh_is_compiled_for_all_its_devices_and_its_exchanges_are_counted(tmp_path):
    code = (
        "import jax; from benchmarks import tpu_program; tpu_program.devices = lambda topology: jax.devices('cpu'); "
        "raise SystemExit(tpu_program.main())"
    )
    given = "--topology v5e:2x1 --arch Simple --members 2 --batch-size 8 --executions loop 2x1:map 1x2:map --results"
    done = subprocess.run(
        [sys.executable, "-c", code, *given.split(), tmp_path],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    result, table = stored(tmp_path, "tpu-program")
    alone, members, cut = result["programs"]
    assert (alone["chips"], members["chips"], cut["chips"]) == (1, 2, 2)
    assert [row["members_per_chip"] for row in result["programs"]] == [1, 1, 2]
    assert [row["images_per_chip"] for row in result["programs"]] == [8, 8, 4]
    assert members["collectives_per_step"] == alone["collectives_per_step"] == 0
    # Gradients of two members, 3072 x 512 + 512 and 512 x 10 + 10 numbers each, and their figures.
    assert cut["collective_bytes_per_step"] >= 2 * 4 * (3073 * 512 + 513 * 10)
    assert "compiled, not run" in table
    assert "| 2 (v5e:2x1) | `1x2:map` | 2 x 4 |" in table


def test_a_program_for_a_tpu_asks_for_what_compiles_it_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert tpu_program.main(["--topology", "v5e:2x4"]) == 2
    assert "requirements-tpu.txt" in capsys.readouterr().err
    assert tpu_program.main(["--topology", "v5f:2x4"]) == 2
    assert "did you mean 'v5p:2x4'" in capsys.readouterr().err


def measured(seconds, cpu_seconds, messages=3.0, message_seconds=0.001, chunks=10):
    found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "chunks": chunks, "epochs": [0.25 * seconds] * 4}
    return found | {"messages": messages, "message_seconds": message_seconds}


def test_a_pod_costs_what_its_slowest_process_takes_longer_and_all_compute_more():
    rounds = [
        {"unlinked": [measured(10, 9), measured(8, 9)], "linked": [measured(11, 10), measured(11, 9.8)]},
        {"unlinked": [measured(9, 9), measured(10, 9)], "linked": [measured(10, 9), measured(10, 9)]},
        {"unlinked": [measured(20, 9), measured(20, 9)], "linked": [measured(10, 9), measured(40, 18)]},
    ]
    found = pod.summary(rounds)
    assert found["seconds"] == 10
    assert found["cpu_seconds"] == 18
    assert found["seconds_overhead"] == pytest.approx(0.1)
    assert found["cpu_seconds_overhead"] == pytest.approx(0.1)
    # Three messages of a millisecond in a chunk of a second, as the median of the first process's tells.
    assert found["messages_share"] == pytest.approx(0.003)
    assert set(pod.summary([{"unlinked": [measured(10, 9)]}])) == {"seconds", "cpu_seconds"}


def test_processes_that_meet_after_every_epoch_wait_for_the_slowest_of_each():
    assert pod.meeting([[1.0, 2.0, 1.0], [2.0, 1.0, 1.0]]) == pytest.approx(1 / 4)
    assert pod.meeting([[1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]) == 0, "always the same one"


@pytest.mark.slow
def test_a_pod_is_measured_beside_processes_that_are_none(tmp_path):
    given = ["--processes", "1", "2", "--arch", "Simple", "--members", "2", "--epochs", "4", "--checkpoint-every"]
    pod.main([*given, "1 epochs", "--rounds", "1", "--results", str(tmp_path)])
    result, table = stored(tmp_path, "pod")
    (alone,), (both,) = result["rounds"]["1"], result["rounds"]["2"]
    assert set(alone) == {"unlinked"}
    assert [len(processes) for processes in both.values()] == [2, 2]
    assert [own["messages"] for own in alone["unlinked"] + both["unlinked"]] == [0, 0, 0]
    assert all(own["messages"] >= 3 and own["message_seconds"] > 0 for own in both["linked"])
    assert all(len(own["epochs"]) == 2 for own in both["linked"] + both["unlinked"])
    assert all(own["cpu_seconds"] > 0 for processes in both.values() for own in processes)
    assert "| 2 | " in table


def test_what_curves_and_trackers_add_is_told_beside_a_training_without():
    rows = [
        {"way": "no validation", "training": 2.0, "whole": 5.0},
        {"way": "validation every epoch", "training": 2.1, "whole": 5.5},
    ]
    about = {"device": "cpu", "processor": "x", "n_cores": 2, "load": 0.5}
    table = tracking.table(rows, tracking.parse(["--epochs", "10"]), about)
    assert "| no validation | 2.000 | 200.0 | +0.0 | +0.00 |" in table
    # Half a second more in all, of which a tenth is training.
    assert "| validation every epoch | 2.100 | 210.0 | +5.0 | +0.40 |" in table


@pytest.mark.slow
def test_every_tracker_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracking.main(["--quick", "--results", str(tmp_path)])
    result, table = stored(tmp_path, "tracking-quick")
    assert [row["way"] for row in result["rows"]] == list(tracking.WAYS)
    assert all(0 < row["training"] < row["whole"] and len(row["rounds"]) == 1 for row in result["rows"])
    assert all(way in table for way in tracking.WAYS)
