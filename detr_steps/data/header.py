"""What the header of a picture says: size as stored, and how it has to be turned."""

from dataclasses import dataclass

from PIL import Image, TiffImagePlugin

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
TURNED_BACK = {6: 8, 8: 6}  # the other turns are their own inverses
SHAPE_TOLERANCE = 0.02  # width : height may differ by so much when a file was rescaled

Size = tuple[int, int]  # H, W in pixels


@dataclass(frozen=True)
class Header:
    """Size (H, W) of a picture as its pixels are stored, and its EXIF orientation."""

    size: Size
    orientation: int  # 1 (upright) to 8

    @classmethod
    def of(cls, picture: Image.Image) -> "Header":
        """Read it from a picture that has just been opened."""
        width, height = picture.size
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            # newer Pillow gives the size after the turn that its loading will make
            width = picture.tag_v2[TiffImagePlugin.IMAGEWIDTH]
            height = picture.tag_v2[TiffImagePlugin.IMAGELENGTH]
        return cls((height, width), orientation(picture))

    @property
    def upright_size(self) -> Size:
        """(H, W) after turning the picture upright."""
        return self.size[::-1] if self.orientation >= 5 else self.size

    def fits(self, annotated: Size) -> bool:
        """Tell whether width : height is that of the annotations, turned or not."""
        sizes = self.size, self.upright_size
        return min(_shape_error(size, annotated) for size in sizes) <= SHAPE_TOLERANCE

    def turns(self, annotated: Size | None) -> bool:
        """Decide whether the picture has to be turned to fit its annotations.

        Only the sizes can tell. Where they cannot (square pictures, half turns,
        mirrors), the answer is yes, because annotation tools show pictures upright.
        """
        if self.orientation == 1:
            return False
        if annotated is None or annotated == self.upright_size:
            return True
        if annotated == self.size:
            return False
        upright = _shape_error(self.upright_size, annotated)
        return upright <= _shape_error(self.size, annotated)

    def turn(self, loaded: Image.Image, rgb: Image.Image, wanted: bool) -> Image.Image:
        """Turn the pixels `rgb` of a loaded picture upright, or leave them as stored.

        Pillow turns TIFFs while it loads them, and then forgets their orientation.
        """
        turned = self.orientation != 1 and orientation(loaded) == 1
        if wanted == turned:
            return rgb
        value = self.orientation
        return rgb.transpose(TURNS[value if wanted else TURNED_BACK.get(value, value)])

    def notes(self, annotated: Size) -> list[tuple[str, str]]:
        """Kinds of `problems.KINDS` that are worth knowing, with details."""
        if self.orientation != 1:
            turned = self.turns(annotated)
            kind = "turned picture" if turned else "picture left turned"
            return [(kind, f"EXIF {self.orientation}")]
        if self.size != annotated:
            (height, width), (h, w) = self.size, annotated
            return [("other size", f"{width}x{height}, annotated as {w}x{h}")]
        return []


def orientation(picture: Image.Image) -> int:
    """Read the EXIF orientation, 1 (upright) when there is none or it is broken."""
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1
    return value if value in range(1, 9) else 1


def _shape_error(size: Size, annotated: Size) -> float:
    """Relative difference of the two aspect ratios, one pixel of rounding allowed."""
    (h, w), (stored_h, stored_w) = size, annotated
    error = abs(h * stored_w - w * stored_h)
    rounding = max(h, w, stored_h, stored_w)
    return max(error - rounding, 0) / (w * stored_h)
