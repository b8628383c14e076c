"""The setting `trackers`: which there are besides the records, and what each needs."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from ssoup_jax.errors import SettingsError, one_line, unknown
from ssoup_jax.report.trackers.json_lines import JsonLinesTracker
from ssoup_jax.report.trackers.tracker import Composite, Guarded, Tracker

NAMES = ("tensorboard", "wandb")
"""Every tracker that can be asked for; each is the package that it needs, too."""


def parse(text: str) -> tuple[str, ...]:
    """Reads `'tensorboard, wandb'`.

    Raises:
        SettingsError: there is no such tracker, or one is named twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in NAMES:
            raise unknown("trackers", name, NAMES)
    if len(set(names)) < len(names):
        raise SettingsError(f"trackers: found {text!r}; allowed: each name once")
    return names


def check(text: str | None) -> None:
    """Checks that what the setting names can be used here.

    Raises:
        SettingsError: a package is not installed, or asks for what it does not have, such as a login.
    """
    for name in () if text is None else parse(text):
        if importlib.util.find_spec(name) is None:
            raise SettingsError(f"trackers: {name} is not installed; pip install {name}, or leave it out")
        try:
            if name == "wandb":
                from ssoup_jax.report.trackers import weights_and_biases

                weights_and_biases.check()
            else:
                importlib.import_module("ssoup_jax.report.trackers.tensorboard")
        except ImportError as error:
            raise SettingsError(f"trackers: {name} cannot be used here: {one_line(error)}") from None


def make(
    text: str | None, folder: Path, on_line: Callable[[str], None], sweep: Tracker | None = None, *others: Tracker
) -> Tracker:
    """Makes the tracker of a launch; what the setting names is checked, see `check`.

    Args:
        text: the setting; None: only the records.
        folder: of whatever trackers keep in the workdir.
        on_line: told in one line of a tracker that fails.
        sweep: of the run of Weights & Biases that this process was started for, which is then the only one there.
        *others: that are told, too.

    Returns:
        The tracker; one that the setting names cannot end a run.
    """
    names = [name for name in (() if text is None else parse(text)) if sweep is None or name != "wandb"]
    guarded = [Guarded(_make(name, folder), name, on_line) for name in names]
    return Composite([JsonLinesTracker(), *others, *([] if sweep is None else [sweep]), *guarded])


def _make(name: str, folder: Path) -> Tracker:
    # Only now, for whoever does not ask for them need not have them.
    if name == "wandb":
        from ssoup_jax.report.trackers.weights_and_biases import WandbTracker

        return WandbTracker(folder)
    from ssoup_jax.report.trackers.tensorboard import TensorBoardTracker

    return TensorBoardTracker(folder / "tensorboard")
