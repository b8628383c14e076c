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


def smoke(config: ConfigDict, arch: str = "ResNet8") -> ConfigDict:
    """Shrinks an experiment to one epoch of a tiny network on small crops, a single phase and two members."""
    config.arch = arch
    config.data.image_size = 32
    config.use_amp = False
    config.n_epochs = config.n_epochs_per_phase = config.n_phases = 1
    config.n_splits_total = 2
    config.n_epochs_warmup = None
    config.batch_size = 32
    return config


def smoke_study(config: ConfigDict) -> ConfigDict:
    """Shrinks a study as `smoke` does an experiment, to two runs."""
    config = smoke(config)
    config.study.runs = (1, 2)
    config.study.members = (2,)
    return config


def _read(key: str, text: str, kind: type) -> Any:
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise SettingsError(f"--config: found {key}={text}; {key} is of type {kind.__name__}") from None
