"""`python -m ssoup_jax.report`: makes a summary's page and picture again, also while a run is going on."""

from argparse import Namespace
from pathlib import Path

from ssoup_jax.commands import inspect
from ssoup_jax.commands.command_line import Parser, answer, expanded
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import names
from ssoup_jax.report import contents, page, plot
from ssoup_jax.storage import atomic
from ssoup_jax.storage.layout import PAGE, PLOT, SUMMARY, Workdir


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code: 0 done, 2 there is nothing that can be shown."""
    parser = Parser(prog="python -m ssoup_jax.report", description="Makes the page and the picture of a summary again.")
    parser.add_argument("path", type=expanded, metavar="PATH", help="a workdir, or a folder under its experiments/")
    parser.set_defaults(run=_run)
    return answer(parser, arguments)


def _run(options: Namespace) -> int:
    for path in make(options.path):
        print(path)
    return 0


def make(folder: Path) -> list[Path]:
    """Writes `report.html` and `summary.png` beside a summary.

    Args:
        folder: a workdir, or that of one experiment in it.

    Returns:
        The files.

    Raises:
        SettingsError: there is no summary; says how far the workdir is. Or it holds what cannot be meant.
        OSError: a file cannot be written.
    """
    stages = inspect.survey(folder, verify=False) if Workdir(folder).artifacts.is_dir() else []
    begun = [_title(one) for one in stages if one.state in ("running", "stopped")]
    path = folder / SUMMARY
    if stages and not path.exists():
        finished = sum(one.state == "finished" for one in stages)
        so_far = "; ".join([f"{finished} stage{'s' * (finished != 1)} finished", *begun])
        raise SettingsError(f"{path}: not there yet, a run writes it when it ends; so far: {so_far}")
    summary = contents.read(folder)
    try:
        found = contents.gather(summary, folder, f"not in this summary yet: {'; '.join(begun)}" if begun else "")
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    with atomic.replacing(folder / PAGE) as beside:
        page.write(found, beside)
    with atomic.replacing(folder / PLOT) as beside:
        plot.plot(summary, beside)
    return [folder / PAGE, folder / PLOT]


def _title(stage: inspect.Found) -> str:
    return f"{names.title(stage.kind, stage.phase, stage.member)}, {inspect.state(stage)}"
