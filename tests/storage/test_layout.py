"""A name that the layout spells is read back, and no two things share a place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssoup_jax.storage.layout import Workdir, partial_of, step_name, step_of

WORKDIR = Workdir(Path("runs"))
NAMES = st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,5}){0,2}", fullmatch=True)


@given(NAMES)
def test_the_name_of_an_artifact_that_is_being_made_is_read_back(name):
    assert partial_of(WORKDIR.partial(name).name) == name
    assert partial_of(WORKDIR.artifact(name).name) is None


@given(st.integers(0, 10**18 - 1))
def test_the_step_of_a_checkpoint_is_read_back(step):
    assert step_of(step_name(step)) == step


@pytest.mark.parametrize("name", ["step-1", "step-latest", ".step-00000001.partial", "step-00000001.removed", "step-"])
def test_what_is_no_checkpoint_has_no_step(name):
    assert step_of(name) is None


@given(st.lists(NAMES, min_size=2, max_size=3, unique=True))
def test_no_two_things_share_a_place(names):
    places = [place(name) for place in (WORKDIR.artifact, WORKDIR.partial, WORKDIR.lock, WORKDIR.ood) for name in names]
    places += [place(group) for place in (WORKDIR.group, WORKDIR.checkpoints) for group in (names, names[::-1])]
    places += [WORKDIR.checkpoints(names[:1]), WORKDIR.experiment(names[0])]
    places += [WORKDIR.summary, WORKDIR.plot, WORKDIR.executions]
    assert len(set(places)) == len(places)
    assert all(place.is_relative_to(WORKDIR.path) for place in places)
