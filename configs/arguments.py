"""Arguments of a config file: `--config configs/cifar_imp.py:arch=ResNet56,m=5`."""

from typing import Any

from ml_collections import ConfigDict

from ssoup_jax.errors import SettingsError, unknown


def parse(text: str | None, **defaults: Any) -> dict[str, Any]:
    """Reads `key=value,key=value`; a bare `key` sets a flag.

    Args:
        text: what stands behind the colon, if anything does.
        **defaults: every key with its default value, whose type the given value must have.

    Returns:
        The defaults with what was given in their place.

    Raises:
        SettingsError: a key that is not among the defaults, or a value of another type.
    """
    values = dict(defaults)
    for part in filter(None, (text or "").split(",")):
        key, given, value = part.partition("=")
        if key not in defaults:
            raise unknown("--config", key, defaults)
        values[key] = _read(key, value if given else "true", type(defaults[key]))
    return values


def smoke(config: ConfigDict, arch: str = "ResNet8", m: int = 2) -> ConfigDict:
    """Shrinks an experiment to one epoch of a tiny network on small crops, a single phase and m members.

    A study is shrunk likewise, to two runs and one m.
    """
    config.arch = arch
    config.data.image_size = 32
    config.use_amp = False
    config.retrain_batch_size = config.retrain_use_amp = None
    config.n_epochs = config.n_epochs_per_phase = config.n_phases = 1
    config.n_splits_total = m
    config.n_epochs_warmup = None
    config.batch_size = 32
    if config.study.methods is not None:
        config.study.runs, config.study.members = (1, 2), (m,)
    return config


def study(config: ConfigDict, *, goals: tuple[float, ...], runs: int, tiny: bool) -> ConfigDict:
    """Makes an experiment the study of the paper's tables: what they compare, for m = 3, 5 and 10."""
    config.study.methods = "SMS, IMP_mx, IMP-RePrune, IMP"
    config.study.runs = tuple(range(1, runs + 1))
    config.study.members = (3, 5, 10)
    config.study.goals = goals
    return smoke(config) if tiny else config


def _read(key: str, text: str, kind: type) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise SettingsError(f"--config: found {key}={text}; {key} is of type {kind.__name__}") from None
