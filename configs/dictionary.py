"""Settings as one flat dictionary, as the authors' code and its sweeps have them."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssoup_jax.errors import SettingsError, unknown

BOOKKEEPING = ("computer", "device", "tmp_dir", "seed")
"""What the authors' code keeps in its dictionary, and what decides nothing here."""

_PREFIX = "config."
_NUMBERS = (
    *("momentum", "weight_decay", "retrain_momentum", "retrain_weight_decay"),
    *("goal_sparsity", "bn_recalibration_frac", "split_val"),
)


def names(config: ConfigDict) -> list[str]:
    """Returns the names of all settings, `data.pad` and its like too."""
    return [*config, *(f"{group}.{inner}" for group in _groups(config) for inner in config[group])]


def merged(config: ConfigDict, given: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a dictionary over the settings of an experiment.

    Args:
        config: all settings.
        given: some of them by name: `arch`, `config.arch`, `data.pad`, or `data` with a dictionary of its own. A number
            may be text, for YAML takes `1e-4` for that.

    Returns:
        All settings, not validated.

    Raises:
        SettingsError: there is no such setting.
    """
    groups = _groups(config)
    values = dict(config) | {group: dict(config[group]) for group in groups}
    known = names(config)
    for name, value in given.items():
        name = name.removeprefix(_PREFIX)
        if name in BOOKKEEPING or name.startswith("_"):
            continue
        if name not in known:
            raise unknown("setting", name, known)
        group, inside, inner = name.partition(".")
        if name in groups and not isinstance(value, Mapping):
            raise SettingsError(f"{name}: found {value!r}; allowed: a dictionary")
        if name in groups:
            values[name] |= value
        elif inside:
            values[group][inner] = value
        else:
            values[name] = _number(value) if name in _NUMBERS else value
    return values


def without(arguments: Iterable[str], config: ConfigDict) -> list[str]:
    """Leaves the arguments out that only repeat such a dictionary, as an agent puts them: `--arch=ResNet18`."""
    repeated = {*names(config), *BOOKKEEPING}
    return [argument for argument in arguments if argument.lstrip("-").partition("=")[0] not in repeated]


def _groups(config: ConfigDict) -> list[str]:
    return [name for name in config if isinstance(config[name], ConfigDict)]


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
