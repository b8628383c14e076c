"""A killed experiment goes on and ends as if nothing had happened; `kills.py` kills as often as wanted."""

import json
import shutil
import signal

import pytest

from tests.experiment import damage
from tests.robustness import kills
from tests.robustness.compare import differences


@pytest.mark.slow
def test_a_killed_and_a_stopped_experiment_end_like_an_undisturbed_one(tmp_path):
    truth = tmp_path / "truth"
    assert kills.launch(truth, "short", tmp_path / "cache").code == 0
    blows = [
        kills.Blow((signal.SIGKILL,), "checkpoint begun", 2, 0.0),
        kills.Blow((signal.SIGTERM,), "checkpoint in place", 1, 0.0),
    ]
    tally = kills.Tally()
    kills.experiment(tmp_path / "struck", "short", truth, blows, tmp_path / "cache", tally, "struck")
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
    blow = kills.Blow(tuple(signal.Signals[f"SIG{name}"] for name in signals.split()), None, 0, 0.0)
    found = list(kills.judge(kills.Ended(code, True, 10.0, seconds, out, err), blow))
    assert (found == []) == fine, found


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
