"""`python -m ssoup_jax.studies`: makes the tables of a study from files of results alone."""

from argparse import Namespace
from pathlib import Path

from ssoup_jax.commands.command_line import Parser, answer, expanded
from ssoup_jax.report.console import Console
from ssoup_jax.studies import cells
from ssoup_jax.studies.report import report


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code.

    Args:
        arguments: the command line without the program.
    """
    parser = Parser(prog="python -m ssoup_jax.studies", description=__doc__)
    parser.add_argument("results", type=expanded, nargs="+", metavar="PATH", help="run-*.json, or folders of them")
    parser.add_argument("--out", type=expanded, help="where the tables go; the first folder if it is not given")
    parser.set_defaults(run=_run)
    return answer(parser, arguments)


def _run(options: Namespace) -> int:
    study, found = cells.read(options.results)
    first: Path = options.results[0]
    out = options.out or (first if first.is_dir() else first.parent)
    out.mkdir(parents=True, exist_ok=True)
    report(out, study, found, Console())
    return 0
