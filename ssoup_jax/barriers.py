"""Looks at what lies between the members of a phase, and between soups of different m.

    python -m ssoup_jax.barriers runs [--phase 1 2] [--points 11] [--plane 9] [--images 2000]

Leaves `barriers-phase1.json` and `.png` beside the summary of the experiment. Exit codes: 0 done, 2 something that was
given cannot work.
"""

import sys

from ssoup_jax import devices, streams
from ssoup_jax.commands.command_line import fail
from ssoup_jax.errors import SettingsError


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code."""
    try:
        for line in devices.configure():
            print(line)
    except SettingsError as error:
        return fail(error)
    from ssoup_jax.commands import barriers

    return barriers.main(arguments)


if __name__ == "__main__":
    with streams.lasting():
        sys.exit(main(sys.argv[1:]))
