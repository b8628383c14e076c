"""Damage of every kind is recognised, told and never used; `python -m tests.experiment.damage` does more."""

import pytest

from ssoup_jax.experiment import manifest
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
    outcomes = [damage.case(stored, tmp_path / str(seed) / "workdir", seed) for seed in range(10)]
    # Of checkpoints some damage is seen without a manifest too: by Orbax, or by what the checkpoint says of itself.
    failures = [outcome.failure for outcome in outcomes if outcome.where == "artifact"]
    assert failures
    assert set(failures) == {"counts as finished"}
