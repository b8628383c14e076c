"""How a picture as it is stored becomes one in RGB, and what is said where there is more than one way."""

import dataclasses
import io
from collections import Counter
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ssoup_jax.data.checks import share
from ssoup_jax.errors import SettingsError

FORMATS = (
    *("BMP", "GIF", "JPEG", "PPM", "PNG", "TIFF", "WEBP", "AVIF", "JPEG2000"),
    *("DDS", "DIB", "ICO", "PCX", "PSD", "QOI", "SGI", "TGA"),
)
"""What is read; Pillow knows more, but runs another program for some of them and only tells the size of others."""

SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dds", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jif", ".jp2", ".jpe", ".jpeg"),
        *(".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi"),
        *(".tga", ".tif", ".tiff", ".webp"),
    )
)
"""Endings, in small or capital letters, of files that are taken for pictures without looking into them."""

_ORIENTATION = 0x0112
_DEPTHS = (8, 10, 12, 14, 16)
_FAINT = 16  # levels; colours that differ less say nothing


@dataclasses.dataclass(frozen=True)
class Rules:
    """How pictures are decoded; unless said otherwise as Pillow converts them to RGB.

    Attributes:
        bits: how many are used of numbers wider than a byte; all but the upper 8 of them are dropped.
        white: the value of floats that is white; None: 255, and what is brighter is white as well.
        upright: whether pictures are turned as their orientation tag says.
        ink: whether a picture that only its alpha channel shows is laid on white, or on black where it is light.
    """

    bits: int = 16
    white: float | None = None
    upright: bool = False
    ink: bool = False


AS_PILLOW = Rules()
"""How pictures of data sets that others have prepared are decoded."""

FOLDERS = Rules(upright=True, ink=True)
"""How pictures of a user's own folder are decoded, unless they are of an unusual depth."""


def decode(data: bytes, rules: Rules) -> Image.Image:
    """Decodes a picture; of several frames the first.

    Args:
        data: in one of `FORMATS`.
        rules: what to do where that can be meant in more than one way.

    Returns:
        The picture in RGB.

    Raises:
        Exception: it cannot be decoded; Pillow's formats raise errors of many types.
    """
    return _to_rgb(_opened(data), rules)


def is_picture(path: str) -> bool:
    """Tells a picture by the head of the file, whatever its name ends in."""
    try:
        with Image.open(path, formats=_formats()):
            return True
    except Exception:  # as for `decode`
        return False


def look(pictures: Iterable[tuple[str, bytes]], skip_undecodable: bool) -> tuple[Rules, list[str]]:
    """Looks at some pictures of a data set to decide how all of them are decoded.

    Args:
        pictures: where each lies, and what is stored there.
        skip_undecodable: whether one that cannot be decoded is worth a note in place of an error.

    Returns:
        The rules, and what may not be meant, one line each.

    Raises:
        SettingsError: one cannot be decoded, or cannot be decoded so that it is still a picture.
    """
    seen = _Seen()
    for where, data in pictures:
        try:
            seen.add(where, data)
        except SettingsError:
            raise
        except Exception as error:
            why = f"{where}: cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
            if not skip_undecodable:
                raise SettingsError(f"{why}; data.skip_undecodable=True puts black ones in their place") from error
            seen.undecodable.append(why)
    return seen.rules(), seen.notes()


class _Seen:
    """What was found in the pictures that were looked at."""

    def __init__(self) -> None:
        self.modes: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.undecodable: list[str] = []
        self.brightest = 0
        self.white = 0.0
        self.wide, self.brightest_wide = "", 0

    def add(self, where: str, data: bytes) -> None:
        image = _opened(data)
        self.modes[image.mode] += 1
        self.counts["animated"] += getattr(image, "n_frames", 1) > 1 and image.format in ("GIF", "PNG", "WEBP", "AVIF")
        self.counts["pages"] += getattr(image, "n_frames", 1) > 1 and image.format == "TIFF"
        self.counts["turned"] += image.getexif().get(_ORIENTATION, 1) not in (0, 1)
        self.counts["wide colour"] += _is_wide_colour(data)
        if image.mode.startswith("I"):
            self._whole(where, np.asarray(image))
        elif image.mode == "F":
            self._floats(where, np.asarray(image))
        elif _is_wide_colour(data):
            self.wide = where
            self.brightest_wide = max(self.brightest_wide, int(np.asarray(image.convert("RGB")).max()))
        elif _spread(_to_rgb(image, FOLDERS)) == 0:
            self.counts["blank"] += 1
        self.counts["alpha"] += _has_alpha(image) and _spread(image.convert("RGBA").getchannel("A")) > 0
        self.counts["ink"] += _ink(image) is not None

    def _whole(self, where: str, values: np.ndarray) -> None:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= 2**16:
            raise SettingsError(f"{where}: whole numbers from {low} to {high}; allowed: 0 to 65535; store 8 bits")
        self.counts["whole"] += 1
        self.brightest = max(self.brightest, high)

    def _floats(self, where: str, values: np.ndarray) -> None:
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 255):
            raise SettingsError(f"{where}: floats from {low:g} to {high:g}; allowed: 0 to 1 or 0 to 255; store 8 bits")
        self.counts["floats"] += 1
        self.white = max(self.white, 1.0 if high <= 1 else 255.0)

    def rules(self) -> Rules:
        if self.wide and self.brightest_wide < 64:
            raise SettingsError(
                f"{self.wide}: at most 14 of the 16 bits of its colours are used, and Pillow keeps only the upper 8; "
                f"store pictures in 8 bits"
            )
        bits = min(depth for depth in _DEPTHS if self.brightest < 2**depth) if self.counts["whole"] else Rules.bits
        return dataclasses.replace(FOLDERS, bits=bits, white=self.white or FOLDERS.white)

    def notes(self) -> list[str]:
        n, rules = sum(self.modes.values()) + len(self.undecodable), self.rules()
        modes = ", ".join(f"{count} {mode}" for mode, count in self.modes.most_common())
        drawn = self.counts["ink"]
        notes = [
            (self.counts["turned"], "have an orientation tag: those are turned upright"),
            (self.counts["animated"], "are animated: their first frame is taken"),
            (self.counts["pages"], "have several pages: the first is taken"),
            (self.counts["alpha"] - drawn, "have an alpha channel: it is dropped, as torchvision does"),
            (drawn, "are drawn in their alpha channel alone: those are laid on white (on black where they are light)"),
            (
                self.counts["whole"],
                f"have numbers wider than a byte, up to {self.brightest}: {rules.bits} bits are taken to be used, of "
                f"which the upper 8 are kept",
            ),
            (self.counts["floats"], f"have floats: {self.white:g} is taken for white"),
            (self.counts["wide colour"], "have 16 bits a colour: the upper 8 are kept"),
            (self.counts["blank"], "are of one value each"),
            (len(self.undecodable), f"cannot be decoded, such as {next(iter(self.undecodable), '')}"),
        ]
        mixed = [f"the {n} pictures looked at are of Pillow's modes {modes}: all become RGB"]
        said = [f"of the pictures looked at, {share(count, n)} {text}" for count, text in notes if count]
        return mixed * bool(set(self.modes) - {"RGB"}) + said


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        # Pillow names the buffer, which tells nobody anything.
        raise UnidentifiedImageError("not an image of a known format") from None
    image.load()
    return image


def _to_rgb(image: Image.Image, rules: Rules) -> Image.Image:
    if rules.upright and image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Pillow would clip at 255, which leaves little but white.
        values = np.asarray(image)
        if rules.bits < 16 and values.max() >= 2**rules.bits:
            raise ValueError(f"found {values.max()}, though all pictures looked at have values below {2**rules.bits}")
        image = Image.fromarray((values >> (rules.bits - 8)).clip(0, 255).astype(np.uint8))
    elif image.mode == "F" and rules.white is not None:
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= rules.white):
            raise ValueError(f"found {values.max():g}, though no picture looked at is above {rules.white:g}")
        image = Image.fromarray(np.rint(values * (255 / rules.white)).astype(np.uint8))
    elif rules.ink and (drawing := _ink(image)) is not None:
        return drawing
    # What would be dropped anyhow makes Pillow warn of some palettes.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _ink(image: Image.Image) -> Image.Image | None:
    """Lays a picture whose colours say nothing, but whose alpha channel does, on white or black; None: it is none."""
    if not _has_alpha(image):
        return None
    pixels = np.asarray(image.convert("RGBA"))
    colours, alpha = pixels[..., :3], pixels[..., 3]
    if np.ptp(alpha) <= _FAINT or np.ptp(colours, axis=(0, 1)).max() > _FAINT:
        return None
    ground = Image.new("RGBA", image.size, "black" if colours.mean() > 127 else "white")
    return Image.alpha_composite(ground, Image.fromarray(pixels)).convert("RGB")


def _spread(image: Image.Image) -> int:
    return int(np.ptp(np.asarray(image)))


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info


def _is_wide_colour(data: bytes) -> bool:
    """Tells PNG files of 16 bits a channel that are not plain grey: Pillow drops their lower bits itself."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] == 16 and data[25] != 0
