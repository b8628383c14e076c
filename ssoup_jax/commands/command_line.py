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
        The exit code; 2, after one line on standard error, when something that was given cannot work.
    """
    try:
        options = parser.parse_args(arguments)
        return options.run(options)
    except UserError as error:
        text = str(error)
    except OSError as error:
        text = str(SettingsError(one_line(error)))  # spelled so that it cannot steer a terminal
    print(f"error: {text}", file=sys.stderr)
    return SettingsError.exit_code
