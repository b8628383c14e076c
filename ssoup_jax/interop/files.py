"""Named arrays in `.pt`, `.pth` and `.safetensors` files; PyTorch is imported for the first two only."""

import hashlib
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import jax.numpy as jnp
import numpy as np

from ssoup_jax.errors import SettingsError, one_line
from ssoup_jax.storage import atomic

Arrays = dict[str, np.ndarray]

# `torch.load(weights_only=True)` of older releases can be made to run code (CVE-2025-32434).
_FIRST_SAFE_TORCH = (2, 6)
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_ALONE = "save model.state_dict() alone"

_SAFETENSORS_DTYPES = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(jnp.bfloat16),
    **{f"{kind}{8 * size}": np.dtype(f"<{kind.lower()}{size}") for kind in "IU" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}


def load(path: Path) -> tuple[Arrays, str]:
    """Reads the tensors of a file; nothing in it is ever executed.

    Args:
        path: a `.safetensors` file, or a `.pt` or `.pth` file with a state dict, plain or as the entry `'state_dict'`,
            `'model_state_dict'` or `'model'` of a dict.

    Returns:
        Arrays by name, floating point of any width as float32, in the order of the state dict (of the alphabet where
        the format knows no order); and the SHA-256 of the file.

    Raises:
        SettingsError: one line that names the file and what is wrong with it.
    """
    decode, _ = _format(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    arrays = decode(path, data)
    if not arrays:
        raise SettingsError(f"{path}: holds no tensors")
    return arrays, hashlib.sha256(data).hexdigest()


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes tensors so that a reader finds the whole file or none.

    Args:
        path: ends in `.pt`, `.pth` or `.safetensors`; its folder exists.
        arrays: by name, contiguous.

    Raises:
        SettingsError: the file cannot be written, or PyTorch is needed and not there.
    """
    _, encode = _format(path)
    data = encode(path, arrays)
    try:
        with atomic.replacing(path) as beside:
            beside.write_bytes(data)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from None


def _format(path: Path) -> tuple[Callable[[Path, bytes], Arrays], Callable[[Path, Mapping], bytes]]:
    formats = {
        ".pt": (_decode_torch, _encode_torch),
        ".pth": (_decode_torch, _encode_torch),
        ".safetensors": (_decode_safetensors, _encode_safetensors),
    }
    if path.suffix not in formats:
        raise SettingsError(f"{path}: found suffix {path.suffix!r}; allowed: {', '.join(formats)}")
    return formats[path.suffix]


def _decode_safetensors(path: Path, data: bytes) -> Arrays:
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(data)
    except SafetensorError as error:
        raise SettingsError(f"{path}: truncated, or not a safetensors file ({_first_sentence(error)})") from None
    arrays = {}
    for name, tensor in sorted(tensors):  # their order in the file means nothing
        dtype = _SAFETENSORS_DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise SettingsError(f"{path}: {name} has dtype {tensor['dtype']}; allowed: F16, BF16, F32, F64")
        array = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which readers look for
            # NumPy takes bfloat16 for no floating-point type.
            arrays[name] = array.astype(np.float32) if jnp.issubdtype(dtype, jnp.floating) else array
    return arrays


def _encode_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    # Loaders elsewhere ask for this key.
    return save(dict(arrays), metadata={"format": "pt"})


def _import_torch(path: Path) -> ModuleType:
    needs = f"pip install 'torch>={'.'.join(map(str, _FIRST_SAFE_TORCH))}', or use a .safetensors file"
    try:
        import torch
    except ImportError:
        raise SettingsError(f"{path}: needs PyTorch, which is not installed; {needs}") from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < _FIRST_SAFE_TORCH:
        raise SettingsError(f"{path}: PyTorch {torch.__version__} cannot read files safely; {needs}")
    return torch


def _encode_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> bytes:
    torch = _import_torch(path)
    buffer = io.BytesIO()
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, buffer)
    return buffer.getvalue()


def _decode_torch(path: Path, data: bytes) -> Arrays:
    torch = _import_torch(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, it then refuses
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # for damaged bytes, whatever the unpickler stumbles over
        raise SettingsError(f"{path}: {_why_unreadable(data, str(error))}") from None
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping):
        raise SettingsError(f"{path}: holds a {type(found).__name__}, not a state dict; {_ALONE}")
    arrays = {}
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor):
            raise SettingsError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor; {_ALONE}")
        try:
            tensor = tensor.detach().to_dense()
            arrays[str(name)] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        except (TypeError, RuntimeError) as error:
            raise SettingsError(f"{path}: {name} cannot be read ({_first_sentence(error)})") from None
    return arrays


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
