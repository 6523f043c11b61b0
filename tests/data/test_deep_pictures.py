"""Pictures of more than 8 bits per channel: never black, never white, and said."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from detr_steps.data import brightness
from detr_steps.data.brightness import fraction_white, whole_white
from detr_steps.data.check import check_folder
from detr_steps.data.pictures import look_at, read_picture

RAMP = np.linspace(0, 1, 12).reshape(3, 4)  # [H, W], black to white


def gray(file):
    """One channel of a picture as read: [H, W] in 0 to 255."""
    pixels = np.asarray(read_picture(file)).astype(int)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def saved(file, values, **save):
    Image.fromarray(values).save(file, **save)
    return file


def png_of_16_bits(values):
    """The bytes of a PNG with colours [H, W, 3]; Pillow writes none."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def tiff_of_16_bits(values, order="<"):
    """The bytes of an uncompressed TIFF with colours [H, W, 3], in either order."""
    height, width, _ = values.shape
    data = values.astype(f"{order}u2").tobytes()
    tags = [(256, width), (257, height), (258, 122), (259, 1), (262, 2), (273, 128)]
    tags += [(277, 3), (278, height), (279, len(data))]
    entries = b"".join(
        struct.pack(
            f"{order}HHII", tag, 3 if tag == 258 else 4, 1 + 2 * (tag == 258), v
        )
        for tag, v in tags
    )
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    count = struct.pack(f"{order}H", len(tags))
    bits = struct.pack(f"{order}HHH", 16, 16, 16)
    return head + count + entries + b"\0" * 4 + bits + data


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("kind", ["a.png", "big endian.tif", "a.tif", "32 bit.tif"])
def test_whole_numbers_of_usual_depths_use_all_of_8_bits(tmp_path, kind, top):
    values = (RAMP * top).round()
    types = {"32 bit.tif": np.int32, "big endian.tif": ">u2"}
    file = saved(tmp_path / kind, values.astype(types.get(kind, np.uint16)))
    assert np.abs(gray(file) - RAMP * 255).max() <= 1
    ((note, detail),) = look_at(file)[1]
    assert note == "more than 8 bits"
    assert detail == f"values from 0 to {top:g}, {top:g} becomes white"


@pytest.mark.parametrize(
    "top", [0.9, 1, 1.02, 200, 255, 4000, 65535, 70_000, 1e6, 1e30]
)
def test_fractions_use_nearly_all_of_8_bits(tmp_path, top):
    file = saved(tmp_path / "a.tif", (RAMP * top).astype(np.float32))
    found = gray(file)
    assert found[0, 0] == 0 and 60 < found.max() <= 255
    assert (np.diff(found.ravel()) > 0).all()


@pytest.mark.parametrize("top", [1.5, 5, 40, 60])
def test_depths_in_metres_are_not_black(tmp_path, top):
    file = saved(tmp_path / "a.tif", (RAMP * top).astype(np.float32))
    assert gray(file).max() == 255


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -3])
def test_what_is_not_finite_or_below_zero_is_black(tmp_path, bad):
    values = (RAMP * 255).astype(np.float32)
    values[1, 1] = bad
    found = gray(saved(tmp_path / "a.tif", values))
    assert found[1, 1] == 0 and found[2, 3] == 255
    assert np.abs(found - RAMP * 255)[[0, 2]].max() <= 1


def test_the_whole_32_bits_and_sums_of_exposures(tmp_path):
    for top in (70_000, 2**24 - 1, 2**31 - 1):
        file = saved(tmp_path / "a.tif", (RAMP * top).astype(np.int32))
        assert np.abs(gray(file) - RAMP * 255).max() <= 1
    unsigned = (RAMP * (2**32 - 1)).astype(np.uint32).view(np.int32)
    file = saved(tmp_path / "b.tif", unsigned)
    entry = struct.pack("<HHI", TiffImagePlugin.SAMPLEFORMAT, 3, 1)
    data = file.read_bytes()  # Pillow writes numbers with a sign: change the entry
    file.write_bytes(data.replace(entry + b"\x02", entry + b"\x01"))
    assert Image.open(file).tag_v2[TiffImagePlugin.SAMPLEFORMAT] == (1,)
    assert np.abs(gray(file) - RAMP * 255).max() <= 1
    signed = saved(tmp_path / "c.tif", (RAMP * 255 - 100).astype(np.int32))
    assert gray(signed)[0, 0] == 0


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383])
@pytest.mark.parametrize("write", [png_of_16_bits, tiff_of_16_bits])
def test_colours_that_fill_few_of_16_bits_are_not_black(tmp_path, write, top):
    values = np.stack((RAMP, RAMP[::-1], 1 - RAMP), axis=-1)
    values[..., 1] /= 2
    file = tmp_path / "a"
    for options in ({}, {"order": ">"}) if write is tiff_of_16_bits else ({},):
        file.write_bytes(write((values * top).round(), **options))
        found = np.asarray(read_picture(file))
        assert np.abs(found - values * 255).max() <= 1.01
        assert [kind for kind, _ in look_at(file)[1]] == ["more than 8 bits"]


def test_colours_of_all_16_bits_are_read_as_before(tmp_path):
    values = np.stack((RAMP, RAMP[::-1], 1 - RAMP), axis=-1)
    (tmp_path / "a").write_bytes(png_of_16_bits((values * 65535).round()))
    picture, notes = look_at(tmp_path / "a")
    assert notes == [] and np.abs(np.asarray(picture) - values * 255).max() <= 1


@pytest.mark.parametrize(
    ("highest", "white"),
    [(0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383)]
    + [(16384, 65535), (65535, 65535), (65536, 65536), (2**32 - 1, 2**32 - 1)],
)
def test_white_is_the_top_of_the_smallest_depth_that_holds_all(highest, white):
    assert whole_white(highest) == white


@pytest.mark.parametrize(
    ("highest", "white"),
    [(0, 1), (0.2, 1), (1, 1), (1.25, 1), (1.3, 1.3), (63, 63), (64, 255), (255, 255)]
    + [(255.5, 255.5), (256, 1023), (65535, 65535), (65535.5, 65536), (1e9, 1e9)],
)
def test_white_of_fractions(highest, white):
    assert fraction_white(highest) == white
    assert white <= max(4 * highest, 1)  # never black


@pytest.mark.parametrize(
    "kind", ["png", "jpg", "webp", "tif", "gif", "bmp", "ppm", "jp2", "tga", "pcx"]
)
def test_dark_pictures_of_8_bits_stay_dark_in_every_format(tmp_path, kind):
    dark = Image.new("RGB", (40, 30), (0, 40, 20))
    dark.save(tmp_path / f"a.{kind}")
    picture, notes = look_at(tmp_path / f"a.{kind}")
    assert np.abs(np.asarray(picture, dtype=int) - (0, 40, 20)).max() <= 3
    assert notes == []


def test_a_picture_that_stays_black_is_named(builder):
    builder.category(1, "thing")
    for number, level in enumerate((0, brightness.NEARLY_BLACK - 1, 16)):
        picture = Image.new("RGB", (40, 30))
        picture.putpixel((3, 3), (0, level, 0))
        builder.picture(f"{level}.png", number, picture)
        builder.box(number, 1, [2, 2, 9, 9])
    report = check_folder(*builder.write())
    dark = [str(p) for p in report.problems]
    assert dark == [
        "0.png: the brightest pixel is 0 of 255",
        "15.png: the brightest pixel is 15 of 255",
    ]
    assert report.exit_status == 0 and report.counts == {"nearly black": 2}


def test_a_report_says_which_value_became_white(builder):
    builder.category(1, "thing")
    values = np.linspace(0, 3000, 1200).reshape(30, 40).astype(np.uint16)
    builder.picture("a.png", 1, Image.fromarray(values))
    builder.box(1, 1, [2, 2, 9, 9])
    report = check_folder(*builder.write())
    assert "a.png: values from 0 to 3000, 4095 becomes white" in str(report)
    assert report.exit_status == 0
