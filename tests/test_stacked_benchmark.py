"""The benchmark of stacks runs, for a network on images and for the transformer."""

import jax
import pytest

from benchmarks import machine, stacked


@pytest.fixture(autouse=True)
def usual_promotion():
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # linen's attention mixes dtypes
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.mark.parametrize("arch", ["Simple", "transformer"])
def test_both_ways_are_timed(arch, monkeypatch):
    saved = []
    monkeypatch.setattr(machine, "save", lambda name, result, table: saved.append((name, result, table)))
    given = f"stacked --arch {arch} --steps 2 --rounds 2 --members 2 --batch-size 4"
    monkeypatch.setattr("sys.argv", given.split())
    stacked.main()
    ((name, result, table),) = saved
    assert name == ("stacked-transformer" if arch == "transformer" else "stacked")
    assert {how: len(seconds) for how, seconds in result["seconds"].items()} == {"stacked": 2, "in turn": 2}
    assert result["ratio"] > 0
    assert "one stack of 2" in table and "'loop'" in table
