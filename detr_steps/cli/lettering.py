"""Names in any script on pictures: the fonts of this machine, and what to do without.

matplotlib brings DejaVu, which has Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian,
Georgian and more. For other letters the fonts of the system are asked; what none has is
written as Latin letters or as its code, never as an empty box.
"""

import functools
import itertools
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont, features

from ..data.problems import one_line

DEJAVU = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
# fonts that have every letter, as a box, and mathematicians' with letters elsewhere
NO_FONTS = ("lastresort", "last resort", "adobeblank", "cmsy", "cmex", "cmmi", "cmr10")
# what makes a font a worse choice for a label, worst last
PLAIN_LAST = ("serif", "condensed", "light", "mono", "bold", "italic", "oblique")


class Piece(NamedTuple):
    """Letters that one font file has."""

    text: str
    font: Path


class Lettering(NamedTuple):
    """A name as it can be drawn, and the letters that no font of this machine has."""

    pieces: list[Piece]
    lacking: str

    @property
    def text(self) -> str:
        """What can be read on the picture."""
        return "".join(piece.text for piece in self.pieces)

    def draw(
        self, pen: ImageDraw.ImageDraw, place: tuple[float, float], size: int, fill: str
    ) -> None:
        """Write it with its upper left corner at `place`, `size` pixels high."""
        x, y = place
        for text, file in self.pieces:
            font = _font(file, size)
            pen.text((x, y + size), text, fill=fill, font=font, anchor="ls")
            x += font.getlength(text)

    def width(self, size: int) -> float:
        """Its width in pixels."""
        return sum(_font(file, size).getlength(text) for text, file in self.pieces)


@functools.lru_cache(maxsize=4096)
def lettering(name: str) -> Lettering:
    """Choose fonts for a name, and other letters where there is no font."""
    name = unicodedata.normalize("NFC", one_line(name))
    fonts = _fonts_for(dict.fromkeys(name))
    lacking = "".join(c for c in dict.fromkeys(name) if fonts[c] is None)
    letters = [
        piece for c in name for piece in ([(fonts[c], c)] if fonts[c] else _instead(c))
    ]
    runs = itertools.groupby(letters, key=lambda letter: letter[0])
    pieces = [Piece("".join(c for _, c in run), file) for file, run in runs]
    return Lettering(pieces, "".join(c for c in lacking if not _silent(c)))


def _fonts_for(letters: dict[str, None]) -> dict[str, Path | None]:
    """A font for each letter: DejaVu, or one for all of the others, or one for each."""
    known = {c for c in letters if _drawable(c)}
    fonts = {c: DEJAVU if c in known and _has(DEJAVU, c) else None for c in letters}
    others = "".join(sorted(c for c in known if fonts[c] is None and not _silent(c)))
    if not others:
        return fonts
    together = _system_font(others)
    for c in others:
        fonts[c] = together or _system_font(c)
    return fonts


def _drawable(letter: str) -> bool:
    """From right to left, and in forms that join, only Pillow's raqm can write."""
    return not _right_to_left(letter) or features.check("raqm")


def _right_to_left(letter: str) -> bool:
    return unicodedata.bidirectional(letter) in ("R", "AL", "AN")


def _silent(letter: str) -> bool:
    """Marks that are not seen: joiners, variants of emoji."""
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"


def _instead(letter: str) -> list[tuple[Path, str]]:
    """Plain letters in place of one that no font has, or its code."""
    if _silent(letter):
        return []
    plain = unicodedata.normalize("NFKD", letter)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    if plain == letter or not plain or not all(_has(DEJAVU, c) for c in plain):
        plain = letter.encode("ascii", "backslashreplace").decode()
    return [(DEJAVU, c) for c in plain]


@functools.lru_cache(maxsize=4096)
def _system_font(letters: str) -> Path | None:
    """The plainest font of the system that has all of these letters."""
    fonts = (file for file in _system_fonts() if all(_has(file, c) for c in letters))
    return next(fonts, None)


@functools.lru_cache(maxsize=1)
def _system_fonts() -> list[Path]:
    # asked of the system, not of matplotlib's cache: a font may have come since
    files = [Path(file) for file in font_manager.findSystemFonts()]
    return sorted(filter(_usable, files), key=_rank)


def _usable(file: Path) -> bool:
    name = file.name.lower()
    return not any(word in name for word in NO_FONTS)


def _rank(file: Path) -> tuple[int, bool, str]:
    name = file.name.lower()
    faults = sum(1 + place for place, word in enumerate(PLAIN_LAST) if word in name)
    return faults, "sans" not in name, name


def _has(file: Path, letter: str) -> bool:
    """Tell whether Pillow can draw this letter with this font."""
    face = _face(file)
    if face is None or face.get_char_index(ord(letter)) == 0:
        return False
    if unicodedata.category(letter) in ("Zs", "Mn", "Cf"):
        return True
    # fonts of coloured pictures may have glyphs without any outline
    return _font(file, 16).getmask(letter).getbbox() is not None


@functools.lru_cache(maxsize=1024)
def _face(file: Path) -> FT2Font | None:
    try:
        ImageFont.truetype(file, 16)  # fonts of coloured pictures have one size only
        return FT2Font(str(file))
    except (OSError, RuntimeError, ValueError):
        return None


@functools.lru_cache(maxsize=64)
def _font(file: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def said_once(names: list[str]) -> Iterator[str]:
    """A line for each of the names that is drawn in other letters than its own."""
    for name in dict.fromkeys(names):
        drawn = lettering(name)
        if drawn.lacking:
            joined = not features.check("raqm") and any(
                map(_right_to_left, drawn.lacking)
            )
            cure = "the library FriBiDi" if joined else "a Noto font of that script"
            yield (
                f'"{drawn.lacking}" of the name "{name}" cannot be drawn here: '
                f'written as "{drawn.text}"; {cure} mends it'
            )
