"""Brings workdirs of several machines together.

    python -m ssoup_jax.store merge A B [--dry-run]

copies the artifacts of A that B has not, all of them or none; A is only read. Exit codes: 0 done, 1 something of one
name differs or is damaged, and nothing was copied, 2 something that was given cannot work.
"""

import sys

from ssoup_jax import devices, streams
from ssoup_jax.commands.command_line import Parser, answer, fail
from ssoup_jax.errors import SettingsError


def main(arguments: list[str]) -> int:
    """Runs a command; returns the exit code."""
    try:
        devices.configure()
    except SettingsError as error:
        return fail(error)
    import jax

    from ssoup_jax.commands import merge

    jax.config.update("jax_platforms", "cpu")  # nothing is computed, and an accelerator may be busy
    parser = Parser(prog="python -m ssoup_jax.store", description="The artifacts of workdirs.")
    commands = parser.add_subparsers(required=True, metavar="merge")
    merge.describe(commands.add_parser("merge", help="copy artifacts into another workdir", allow_abbrev=False))
    return answer(parser, arguments)


if __name__ == "__main__":
    with streams.lasting():
        sys.exit(main(sys.argv[1:]))
