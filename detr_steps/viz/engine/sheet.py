"""A sheet to draw posters on, with PIL: at twice the size, then reduced.

So lines and letters are smooth, and the same on every machine.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FINE = 2  # drawn this much larger than shown
# as the light theme of figure.mjs
INK, SOFT, LINE, TINT, ACCENT = "#1c2430", "#5a6472", "#dde2e8", "#f3f5f7", "#0072b2"
CHANGED = "#d55e00"


class Place(NamedTuple):
    """A rectangle on the poster, in its pixels."""

    x: float
    y: float
    wide: float
    high: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.x + self.wide

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.y + self.high

    def at(self, x: float, y: float) -> tuple[float, float]:
        """From shares of the rectangle to pixels."""
        return self.x + x * self.wide, self.y + y * self.high


@cache
def _font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    # matplotlib brings these letters along: the same on every machine
    name = f"fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf"
    path = Path(matplotlib.get_data_path()) / name
    layout = ImageFont.Layout.BASIC
    return ImageFont.truetype(str(path), size * FINE, layout_engine=layout)


class Sheet:
    """A white card to draw on; all lengths are pixels of the finished poster."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.image = Image.new("RGB", (size[0] * FINE, size[1] * FINE), "white")
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        frame = Place(0, 0, size[0] - 1, size[1] - 1)
        self.plate(frame, "white", radius=10, line=LINE)

    def finished(self) -> Image.Image:
        """The poster at its own size."""
        return self.image.resize(self.size, Image.Resampling.LANCZOS)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 13,
        colour: str = INK,
        bold: bool = False,
        anchor: str = "ls",
    ) -> float:
        """Write words at a baseline; returns how wide they are."""
        font = _font(size, bold)
        self.pen.text((x * FINE, y * FINE), words, colour, font, anchor)
        return font.getlength(words) / FINE

    def plate(
        self, place: Place, fill: str, radius: float = 6, line: str | None = None
    ) -> None:
        """Fill a rectangle with round corners."""
        x, y, wide, high = (value * FINE for value in place)
        self.pen.rounded_rectangle(
            (x, y, x + wide, y + high), radius * FINE, fill, line, FINE
        )

    def picture(self, place: Place, pixels: np.ndarray, radius: float = 6) -> None:
        """Show pixels `[H, W, 3]` in a rectangle."""
        x, y, wide, high = (round(value * FINE) for value in place)
        image = Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC)
        mask = Image.new("L", (wide, high), 0)
        ImageDraw.Draw(mask).rounded_rectangle(
            (0, 0, wide - 1, high - 1), radius * FINE, 255
        )
        self.image.paste(image, (x, y), mask)

    def line(self, ends: Sequence[float], ink: str, width: float) -> None:
        """Draw a line through points (x0, y0, x1, y1, …)."""
        self.pen.line([v * FINE for v in ends], ink, round(width * FINE))

    def polygon(self, ends: Sequence[float], fill: str) -> None:
        """Fill the polygon through points (x0, y0, x1, y1, …)."""
        self.pen.polygon([v * FINE for v in ends], fill)

    def rimmed(self, lines: Sequence, colour: str, width: float) -> None:
        """Draw lines with a dark rim: they are seen on any picture."""
        for grow, ink in ((1.6, "#0009"), (0, colour)):
            for line in lines:
                self.line(line, ink, width + grow)

    def box(
        self,
        place: Place,
        box: np.ndarray,
        colour: str,
        width: float,
        dash: bool = False,
    ) -> None:
        """Draw a box (cxcywh, shares of a picture at `place`), cut at the picture."""
        x0, y0, x1, y1 = _corners(place, box)
        sides = [(x0, y0, x1, y0), (x1, y0, x1, y1), (x1, y1, x0, y1), (x0, y1, x0, y0)]
        pieces = [piece for side in sides for piece in _dashes(side)] if dash else sides
        self.rimmed(pieces, colour, width)

    def name(self, place: Place, box: np.ndarray, words: str, colour: str) -> None:
        """Write a name on a plate above a box, or inside where there is no room."""
        x0, y0, *_ = _corners(place, box)
        wide = _font(11, True).getlength(words) / FINE + 10
        x = min(max(x0 - 2, place.x), max(place.x, place.right - wide))
        y = min(max(y0 - 19, place.y), place.bottom - 17)
        self.plate(Place(x, y, wide, 17), colour, radius=2)
        self.text(x + 5, y + 12.5, words, 11, ink_on(colour), bold=True)

    def ring(self, x: float, y: float, radius: float, fill: str | None = None) -> None:
        """Draw a white ring with a dark rim."""
        for r, ink, wide in ((radius + 1, "#0009", 3.6), (radius, "white", 2)):
            edges = [(x - r) * FINE, (y - r) * FINE, (x + r) * FINE, (y + r) * FINE]
            self.pen.ellipse(edges, fill, ink, round(wide * FINE))


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour "#rrggbb"."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.3 * red + 0.6 * green + 0.1 * blue > 140 else "#ffffff"


def _corners(place: Place, box: np.ndarray) -> tuple[float, float, float, float]:
    cx, cy, w, h = (float(value) for value in box)
    x0, y0, x1, y1 = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, 1)
    return *place.at(x0, y0), *place.at(x1, y1)


def _dashes(side: tuple[float, float, float, float], length: float = 4):
    start, end = np.array(side[:2]), np.array(side[2:])
    count = max(1, round(float(np.hypot(*(end - start))) / length))
    for i in range(0, count, 2):
        ends = (start + (end - start) * min(j, count) / count for j in (i, i + 1))
        yield np.concatenate(list(ends))
