"""How a data set may be named; the one place that lists them."""

import difflib
import os
from pathlib import Path

from ssoup_jax import own
from ssoup_jax.data.sources import functions, tfds
from ssoup_jax.errors import SettingsError, unknown

ALIASES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped", "imagenet2012")
"""Data sets of TFDS that go by their bare name."""

PATHS = {"npz": "npz:PATH", "idx": "idx:FOLDER", "folder": "folder:PATH"}
"""Kinds of a user's own data, and how they are written."""

SOURCES = ("digits", *ALIASES, *PATHS.values(), "tfds:NAME", "tfds:NAME:CONFIG", own.FORM)
"""How a data set may be named."""


def parse(name: str) -> tuple[str, str]:
    """Splits a name into its kind and the rest, without looking for the data.

    Args:
        name: the setting.

    Returns:
        `digits`, `tfds`, `own` or one of `PATHS`; and what TFDS calls it, the path with a `~` spelt out, or the name.

    Raises:
        SettingsError: it is of no form in `SOURCES`.
    """
    kind, _, rest = (f"tfds:{name}" if name in ALIASES else name).partition(":")
    if kind == "tfds":
        return kind, tfds.parse(rest)
    if kind in PATHS:
        if not rest:
            raise SettingsError(f"dataset: found {name!r}; allowed: {PATHS[kind]}, with the path of its data")
        return kind, str(Path(os.path.expanduser(rest)))
    if name == "digits":
        return name, ""
    # A kind that is misspelt looks like a module, too.
    if own.is_own(name) and (own.is_there(name) or not _nearest_kind(kind)):
        return "own", name
    raise _unknown(name)


def check(name: str) -> None:
    """Checks that a name is of a form in `SOURCES`, see `parse`, and that there is a function of that name."""
    kind, rest = parse(name)
    if kind == "own":
        functions.check(rest)


def _unknown(name: str) -> SettingsError:
    kind, colon, rest = name.partition(":")
    if colon and rest:
        near = _nearest_kind(kind)
        return unknown("dataset", name, SOURCES, nearest=f"{near[0]}:{rest}" if near else None)
    if name.lower().endswith(".npz"):
        return unknown("dataset", name, SOURCES, nearest=f"npz:{name}")
    if "/" in name:
        return unknown("dataset", name, SOURCES, nearest=f"folder:{name}")
    return unknown("dataset", name, SOURCES)


def _nearest_kind(kind: str) -> list[str]:
    return difflib.get_close_matches(kind.lower(), [*PATHS, "tfds"], n=1)
