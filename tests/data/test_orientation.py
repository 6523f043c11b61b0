"""Pictures that a camera marked as turned: upright once, in every format."""

import numpy as np
import pytest
from PIL import Image, features

from detr_steps.data.check import check_folder
from detr_steps.data.coco import CocoFolder
from detr_steps.data.header import ORIENTATION, TURNED_BACK, TURNS, Header
from detr_steps.data.pictures import look_at, picture_size, read_picture
from detr_steps.data.transforms import Augment
from detr_steps.images import denormalise

# 24 x 16 blocks of 8 pixels: survives JPEG, and no turn leaves it as it is
UPRIGHT = np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((8, 8))).astype(np.uint8)
FORMATS = {
    "png": {},
    "jpg": {"quality": 95},
    "webp": {"lossless": True},
    "RGB.tif": {},
    "L.tif": {},
    "P.tif": {},
    "RGBA.tif": {},
    "CMYK.tif": {},
    "I;16.tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "jpeg.tif": {"compression": "jpeg", "quality": 95},
    "avif": {"quality": 100},
}


def turned(path, value, **save):
    """A file with UPRIGHT as a camera held that way stores it; (W, H) as stored."""
    picture = Image.fromarray(UPRIGHT)
    mode = path.name.split(".")[1]
    if mode == "I;16":
        picture = Image.fromarray(UPRIGHT.astype(np.uint16))
    else:
        picture = picture.convert(mode if mode.isupper() else "RGB")
    if value != 1:
        picture = picture.transpose(TURNS[TURNED_BACK.get(value, value)])
    exif = Image.Exif()
    exif[ORIENTATION] = value
    picture.save(path, exif=exif, **save)
    return picture.size


def gray(picture):
    return np.asarray(picture)[..., 0].astype(int)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", FORMATS)
def test_a_turned_picture_is_turned_once(tmp_path, kind, value):
    if kind == "avif" and not (features.modules.get("avif") and features.check("avif")):
        pytest.skip("this Pillow reads no AVIF")
    file = tmp_path / f"a.{kind}"
    width, height = turned(file, value, **FORMATS[kind])
    with Image.open(file) as picture:
        assert Header.of(picture) == Header((height, width), value)
    assert picture_size(file) == (16, 24)
    # without annotations, and annotated upright
    for annotated in (None, (16, 24), (32, 48)):
        assert np.abs(gray(read_picture(file, annotated)) - UPRIGHT).max() <= 8
    # annotated as the pixels lie in the file
    if value >= 5:
        picture, notes = look_at(file, (height, width))
        assert notes[0] == ("picture left turned", f"EXIF {value}")
        stored = Image.fromarray(UPRIGHT).transpose(
            TURNS[TURNED_BACK.get(value, value)]
        )
        assert np.abs(gray(picture) - np.asarray(stored)).max() <= 8


# the size tells only of quarter turns; annotation tools show pictures upright
@pytest.mark.parametrize(
    ("value", "as_stored"),
    [(value, False) for value in range(2, 9)]
    + [(value, True) for value in range(5, 9)],
)
def test_boxes_lie_on_their_object_in_a_turned_tiff(builder, value, as_stored):
    """The white block is at (16, 8) upright; Pillow turned TIFFs, and so did we."""
    builder.category(1, "block")
    upright = Image.new("RGB", (48, 32))
    upright.paste("white", (16, 8, 20, 20))
    stored = upright.transpose(TURNS[TURNED_BACK.get(value, value)])
    exif = Image.Exif()
    exif[ORIENTATION] = value
    annotated = stored if as_stored else upright
    builder.picture("a.tif", 1, stored, annotated.size, exif=exif)
    x0, y0, x1, y1 = annotated.getbbox()
    builder.box(1, 1, [x0, y0, x1 - x0, y1 - y0])
    data = CocoFolder(*builder.write(), augment=Augment.none(None), workers=0)
    for batches in (data.batches(1), data.evaluation_batches(1)):
        images, (target,) = next(batches)
        white = denormalise(images.pixels[0])[0] > 0.5
        height, width = white.shape
        assert (width, height) == annotated.size
        cx, cy, w, h = target["boxes"][0].tolist()
        x, y = (cx - w / 2) * width, (cy - h / 2) * height
        inside = white[
            round(y) : round(y + h * height), round(x) : round(x + w * width)
        ]
        assert inside.all() and inside.sum() == white.sum() == 48
    (problem,) = check_folder(data.folder, data.file).problems
    assert problem.kind == ("picture left turned" if as_stored else "turned picture")
