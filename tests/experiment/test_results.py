"""Whatever fails in a report costs neither a result nor the rest of the report."""

import errno
import json

import pytest

from ssoup_jax.errors import RunError
from ssoup_jax.experiment import out_of_distribution, results
from ssoup_jax.report import page, plot
from tests.experiment import tiny

CHANGES = {"n_phases": 1, "n_epochs": 1}
TABLE = "test accuracy in %"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The workdir of a finished experiment."""
    path = tmp_path_factory.mktemp("finished")
    tiny.launch(path, **CHANGES)
    return path


def broken(*_):
    raise ZeroDivisionError("a library's own\nfault")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.mark.parametrize(("fault", "said"), [(broken, "a library's own fault"), (full, "No space left on device")])
@pytest.mark.parametrize(
    ("module", "name", "file", "other"),
    [(plot, "plot", "summary.png", "report.html"), (page, "write", "report.html", "summary.png")],
    ids=["plot", "page"],
)
def test_a_picture_that_fails_is_one_line_and_no_old_one_is_left_in_its_place(
    workdir, monkeypatch, fault, said, module, name, file, other
):
    tiny.launch(workdir, **CHANGES)
    assert (workdir / file).exists()
    monkeypatch.setattr(module, name, fault)
    summary, printed = tiny.launch(workdir, **CHANGES)
    (warning,) = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert f"{file}: cannot be written" in warning and said in warning
    assert TABLE in printed
    assert printed.splitlines()[-1] == f"summary: {workdir}/summary.json, {workdir / other}"
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert not (workdir / file).exists() and (workdir / other).exists()
    assert not list(workdir.rglob("*.tmp"))


def test_a_summary_that_cannot_be_written_leaves_table_and_plot_and_is_an_error(workdir, monkeypatch):
    (workdir / "summary.png").unlink(missing_ok=True)
    monkeypatch.setattr(results, "write_json", full)
    printed = []
    monkeypatch.setattr("ssoup_jax.report.console.Console.table", lambda _, table: printed.append(table.title))
    with pytest.raises(RunError, match=r"summary.json: cannot be written \(No space left on device: somewhere\)"):
        tiny.launch(workdir, **CHANGES)
    assert (workdir / "summary.png").stat().st_size > 10_000
    assert [title.endswith(TABLE) for title in printed] == [True]


def test_an_evaluation_out_of_distribution_that_fails_leaves_the_report(workdir, monkeypatch):
    (workdir / "summary.json").unlink(missing_ok=True)
    monkeypatch.setattr(out_of_distribution, "evaluate", full)
    with pytest.raises(RunError, match="out of distribution: No space left on device"):
        tiny.launch(workdir, **CHANGES)
    assert json.loads((workdir / "summary.json").read_text())["phases"][0]["soup"]
