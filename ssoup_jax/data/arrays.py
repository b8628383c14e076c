"""What plain arrays mean as images and labels: what cannot be meant is an error with its remedy in the same line."""

from typing import NamedTuple

import numpy as np

from ssoup_jax.data.dataset import Contents, Split
from ssoup_jax.errors import SettingsError

LAYOUTS = ("NHWC", "NCHW")

MAX_CLASSES = 100_000
"""A larger label is taken for an identifier rather than a class."""

_WITHOUT_SIGN = (2**8 - 1, 2**16 - 1)  # what -1, the usual label of images without one, becomes in an unsigned type


class Named(NamedTuple):
    """An array and what its owner calls it."""

    name: str
    array: np.ndarray


class Part(NamedTuple):
    """The images and labels of a split as they are given."""

    images: Named
    labels: Named


class _Images(NamedTuple):
    """Images as bytes, what was white before, and what was done to them."""

    array: np.ndarray
    white: str
    note: str | None


def contents(training: Part, test: Part, layout: str | None, n_classes: int | None) -> Contents:
    """Makes images of bytes and labels of classes.

    Images are `[N, H, W, C]`, `[N, H, W]` or, with the layout NCHW, `[N, C, H, W]`; of whole numbers in 0 .. 255, of
    numbers in 0 .. 1, of 16 bits that use more than 14 of them, or of truth values.

    Args:
        training: the training images and their labels.
        test: likewise.
        layout: one of `LAYOUTS`; None: NHWC, unless the shape looks like NCHW, which is an error.
        n_classes: how many classes there are; None: the largest label + 1.

    Returns:
        The contents, with as many classes as the labels say.

    Raises:
        SettingsError: the arrays cannot be meant so.
    """
    images = [_images(part, layout) for part in (training, test)]
    labels = [_labels(part.labels) for part in (training, test)]
    for part, made in ((training, images[0]), (test, images[1])):
        if len(made.array) != len(part.labels.array):
            n_images, n_labels = len(made.array), len(part.labels.array)
            raise SettingsError(
                f"{part.images.name} has {n_images} images, {part.labels.name} {n_labels} labels; they must agree"
            )
    names = training.images.name, test.images.name
    shapes = [made.array.shape[1:] for made in images]
    if shapes[0] != shapes[1]:
        raise SettingsError(f"{names[0]} has images of shape {shapes[0]}, {names[1]} {shapes[1]}; they must agree")
    if images[0].white != images[1].white:
        scales = f"{names[0]} has {images[0].white}, {names[1]} {images[1].white}"
        raise SettingsError(f"{scales}: different scales; bring both to one, such as uint8 in 0 to 255")
    counted = _count((training.labels, test.labels), n_classes)
    return Contents(
        counted,
        *(Split(made.array, label) for made, label in zip(images, labels, strict=True)),
        notes=(*(made.note for made in images if made.note), *_odd_channels(training.images.name, shapes[0], layout)),
    )


def _images(part: Part, layout: str | None) -> _Images:
    name, array = part.images
    if array.dtype.kind not in "biuf":
        raise SettingsError(f"{name} has dtype {array.dtype}; allowed: uint8, or float in 0 to 1")
    if array.ndim not in (3, 4):
        raise SettingsError(f"{name} has shape {array.shape}; allowed: (N, H, W, C) or (N, H, W); reshape it to that")
    if not array.size:
        raise SettingsError(f"{name} has shape {array.shape}; at least one pixel is needed")
    n_labels = len(part.labels.array)
    if len(array) != n_labels == array.shape[-1]:
        raise SettingsError(
            f"{name} has shape {array.shape}, with an image for each of {n_labels} labels along the last axis; "
            f"numpy.moveaxis({name}, -1, 0) puts them first"
        )
    made = _as_bytes(name, array)
    if array.ndim == 3:
        return made._replace(array=made.array[..., None])
    if layout == "NCHW":
        return made._replace(array=np.ascontiguousarray(np.moveaxis(made.array, 1, -1)))
    if layout is None and _looks_channels_first(*array.shape[1:]):
        raise SettingsError(
            f"{name} looks channels-first (N, C, H, W), with shape {array.shape}: transpose it to (N, H, W, C), or "
            f"--config.data.layout=NCHW; --config.data.layout=NHWC if it has {array.shape[-1]} channels"
        )
    return made


def _looks_channels_first(first: int, second: int, third: int) -> bool:
    """Tells `(C, H, W)` from `(H, W, C)`: images are mostly square, and have few channels."""
    if first == second:
        return False
    return first < third if second == third else first <= 4 < min(second, third)


def _odd_channels(name: str, shape: tuple[int, ...], layout: str | None) -> list[str]:
    height, width, channels = shape
    if layout is not None or channels <= 4:
        return []
    return [f"{name} is taken for images of {height} x {width} pixels with {channels} channels"]


def _as_bytes(name: str, array: np.ndarray) -> _Images:
    """Brings values to 0 .. 255 where there is only one way to mean them."""
    if array.dtype == np.uint8:
        return _Images(array, "bytes", None)
    kind = f"{name} is {array.dtype}"
    if array.dtype == bool:
        return _Images(array * np.uint8(255), "truth values", f"{kind}: True was taken for 255")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        n_odd = array.size - int(np.isfinite(array).sum())
        raise SettingsError(f"{kind} with {n_odd} values that are not finite; remove or replace them")
    found = f"{kind} from {low:g} to {high:g}"
    if low < 0:
        raise SettingsError(
            f"{found}; allowed: uint8, or float in 0 to 1; images that were normalised are stored before that, as "
            f"uint8, and --config.data.mean and --config.data.std normalise them"
        )
    if array.dtype.kind == "f" and high <= 1:
        scaled = array * np.float32(255)
        rounded = np.rint(scaled)
        error = float(np.abs(scaled - rounded).max()) / 255
        note = f"{found}: multiplied by 255 and rounded to whole numbers, which changed values by at most {error:.1g}"
        return _Images(rounded.astype(np.uint8), "values in 0 to 1", note)
    whole = array.dtype.kind != "f" or bool((array == np.rint(array)).all())
    if high <= 255 and whole:
        return _Images(array.astype(np.uint8), "bytes", f"{found}: stored as uint8")
    if high <= 255:
        raise SettingsError(
            f"{found}; allowed: whole numbers in 0 to 255; numpy.rint({name}).astype('uint8') makes them"
        )
    if whole and 2**14 <= high < 2**16:
        shifted = (array.astype(np.uint16) >> 8).astype(np.uint8)
        return _Images(shifted, "16 bits", f"{found}: the upper 8 of 16 bits were taken")
    white = 2 ** int(np.ceil(np.log2(float(high) + 1))) - 1
    raise SettingsError(
        f"{found}; allowed: uint8, or float in 0 to 1; only its owner knows which value is white: if it is {white}, "
        f"{name} / {white} is in 0 to 1"
    )


def _labels(given: Named) -> np.ndarray:
    name, array = given
    found = f"{name} has shape {array.shape}; allowed: (N,)"
    if array.ndim == 2 and array.shape[1] == 1:
        raise SettingsError(f"{found}; {name}.ravel() makes it so")
    if array.ndim == 2 and array.size and array.dtype.kind in "biuf" and _one_hot(array):
        raise SettingsError(f"{found}; it is one-hot: {name}.argmax(axis=1) are the classes")
    if array.ndim != 1:
        raise SettingsError(found)
    if not array.size:
        raise SettingsError(f"{name} has shape {array.shape}; at least one label is needed")
    if array.dtype.kind not in "iu":
        raise SettingsError(f"{name} has dtype {array.dtype}; allowed: integers{_to_integers(name, array)}")
    for label in (int(array.min()), int(array.max())):
        if not 0 <= label < MAX_CLASSES:
            hint = "; -1 mostly marks images without a label: leave those out" if label == -1 else ""
            raise SettingsError(f"{name} has label {label}; allowed: 0 to {MAX_CLASSES - 1}{hint}")
    return array.astype(np.int32)


def _one_hot(array: np.ndarray) -> bool:
    return bool(((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all())


def _to_integers(name: str, array: np.ndarray) -> str:
    if array.dtype.kind in "USO":
        return f"; numpy.unique({name}, return_inverse=True) gives the classes and their numbers"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"; {int((~np.isfinite(array)).sum())} are not finite"
    if array.dtype.kind == "b" or (array.dtype.kind == "f" and (array == np.rint(array)).all()):
        return f"; {name}.astype(int) makes them so"
    return ""


def _count(labels: tuple[Named, Named], n_classes: int | None) -> int:
    """Returns the largest label + 1."""
    name, top = max(((given.name, int(given.array.max())) for given in labels), key=lambda pair: pair[1])
    if n_classes is not None:
        if top >= n_classes:
            raise SettingsError(
                f"{name} has label {top}; --config.data.n_classes={n_classes} allows 0 to {n_classes - 1}"
            )
    elif top in _WITHOUT_SIGN and not any((given.array == top - 1).any() for given in labels):
        raise SettingsError(
            f"{name} has label {top} but none has label {top - 1}: it looks like -1 (no label) stored without a sign; "
            f"leave those images out, or --config.data.n_classes={top + 1} if {top} is a class"
        )
    return top + 1
