"""COCO folders with one to three things wrong: a few scenes of data/sample-coco."""

import json
import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SAMPLE = Path(__file__).parents[1] / "data" / "sample-coco"
IMAGES = 4  # of the sample, in each folder

ODD = [
    *(None, True, False, 0, 1, 7, 7.0, 7.5, -1, -0.0, 2**31, 2**40, 10**13, 2**63),
    *(10**30, 1e308, 1e400, -1e400, math.nan, 2.0**53, "", " ", "x", "7", "007", " 7"),
    *("7.0", "1_0", "nan", "1234", "\x00", "\ud800", "a\nb", "é", "名", "x" * 300),
    *([], [1], [None] * 4, [1, 2, 3, 4], ["1", "2", "30", "40"], [True, 1, 20, 20]),
    *([[]], [math.nan] * 4, {}, {"1": 1, "2": 2, "3": 3, "4": 4}, {"id": 1}, [[[[]]]]),
    *(["a"] * 4, [5, 5, 1e308, 1e308], [1e308] * 4, [0.1, 0.1, 0.2, 0.2]),
]
POLYGON = [10.0, 10.0, 60.0, 12.0, 30.0, 50.0]
MASKS = [
    *([[*POLYGON[:5], bad]] for bad in (math.nan, math.inf, -math.inf, 2**40, 1e300)),
    *([[bad, *POLYGON[1:]]] for bad in (math.nan, math.inf, 2.0**40, 10**400, "3")),
    *([POLYGON, []], [POLYGON[:5]], [POLYGON[:4]], POLYGON, [[POLYGON]], [POLYGON]),
    *([[-100.0, -100.0, 250.0, 0.0, 0.0, 250.0]], [[True] * 6], [None], ["x"], "x", 5),
    *(
        {"size": [128, 128], "counts": counts}
        for counts in (
            *([5, 10], [], [0], [-5, 16389], [2**40], [16384.0], [16384], [0, 16384]),
            *(
                [10**400],
                [True] * 9,
                ["x"],
                [[5]],
                None,
                5,
                "",
                "\x00",
                "o",
                "0",
                "PPPP",
            ),
            *("ooooooooooooooooooooooo1", "é", "\ud800", "`0`0", "Sb:5", [1] * 16384),
        )
    ),  # fmt: skip
    *(
        {"size": size, "counts": [0, 16384]}
        for size in (
            *(
                5,
                None,
                "x",
                [128],
                [128, "128"],
                [128.0, 128.0],
                [64, 256],
                [128, 128, 1],
            ),
            *([10**13, 10**13], [-128, -128], {"128": 1, "129": 1}),
        )
    ),  # fmt: skip
    *({}, {"counts": [16384]}, {"size": [128, 128]}),
]


class Folder:
    """A copy of a few scenes that can be mutated and written."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root, self.chance = root, chance
        self.images = root / "images"
        self.file = root / "annotations" / "instances.json"
        self.encoding = "utf-8"
        self.raw = json.loads((SAMPLE / "annotations/instances.json").read_text())
        first = chance.randrange(12)
        self.raw["images"] = self.raw["images"][first : first + IMAGES]
        ids = {image["id"] for image in self.raw["images"]}
        kept = [a for a in self.raw["annotations"] if a["image_id"] in ids]
        self.raw["annotations"] = kept
        self.images.mkdir(parents=True)
        for image in self.raw["images"]:
            shutil.copy(SAMPLE / "images" / image["file_name"], self.images)

    def entry(self, *kinds: str) -> dict:
        """Any entry that still is one."""
        kinds = kinds or ("images", "annotations", "annotations", "categories")
        rows = self.entries(self.chance.choice(kinds))
        return self.chance.choice(rows) if rows else {}

    def entries(self, kind: str) -> list[dict]:
        """All entries of a list that still are some."""
        rows = self.raw[kind] if isinstance(self.raw[kind], list) else []
        return [row for row in rows if isinstance(row, dict)]

    def picture(self) -> Path:
        """The file of any picture."""
        return self.chance.choice(sorted(self.images.iterdir()))

    def write(self) -> tuple[Path, Path]:
        self.file.parent.mkdir(exist_ok=True, parents=True)
        text = json.dumps(self.raw, ensure_ascii=self.chance.random() < 0.5)
        self.file.write_bytes(text.encode(self.encoding, "surrogatepass"))
        return self.images, self.file


def odd_value(folder: Folder) -> None:
    entry = folder.entry()
    if entry:
        entry[folder.chance.choice(sorted(entry))] = folder.chance.choice(ODD)


def no_value(folder: Folder) -> None:
    entry = folder.entry()
    if entry:
        entry.pop(folder.chance.choice(sorted(entry)))


def odd_mask(folder: Folder) -> None:
    folder.entry("annotations")["segmentation"] = folder.chance.choice(MASKS)


def odd_box(folder: Folder) -> None:
    nan, inf = math.nan, math.inf
    boxes = [5, 5, nan, 5], [5, inf, 5, 5], [-9, -9, 30, 30], [200, 5, 9, 9], [5] * 5
    folder.entry("annotations")["bbox"] = folder.chance.choice(boxes)


def odd_entry(folder: Folder) -> None:
    rows = folder.raw[folder.chance.choice(("images", "annotations", "categories"))]
    if isinstance(rows, list):
        rows.insert(folder.chance.randrange(len(rows) + 1), folder.chance.choice(ODD))


def twin(folder: Folder) -> None:
    """An entry twice, the same or with something changed."""
    kind = folder.chance.choice(("images", "annotations", "annotations", "categories"))
    entry = dict(folder.entry(kind))
    for change in folder.chance.sample([odd_value, odd_box, other_ids, None], 1):
        if isinstance(folder.raw[kind], list):
            folder.raw[kind].append(entry)
        if change:
            change(folder)


def odd_list(folder: Folder) -> None:
    key = folder.chance.choice(("images", "annotations", "categories"))
    folder.raw[key] = folder.chance.choice([[], {}, None, 3, "x", ODD])


def respelled(value: object, chance: random.Random) -> object:
    """Another spelling of an id; for a text, the text."""
    if isinstance(value, int) and abs(value) < 2**50:
        spellings = float(value), f"{value}", f" {value} ", f"{value:05}", f"{value}.0"
        return chance.choice([value, *spellings])
    return value


def other_ids(folder: Folder) -> None:
    """Spell ids anew, in entries, in annotations or in both."""
    for kind, key in (
        *(("images", "id"), ("annotations", "image_id"), ("annotations", "id")),
        *(("categories", "id"), ("annotations", "category_id")),
    ):
        for row in folder.entries(kind) if folder.chance.random() < 0.5 else []:
            if key in row:
                row[key] = respelled(row[key], folder.chance)


def all_crowd(folder: Folder) -> None:
    for row in folder.entries("annotations"):
        row["iscrowd"] = 1


def other_boxes(folder: Folder) -> None:
    change = folder.chance.choice(
        [
            lambda x, y, w, h: [x, y, x + w, y + h],
            lambda x, y, w, h: [x / 128, y / 128, w / 128, h / 128],
            lambda x, y, w, h: [x * 9, y * 9, w * 9, h * 9],
            lambda x, y, w, h: [str(x), str(y), str(w), str(h)],
            lambda x, y, w, h: [x, y, -w, h],
        ]
    )
    for row in folder.entries("annotations"):
        box = row.get("bbox")
        if isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {int}:
            row["bbox"] = change(*box)


def other_encoding(folder: Folder) -> None:
    names = "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"
    folder.encoding = folder.chance.choice(names)


def other_names(folder: Folder) -> None:
    change = folder.chance.choice(
        [
            lambda name: f"images/{name}",
            lambda name: f"C:\\work\\images\\{name}",
            lambda name: f"/nowhere/images/{name}",
            lambda name: f"./{name}",
            lambda name: f"../images/{name}",
            lambda name: f"train/{name}",
            lambda name: name.upper(),
            lambda name: "images/same.png",
        ]
    )
    for row in folder.entries("images"):
        if isinstance(row.get("file_name"), str):
            row["file_name"] = change(row["file_name"])


def other_layout(folder: Folder) -> None:
    file, pictures = folder.chance.choice(
        [
            ("labels.json", "data"),
            ("labels.json", "images/labels"),
            ("annotations/labels.json", "labels"),
            ("annotations/labels.json", "data"),
            ("train/labels.json", "train/data"),
            ("train/annotations/all.json", "train/images"),
            ("train/_annotations.coco.json", "train"),
        ]
    )
    folder.file, images = folder.root / file, folder.root / pictures
    images.mkdir(parents=True, exist_ok=True)
    for file in folder.images.iterdir():
        if file.is_file() or file.is_symlink():
            file.rename(images / file.name)
    folder.images = images


def broken_file(folder: Folder) -> None:
    file = folder.picture()
    data = file.read_bytes() if file.is_file() else b""
    contents = data[: len(data) // 2], b"", b"hello", data[:60], data[::-1], b"{}"
    if file.is_file():
        file.write_bytes(folder.chance.choice(contents))


def no_file(folder: Folder) -> None:
    """Something else under the name of a picture."""
    file = folder.picture()
    if not file.is_file():
        return
    file.unlink()
    make = folder.chance.choice(
        [
            Path.mkdir,
            getattr(os, "mkfifo", Path.mkdir),
            lambda p: p.symlink_to(p.name),
            lambda p: None,
        ]
        + [lambda p: p.symlink_to("nothing.png"), lambda p: p.symlink_to("/dev/zero")]
    )
    make(file)


def other_picture(folder: Folder) -> None:
    """The same picture in another format, mode, orientation or size."""
    file = folder.picture()
    if not file.is_file():
        return
    try:
        picture = Image.open(file).convert("RGB")
    except (OSError, SyntaxError):
        return
    chance = folder.chance
    if chance.random() < 0.3:
        size = chance.choice([(64, 64), (128, 64), (1, 1), (300, 300), (129, 128)])
        picture = picture.resize(size)
    if chance.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = chance.choice([*range(10), 700])
        picture.save(file, format=chance.choice(["JPEG", "TIFF", "PNG"]), exif=exif)
        return
    if chance.random() < 0.5:
        picture = picture.point(lambda value: value // chance.choice([1, 9, 999]))
        kinds = "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "TIFF", "JPEG", "PCX"
        picture.save(file, format=chance.choice(kinds))
        return
    mode = chance.choice(["1", "L", "P", "LA", "RGBA", "CMYK", "LAB", "F", "I", "I;16"])
    if mode == "I;16":
        top = chance.choice([0, 255, 4095, 65535])
        values = np.asarray(picture.convert("L")).astype(np.float64) / 255 * top
        picture = Image.fromarray(values.astype(np.uint16))
    else:
        picture = picture.quantize() if mode == "P" else picture.convert(mode)
    picture.save(file, format="PNG" if mode in ("LA", "RGBA", "P") else "TIFF")


def turned_picture(folder: Folder) -> None:
    """A flat picture, stored as a camera held on its side, in a size that tells."""
    chance, entry = folder.chance, folder.entry("images")
    file = folder.images / str(entry.get("file_name"))
    if not os.path.isfile(file):
        return
    exif = Image.Exif()
    exif[0x0112] = chance.randint(1, 8)
    picture = Image.new("RGB", (128, 96), "orange").convert(chance.choice("LP"))
    picture.save(file, format=chance.choice(["TIFF", "PNG"]), exif=exif)
    entry["width"], entry["height"] = chance.choice([(128, 96), (96, 128), (64, 48)])


def odd_size(folder: Folder) -> None:
    entry = folder.entry("images")
    size = [(128, 64), (256, 256), (10**13,) * 2, (1, 1), (0, 0), (10**6, 10**6)]
    entry["width"], entry["height"] = folder.chance.choice(size)


MUTATIONS = [
    *(odd_value, odd_value, odd_value, no_value, odd_mask, odd_box, odd_entry),
    *(odd_list, twin, twin, turned_picture),
    *(other_ids, other_ids, all_crowd, other_boxes, other_encoding, other_names),
    *(other_layout, broken_file, no_file, other_picture, other_picture, odd_size),
]


def mutated(root: Path, seed: int) -> tuple[Path, Path]:
    """A folder with one to three mutations: pictures and annotation file."""
    chance = random.Random(seed)
    folder = Folder(root, chance)
    for mutation in chance.sample(MUTATIONS, chance.randint(1, 3)):
        mutation(folder)
    return folder.write()
