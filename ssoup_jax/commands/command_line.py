"""What the commands share: mistakes are one line, and so is whatever else goes wrong."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from ssoup_jax.errors import SettingsError, UserError, one_line


def expanded(text: str) -> Path:
    """Reads a path as people type it; a `~` is the home directory."""
    return Path(os.path.expanduser(text))


def spelled(count: int) -> str:
    """Spells a number of bytes for people: `'1.2 MB'`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are SettingsErrors."""

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong with the command line."""
        raise SettingsError(f"command line: {message}")


def answer(parser: Parser, arguments: list[str]) -> int:
    """Runs the command that the arguments ask for.

    Args:
        parser: has for every command a default `run`, which takes the options and returns the exit code.
        arguments: without the program's name.

    Returns:
        The exit code; 2, after one line on standard error, when something that was given cannot work, or what was to be
        printed cannot be.
    """
    try:
        options = parser.parse_args(arguments)
        code = options.run(options)
    except UserError as error:
        return fail(error)
    except OSError as error:
        return fail(SettingsError(one_line(error)))
    return SettingsError.exit_code if getattr(sys.stdout, "problem", None) else code


def fail(error: UserError) -> int:
    """Prints the one line of an error; returns the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return SettingsError.exit_code
