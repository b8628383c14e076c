"""Who is told what, and what becomes of a tracker that fails."""

import pytest

from ssoup_jax.errors import SettingsError
from ssoup_jax.report.trackers import NULL, Composite, Guarded, chosen, tracking
from tests.report.trackers.told import Told, a_run

RUN = a_run()


def tell(tracker):
    with tracking(tracker, [RUN]):
        tracker.log(RUN, {"epoch": 1})
        tracker.summary(RUN, {"metrics": {}})


CALLS = [("start", RUN.name, None), ("log", RUN.name, {"epoch": 1}), ("summary", RUN.name, {"metrics": {}})]


def test_a_composite_tells_everyone_everything():
    first, second = Told(), Told()
    tell(Composite([first, second]))
    assert first.calls == second.calls == [*CALLS, ("finish", RUN.name, True)]


def test_the_null_tracker_takes_no_notice():
    tell(NULL)


def test_a_run_that_fails_is_finished_as_one():
    told = Told()
    with pytest.raises(KeyboardInterrupt), tracking(told, [RUN]):
        raise KeyboardInterrupt
    assert told.calls[-1] == ("finish", RUN.name, False)


@pytest.mark.parametrize("broken", ["start", "log", "summary", "finish"])
def test_a_tracker_that_fails_is_said_once_and_the_others_are_told_everything(broken):
    class Broken(Told):
        pass

    def fail(self, *_):
        self.calls.append(("failed", broken, None))
        raise RuntimeError("the server\nsays no")

    setattr(Broken, broken, fail)
    told, failing, lines = Told(), Broken(), []
    tracker = Composite([Guarded(failing, "dashboard", lines.append), told])
    tell(tracker)
    tell(tracker)
    assert told.calls == [*CALLS, ("finish", RUN.name, True)] * 2
    assert lines == [
        "warning: dashboard failed, and is told nothing more: the server says no; the run goes on, and metrics.jsonl "
        "and record.json have everything"
    ]
    # After it has failed it is left alone.
    assert failing.calls[-1] == ("failed", broken, None)
    assert failing.calls.count(("failed", broken, None)) == 1


def test_a_guard_lets_a_request_to_stop_through():
    class Stopped(Told):
        def log(self, run, line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(Stopped(), "dashboard", pytest.fail).log(RUN, {})


@pytest.mark.parametrize(
    ("text", "names"),
    [("tensorboard", ("tensorboard",)), (" wandb ,tensorboard", ("wandb", "tensorboard"))],
)
def test_the_setting_is_a_list_of_names(text, names):
    assert chosen.parse(text) == names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "tensorbord",
            "trackers: unknown value 'tensorbord'; allowed: tensorboard, wandb; did you mean 'tensorboard'?",
        ),
        ("wandb,", "trackers: unknown value ''; allowed: tensorboard, wandb"),
        ("wandb, wandb", "trackers: found 'wandb, wandb'; allowed: each name once"),
    ],
)
def test_a_name_that_is_none_is_one_line(text, expected):
    with pytest.raises(SettingsError) as error:
        chosen.parse(text)
    assert str(error.value) == expected


def test_a_package_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(chosen.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError) as error:
        chosen.check("tensorboard")
    assert str(error.value) == "trackers: tensorboard is not installed; pip install tensorboard, or leave it out"


def test_a_package_that_is_broken_is_one_line(monkeypatch):
    def broken(name):
        raise ImportError("no module named grpc\nin it")

    monkeypatch.setattr(chosen.importlib, "import_module", broken)
    with pytest.raises(SettingsError) as error:
        chosen.check("tensorboard")
    assert str(error.value) == "trackers: tensorboard cannot be used here: no module named grpc in it"


def test_nobody_has_to_have_what_nobody_asks_for(monkeypatch, tmp_path):
    monkeypatch.setattr(chosen.importlib.util, "find_spec", lambda name: None)
    chosen.check(None)
    run = a_run(folder=tmp_path / "artifact")
    tracker = chosen.make(None, tmp_path / "trackers", pytest.fail)
    with tracking(tracker, [run]):
        tracker.log(run, {"epoch": 1})
    assert (run.folder / "metrics.jsonl").read_text() == '{"epoch": 1}\n'
    assert not (tmp_path / "trackers").exists()
