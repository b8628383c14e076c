"""What another machine has written is waited for, not longer than it can take."""

import shutil

import pytest

from ssoup_jax.errors import RunError
from ssoup_jax.storage import late, manifest


@pytest.fixture
def finished(tmp_path):
    """A finished folder elsewhere, and the place where it is to show up."""
    folder = tmp_path / "elsewhere"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "large").write_bytes(bytes(1000))
    (folder / "record.json").write_text("{}")
    manifest.write(folder)
    return folder, tmp_path / "here"


def test_what_is_there_is_not_waited_for(finished):
    late.wait_for(finished[0], sleep=lambda _: pytest.fail("waited"))


@pytest.mark.parametrize("last", ["manifest.json", "state/large", "half of state/large"])
def test_every_file_is_waited_for(finished, last):
    elsewhere, here = finished
    steps = [
        lambda: None,
        lambda: here.mkdir(),
        lambda: shutil.copytree(elsewhere, here, ignore=shutil.ignore_patterns(*last.split("/")), dirs_exist_ok=True),
        lambda: "half" in last and (here / "state/large").write_bytes(bytes(500)),
        lambda: shutil.copytree(elsewhere, here, dirs_exist_ok=True),
    ]
    late.wait_for(here, sleep=lambda _: steps.pop(0)())
    assert steps == []
    manifest.check(here)


@pytest.mark.parametrize(
    ("missing", "said"),
    [(None, "'manifest.json' is missing"), ("large", "'large': No such file or directory")],
)
def test_what_never_comes_is_one_line(finished, missing, said):
    elsewhere, here = finished
    if missing:
        shutil.copytree(elsewhere, here, ignore=shutil.ignore_patterns(missing))
    waited = []
    with pytest.raises(RunError, match="one folder that all processes share") as error:
        late.wait_for(here, 3.0, waited.append)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    # 3 s in steps of 0.2 s, and at most one more for rounding.
    assert sum(waited) == pytest.approx(3.0, abs=0.2001)
