"""Any configuration at all is taken or refused in one line; a few hundred here, `fuzz.py` tries as many as wanted."""

import gc
import time
import weakref

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from ssoup_jax.config import make_settings
from tests.robustness import fuzz
from tests.robustness.drawn import Case, cases


@pytest.mark.parametrize("form", fuzz.FORMS)
# Each of these was answered by a traceback, a hang, many lines or a page of text.
@example(Case({"n_phases": 10**9}))
@example(Case({"n_phases": 300, "phase": 300, "strategy": "Ensemble"}))
@example(Case({"n_splits_total": 10**9}))
@example(Case({"n_splits_total": 10**30}))
@example(Case({"ensemble_by": "weight_decay", "split_vals": (10**5000,)}))
@example(Case({"momentum": ["x" * 2000]}))
@example(Case({"dataset": "npz:a\nb"}))
@example(Case({"data.a.b": 3}))
@example(Case({"arch.x": True}))
@example(Case(file="configs/cifar_imp.py:smoke=\x97"))
@example(Case(words=("x" * 2000,)))
@given(case=cases())
@settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_settings_are_taken_or_refused_in_one_line(form, case):
    assert form(case) in ("taken", "refused")


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [({}, "taken"), ({"n_epochs": 3, "data.workers": 0}, "taken"), ({"n_epochs": 0}, "refused")],
)
@pytest.mark.parametrize("form", fuzz.FORMS)
def test_what_is_sound_is_taken_and_what_is_not_is_refused(form, changes, outcome):
    assert form(Case(changes)) == outcome


def test_an_error_that_is_no_line_or_names_nothing_is_a_finding(monkeypatch):
    for text in ("two\nlines", "n_epochs: " + "x" * 1000, "something is wrong"):
        raw = type("Raw", (fuzz.SettingsError,), {"__str__": lambda self, text=text: text})
        monkeypatch.setattr(fuzz, "make_settings", _raiser(raw("")))
        with pytest.raises(fuzz.Finding):
            fuzz.by_mapping(Case({"n_epochs": 0}))
    for error in (ValueError("x"), MemoryError()):
        monkeypatch.setattr(fuzz, "make_settings", _raiser(error))
        with pytest.raises(fuzz.Finding, match=type(error).__name__):
            fuzz.by_mapping(Case())


def test_the_garbage_of_others_is_not_a_case_s_time(monkeypatch):
    class Cycle:
        pass

    ends, kept = [], []

    def slow(_):
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
        ends.append(True)

    def littered(*arguments):
        garbage = Cycle()
        garbage.itself = garbage
        kept.append(weakref.ref(garbage, slow))
        del garbage
        kept.extend([] for _ in range(10**4))  # enough for the collector to start
        return make_settings(*arguments)

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "make_settings", littered)
    assert fuzz.by_mapping(Case()) == "taken"
    gc.collect()
    assert ends == [True], "the limit has ended what is not of the case"


def _raiser(error):
    def fail(_):
        raise error

    return fail
