"""Opening picture files of any kind as upright 8-bit RGB."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .brightness import to_rgb
from .header import Header, Size
from .problems import one_line

Notes = list[tuple[str, str]]  # kinds of `problems.KINDS`, with details


class BadPicture(ValueError):
    """A picture file that cannot be used; `kind` is a key of `problems.KINDS`."""

    def __init__(self, kind: str, path: Path | str, detail: str) -> None:
        super().__init__(kind, str(path), detail)
        self.kind, self.path, self.detail = kind, str(path), detail

    def __str__(self) -> str:
        return one_line(f"{self.path}: {self.kind} ({self.detail})")


def read_picture(path: Path | str, annotated: Size | None = None) -> Image.Image:
    """Open any picture file as an upright RGB image of 8 bits per channel.

    Gray, palette, CMYK, deeper and transparent pictures are converted (see
    `brightness`). A picture that a camera marked as turned (EXIF) is turned upright,
    unless `annotated` (H, W), the size that the annotations were made for, is the size
    before turning.

    Raises: BadPicture when the file is missing, truncated, no picture, no plain file,
    or of a shape that contradicts `annotated`; OSError for a fault of the machine.
    """
    return look_at(path, annotated)[0]


def look_at(
    path: Path | str, annotated: Size | None = None
) -> tuple[Image.Image, Notes]:
    """Read a picture as `read_picture` does, with what is worth knowing about it."""
    with _opened(path, annotated) as (picture, header):
        rgb, notes = to_rgb(picture, path)
        rgb = header.turn(picture, rgb, header.turns(annotated))
        return rgb, [*header.notes(annotated or header.upright_size), *notes]


def look_at_header(path: Path | str, annotated: Size) -> Notes:
    """What `look_at` finds worth knowing, as far as the header says it.

    Raises: as `read_picture`, but for what only decoding shows.
    """
    with _opened(path, annotated) as (_, header):
        return header.notes(annotated)


def picture_size(path: Path | str) -> Size:
    """Read (H, W) of the upright picture from the file's header only.

    Raises: as `read_picture`.
    """
    with _opened(path) as (_, header):
        return header.upright_size


def picture_bytes(picture: Image.Image) -> Tensor:
    """Turn an RGB image into `[3, H, W]` uint8."""
    array = np.array(picture, dtype=np.uint8)  # [H, W, 3]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()  # [3, H, W]


def picture_tensor(picture: Image.Image) -> Tensor:
    """Turn an RGB image into `[3, H, W]` float32 in [0, 1]."""
    return picture_bytes(picture).float().div_(255)


def require_file(path: Path | str) -> None:
    """Refuse what is no plain file: to open a named pipe would wait for ever.

    Raises: BadPicture; OSError for a fault of the machine.
    """
    try:
        mode = os.stat(path).st_mode
    except Exception as error:
        raise _named(error, path) from error
    if not stat.S_ISREG(mode):
        raise BadPicture("unreadable file", path, f"it is {_file_type(mode)}")


def _file_type(mode: int) -> str:
    types = {
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
    }
    return next((name for test, name in types.items() if test(mode)), "a device")


@contextlib.contextmanager
def _opened(
    path: Path | str, annotated: Size | None = None
) -> Iterator[tuple[Image.Image, Header]]:
    """Open a picture; whatever is wrong with the file becomes a BadPicture."""
    require_file(path)
    try:
        # a stream, no path: from a path Pillow (13.0) maps TIFFs into memory in the
        # shape they have after the turn, and garbles those of one channel
        with open(path, "rb") as stream, Image.open(stream) as picture:
            header = Header.of(picture)
            if annotated is not None and not header.fits(annotated):
                raise _wrong_shape(path, header.size, annotated)
            yield picture, header
    except BadPicture:
        raise
    except Exception as error:
        raise _named(error, path) from error


def _wrong_shape(path: Path | str, size: Size, annotated: Size) -> BadPicture:
    (height, width), (h, w) = size, annotated
    detail = f"the file is {width}x{height}, the annotations say {w}x{h}"
    return BadPicture("wrong shape", path, detail)


# What says something about this file for good; any other system error (too many open
# files, a network drive gone) must not pass for a bad picture.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
_LASTING = {None, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP}


def _named(error: Exception, path: Path | str) -> Exception:
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, "not enough memory to read it", str(path))
    code = getattr(error, "errno", None)
    # ValueError: a name that no file system takes (a zero byte, half a surrogate pair)
    if code in _ABSENT or (isinstance(error, ValueError) and not _can_exist(path)):
        return BadPicture("missing file", path, "no such file")
    if isinstance(error, OSError) and code not in _LASTING:
        return error
    detail = str(error) or type(error).__name__
    return BadPicture("unreadable file", path, detail.replace(str(path), "file"))


def _can_exist(path: Path | str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
