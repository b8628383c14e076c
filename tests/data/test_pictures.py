"""Pictures as they are found: what each form becomes, and what is said where there is more than one way."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ssoup_jax.data.pictures import AS_PILLOW, FOLDERS, Rules, decode, look
from ssoup_jax.errors import SettingsError


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def of(array, form: str = "PNG", **options) -> bytes:
    return encoded(Image.fromarray(np.asarray(array)), form, **options)


def gradient(mode: str) -> Image.Image:
    return Image.fromarray(np.arange(0, 240, 10, np.uint8).reshape(4, 6)).convert(mode)


GREY = np.arange(0, 240, 10, np.uint8).reshape(4, 6)
SIXTEEN = Image.fromarray(GREY.astype(np.uint16) * 256 + 99)
FORMATS = {
    "grey": encoded(gradient("L")),
    "grey, transparent": encoded(Image.merge("LA", [gradient("L"), gradient("L")])),
    "grey, a transparent level": encoded(gradient("L"), transparency=50),
    "colour": encoded(gradient("RGB")),
    "colour, transparent": encoded(Image.merge("RGBA", [gradient("L")] * 4)),
    "palette": encoded(gradient("P")),
    "palette, transparent": encoded(gradient("P"), transparency=bytes(range(256))),
    "inks": encoded(Image.merge("CMYK", [Image.fromarray(255 - GREY)] * 3 + [Image.new("L", (6, 4))]), "TIFF"),
    "sixteen bits": encoded(SIXTEEN),
    "sixteen bits, TIFF": encoded(SIXTEEN, "TIFF"),
    "sixteen bits, PGM": b"P5 6 4 65535\n" + (GREY.astype(">u2") * 256 + 99).astype(">u2").tobytes(),
}


@pytest.mark.parametrize("rules", [AS_PILLOW, FOLDERS], ids=["Pillow's", "folders'"])
@pytest.mark.parametrize("data", FORMATS.values(), ids=FORMATS)
def test_every_format_becomes_rgb(data, rules):
    image = decode(data, rules)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.stack([GREY] * 3, axis=-1))


def test_black_and_white():
    image = decode(encoded(Image.fromarray(GREY > 100)), FOLDERS)
    np.testing.assert_array_equal(np.asarray(image)[..., 0], np.where(GREY > 100, 255, 0))


def wide_png(values: np.ndarray) -> bytes:
    """A PNG file of 16 bits a colour, which Pillow does not write: `[H, W, 3]`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def looked_at(*pictures: bytes, skip: bool = False) -> tuple[Rules, list[str]]:
    return look([(f"picture {i}", data) for i, data in enumerate(pictures)], skip)


def grey(data: bytes, rules: Rules) -> list[list[int]]:
    pixels = np.asarray(decode(data, rules))
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0].tolist()


LEVELS = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_bits_that_are_used_are_those_of_the_brightest_picture(bits):
    data, dim = of((LEVELS << (bits - 8)).astype(np.uint16)), of((LEVELS[:8] << (bits - 8)).astype(np.uint16))
    rules, notes = looked_at(dim, data)
    assert rules == Rules(bits=bits, upright=True, ink=True)
    assert grey(data, rules) == LEVELS.tolist()
    assert grey(dim, rules) == LEVELS[:8].tolist(), "one scale for all pictures"
    said = f"2 of 2 (100 %) have numbers wider than a byte, up to {255 << (bits - 8)}: {bits} bits are taken to be used"
    assert any(said in note for note in notes)


def test_a_picture_brighter_than_all_that_were_looked_at_is_an_error():
    rules, _ = looked_at(of(np.uint16([[4000, 5]])))
    with pytest.raises(ValueError, match="found 4096, though all pictures looked at have values below 4096"):
        decode(of(np.uint16([[4096, 5]])), rules)


@pytest.mark.parametrize(("white", "array"), [(1, LEVELS / 255), (255, LEVELS.astype(float))])
def test_floats_are_in_0_to_1_or_in_0_to_255(white, array):
    data = of(array.astype(np.float32), "TIFF")
    rules, notes = looked_at(data)
    assert grey(data, rules) == LEVELS.tolist()
    assert any(f"1 of 1 (100 %) have floats: {white} is taken for white" in note for note in notes)
    with pytest.raises(ValueError, match="though no picture looked at"):
        decode(of(np.float32([[300, 0]]), "TIFF"), rules)


def test_whole_numbers_of_32_bits_that_fit_a_byte_are_taken_as_they_are():
    data = of(LEVELS.astype(np.int32), "TIFF")
    assert grey(data, looked_at(data)[0]) == LEVELS.tolist()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (of(np.int32([[0, 70000]]), "TIFF"), "whole numbers from 0 to 70000; allowed: 0 to 65535"),
        (of(np.int32([[-1, 7]]), "TIFF"), "whole numbers from -1 to 7"),
        (of(np.float32([[-1.5, 0.5]]), "TIFF"), "floats from -1.5 to 0.5; allowed: 0 to 1 or 0 to 255"),
        (of(np.float32([[0, 1000]]), "TIFF"), "floats from 0 to 1000"),
        (of(np.float32([[0, np.nan]]), "TIFF"), "floats from nan to nan"),
        (wide_png(np.repeat(LEVELS[..., None] << 4, 3, axis=2)), "at most 14 of the 16 bits of its colours are used"),
        (b"no picture", "cannot be decoded: not an image of a known format; data.skip_undecodable=True puts black"),
        (of(np.uint8(LEVELS), "JPEG")[:200], "cannot be decoded: "),
    ],
)
def test_what_cannot_be_a_picture_is_one_clear_line(data, says):
    with pytest.raises(SettingsError) as error:
        looked_at(of(np.uint8(LEVELS)), data)
    assert str(error.value).startswith(f"picture 1: {says}") and "\n" not in str(error.value)


def test_sixteen_bits_a_colour_that_are_used_keep_the_upper_eight():
    data = wide_png(np.repeat(LEVELS[..., None] << 8, 3, axis=2))
    rules, notes = looked_at(data)
    assert grey(data, rules) == LEVELS.tolist()
    assert notes == ["of the pictures looked at, 1 of 1 (100 %) have 16 bits a colour: the upper 8 are kept"]


def test_pictures_that_may_be_skipped_are_counted():
    _, notes = looked_at(of(np.uint8(LEVELS)), b"no picture", skip=True)
    assert notes[-1] == (
        "of the pictures looked at, 1 of 2 (50 %) cannot be decoded, such as picture 1: cannot be decoded: not an "
        "image of a known format"
    )


def drawing(ink: int, hidden: int) -> tuple[bytes, np.ndarray]:
    """A picture whose alpha channel alone shows a square, and that square."""
    alpha = np.zeros((6, 6), np.uint8)
    alpha[2:4, 2:4] = 255
    colour = np.where(alpha[..., None] > 0, ink, hidden).astype(np.uint8).repeat(3, axis=2)
    return of(np.concatenate([colour, alpha[..., None]], axis=2)), alpha


def test_a_drawing_in_the_alpha_channel_is_laid_on_what_shows_it():
    dark, square = drawing(0, 0)
    rules, notes = looked_at(dark)
    assert grey(dark, rules) == (255 - square).tolist()
    assert any("1 of 1 (100 %) are drawn in their alpha channel alone: those are laid on white" in n for n in notes)
    light, square = drawing(255, 255)
    assert grey(light, rules) == square.tolist()
    # Where colours say something the alpha channel is dropped, as by torchvision; and so it is for prepared data sets.
    told, square = drawing(0, 200)
    assert grey(told, rules) == np.where(square, 0, 200).tolist()
    assert grey(dark, AS_PILLOW) == np.zeros((6, 6)).tolist()
    assert any("1 of 1 (100 %) have an alpha channel: it is dropped" in note for note in looked_at(told)[1])


@pytest.mark.parametrize("tag", range(1, 9))
def test_pictures_are_turned_as_their_orientation_tag_says(tag):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # The tag says where the stored picture's first row and column belong (EXIF 2.32, 4.6.5.1.6).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright.T, 2),
        8: np.rot90(upright, -1),
    }[tag]
    exif = Image.Exif()
    exif[0x0112] = tag
    data = of(np.ascontiguousarray(stored), "PNG", exif=exif)
    rules, notes = looked_at(data)
    assert grey(data, rules) == upright.tolist()
    assert grey(data, AS_PILLOW) == stored.tolist()
    assert any("have an orientation tag: those are turned upright" in note for note in notes) == (tag > 1)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(form):
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 90, 200)]
    frames[0].paste((40, 40, 40), (0, 0, 4, 8))
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    rules, notes = looked_at(data)
    assert grey(data, rules) == np.asarray(frames[0])[..., 0].tolist()
    said = "have several pages: the first is taken" if form == "TIFF" else "are animated: their first frame is taken"
    assert any(said in note for note in notes)


def test_modes_and_blank_pictures_are_counted():
    random = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    _, notes = looked_at(of(random), of(random[..., 0]), of(np.zeros((4, 4), np.uint8)))
    assert notes == [
        "the 3 pictures looked at are of Pillow's modes 2 L, 1 RGB: all become RGB",
        "of the pictures looked at, 1 of 3 (33.3 %) are of one value each",
    ]
    assert looked_at(of(random), of(random)) == (FOLDERS, [])


def test_no_other_program_is_run_for_a_picture():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    with pytest.raises(Exception, match="not an image of a known format"):
        decode(postscript, FOLDERS)
