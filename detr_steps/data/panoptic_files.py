"""COCO's panoptic format: a PNG of segment ids for each image, and one JSON file.

Source: cocodataset.org, format of panoptic segmentation. Chapters do not build it.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..detections import Panoptic
from ..files import write_whole
from .coco_json import load_json
from .masks import tight_box
from .pictures import BadPicture, require_file

VOID = 0
HIGHEST_ID = (1 << 24) - 1


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Segment ids [H, W] as colours [H, W, 3] bytes: R + 256 G + 65536 B.

    Raises: ValueError for ids that three bytes do not hold.
    """
    if ids.min(initial=0) < 0 or ids.max(initial=0) > HIGHEST_ID:
        raise ValueError(f"segment ids must lie from 0 to {HIGHEST_ID}")
    return np.stack((ids & 255, ids >> 8 & 255, ids >> 16), axis=-1).astype(np.uint8)


def rgb_to_ids(colours: np.ndarray) -> np.ndarray:
    """Undo `ids_to_rgb`: [H, W, 3] bytes to int64 [H, W]."""
    return colours.astype(np.int64) @ np.array([1, 256, 65536])


def read_ids(path: Path) -> np.ndarray:
    """Read segment ids [H, W] from a PNG.

    Raises: BadPicture for a file that is missing, broken, or no PNG of RGB: colours of
    a palette or with losses are no ids.
    """
    require_file(path)
    try:
        with Image.open(path) as picture:
            if (picture.format, picture.mode) != ("PNG", "RGB"):
                kind = f"{picture.format} of mode {picture.mode}"
                detail = f"it is a {kind}: segment ids need a PNG of RGB"
                raise BadPicture("unreadable file", path, detail)
            return rgb_to_ids(np.array(picture))
    except BadPicture:
        raise
    except Exception as error:  # Pillow raises anything over a broken file
        raise BadPicture("unreadable file", path, str(error)) from error


def ids_of(masks: np.ndarray, name: str = "this image") -> np.ndarray:
    """Segment ids [H, W] of masks `[n, H, W]` that share no pixel: 1 to n, 0 for void.

    Raises: ValueError that names the image and two masks that overlap.
    """
    masks = np.asarray(masks, dtype=bool)
    twice = masks.sum(0) > 1
    if twice.any():
        y, x = np.argwhere(twice)[0]
        first, second = np.flatnonzero(masks[:, y, x])[:2]
        raise ValueError(
            f"{name}: masks {first} and {second} share {int(twice.sum())} pixels, but "
            "a pixel can be in one segment only: cut one of them"
        )
    numbers = np.arange(1, len(masks) + 1)
    return (masks * numbers[:, None, None]).sum(0, dtype=np.int64)


class TrueSegments(NamedTuple):
    """One image of a panoptic file: `ids` int64 [H, W], and of each id its label and
    whether it is a crowd."""

    ids: np.ndarray
    segments: dict[int, tuple[int, bool]]


@dataclass
class Listed:
    """One image as the JSON lists it: `file` its PNG, `picture` its photograph."""

    id: int | str
    file: str
    picture: str
    size: tuple[int, int] | None
    segments: dict[int, tuple[int, bool]] = field(default_factory=dict)


class PanopticFiles:
    """Segments of all images of a panoptic JSON file; the PNGs are read one by one.

    `pngs` is the folder of the PNGs: without one, as COCO has it, the folder of the
    JSON's own name beside it or one folder up. Labels are 0, 1, …: things first, each
    in the order of the category ids (`category_ids[label]` leads back); labels below
    `things` are things.
    Raises: FileNotFoundError; ValueError that names the file, the image and the fault.
    """

    def __init__(self, file: Path | str, pngs: Path | str | None = None) -> None:
        self.file = Path(file)
        raw = load_json(self.file)
        self._number_categories(raw["categories"])
        self._list_images(raw["images"], raw["annotations"])
        self.pngs = Path(pngs) if pngs else _folder_of(self.file)
        if not self.pngs.is_dir():
            raise FileNotFoundError(f"{self.pngs}: no such folder of segment PNGs")

    def _fault(self, text: str) -> ValueError:
        return ValueError(f"{self.file}: {text}")

    def _number_categories(self, categories: list[dict]) -> None:
        for each in categories:
            if not isinstance(each, dict) or not {"id", "name"} <= each.keys():
                raise self._fault(f"category {each!r:.60} has no id or no name")
            if each.get("isthing") not in (0, 1):
                raise self._fault(
                    f"category {each['id']} ({each['name']!r}) has no isthing: give "
                    '"isthing": 1 for things, 0 for stuff, as panoptic files have it'
                )
        ordered = sorted(categories, key=lambda c: (not c["isthing"], c["id"]))
        self.category_ids = [each["id"] for each in ordered]
        self.class_names = [each["name"] for each in ordered]
        self.things = sum(each["isthing"] for each in ordered)
        if len(set(self.category_ids)) < len(ordered):
            raise self._fault("two categories have the same id")

    def _list_images(self, images: list[dict], annotations: list[dict]) -> None:
        known = {each["id"]: each for each in images}
        labels = {number: label for label, number in enumerate(self.category_ids)}
        self.images: list[Listed] = []
        for row in annotations:
            if row.get("image_id") not in known:
                raise self._fault(f"segments of image {row.get('image_id')!r}, which is"
                                  " not listed")  # fmt: skip
            image = known[row["image_id"]]
            size = (image["height"], image["width"]) if "height" in image else None
            file = row.get("file_name", "")
            entry = Listed(image["id"], file, image.get("file_name", file), size)
            for segment in row.get("segments_info", []):
                self._add(entry, segment, labels)
            self.images.append(entry)

    def _add(self, image: Listed, segment: dict, labels: dict) -> None:
        number, category = segment.get("id"), segment.get("category_id")
        where = f"image {image.id}, segment {number!r}"
        if not isinstance(number, int) or not 0 < number <= HIGHEST_ID:
            raise self._fault(f"{where}: an id from 1 to {HIGHEST_ID} is needed")
        if number in image.segments:
            raise self._fault(f"{where} is listed twice")
        if category not in labels:
            raise self._fault(f"{where} is of category {category!r}, not listed")
        crowd = bool(segment.get("iscrowd", 0))
        image.segments[number] = labels[category], crowd

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> TrueSegments:
        """Segments of one image. Raises: ValueError where PNG and JSON disagree."""
        image = self.images[index]
        path = self.pngs / image.file
        ids = read_ids(path)
        if image.size is not None and ids.shape != tuple(image.size):
            (h, w), (height, width) = ids.shape, image.size
            raise ValueError(
                f"{path}: {h} x {w} pixels, {self.file} says {height} x {width}"
            )
        there = set(np.unique(ids).tolist()) - {VOID}
        if unlisted := there - image.segments.keys():
            raise ValueError(
                f"{path} has the segment {min(unlisted)}, which {self.file} does not "
                f"list for image {image.id}"
            )
        if absent := image.segments.keys() - there:
            raise ValueError(
                f"{path} has no pixel of segment {min(absent)}, which {self.file} "
                f"lists for image {image.id}"
            )
        return TrueSegments(ids, image.segments)


def _folder_of(file: Path) -> Path:
    """Where the PNGs of a JSON file lie: beside it, as COCO has it, or one floor up."""
    places = file.with_suffix(""), file.parent.parent / file.stem
    return next((place for place in places if place.is_dir()), places[0])


class Answer(NamedTuple):
    """What was found in one image, to be written: its id, the name of its file."""

    image_id: int | str
    name: str
    found: Panoptic


def write_panoptic(
    file: Path, answers: Iterable[Answer], categories: Sequence[Mapping[str, Any]]
) -> int:
    """Write answers as COCO's panoptic results: FILE, and a folder of PNGs beside it.

    The folder bears the name of the file without its ending. `categories` in label
    order, each with `id`, `name` and `isthing`, None for a label without one: what
    bears it becomes void. `PanopticFiles` reads it back, and so does COCO's own tool.
    Both appear whole or not at all; answers are written one by one. Returns how many.
    Raises: FileExistsError where one of the two is there; ValueError for a name without
    ending.
    """
    file = Path(file)
    folder = file.with_suffix("")
    if file == folder:
        raise ValueError(f"{file} is to be a JSON file: call it {file}.json")
    for place in (file, folder):
        if os.path.lexists(place):
            raise FileExistsError(f"{place} is there already: remove it")
    part = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    images, rows = [], []
    try:
        part.mkdir(parents=True)
        for answer in answers:
            image, row = _write_answer(part, answer, categories, len(rows))
            images.append(image)
            rows.append(row)
        listed = [dict(each) for each in categories if each is not None]
        content = {"images": images, "annotations": rows, "categories": listed}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        part.rename(folder)
        try:
            write_whole(file, lambda path: path.write_text(text, encoding="utf-8"))
        except BaseException:
            shutil.rmtree(folder)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return len(rows)


def _write_answer(
    folder: Path, answer: Answer, categories: Sequence, number: int
) -> tuple[dict, dict]:
    """The PNG of one answer; its entries of `images` and `annotations`."""
    ids, segments = answer.found.ids.numpy().copy(), []
    for segment in answer.found.segments:
        category = categories[segment.label]
        if category is None:
            ids[ids == segment.id] = VOID
            continue
        segments.append(
            {
                "id": segment.id,
                "category_id": category["id"],
                "area": segment.area,
                "bbox": tight_box(ids == segment.id),
                "iscrowd": 0,
                "score": round(segment.score, 6),
            }
        )
    png = f"{Path(answer.name).stem}.png"
    if (folder / png).exists():  # a.jpg and a.png: both are shown
        png = f"{Path(answer.name).stem}-{number}.png"
    Image.fromarray(ids_to_rgb(ids)).save(folder / png)
    height, width = ids.shape
    image = {"id": answer.image_id, "file_name": answer.name}
    image |= {"height": height, "width": width}
    row = {"image_id": answer.image_id, "file_name": png, "segments_info": segments}
    return image, row
