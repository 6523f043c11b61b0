"""A COCO-format annotation file, read once into arrays and made safe to train on."""

import contextlib
import gc
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .coco_json import load_json
from .ids import ById, is_id, whole_number
from .locating import locate
from .objects import Image, Objects
from .pictures import BadPicture, picture_size
from .problems import Problem, quoted, suspicious_boxes

MOST_SIDE = 1_000_000  # pixels: no picture is larger; annotations that say so are wrong


@dataclass
class Annotations:
    """Images and objects of one annotation file; `n` objects, sorted by image.

    `files` per image, relative to `folder`; `present` [P] which of them are there, as
    far as can be told without opening them; `image_ids` [I] whole numbers, unique;
    `sizes` [I, 2] (H, W) in pixels; the objects of image i are rows `first[i]` to
    `first[i + 1]` of `boxes` [n, 4] (x0 y0 x1 y1, pixels, clipped), `areas` [n]
    (pixels), `categories` [n] (category ids), `crowd` [n] and `segmentations`. `names`
    maps category id to name, sorted by id. `written_ids` [I] and `written_categories`
    (by number) are the ids as the file writes them, for results that refer to it.
    """

    folder: Path
    files: list[str]
    present: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    names: dict[int, str]
    first: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray
    segmentations: list[Any] | None
    written_ids: list[int | float | str]
    written_categories: dict[int, int | float | str]
    problems: list[Problem] = field(default_factory=list)

    def path(self, image: int) -> Path:
        """Where the picture lies."""
        return self.folder / self.files[image]

    def size(self, image: int) -> tuple[int, int]:
        """(H, W) in pixels that the annotations of an image were made for."""
        height, width = self.sizes[image].tolist()
        return height, width

    def objects(self, image: int) -> slice:
        """The rows of one image's objects."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def learnable(self, image: int) -> np.ndarray:
        """The rows of one image's objects that are no crowds: what is trained on."""
        rows = self.objects(image)
        return np.arange(rows.start, rows.stop)[~self.crowd[rows]]

    def verdict(self, usable: np.ndarray) -> list[Problem]:
        """What stops training when only the images `usable` [U] can be used."""
        if not self.names:
            return [Problem("no category", "", None, "there is nothing to learn")]
        if len(usable) == 0:
            detail = f"it lists no picture that lies in {self.folder}"
            return [Problem("no usable image", "", None, detail)]
        if not any(len(self.learnable(int(image))) for image in usable):
            detail = "no image that can be used has a box"
            return [Problem("no box to learn from", "", None, detail)]
        return []


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


def _read(raw: dict[str, Any], folder: Path, masks: bool) -> Annotations:
    problems: list[Problem] = []
    categories, names = _read_categories(raw["categories"], problems)
    by_id, images = _read_images(raw["images"], folder, problems)
    objects = Objects(by_id, categories, names, problems)
    for annotation in raw["annotations"]:
        objects.add(annotation)
    problems += suspicious_boxes(objects.raw_boxes, objects.raw_sizes)
    _note_unused(names, images, problems)
    written = {number: categories.alike(number)[0] for number in names}
    return _in_arrays(folder, images, names, written, masks, problems)


def _read_categories(
    entries: list[Any], problems: list[Problem]
) -> tuple[ById[int | None], dict[int, str]]:
    """Category numbers by id, and their names."""
    by_id: ById[int | None] = ById()
    names: dict[int, str] = {}
    for entry in entries:
        number = whole_number(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not 0 <= number < 2**63:
            problems.append(Problem("bad category entry", "", None, quoted(entry)))
        elif number in names:
            detail = f"category {number}: {names[number]!r} and {entry.get('name')!r}"
            problems.append(Problem("duplicate category id", "", None, detail[:200]))
            if entry["id"] not in by_id:  # "7" beside 7: its boxes are not those of 7
                by_id.add(entry["id"], None)
        else:
            name = _category_name(entry.get("name"), number)
            if name in names.values():
                problems.append(Problem("duplicate category name", "", None, name))
            names[number] = name
            by_id.add(entry["id"], number)
    return by_id, dict(sorted(names.items()))


def _category_name(name: Any, number: int) -> str:
    """A name that every file can hold: half a surrogate pair becomes a `?`."""
    text = name if isinstance(name, str) else "" if name is None else quoted(name)
    return text.encode("utf-8", "replace").decode("utf-8") or f"category {number}"


def _read_images(
    entries: list[Any], folder: Path, problems: list[Problem]
) -> tuple[ById[Image], list[Image]]:
    """All listed images by their id, and those whose size is known, numbered."""
    by_id: ById[Image] = ById()
    images: list[Image] = []
    for position, entry in enumerate(entries):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not is_id(entry.get("id")):
            detail = f"entry {position} has no id or no file_name"
            problems.append(Problem("bad image entry", _text(name), None, detail))
        elif entry["id"] in by_id:
            detail = f"id {quoted(entry['id'])}"
            problems.append(Problem("duplicate image id", name, None, detail))
        else:
            image = Image(entry["id"], name.replace("\\", "/"), _stored_size(entry))
            by_id.add(image.id, image)
            images.append(image)
    _locate(images, folder, problems)
    for image in images:
        if image.size is None and image.present:
            _measure(image, folder, problems)
    images = [image for image in images if image.size is not None]
    _number(images)
    return by_id, images


def _text(name: Any) -> str:
    return name if isinstance(name, str) else "" if name is None else quoted(name)


def _stored_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = (whole_number(entry.get(key)) for key in ("height", "width"))
    if height is None or width is None:
        return None
    known = 0 < height <= MOST_SIDE and 0 < width <= MOST_SIDE
    return (height, width) if known else None


def _locate(images: list[Image], folder: Path, problems: list[Problem]) -> None:
    found, bad, notes = locate(folder, [image.file for image in images])
    problems += notes
    entries = defaultdict(list)  # file -> ids of the entries that name it
    for position, image in enumerate(images):
        image.file = found[position]
        entries[image.file].append(image.id)
        if fault := bad.get(position):
            image.present = False
            detail = "" if fault.kind == "missing file" else fault.detail
            problems.append(Problem(fault.kind, image.file, None, detail))
    for file, ids in entries.items():
        if len(ids) > 1:
            detail = "ids " + ", ".join(quoted(value, 20) for value in ids[:5])
            problems.append(Problem("duplicate file name", file, None, detail))


def _measure(image: Image, folder: Path, problems: list[Problem]) -> None:
    """Take the size of the picture where the annotations give none that can be."""
    try:
        image.size = picture_size(folder / image.file)
    except BadPicture as bad:
        problems.append(Problem(bad.kind, image.file, None, bad.detail))
        return
    detail = f"{image.size[1]}x{image.size[0]} pixels"
    problems.append(Problem("no stored size", image.file, None, detail))


def _number(images: list[Image]) -> None:
    """Give each image a whole number of its own: its id, or else a free one."""
    taken = set()
    for image in images:
        number = whole_number(image.id)
        if number is not None and abs(number) < 2**63 and number not in taken:
            image.number = number
            taken.add(number)
    free = (number for number in itertools.count() if number not in taken)
    for image in images:
        if image.number is None:
            image.number = next(free)


def _note_unused(
    names: dict[int, str], images: list[Image], problems: list[Problem]
) -> None:
    used = {row.category for image in images for row in image.rows}
    for number, name in names.items():
        if number not in used:
            problems.append(Problem("unused category", "", None, f"{number} {name!r}"))
    for image in images:
        if not image.rows:
            problems.append(Problem("no boxes", image.file))


def _in_arrays(
    folder: Path,
    images: list[Image],
    names: dict[int, str],
    written: dict[int, int | float | str],
    masks: bool,
    problems: list[Problem],
) -> Annotations:
    rows = [row for image in images for row in image.rows]
    return Annotations(
        folder=folder,
        files=[image.file for image in images],
        present=np.flatnonzero([image.present for image in images]),
        image_ids=np.array([image.number for image in images], dtype=np.int64),
        sizes=np.array([i.size for i in images], dtype=np.int64).reshape(-1, 2),
        names=names,
        first=np.cumsum([0] + [len(image.rows) for image in images]),
        boxes=np.array([r.box for r in rows], dtype=np.float64).reshape(-1, 4),
        areas=np.array([row.area for row in rows], dtype=np.float64),
        categories=np.array([row.category for row in rows], dtype=np.int64),
        crowd=np.array([row.crowd for row in rows], dtype=bool),
        segmentations=[row.segmentation for row in rows] if masks else None,
        written_ids=[image.id for image in images],
        written_categories=written,
        problems=problems,
    )
