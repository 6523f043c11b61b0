"""A COCO-format annotation file, read once into arrays and made safe to train on."""

import contextlib
import gc
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .masks import is_segmentation
from .pictures import BadPicture, picture_size
from .problems import EDGE_ROUNDING, Problem, suspicious_boxes

EMPTY_SIDE = 0.01  # pixels: a box with a shorter side is empty


@dataclass
class Annotations:
    """Images and objects of one annotation file; `n` objects, sorted by image.

    `files` per image, relative to `folder`; `image_ids` [I]; `sizes` [I, 2] (H, W) in
    pixels; the objects of image i are rows `first[i]` to `first[i + 1]` of `boxes`
    [n, 4] (x0 y0 x1 y1, pixels, clipped), `areas` [n] (pixels), `categories` [n]
    (category ids), `crowd` [n] and `segmentations`. `names` maps category id to name,
    sorted by id.
    """

    folder: Path
    files: list[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    names: dict[int, str]
    first: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray
    segmentations: list[Any] | None
    problems: list[Problem] = field(default_factory=list)

    def path(self, image: int) -> Path:
        """Where the picture lies."""
        return self.folder / self.files[image]

    def objects(self, image: int) -> slice:
        """The rows of one image's objects."""
        return slice(int(self.first[image]), int(self.first[image + 1]))


def read_annotations(
    path: Path | str, images: Path | str, *, masks: bool = False
) -> Annotations:
    """Read and clean a COCO-format JSON file whose pictures lie in `images`.

    Everything left out or changed is listed in `problems` with file and annotation id.
    Pictures are not opened, except those whose size the file does not give.

    Raises: FileNotFoundError; ValueError when the file is no COCO-format JSON.
    """
    with _no_garbage_collection():
        return _read(load_json(path), Path(images), masks)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """COCO is millions of small objects and no cycle: the search would take longest."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(raw: dict[str, Any], images: Path, masks: bool) -> Annotations:
    problems: list[Problem] = []
    names = _read_categories(raw["categories"], problems)
    entries = _read_images(raw["images"], images, problems)
    rows = _Rows(images, entries, names, masks, problems)
    for annotation in raw["annotations"]:
        rows.add(annotation)
    problems += suspicious_boxes(rows.raw_boxes, rows.raw_sizes)
    _note_unused(names, rows, problems)
    return rows.finish()


def load_json(path: Path | str) -> dict[str, Any]:
    """Load a COCO-format JSON file.

    Raises: FileNotFoundError; ValueError that names what is wrong with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds a {type(raw).__name__}, no COCO-format object")
    raw.setdefault("annotations", [])  # test sets come without
    for key in ("images", "annotations", "categories"):
        if not isinstance(raw.get(key), list):
            raise ValueError(
                f"{path} has no list {key!r}: a COCO-format file needs 'images', "
                "'annotations' and 'categories'"
            )
    return raw


def _read_categories(entries: list[Any], problems: list[Problem]) -> dict[int, str]:
    names: dict[int, str] = {}
    for entry in entries:
        number = _integer(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or number < 0:
            problems.append(Problem("bad category entry", "", None, str(entry)[:80]))
        elif number in names:
            detail = f"category {number}: {names[number]!r} and {entry.get('name')!r}"
            problems.append(Problem("duplicate category id", "", None, detail))
        else:
            name = str(entry.get("name") or f"category {number}")
            if name in names.values():
                problems.append(Problem("duplicate category name", "", None, name))
            names[number] = name
    return dict(sorted(names.items()))


@dataclass
class _Image:
    key: str  # the image id as text: files mix 7 and "7"
    number: int
    name: str  # of the file, relative to the folder of pictures
    size: tuple[int, int]
    rows: list[tuple] = field(default_factory=list)


def _read_images(
    entries: list[Any], folder: Path, problems: list[Problem]
) -> dict[str, _Image]:
    images: dict[str, _Image] = {}
    for position, entry in enumerate(entries):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or entry.get("id") is None:
            detail = f"entry {position} has no id or no file_name"
            problems.append(Problem("bad image entry", str(name or ""), None, detail))
            continue
        key = str(entry["id"])
        if key in images:
            problems.append(Problem("duplicate image id", name, None, f"id {key}"))
            continue
        name = name.replace("\\", "/")
        size = _stored_size(entry, folder, name, problems)
        if size is not None:
            number = _integer(entry["id"])
            images[key] = _Image(
                key, position if number is None else number, name, size
            )
    return images


def _stored_size(
    entry: dict[str, Any], folder: Path, name: str, problems: list[Problem]
) -> tuple[int, int] | None:
    height, width = _integer(entry.get("height")), _integer(entry.get("width"))
    if height and width and height > 0 and width > 0:
        return height, width
    try:
        size = picture_size(folder / name)
    except BadPicture as bad:
        problems.append(Problem(bad.kind, name, None, bad.detail))
        return None
    detail = f"{size[1]}x{size[0]} pixels"
    problems.append(Problem("no stored size", name, None, detail))
    return size


class _Rows:
    """Collects the annotations that can be used, image by image."""

    def __init__(
        self,
        folder: Path,
        images: dict[str, _Image],
        names: dict[int, str],
        masks: bool,
        problems: list[Problem],
    ) -> None:
        self.folder, self.images = folder, images
        self.names, self.masks = names, masks
        self.problems = problems
        self.seen: dict[Any, tuple] = {}  # annotation id -> what it was
        self.raw_boxes: list[tuple[float, ...]] = []
        self.raw_sizes: list[tuple[int, int]] = []

    def add(self, annotation: Any) -> None:
        """Take one annotation, or note why not."""
        if not isinstance(annotation, dict):
            return self._note("bad box", "", None, str(annotation)[:80])
        number = annotation.get("id")
        number = number if isinstance(number, int | str) else None
        image = self.images.get(str(annotation.get("image_id")))
        if image is None:
            detail = f"image {annotation.get('image_id')} is not listed or not usable"
            return self._note("unknown image", "", number, detail)
        category = _integer(annotation.get("category_id"))
        if category not in self.names:
            detail = f"category {annotation.get('category_id')}"
            return self._note("unknown category", image.name, number, detail)
        box = self._box(annotation.get("bbox"), image, number)
        if box is not None and not self._repeated(image, number, category, box):
            self._keep(annotation, image, number, category, box)

    def _note(self, kind: str, file: str, number: int | str | None, detail: str):
        self.problems.append(Problem(kind, file, number, detail))

    def _box(self, bbox: Any, image: _Image, number: Any) -> tuple | None:
        """Check `[x, y, w, h]` and return it as clipped corners."""
        name = image.name
        try:
            x, y, w, h = (float(value) for value in bbox)
        except (TypeError, ValueError, OverflowError):
            return self._note("bad box", name, number, f"bbox {str(bbox)[:60]}")
        if not all(map(math.isfinite, (x, y, w, h))):
            return self._note("not-a-number box", name, number, f"bbox {bbox}")
        self.raw_boxes.append((x, y, w, h))
        self.raw_sizes.append(image.size)
        return self._clip((x, y, w, h), image, number)

    def _clip(self, box: tuple, image: _Image, number: Any) -> tuple | None:
        (x, y, w, h), (height, width) = box, image.size
        detail = f"x {x:g} y {y:g} w {w:g} h {h:g} in {width}x{height}"
        if w < EMPTY_SIDE or h < EMPTY_SIDE:
            return self._note("empty box", image.name, number, detail)
        clipped = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < EMPTY_SIDE:
            return self._note("box outside", image.name, number, detail)
        over = max(-x, -y, x + w - width, y + h - height)
        if over > EDGE_ROUNDING:
            self._note("box over the edge", image.name, number, detail)
        return clipped

    def _repeated(self, image: _Image, number: Any, category: int, box: tuple) -> bool:
        if number is None:
            return False
        what = (image.key, category, box)
        before = self.seen.setdefault(number, what)
        if before is what:
            return False
        kind = "repeated annotation" if before == what else "duplicate annotation id"
        self._note(kind, image.name, number, "")
        return before == what

    def _keep(
        self, annotation: dict, image: _Image, number: Any, category: int, box: tuple
    ) -> None:
        crowd = bool(_integer(annotation.get("iscrowd")))
        if crowd:
            self._note("crowd", image.name, number, self.names[category])
        segmentation = annotation.get("segmentation")
        if segmentation and not is_segmentation(segmentation, image.size):
            self._note("bad mask", image.name, number, "")
            segmentation = None
        area = _number(annotation.get("area"))
        if area is None or area <= 0:
            area = (box[2] - box[0]) * (box[3] - box[1])
        image.rows.append(
            (box, area, category, crowd, segmentation if self.masks else None)
        )

    def finish(self) -> Annotations:
        """Turn what was collected into arrays."""
        images = list(self.images.values())
        rows = [row for image in images for row in image.rows]
        columns = zip(*rows, strict=True) if rows else [()] * 5
        boxes, areas, categories, crowd, shapes = columns
        return Annotations(
            folder=self.folder,
            files=[image.name for image in images],
            image_ids=np.array([image.number for image in images], dtype=np.int64),
            sizes=np.array([i.size for i in images], dtype=np.int64).reshape(-1, 2),
            names=self.names,
            first=np.cumsum([0] + [len(image.rows) for image in images]),
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            areas=np.array(areas, dtype=np.float64),
            categories=np.array(categories, dtype=np.int64),
            crowd=np.array(crowd, dtype=bool),
            segmentations=list(shapes) if self.masks else None,
            problems=self.problems,
        )


def _note_unused(names: dict[int, str], rows: _Rows, problems: list[Problem]) -> None:
    used = {row[2] for image in rows.images.values() for row in image.rows}
    for number, name in names.items():
        if number not in used:
            problems.append(Problem("unused category", "", None, f"{number} {name!r}"))
    for image in rows.images.values():
        if not image.rows:
            problems.append(Problem("no boxes", image.name))


def missing_files(data: Annotations) -> dict[int, str]:
    """Which pictures do not exist: position -> file. Lists each folder once."""
    paths = [data.path(image) for image in range(len(data.files))]
    present = {folder: _listing(folder) for folder in {p.parent for p in paths}}
    return {
        image: data.files[image]
        for image, path in enumerate(paths)
        if path.name not in present[path.parent]
    }


def _listing(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _integer(value: Any) -> int | None:
    """Read a whole number that fits into 64 bits; files hold 7, 7.0 and "7"."""
    number = value if isinstance(value, int) else _number(value)
    if number is None or number != int(number) or abs(number) >= 2**63:
        return None
    return int(number)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
