"""A COCO-format folder with one of every fault, built from scratch."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


class Builder:
    """Collects pictures and annotations, then writes the JSON file."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        self.images.mkdir(parents=True)
        self.file = root / "annotations" / "instances.json"
        self.raw = {"images": [], "annotations": [], "categories": []}

    def category(self, number, name):
        self.raw["categories"].append({"id": number, "name": name})

    def listed(self, name, number, size):
        width, height = size
        entry = {"id": number, "file_name": name, "width": width, "height": height}
        self.raw["images"].append(entry)

    def picture(self, name, number, picture, size=None, **save):
        picture.save(self.images / name, **save)
        self.listed(name, number, size or picture.size)

    def box(self, image, category, bbox, number=None, **more):
        number = number or len(self.raw["annotations"]) + 1000
        entry = {"id": number, "image_id": image, "category_id": category}
        self.raw["annotations"].append(entry | {"bbox": bbox} | more)

    def write(self):
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(self.raw))
        return self.images, self.file


def noise(width, height, seed=0):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def builder(tmp_path):
    return Builder(tmp_path / "set")


@pytest.fixture
def good_folder(builder):
    """Twelve pictures of different sizes, two boxes each; ids 3 and 7."""
    builder.category(7, "dog")
    builder.category(3, "cat")
    for i in range(12):
        width, height = 40 + 3 * i, 60 - 2 * i
        builder.picture(f"{i}.png", 100 + i, noise(width, height, i))
        builder.box(100 + i, 3, [2, 3, 10, 12])
        builder.box(100 + i, 7, [20, 5, 15, 20 + i])
    return builder.write()


@pytest.fixture
def broken_folder(builder):
    """One picture or annotation for each fault."""
    builder.category(3, "cat")
    builder.category(7, "dog")
    builder.category(9, "never seen")
    rgb = noise(40, 30)
    cmyk = Image.new("CMYK", (40, 30), (0, 255, 255, 0))  # red
    builder.picture("cmyk.jpg", 1, cmyk)
    builder.picture("palette.png", 2, rgb.quantize(16))
    exif = Image.Exif()
    exif[0x0112] = 6
    builder.picture("turned.jpg", 3, rgb, (30, 40), exif=exif)
    builder.picture("as_stored.jpg", 4, rgb, exif=exif)
    builder.picture("truncated.jpg", 5, rgb)
    data = (builder.images / "truncated.jpg").read_bytes()
    (builder.images / "truncated.jpg").write_bytes(data[: len(data) // 2])
    builder.listed("missing.jpg", 6, (40, 30))
    builder.picture("empty.png", 7, rgb)
    builder.picture("resized.png", 8, rgb, (80, 60))
    builder.picture("other.png", 9, rgb, (90, 30))
    builder.picture("again.png", 1, rgb)
    for image in (1, 2, 3, 4, 5, 6, 8, 9):
        builder.box(image, 3, [5, 5, 10, 10], image)
    builder.box(1, 7, [float("nan"), 5, 10, 10], 11)
    builder.box(1, 7, [5, 5, 0, 10], 12)
    builder.box(1, 7, [50, 5, 10, 10], 13)
    builder.box(1, 7, [30, 20, 30, 5], 14)
    builder.box(1, 8, [5, 5, 10, 10], 15)
    builder.box(77, 3, [5, 5, 10, 10], 16)
    builder.box(1, 7, "big", 17)
    builder.box(1, 3, [5, 5, 10, 10], 1)
    builder.box(2, 7, [1, 1, 10, 10], 14)
    runs = {"size": [30, 40], "counts": [600, 30, 570]}
    builder.box(2, 3, [20, 0, 1, 30], 18, iscrowd=1, segmentation=runs, area=30)
    builder.box(2, 3, [1, 1, 9, 9], 19, segmentation=[[1, 2, 3]])
    return builder.write()
