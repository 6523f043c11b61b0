"""The book's own letters: the files of book/fonts as one style sheet.

They stand inside the sheet, as data: a page that is opened from a disk may not load
fonts from other folders in every browser.
"""

import base64
import shutil
from pathlib import Path
from typing import NamedTuple

GREEK = "U+0370-03FF"
WEIGHTS = "100 900"  # one file holds all of them


class Font(NamedTuple):
    """One file of letters: its family, its style, and the letters that it is for."""

    file: str
    family: str
    style: str = "normal"
    letters: str = ""  # a unicode-range; empty for all that the file has


FONTS = (
    Font("Inter.woff2", "Inter"),
    Font("Inter-Italic.woff2", "Inter", "italic"),
    Font("Inter-Greek.woff2", "Inter", letters=GREEK),
    Font("Literata.woff2", "Literata"),
    Font("Literata-Italic.woff2", "Literata", "italic"),
)


def sheet(folder: Path) -> str:
    """The style sheet with every font of `FONTS` from `folder` inside it."""
    return "".join(_rule(font, (folder / font.file).read_bytes()) for font in FONTS)


def _rule(font: Font, content: bytes) -> str:
    data = base64.b64encode(content).decode("ascii")
    only = f"unicode-range:{font.letters};" * bool(font.letters)
    return (
        f'@font-face{{font-family:"{font.family}";font-style:{font.style};'
        f"font-weight:{WEIGHTS};font-display:swap;{only}"
        f'src:url("data:font/woff2;base64,{data}")format("woff2")}}\n'
    )


def write(folder: Path, static: Path) -> None:
    """Write the sheet among the site's files, and the licences of its fonts."""
    (static / "fonts.css").write_text(sheet(folder), encoding="utf-8", newline="\n")
    for licence in folder.glob("*-OFL.txt"):
        shutil.copy(licence, static)
