import errno

import numpy as np
import pytest
from PIL import Image

from detr_steps.data import pictures
from detr_steps.data.header import ORIENTATION, TURNS
from detr_steps.data.pictures import BadPicture, picture_tensor, read_picture

RED = (200, 40, 10)


def saved(tmp_path, picture, name="a.png", **save):
    picture.save(tmp_path / name, **save)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    file = saved(tmp_path, Image.new(mode, (5, 4)), f"a.{suffix}")
    picture = read_picture(file)
    assert (picture.mode, picture.size) == ("RGB", (5, 4))
    assert picture_tensor(picture).shape == (3, 4, 5)


def test_colours_survive_cmyk_jpeg_and_palette(tmp_path):
    plain = Image.new("RGB", (16, 16), RED)
    cmyk = saved(tmp_path, plain.convert("CMYK"), "a.jpg", quality=95)
    palette = saved(tmp_path, plain.quantize(4), "b.png")
    for file in (cmyk, palette):
        difference = np.abs(np.array(read_picture(file), dtype=int) - RED)
        assert difference.max() <= 6


def test_sixteen_bits_use_the_whole_range(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    file = saved(tmp_path, Image.fromarray(values))
    assert np.array(read_picture(file))[0, :, 0].tolist() == [0, 100, 255]


def test_transparent_pixels_are_white(tmp_path):
    picture = Image.new("RGBA", (2, 1), (*RED, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    seen = read_picture(saved(tmp_path, picture))
    assert [seen.getpixel((x, 0)) for x in (0, 1)] == [RED, (255, 255, 255)]


@pytest.mark.parametrize("value", range(1, 9))
def test_all_eight_exif_orientations_come_out_upright(tmp_path, value):
    upright = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    inverse = {6: 8, 8: 6}.get(value, value)  # what a camera held that way stores
    turn = TURNS.get(inverse)
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = value
    file = saved(tmp_path, stored, exif=exif)
    got = np.array(read_picture(file))[..., 0]
    assert got.tolist() == np.array(upright).tolist()
    assert pictures.picture_size(file) == (2, 3)
    # annotated as the file lies on the disk: then it stays so
    if value >= 5:
        assert read_picture(file, (3, 2)).size == (2, 3)


def test_annotations_may_be_for_another_scale_but_not_another_shape(tmp_path):
    file = saved(tmp_path, Image.new("RGB", (40, 30)))
    assert read_picture(file, (60, 80)).size == (40, 30)
    with pytest.raises(BadPicture, match="wrong shape.*40x30.*say 80x30"):
        read_picture(file, (30, 80))


def test_missing_truncated_and_no_picture(tmp_path):
    random = np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)
    whole = saved(tmp_path, Image.fromarray(random), "a.jpg").read_bytes()
    for name, data in {"b.jpg": whole[:700], "c.jpg": b"", "d.jpg": b"hello"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadPicture, match="unreadable file"):
            read_picture(tmp_path / name)
    with pytest.raises(BadPicture, match="missing file"):
        read_picture(tmp_path / "e.jpg")


def test_a_fault_of_the_machine_does_not_pass_for_a_bad_picture(tmp_path, monkeypatch):
    def exhausted(path):
        raise OSError(errno.EMFILE, "too many open files")

    file = saved(tmp_path, Image.new("RGB", (5, 4)))
    monkeypatch.setattr(pictures.Image, "open", exhausted)
    with pytest.raises(OSError, match="too many open files"):
        read_picture(file)
