"""Runs an experiment: `python launch.py --config configs/digits_sms.py [--config.KEY=VALUE ...] [--workdir runs]`.

Exit codes: 0 done, 1 failed in the middle (finished stages are intact), 2 a setting or input cannot work,
130 interrupted.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from ssoup_jax import backend
from ssoup_jax.errors import SettingsError, UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's settings, a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", "runs", "Where artifacts and summaries are kept.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake becomes one line and exit code 2."""
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is None:
            raise SettingsError("--config: not given; for example --config configs/digits_sms.py")
        if rest[1:]:
            raise SettingsError(f"command line: found {rest[1]!r}; settings are given as --config.KEY=VALUE")
        dict(_CONFIG.value)  # a config file that failed to load raises when it is first looked at
        return rest
    except Exception as error:
        leave(_explain(error))


def _explain(error: Exception) -> UserError:
    """Turns what absl and ml_collections raise for a bad command line into one line."""
    if isinstance(error, UserError):
        return error
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    return SettingsError(f"unknown setting {text}" if isinstance(error, AttributeError | KeyError) else text)


def leave(error: UserError) -> None:
    """Prints the one line of an error and exits with its code."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def main(argv: list[str]) -> None:
    """Flags to settings, settings to a run; the only place that exits."""
    del argv
    logging.set_verbosity(logging.WARNING)
    backend.configure()
    try:
        # JAX starts with these imports, so they follow its flags.
        from ssoup_jax.config import make_settings
        from ssoup_jax.experiment.run import run
        from ssoup_jax.report.console import Console

        run(make_settings(_CONFIG.value), Path(_WORKDIR.value), Console())
    except UserError as error:
        leave(error)
    except KeyboardInterrupt:
        print("interrupted: finished stages are kept; the same command goes on from there", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
