"""Named arrays in files of PyTorch and of safetensors, told apart by content; PyTorch is imported for its own only."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ssoup_jax.errors import SettingsError, one_line
from ssoup_jax.interop import torch_files
from ssoup_jax.storage import atomic

Arrays = dict[str, np.ndarray]
Classes = Sequence[str] | None

_SAFETENSORS_DTYPES = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(jnp.bfloat16),
    **{f"{kind}{8 * size}": np.dtype(f"<{kind.lower()}{size}") for kind in "IU" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}


FORMATS = (".pt", ".pth", ".safetensors")
"""Suffixes of the files that `save` writes."""


def suffix(path: Path) -> str:
    """Returns the suffix by which a file's format is told."""
    return path.suffix.lower()


def check_suffix(path: Path, allowed: Sequence[str]) -> None:
    """Raises a SettingsError if a file's suffix names none of the allowed formats."""
    if suffix(path) not in allowed:
        raise SettingsError(f"{path}: found suffix {path.suffix!r}; allowed: {', '.join(allowed)}")


def load(path: Path) -> tuple[Arrays, str]:
    """Reads the tensors of a file; nothing in it is ever executed.

    Args:
        path: a safetensors file, or a PyTorch file with a state dict, plain or somewhere in dicts of dicts; whatever
            it is called.

    Returns:
        Arrays by name, floating point of any width as float32, in the order of the state dict (of the alphabet where
        the format knows no order); and the SHA-256 of the file.

    Raises:
        SettingsError: one line that names the file and what is wrong with it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a name with a null character
        raise SettingsError(f"{path}: cannot be read: {one_line(error)}") from None
    try:
        arrays = _decode_safetensors(data) if _is_safetensors(path, data) else torch_files.decode(data)
        if not arrays:
            raise SettingsError("holds no tensors")
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    return arrays, hashlib.sha256(data).hexdigest()


def save(path: Path, arrays: Mapping[str, np.ndarray], classes: Classes = None) -> None:
    """Writes tensors so that a reader finds the whole file or none.

    Args:
        path: ends in `.pt`, `.pth` or `.safetensors`; its folder exists.
        arrays: by name, contiguous.
        classes: names of the classes in the order of their labels. A `.pt` file is then a dict with the entries
            `state_dict` and `classes`, a `.safetensors` file has them as JSON in its metadata. None: they have none.

    Raises:
        SettingsError: the file cannot be written, or PyTorch is needed and not there.
    """
    check_suffix(path, FORMATS)
    try:
        data = (
            _encode_safetensors(arrays, classes)
            if suffix(path) == ".safetensors"
            else torch_files.encode(arrays, classes)
        )
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None
    try:
        with atomic.replacing(path) as beside:
            beside.write_bytes(data)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from None


def _is_safetensors(path: Path, data: bytes) -> bool:
    """Tells by the first bytes; by the suffix where they are neither a header of JSON nor PyTorch's."""
    if data[8:9] == b"{":
        return True
    return path.suffix.lower() == ".safetensors" and not torch_files.is_known(data)


def _decode_safetensors(data: bytes) -> Arrays:
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(data)
    except SafetensorError as error:
        reason = one_line(re.split(r"\. ", str(error))[0])
        raise SettingsError(f"truncated, or not a safetensors file ({reason})") from None
    arrays = {}
    for name, tensor in sorted(tensors):  # their order in the file means nothing
        dtype = _SAFETENSORS_DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise SettingsError(f"{name} has dtype {tensor['dtype']}; allowed: F16, BF16, F32, F64")
        array = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which readers look for
            # NumPy takes bfloat16 for no floating-point type.
            arrays[name] = array.astype(np.float32) if jnp.issubdtype(dtype, jnp.floating) else array
    return arrays


def _encode_safetensors(arrays: Mapping[str, np.ndarray], classes: Classes) -> bytes:
    from safetensors.numpy import save

    # Loaders elsewhere ask for the key `format`.
    metadata = {"format": "pt"} | ({} if classes is None else {"classes": json.dumps(list(classes))})
    return save(dict(arrays), metadata=metadata)
