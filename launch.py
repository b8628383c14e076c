"""Runs an experiment: `python launch.py --config configs/digits_sms.py [--config.KEY=VALUE ...] [--workdir runs]`.

Exit codes: 0 done, 1 failed in the middle (finished stages are intact), 2 a setting or input cannot work, 128 + n
stopped by signal n (130 by Ctrl-C, 143 by SIGTERM): in training after a checkpoint, elsewhere at once. A second signal
stops at once.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # There is nothing to save yet, and a KeyboardInterrupt while libraries start can end up in one of their callbacks.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from absl import app, flags, logging
from ml_collections import config_flags

from configs import base, dictionary
from ssoup_jax import devices, streams
from ssoup_jax.errors import SettingsError, UserError, unknown
from ssoup_jax.experiment.stop import Stop
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.pod.clusters import Found
from ssoup_jax.pod.place import HOW, find, unasked
from ssoup_jax.pod.start import finish, start

_AGENT = "WANDB_SWEEP_PARAM_PATH"  # an agent of Weights & Biases sets it for what it starts
_HERE = Path(__file__).resolve().parent
_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's settings, a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", "runs", "Where artifacts and summaries are kept.")
_DISTRIBUTED = flags.DEFINE_string(
    "distributed", "none", f"Many processes as one run: {', '.join(HOW)}; auto: whatever environment and flags say."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where a cluster does not say.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes, where a cluster does not say.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, where a cluster does not say.")
_HEARTBEAT = flags.DEFINE_float("heartbeat", 60.0, "Seconds without a word after which a process is gone.", 1.0)
_FROM_WANDB = flags.DEFINE_bool(
    "from_wandb",
    False,
    "Take settings from the run of Weights & Biases that this is, over those of --config.",
)
_STALL = flags.DEFINE_float("stall_minutes", 60.0, "Minutes after which a process that does not go on is stuck.", 0.1)


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake becomes one line and exit code 2."""
    try:
        _look_here()
        # An agent repeats what the run's dictionary has.
        given = dictionary.without(argv[1:], base.get_config()) if _AGENT in os.environ else argv[1:]
        rest = flags.FLAGS([argv[0], *_checked(given)])
        if _from_wandb() and _DISTRIBUTED.value != "none":
            raise SettingsError("--from_wandb: found with --distributed; a run of a sweep is one process")
        if _CONFIG.value is None and not _from_wandb():
            raise SettingsError("--config: not given; for example --config configs/digits_sms.py")
        if rest[1:]:
            raise SettingsError(f"command line: found {rest[1]!r}; settings are given as --config.KEY=VALUE")
        dict(_CONFIG.value or ())  # a config file that failed to load raises when it is first looked at
        return rest
    except UserError as error:
        leave(error)
    except flags.Error as error:
        leave(SettingsError(" ".join(str(error).split())))
    except Exception as error:  # whatever a config file raises is its author's to mend
        leave(SettingsError(f"{type(error).__name__}: {' '.join(str(error).split())}"))


def _look_here() -> None:
    """Lets parts of one's own be found in the folder that this was started in.

    Much fails in one that is gone, and nowhere with a clear word.
    """
    try:
        here = os.getcwd()
    except OSError as error:
        raise SettingsError(f"the current folder cannot be used ({error.strerror}); change to another one") from None
    if here not in sys.path:
        sys.path.append(here)  # last, so that what is there hides nothing


def _checked(arguments: list[str]) -> Iterator[str]:
    """Looks at the names of the config file and of the settings, whose own errors are hard to read."""
    remaining = iter(arguments)
    for argument in remaining:
        name, given, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-"):
            if value := value if given else next(remaining, ""):
                argument = f"--config={_config_file(value)}"
        elif name.startswith("config.") and argument.startswith("-"):
            setting = name.removeprefix("config.")
            known = dictionary.names(base.get_config())
            if setting not in known:
                raise unknown("setting", setting, known)
            if setting == "members" and given and value != "None":
                argument = f"--config.members={value!r}"  # as it is: it would be looked at as a tuple, and this is JSON
        yield argument


def _config_file(text: str) -> str:
    """Finds an experiment's file, from another folder too: beside this one."""
    path, *arguments = text.split(":", 1)
    path = os.path.expanduser(path)  # shells leave what stands behind an equals sign as it is
    for place in (path, _HERE / path):
        if os.path.isfile(place):
            return ":".join((str(place), *arguments))
    known = (_HERE / "configs").glob("*_*.py")
    raise unknown("--config", path, sorted(file.relative_to(_HERE).as_posix() for file in known))


def leave(error: UserError) -> None:
    """Prints the one line of an error and exits with its code."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def main(argv: list[str]) -> None:
    """Flags to settings, settings to a run; exits where it fails."""
    del argv
    logging.set_verbosity(logging.WARNING)
    # Before these imports, which take seconds.
    with Stop() as stop:
        pod = ALONE
        try:
            workdir = _folder(_WORKDIR.value)
            notes = devices.configure()
            from ssoup_jax.config import make_settings
            from ssoup_jax.experiment.run import run
            from ssoup_jax.report.console import Console
            from ssoup_jax.studies.run import run_study

            pod = _pod()
            stop.share(pod)
            devices.start()
            console = Console()
            for line in (*notes, *devices.keep_compiled_programs()):
                console.line(line)
            with _chosen(workdir, console.line) as (values, sweep):
                settings = make_settings(values)
                stop.listen(settings.signals)
                if settings.study.methods is None:
                    run(settings, workdir, console, stop, pod, make_settings(base.get_config()), sweep)
                else:
                    run_study(settings, workdir, console, stop, pod)
            finish(pod)
        except Exception as error:
            if pod.size > 1:
                pod.fail(error)
            if not isinstance(error, UserError):
                raise
            leave(error)


def _from_wandb() -> bool:
    return _FROM_WANDB.value or _AGENT in os.environ


@contextlib.contextmanager
def _chosen(workdir: Path, on_line: Callable[[str], None]) -> Iterator[tuple[Any, Any]]:
    """Yields all settings, not validated, and the tracker of a sweep's run, if they come from there."""
    if not _from_wandb():
        yield _CONFIG.value, None
        return
    from ssoup_jax.report.trackers import Guarded, chosen

    chosen.check("wandb")
    from ssoup_jax.report.trackers import sweep

    with sweep.run(workdir / "trackers") as own:
        given = own.settings
        on_line(f"settings of {own.name}: {', '.join(f'{name}={given[name]!r}' for name in sorted(given)) or 'none'}")
        yield dictionary.merged(_CONFIG.value or base.get_config(), given), Guarded(own, "wandb", on_line)


def _folder(text: str) -> Path:
    if "://" in text:
        raise SettingsError(
            f"--workdir: found {text!r}, expected a folder; a bucket can be mounted, or copied to later"
        )
    return Path(os.path.expanduser(text))


def _pod() -> Pod:
    """Meets the other processes of this run, if it is asked to."""
    given = Found(_PROCESS_ID.value, _NUM_PROCESSES.value, _COORDINATOR.value)
    place = find(_DISTRIBUTED.value, given, os.environ)
    if _DISTRIBUTED.value == "none" and (note := unasked(os.environ)):
        print(note, file=sys.stderr)
    pod = start(place, _HEARTBEAT.value, 60 * _STALL.value, print)
    if not pod.leads:  # libraries print, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pod


if __name__ == "__main__":
    with streams.lasting():
        app.run(main, flags_parser=parse)
