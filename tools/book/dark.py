"""Plots for the dark theme: what is drawn on white, drawn on the page's dark paper.

Only plots are made dark: lines and words on white. A picture, a map of values or a
figure whose text names black, white or grey stays as it is, on a white card; colours
keep their names.
"""

import ast
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

PAPER, INK = (18, 23, 29), (223, 229, 235)  # book.css: --book-paper and --book-ink
BRUSH = 13  # pixels; what is thinner is a stroke, a letter or a dot, the rest an area
WHITE, GREY = 245, 14  # from this value on white; up to this spread of channels grey
COVER = 0.45  # an area that covers its paper by less lets it shine through
SHADES = 6  # a plot's areas have no more colours; a map of values has
NAMED = re.compile(
    r"(?i)\b(black|white|gr[ea]y|dark|light|bright|pale|shade)(er|est|s|d|ish)?\b"
)
MAP = "family_map("  # the map of the course: what stands around it is about others
IMAGE = re.compile(r'<img [^>]*class="plot"[^>]*src="\.\./_images/([^"]+\.png)"[^>]*>')

LIGHT, DARK = (('class="plot"', f'class="plot only-{on}"') for on in ("light", "dark"))


def is_plot(png: bytes) -> bool:
    """True for lines, bars and words on white: no picture, no map of values.

    Maps are told by many shades, by deep colours (where most colour maps begin) or by
    areas of grey. The shares were set on the course's own figures, with room on both
    sides.
    """
    pixels = _pixels(png)
    areas = _areas(pixels)
    filled = areas.min(-1) < WHITE
    grey = filled & (np.ptp(areas, axis=-1) <= GREY)
    grey = ndimage.binary_erosion(grey, np.ones((5, 5)))  # no letters side by side
    marks = _areas(pixels, BRUSH // 2 + 1)
    deep = (marks.max(-1) < 140) & (np.ptp(marks, axis=-1) > 2 * GREY)
    found = Counter(map(tuple, (areas[filled] // 32).astype(int).tolist()))
    shades = sum(count > 0.001 * filled.size for count in found.values())
    few = filled.mean() < 0.35 and shades <= SHADES
    return bool(few and grey.mean() < 0.0002 and deep.mean() < 0.001)


def names_neutral(text: str, code: str) -> bool:
    """True where words about a figure, or in its code, name black, white or grey."""
    if MAP in code:
        return False
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:  # a cell with magics: all of it counts as words
        return bool(NAMED.search(text + code))
    told = [n.value for n in nodes if isinstance(n, ast.Constant)]
    told = [each for each in told if isinstance(each, str) and " " in each]
    return any(NAMED.search(words) for words in (text, *told))


def dark(png: bytes) -> bytes:
    """The plot on dark paper, as a PNG with 256 colours.

    White becomes paper and grey strokes become ink; a colour keeps its hue, and is
    lightened a little where it is too deep for dark paper. Strokes on a strong area
    of colour stay as they are.
    """
    pixels = _pixels(png)
    cover = _cover(pixels)[..., None]
    colour = 255 - (255 - pixels) / np.maximum(cover, 1 / 255)
    strength = colour.max(-1, keepdims=True) / 255  # 0 for black and for greys
    colour = colour * strength + np.array(INK) * (1 - strength)
    made = np.array(PAPER) * (1 - cover) + colour * cover
    strong = _cover(_areas(pixels)) > COVER
    made[strong] = pixels[strong]
    return _small(made.round().astype(np.uint8))


def add_to(pages: list[Path]) -> None:
    """Put a dark twin behind each image of class "plot" of built pages.

    The themes' classes only-light and only-dark show the one or the other.
    """
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name in set(IMAGE.findall(text)):
            _make(page.parent.parent, name)
        twins = IMAGE.sub(
            lambda found: found[0].replace(*LIGHT) + _twin(found[0]), text
        )
        if twins != text:
            page.write_text(twins, encoding="utf-8", newline="\n")


def _make(site: Path, name: str) -> None:
    """Draw the dark twin of one of the site's images."""
    (site / "_dark").mkdir(exist_ok=True)
    made = dark((site / "_images" / name).read_bytes())
    (site / "_dark" / name).write_bytes(made)


def _twin(image: str) -> str:
    return image.replace(*DARK).replace("/_images/", "/_dark/")


def _pixels(png: bytes) -> np.ndarray:
    """`[H, W, 3]` in 0..255."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def _areas(pixels: np.ndarray, brush: int = BRUSH) -> np.ndarray:
    """The picture without what is thinner than the brush: what lies under strokes."""
    return ndimage.grey_closing(pixels, size=(brush, brush, 1))


def _cover(pixels: np.ndarray) -> np.ndarray:
    """How much of white paper a pixel hides, at least: `[H, W]` in 0..1."""
    return 1 - pixels.min(-1) / 255


def _small(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    few = Image.fromarray(pixels).quantize(256, method=Image.Quantize.FASTOCTREE)
    few.save(file, "png", optimize=True)
    return file.getvalue()
