"""Damage of every kind is recognised, told and never used; `python -m tests.experiment.damage` does more."""

import pytest

from ssoup_jax.storage import manifest
from tests.experiment import damage

PER_KIND = 3


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stored")
    damage.prepare(workdir)
    return workdir


@pytest.mark.parametrize("seed", range(PER_KIND * len(damage.KINDS)))
def test_damage_is_recognised_told_and_not_used(stored, tmp_path, seed):
    outcome = damage.case(stored, tmp_path / "place" / "workdir", seed)
    assert outcome.failure is None, outcome


def test_the_harness_notices_what_goes_unnoticed(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "check", lambda folder: None)
    # Artifacts only: this asks whether they are whole and loads nothing. Orbax reads all leaves at once, and one that
    # arrives after another has failed finds its event loop closed, which Python reports as an error of any test.
    outcomes = [damage.case(stored, tmp_path / str(seed) / "workdir", seed, "artifact") for seed in range(10)]
    assert {outcome.failure for outcome in outcomes} == {"counts as finished"}
