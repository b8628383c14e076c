"""An artifact's name says what it is, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssoup_jax.experiment import names
from ssoup_jax.experiment.names import Name

DIGEST = "0123456789abcdef"
DIGESTS = st.text("0123456789abcdef", min_size=16, max_size=16)
NAMES = st.one_of(
    st.builds(Name, st.just("Dense"), st.just(0), DIGESTS),
    st.builds(Name, st.sampled_from(["IMP", "Ensemble"]), st.integers(1, 10**9 - 1), DIGESTS),
)


@given(NAMES)
def test_a_name_is_read_as_it_was_spelled(name):
    assert names.read(str(name)) == name


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        (Name("Dense", 0, DIGEST), f"dense-{DIGEST}"),
        (Name("IMP", 2, DIGEST), f"phase2-imp-{DIGEST}"),
        (Name("Ensemble", 13, DIGEST), f"phase13-soup-{DIGEST}"),
    ],
)
def test_names_by_hand(name, spelled):
    assert str(name) == spelled


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dense",
        "dense-0123",
        f"dense-{DIGEST}0",
        f"dense-{DIGEST}\n",
        f"dense-{DIGEST.upper()}",
        f"phase1-dense-{DIGEST}",
        f"imp-{DIGEST}",
        f"phase0-imp-{DIGEST}",
        f"phase01-imp-{DIGEST}",
        f"phase٣-imp-{DIGEST}",
        f"phase1-imp-3-members-{DIGEST}",
        f".dense-{DIGEST}.partial",
        f"damaged-dense-{DIGEST}-1",
    ],
)
def test_anything_else_is_no_name(text):
    assert names.read(text) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("Dense", 0), "Dense"),
        (("IMP", 1), "IMP phase 1"),
        (("IMP", 1, 0), "IMP phase 1, member 0"),
        (("Ensemble", 3, None), "Ensemble phase 3"),
    ],
)
def test_titles_are_for_people(arguments, expected):
    assert names.title(*arguments) == expected
