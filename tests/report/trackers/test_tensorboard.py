"""What was written is read back by TensorBoard's own reader."""

import math
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from ssoup_jax.report.trackers import Guarded, tracking
from ssoup_jax.report.trackers.tensorboard import TensorBoardTracker, folder_name
from tests.report.trackers.told import a_run

RUN = a_run()


def line(epoch):
    return {
        "epoch": epoch,
        "step": 21 * epoch,
        "train_loss": 1 / epoch,
        "learning_rate": 0.5,
        "val": {"accuracy": 0.25 * epoch, "loss": math.nan, "ece": None},
        "sparsity": {"prunable": 0.75},
    }


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = {tag: [(own.step, own.value) for own in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return scalars, events


def test_epochs_are_read_back_under_their_paths(tmp_path):
    tracker = TensorBoardTracker(tmp_path)
    with tracking(tracker, [RUN]):
        for epoch in (1, 2, 4):
            tracker.log(RUN, line(epoch))
            # Whoever looks while it runs sees every epoch.
            assert read(tmp_path / folder_name(RUN))[0]["val/accuracy"][-1] == (epoch, 0.25 * epoch)
    scalars, _ = read(tmp_path / folder_name(RUN))
    assert scalars == {
        "train_loss": [(1, 1.0), (2, 0.5), (4, 0.25)],
        "learning_rate": [(1, 0.5), (2, 0.5), (4, 0.5)],
        "val/accuracy": [(1, 0.25), (2, 0.5), (4, 1.0)],
        "sparsity/prunable": [(1, 0.75), (2, 0.75), (4, 0.75)],
    }


def test_what_came_out_is_there_at_the_last_epoch(tmp_path):
    tracker = TensorBoardTracker(tmp_path)
    with tracking(tracker, [RUN]):
        tracker.log(RUN, line(3))
        record = {"metrics": {"test": {"accuracy": 0.5}}, "flops": {"speedup": None, "dense": 8}, "warnings": ["doubt"]}
        tracker.summary(RUN, record)
        tracker.summary(RUN, {"ood": {"accuracy": 0.25}})
    scalars, _ = read(tmp_path / folder_name(RUN))
    final = {tag: values for tag, values in scalars.items() if tag.startswith("final/")}
    expected = {"final/test/accuracy": 0.5, "final/flops/dense": 8.0, "final/ood/accuracy": 0.25}
    assert final == {tag: [(3, value)] for tag, value in expected.items()}


def test_the_settings_are_there_as_text(tmp_path):
    tracker = TensorBoardTracker(tmp_path)
    run = a_run(config={"dataset": "folder:a|b", "n_epochs": 3})
    with tracking(tracker, [run]):
        pass
    _, events = read(tmp_path / folder_name(run))
    (tensor,) = events.Tensors("settings")
    (text,) = tensor.tensor_proto.string_val
    assert "| n_epochs | 3 |" in text.decode() and "| dataset | folder:a&#124;b |" in text.decode()
    assert events.SummaryMetadata("settings").plugin_data.plugin_name == "text"


def test_a_run_that_starts_again_has_every_epoch_once(tmp_path):
    for epochs in ((1, 2, 3), (1, 2), (1, 2, 3, 4)):
        tracker = TensorBoardTracker(tmp_path)
        tracker.start(RUN)
        for epoch in epochs:
            tracker.log(RUN, line(epoch))
        # A process that is killed finishes nothing; here it only closes its files.
        tracker._writers[RUN.name].close()
    scalars, _ = read(tmp_path / folder_name(RUN))
    assert scalars["train_loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]


def test_runs_have_folders_that_people_can_read(tmp_path):
    title = "IMP phase 1, member 0.0001"
    names = [folder_name(a_run(f"phase1-imp-{digest}", title=title)) for digest in ("0" * 16, "1" * 16)]
    assert names == ["IMP-phase-1-member-0.0001-00000000", "IMP-phase-1-member-0.0001-11111111"]
    assert folder_name(a_run("dense-0123456789abcdef", title="Dense from ../../etc/passwd")).count("/") == 0


def test_a_full_disk_is_said_and_nothing_waits(tmp_path):
    tracker, lines = TensorBoardTracker(tmp_path), []
    guarded = Guarded(tracker, "tensorboard", lines.append)
    guarded.start(RUN)
    tracker.finish(RUN, False)
    with open("/dev/full", "wb", buffering=0) as file:
        tracker._writers[RUN.name] = RecordWriter(file)
        for epoch in (1, 2):
            guarded.log(RUN, line(epoch))
    assert len(lines) == 1 and "tensorboard failed" in lines[0] and "No space left on device" in lines[0]


def test_neither_tensorflow_nor_torch_comes_with_it():
    script = "import sys, ssoup_jax.report.trackers.tensorboard\n"
    script += "print([name for name in ('tensorflow', 'torch', 'grpc') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
