"""A killed experiment goes on and ends as if nothing had happened; `kills.py` kills as often as wanted."""

import json
import random
import shutil
import signal

import pytest

from tests.experiment import damage
from tests.pod import processes
from tests.robustness import kills, pods
from tests.robustness.blows import Blow, Ended
from tests.robustness.compare import differences


@pytest.mark.slow
def test_a_killed_and_a_stopped_experiment_end_like_an_undisturbed_one(tmp_path):
    truth = tmp_path / "truth"
    alone, tally = kills.Alone(), kills.Tally()
    assert alone.launch(truth, "short", tmp_path / "cache").code == 0
    blows = [
        Blow((signal.SIGKILL,), "checkpoint begun", 2, 0.0),
        Blow((signal.SIGTERM,), "checkpoint in place", 1, 0.0),
    ]
    kills.experiment(alone, tmp_path / "struck", "short", truth, blows, tmp_path / "cache", tally, "struck")
    assert tally.findings == []
    assert (sum(tally.blows.values()), tally.identical, len(tally.stops)) == (2, 1, 1)
    # One checkpoint was whole when the second was being written, and the stop left another.
    assert tally.resumed == 2


@pytest.mark.slow
def test_many_kills(tmp_path):
    tally = kills.run(50, 0, 2, list(kills.SCENARIOS), tmp_path)
    assert tally.findings == []
    assert sum(tally.blows.values()) >= 50
    assert tally.resumed > 0
    assert 0 < tally.identical == tally.experiments


TRAINING = "Dense: step 3/82\nDense: stopped at step 7/82 after 1 s\n"
SAVED = TRAINING + "Dense: a checkpoint of step 7 is written\n"
FINISHED = "Dense: step 3/82\nDense: 82 steps in 2 s\n"
ONE_LINE = "stopped by SIGTERM\n"


@pytest.mark.parametrize(
    ("signals", "code", "seconds", "out", "err", "fine"),
    [
        ("KILL", -9, 0.1, TRAINING, "", True),
        ("KILL", 1, 0.1, TRAINING, "error: something\n", False),
        ("TERM", 143, 1.0, SAVED, ONE_LINE, True),
        ("INT", 130, 1.0, SAVED, ONE_LINE, True),
        ("INT", 143, 1.0, SAVED, ONE_LINE, False),
        ("TERM", 143, 1.0, TRAINING, ONE_LINE, False),
        ("TERM", 143, 1.0, SAVED, ONE_LINE * 2, False),
        ("TERM", 143, 60.0, SAVED, ONE_LINE, False),
        ("HUP", 129, 10.0, SAVED, ONE_LINE, True),
        ("USR1", 138, 1.0, SAVED, ONE_LINE, True),
        ("TERM", 143, 0.5, FINISHED, ONE_LINE, True),
        ("TERM", 143, 10.0, FINISHED, ONE_LINE, False),
        ("TERM", 143, 0.5, "", ONE_LINE, True),
        ("TERM", 143, 0.5, "", "", False),
        ("TERM", 130, 1.0, SAVED, ONE_LINE, False),
        ("TERM", -15, 1.0, SAVED, ONE_LINE, False),
        ("TERM", -15, 0.1, "", "", True),
        ("INT", 130, 0.1, "", "Traceback (most recent call last):\n", False),
        ("TERM INT", 130, 0.1, TRAINING, "", True),
        ("TERM INT", 1, 0.1, TRAINING, "", False),
    ],
)
def test_what_counts_as_a_clean_end(signals, code, seconds, out, err, fine):
    found = list(kills.Alone().judge(Ended(code, True, 10.0, seconds, out, err), blow(signals)))
    assert (found == []) == fine, found


def blow(signals):
    return Blow(tuple(signal.Signals[f"SIG{name}"] for name in signals.split()), None, 0, 0.0)


GONE = f"error: process 1 (node2) is gone; {pods.KEPT}\n"


@pytest.mark.parametrize(
    ("signals", "codes", "errs", "out", "seconds", "fine"),
    [
        ("KILL", (1, -9, 1), (GONE, "", GONE), TRAINING, 1.0, True),
        ("KILL", (1, -9, 1), (GONE + "C++ says\n", "", GONE), TRAINING, 1.0, True),
        ("KILL", (0, -9, 0), ("", "", ""), FINISHED, 1.0, True),
        ("KILL", (1, -9, 1), (GONE, "", ""), TRAINING, 1.0, False),
        ("KILL", (1, -9, 1), (GONE, "", GONE.replace("1", "0")), TRAINING, 1.0, False),
        ("KILL", (1, -9, 1), (GONE, "", f"Traceback\n{GONE}"), TRAINING, 1.0, False),
        ("KILL", (1, -9, -9), (GONE, "", ""), TRAINING, 1.0, False),
        ("KILL", (1, 1, 1), (GONE, "", GONE), TRAINING, 1.0, False),
        ("KILL", (1, -9, 1), (GONE, "", GONE), TRAINING, 60.0, False),
        ("TERM", (143, 143, 143), (ONE_LINE, "", ""), SAVED, 1.0, True),
        ("TERM", (143, 143, 143), (ONE_LINE * 2, "", ""), SAVED, 1.0, False),
        ("TERM", (143, 143, 143), (ONE_LINE, "", ""), TRAINING, 1.0, False),
        ("TERM", (143, 143, 1), (ONE_LINE, "", GONE), SAVED, 1.0, False),
        ("INT", (143, 143, 143), (ONE_LINE, "", ""), SAVED, 1.0, False),
        ("INT TERM", (130, 143, 130), ("", "", ""), TRAINING, 1.0, True),
    ],
)
def test_what_counts_as_a_clean_end_of_a_pod(signals, codes, errs, out, seconds, fine):
    ends = tuple(processes.Ended(code, "", err, 1.0) for code, err in zip(codes, errs, strict=True))
    ended = pods.PodEnded(codes[0], True, 10.0, seconds, out, errs[0], ends, victim=1)
    found = list(pods.Pods({}, 3, random.Random(0)).judge(ended, blow(signals)))
    assert (found == []) == fine, found


@pytest.mark.slow
def test_a_pod_that_is_killed_and_stopped_ends_like_one_process_that_was_not(tmp_path):
    truth, rng = tmp_path / "truth", random.Random(1)
    assert pods.Pods(kills.SCENARIOS, 1, rng).launch(truth, "short", tmp_path / "cache").code == 0
    blows = [
        Blow((signal.SIGKILL,), "checkpoint begun", 2, 0.0),
        Blow((signal.SIGTERM,), "checkpoint in place", 1, 0.0),
    ]
    three, tally = pods.Pods(kills.SCENARIOS, 3, rng), kills.Tally()
    kills.experiment(three, tmp_path / "struck", "short", truth, blows, tmp_path / "cache", tally, "struck")
    assert tally.findings == []
    assert (sum(tally.blows.values()), tally.identical, len(tally.stops)) == (2, 1, 1)
    assert tally.resumed == 2


@pytest.fixture
def workdirs(tmp_path):
    """Two workdirs that differ in the times only."""
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        damage.prepare(tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints")
        timed = {"dense": {"accuracy": 0.5, "seconds": seconds, "images_per_second": seconds}}
        (tmp_path / name / "summary.json").write_text(json.dumps(timed))
        (artifact,) = (tmp_path / name / "artifacts").iterdir()
        (artifact / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "seconds": seconds}) + "\n")
    return tmp_path / "a", tmp_path / "b"


def test_times_are_no_difference(workdirs):
    assert list(differences(*workdirs)) == []


def test_a_field_that_may_differ_is_no_difference(workdirs):
    found, _ = workdirs
    in_the_summary(found, None)
    assert list(differences(*workdirs, besides=["accuracy"])) == []


def in_an_array(workdir, artifact):
    tree = damage.model(1.0)
    tree["params"]["fc"]["kernel"][3, 4] += 1e-6
    shutil.rmtree(artifact)
    store = damage.Store(workdir)
    metrics = store.begin(damage.NAME) / "metrics.jsonl"
    metrics.write_text('{"epoch": 1}\n')
    store.finish([damage.NAME], [tree], [damage.record(1.0)])


def in_a_record(workdir, artifact):
    record = json.loads((artifact / "record.json").read_text())
    record["metrics"]["test"]["accuracy"] += 1e-9
    (artifact / "record.json").write_text(json.dumps(record))


def in_a_line_more(workdir, artifact):
    with (artifact / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1}\n')


def in_the_summary(workdir, artifact):
    (workdir / "summary.json").write_text('{"dense": {"accuracy": 0.6}}')


def in_what_is_left_over(workdir, artifact):
    (workdir / "checkpoints" / "dense").mkdir(parents=True)


def in_what_is_missing(workdir, artifact):
    shutil.rmtree(artifact)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (in_an_array, "kernel differs"),
        (in_a_record, ".metrics.test.accuracy is 1.000000001, wanted 1.0"),
        (in_a_line_more, "metrics.jsonl: all is "),
        (in_the_summary, ".dense.accuracy is 0.6, wanted 0.5"),
        (in_what_is_left_over, "checkpoints/dense is left over"),
        (in_what_is_missing, "is missing"),
    ],
)
def test_every_other_difference_is_found(workdirs, change, expected):
    found, truth = workdirs
    (artifact,) = (found / "artifacts").iterdir()
    change(found, artifact)
    assert any(expected in line for line in differences(found, truth))
