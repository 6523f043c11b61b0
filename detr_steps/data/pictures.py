"""Opening picture files of any kind as upright 8-bit RGB."""

import errno
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ORIENTATION = 0x0112  # EXIF tag: how the camera was held
TURNS = {  # its value -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SHAPE_TOLERANCE = 0.02  # width : height may differ by so much when a file was rescaled


class BadPicture(ValueError):
    """A picture file that cannot be used; `kind` is a key of `problems.KINDS`."""

    def __init__(self, kind: str, path: Path | str, detail: str) -> None:
        super().__init__(kind, str(path), detail)
        self.kind, self.path, self.detail = kind, str(path), detail

    def __str__(self) -> str:
        return f"{self.path}: {self.kind} ({self.detail})"


def read_picture(
    path: Path | str, stored_size: tuple[int, int] | None = None
) -> Image.Image:
    """Open any picture file as an upright RGB image of 8 bits per channel.

    Gray, palette, CMYK, 16-bit and transparent pictures are converted (transparent
    parts become white, 16-bit values are divided by 257). A picture that a camera
    marked as turned (EXIF) is turned upright, unless `stored_size` (H, W), the size
    that the annotations were made for, is the size before turning.

    Raises: BadPicture when the file is missing, truncated, no picture, or of a shape
    that contradicts `stored_size`.
    """
    try:
        with Image.open(path) as picture:
            check_shape(picture, path, stored_size)
            turned = turns(picture, stored_size)
            turn = TURNS[orientation(picture)] if turned else None
            rgb = _to_rgb(picture)
            return rgb if turn is None else rgb.transpose(turn)
    except BadPicture:
        raise
    except Exception as error:
        raise _named(error, path) from error


def picture_size(path: Path | str) -> tuple[int, int]:
    """Read (H, W) of the upright picture from the file's header only.

    Raises: BadPicture.
    """
    try:
        with Image.open(path) as picture:
            return upright_size(picture)
    except Exception as error:
        raise _named(error, path) from error


def picture_bytes(picture: Image.Image) -> Tensor:
    """Turn an RGB image into `[3, H, W]` uint8."""
    array = np.array(picture, dtype=np.uint8)  # [H, W, 3]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()  # [3, H, W]


def picture_tensor(picture: Image.Image) -> Tensor:
    """Turn an RGB image into `[3, H, W]` float32 in [0, 1]."""
    return picture_bytes(picture).float().div_(255)


def orientation(picture: Image.Image) -> int:
    """Read the EXIF orientation, 1 (upright) when there is none or it is broken."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return value if value in range(1, 9) else 1


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Compute (H, W) after turning the picture upright."""
    width, height = picture.size
    return (width, height) if orientation(picture) >= 5 else (height, width)


def turns(picture: Image.Image, stored_size: tuple[int, int] | None = None) -> bool:
    """Decide whether a picture has to be turned upright to fit its annotations.

    Only the sizes can tell. Where they cannot (square pictures, half turns,
    mirrors), the answer is yes, because annotation tools show pictures upright.
    """
    if orientation(picture) == 1:
        return False
    width, height = picture.size
    if stored_size is None or stored_size == upright_size(picture):
        return True
    if stored_size == (height, width):
        return False
    upright = _shape_error(upright_size(picture), stored_size)
    return upright <= _shape_error((height, width), stored_size)


def check_shape(
    picture: Image.Image, path: Path | str, stored_size: tuple[int, int] | None
) -> None:
    """Raise BadPicture when width : height is not that of the annotations."""
    if stored_size is None:
        return
    width, height = picture.size
    sizes = (height, width), upright_size(picture)
    if min(_shape_error(size, stored_size) for size in sizes) > SHAPE_TOLERANCE:
        stored = f"{stored_size[1]}x{stored_size[0]}"
        detail = f"the file is {width}x{height}, the annotations say {stored}"
        raise BadPicture("wrong shape", path, detail)


def _shape_error(size: tuple[int, int], stored: tuple[int, int]) -> float:
    """Relative difference of the two aspect ratios, one pixel of rounding allowed."""
    (h, w), (stored_h, stored_w) = size, stored
    error = abs(h * stored_w - w * stored_h)
    rounding = max(h, w, stored_h, stored_w)
    return max(error - rounding, 0) / (w * stored_h)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return _from_array(np.asarray(picture).astype(np.int64) // 257)
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture))
        return _from_array(values * (255 if values.max() <= 1 else 1))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or (
        "transparency" in picture.info
    ):
        return _on_white(picture)
    return picture.convert("RGB")


def _from_array(gray: np.ndarray) -> Image.Image:
    return Image.fromarray(gray.clip(0, 255).astype(np.uint8)).convert("RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


# What says something about this file for good; any other system error (too many open
# files, a network drive gone) must not pass for a bad picture.
_LASTING = {None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR}


def _named(error: Exception, path: Path | str) -> Exception:
    if isinstance(error, FileNotFoundError):
        return BadPicture("missing file", path, "no such file")
    if isinstance(error, MemoryError):
        return error
    if isinstance(error, OSError) and error.errno not in _LASTING:
        return error
    detail = str(error) or type(error).__name__
    return BadPicture("unreadable file", path, detail.replace(str(path), "file"))
