"""Where results of pictures are written: over nothing but this tool's own."""

import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

MADE_BY = "detr-steps predict"
ENDINGS = (".png", ".json")
LONGEST = 180  # bytes of a name: file systems take 255, with endings and numbers


def _text(picture: Path) -> str:
    path = os.path.abspath(picture)
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def source_of(picture: Path) -> str:
    """What stands for a picture's own path."""
    return _digest(_text(picture))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def marks(picture: Path) -> dict[str, str]:
    """What a JSON file of ours says about itself."""
    return {"made_by": MADE_BY, "source": _text(picture)}


def png_marks(picture: Path) -> PngInfo:
    """The same for a PNG file, in its text chunks.

    Drawings are shown around: of the path they have a digest only.
    """
    info = PngInfo()
    info.add_text("made_by", MADE_BY)
    info.add_text("source", source_of(picture))
    return info


def made_for(file: Path) -> str | None:
    """The `source_of` the picture that a PNG or JSON file of this tool was made of.

    None for anything else, be it unreadable or no file at all.
    """
    if os.path.islink(file) or not os.path.isfile(file):  # a pipe would wait for ever
        return None
    try:
        is_json = file.suffix == ".json"
        said = json.loads(file.read_bytes()) if is_json else _png_texts(file)
        if said["made_by"] == MADE_BY:
            return _digest(said["source"]) if is_json else said["source"]
    except Exception:  # whatever is wrong with it, it is not ours
        pass
    return None


def _png_texts(file: Path) -> dict[str, str]:
    with warnings.catch_warnings(), Image.open(file) as picture:
        warnings.simplefilter("ignore")  # about its size
        return picture.info if picture.format == "PNG" else {}


class Outputs:
    """Names for results in a folder, one for each picture.

    A name is taken if its PNG or JSON file is there and was not made by this tool of
    the very same picture, if it is one of the `inputs`, or `reserved` for another file.
    """

    def __init__(
        self, folder: Path, inputs: Iterable[Path], reserved: Path | None = None
    ) -> None:
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise ValueError(f"{folder} is no folder: name another with --out")
        self.folder = folder
        self.inputs = {identity for path in inputs if (identity := _identity(path))}
        self.reserved = reserved and _plain(reserved)
        self.numbers: dict[str, int] = {}  # how many pictures had this name before

    def place(self, picture: Path) -> str:
        """The path of this picture's results, without an ending.

        The picture's name, with a number behind it where that is taken.
        """
        name = _cut(picture.stem)
        for number in itertools.count(self.numbers.get(name, 0) + 1):
            self.numbers[name] = number
            path = self.folder / (name if number == 1 else f"{name}-{number}")
            if all(self._free(Path(f"{path}{end}"), picture) for end in ENDINGS):
                return str(path)
        raise AssertionError  # count() does not end

    def _free(self, file: Path, picture: Path) -> bool:
        if _plain(file) == self.reserved:
            return False
        if not os.path.lexists(file):
            return True
        if _identity(file) in self.inputs:
            return False
        return made_for(file) == source_of(picture)


def _cut(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:LONGEST])


def _plain(path: Path) -> str:
    return os.path.normcase(os.path.abspath(path))


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, under whatever name; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
