"""Pictures of more than 8 bits: which value is white, and how they become 8 bits."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

Notes = list[tuple[str, str]]  # kinds of `problems.KINDS`, with details

DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners fill
NEARLY_BLACK = 16  # of 255: the brightest pixel of such a picture is darker
DIM = 64  # of 255: brighter colours of 16 bits lose nothing but their lower 8 bits
OVERSHOOT = 1.25  # where resizing has left fractions just above 1, 1 is white still
SIGNED = 2  # TIFF's sample format of whole numbers with a sign


def to_rgb(picture: Image.Image, path: Path | str) -> tuple[Image.Image, Notes]:
    """Turn a picture of any mode, opened from `path`, into RGB of 8 bits per channel.

    Transparent parts become white. Files of more than 8 bits do not say how many they
    fill: white is the top value of the smallest usual depth that holds all values.
    """
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        rgb, notes = _from_deep(picture)
    else:
        rgb, notes = _from_eight_bits(picture), []
        if picture.mode == "RGB" and _brightest(rgb) < DIM:
            rgb, notes = _from_deep_colours(path, rgb)
    if (brightest := _brightest(rgb)) < NEARLY_BLACK:
        notes.append(("nearly black", f"the brightest pixel is {brightest} of 255"))
    return rgb, notes


def _brightest(rgb: Image.Image) -> int:
    return max(top for _, top in rgb.getextrema())


def _from_eight_bits(picture: Image.Image) -> Image.Image:
    transparent = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if not transparent and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _from_deep(picture: Image.Image) -> tuple[Image.Image, Notes]:
    values = np.asarray(picture)  # [H, W]
    if picture.mode == "F":
        values = np.where(np.isfinite(values), values, 0)
        return _scaled(values, fraction_white(float(values.max())))
    values = _unsigned(picture, values)
    return _scaled(values, whole_white(int(values.max())))


def _scaled(values: np.ndarray, white: float) -> tuple[Image.Image, Notes]:
    low, high = values.min(), values.max()
    detail = f"values from {low:g} to {high:g}, {white:g} becomes white"
    # in float64, where products of 32 bits and 255 are exact
    scaled = values.clip(0, white).astype(np.float64) * 255 / white
    rgb = Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    return rgb, [("more than 8 bits", detail)]


def _unsigned(picture: Image.Image, values: np.ndarray) -> np.ndarray:
    """Values of 32 bits as the file means them; Pillow reads all with a sign."""
    tags = getattr(picture, "tag_v2", {})
    formats = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
    if picture.mode == "I" and max(bits) == 32 and SIGNED not in formats:
        return values.view(np.uint32)
    return values


def whole_white(highest: int) -> int:
    """The value that is white among whole numbers up to `highest`.

    At most 4 times the highest value above 8 bits, so no picture comes out black;
    beyond 16 bits (sums of exposures) there is no usual depth, and it is the highest.
    """
    tops = (2**bits - 1 for bits in DEPTHS)
    return next((top for top in tops if highest <= top), highest)


def fraction_white(highest: float) -> float:
    """The value that is white among fractions up to `highest`.

    1, or the top of a usual depth where the values fill a quarter of it; else it is
    the highest: depths in metres or degrees have no white.
    """
    if highest <= OVERSHOOT:
        return 1.0
    top = float(whole_white(int(np.ceil(highest))))
    return top if highest >= top / 4 else highest


def _from_deep_colours(
    path: Path | str, upper: Image.Image
) -> tuple[Image.Image, Notes]:
    """Use all bits of dark colours; `upper` holds the upper 8, all that Pillow reads.

    Read with the two bytes of a value exchanged, a file of 16 bits gives the lower 8.
    """
    with open(path, "rb") as stream, Image.open(stream) as again:
        tiles = [_exchanged(*tile) for tile in again.tile]
        if not tiles or None in tiles:  # a file of 8 bits, which is dark
            return upper, []
        again.tile = tiles
        lower = np.asarray(again)
    values = np.asarray(upper).astype(np.int64) * 256 + lower  # [H, W, 3]
    return _scaled(values, whole_white(int(values.max())))


_NATIVE = "RGB;16B" if sys.byteorder == "little" else "RGB;16L"
_EXCHANGED = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": _NATIVE}


def _exchanged(codec: str, box: Any, start: int, arguments: Any) -> tuple | None:
    """How Pillow is to read a tile with exchanged bytes, None if not of 16 bits."""
    name, *rest = [arguments] if isinstance(arguments, str) else arguments or [None]
    other = _EXCHANGED.get(name)
    if other is None:
        return None
    return codec, box, start, (other, *rest) if rest else other
