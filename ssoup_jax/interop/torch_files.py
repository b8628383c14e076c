"""State dicts in PyTorch's own files, read without running anything that is in them."""

import argparse
import io
import pathlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from ssoup_jax.errors import SettingsError, one_line
from ssoup_jax.interop import wrappings

# `torch.load(weights_only=True)` of older releases can be made to run code (CVE-2025-32434).
_FIRST_SAFE_TORCH = (2, 6)
_ALONE = "save model.state_dict() alone"
_ZIP = b"PK\x03\x04"


def is_known(data: bytes) -> bool:
    """Tells by the first bytes whether a file is of a kind that PyTorch writes, now (zip) or long ago (pickle)."""
    return data.startswith((_ZIP, pickle.PROTO))


def decode(data: bytes) -> dict[str, np.ndarray]:
    """Reads the state dict of a file.

    Args:
        data: the whole file.

    Returns:
        Arrays by name in the order of the state dict, floating point of any width as float32.

    Raises:
        SettingsError: PyTorch is needed and not there, the file is none of its own or would have to run code to be
            read, or there is not one state dict in it.
    """
    torch = _import_torch()
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # what it warns of, it then refuses
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # for damaged bytes, whatever the unpickler stumbles over
        raise SettingsError(_why_unreadable(data, str(error))) from None
    if not isinstance(found, Mapping):
        raise SettingsError(f"holds a {type(found).__name__}, not a state dict; {_ALONE}")
    arrays = {}
    for name, tensor in wrappings.state_dict_in(found).items():
        if not isinstance(tensor, torch.Tensor):
            raise SettingsError(f"{name} is a {type(tensor).__name__}, not a tensor; {_ALONE}")
        try:
            tensor = tensor.detach().to_dense()
            arrays[str(name)] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        except (TypeError, RuntimeError) as error:
            raise SettingsError(f"{name} cannot be read ({_first_sentence(error)})") from None
    return arrays


def encode(arrays: Mapping[str, np.ndarray], classes: Sequence[str] | None = None) -> bytes:
    """Returns the file of a state dict; of a dict with it and the names of the classes, where they are given."""
    torch = _import_torch()
    state = {name: torch.tensor(array) for name, array in arrays.items()}
    buffer = io.BytesIO()
    torch.save(state if classes is None else {"state_dict": state, "classes": list(classes)}, buffer)
    return buffer.getvalue()


def _import_torch() -> ModuleType:
    needs = f"pip install 'torch>={'.'.join(map(str, _FIRST_SAFE_TORCH))}', or use a .safetensors file"
    try:
        import torch
    except ImportError:
        raise SettingsError(f"needs PyTorch, which is not installed; {needs}") from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < _FIRST_SAFE_TORCH:
        raise SettingsError(f"PyTorch {torch.__version__} cannot read files safely; {needs}")
    return torch


def _harmless() -> list[object]:
    """Lists what people store beside a state dict that holds values and does nothing: numbers, options, paths."""
    make_number = np.float64(0).__reduce__()[0]
    return [
        *((make_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        np.dtype,
        *(type(np.dtype(name)) for name in ("bool", "int32", "int64", "float32", "float64")),
        argparse.Namespace,
        *(
            (kind, f"pathlib{module}.{system}Path")
            for system, kind in (("Posix", pathlib.PurePosixPath), ("Windows", pathlib.PureWindowsPath))
            for module in ("", "._local")
        ),
    ]


def _why_unreadable(data: bytes, message: str) -> str:
    wanted = re.search(r"(?:GLOBAL |got <class ')([\w.]+)", message)
    name = wanted[1] if wanted else _first_import(data)
    if name:
        return f"would have to run code of {name} to be read, and is refused; {_ALONE}"
    if "TorchScript" in message:
        return f"holds a TorchScript program, not a state dict; {_ALONE}"
    if zipfile.is_zipfile(io.BytesIO(data)):
        return f"a damaged PyTorch file, or a zip archive of something else ({_first_sentence(message)})"
    return "truncated, or not a PyTorch file"


def _first_import(data: bytes) -> str | None:
    """Names what a bare pickle would import first; reads it without running it."""
    if not data.startswith(pickle.PROTO):
        return None
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                return argument.replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(texts[-2:])
            if isinstance(argument, str):
                texts.append(argument)
    except ValueError:
        pass
    return None


def _first_sentence(error: object) -> str:
    return one_line(str(error).split(". ")[0])
