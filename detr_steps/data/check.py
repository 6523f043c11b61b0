"""Looking through a COCO-format folder before training on it."""

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from .annotations import Annotations, missing_files, read_annotations
from .pictures import BadPicture, check_shape, orientation, read_picture, turns
from .problems import CHANGED, KINDS, LOST, NOTE, STOP, Problem, count

HEADINGS = {
    STOP: "Stops training",
    LOST: "Left out",
    CHANGED: "Changed",
    NOTE: "Good to know",
}
SHOWN = 10  # lines for each kind in `str(report)`


@dataclass
class Report:
    """What `check_folder` found: sizes of the data set and every problem."""

    annotations: Path
    images: Path
    pictures: int
    objects: int
    class_names: list[str]
    problems: list[Problem]

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each kind."""
        return count(self.problems)

    @property
    def exit_status(self) -> int:
        """0: all data will be used as it is; 1: not all of it; 2: no training."""
        costs = {problem.cost for problem in self.problems}
        return 2 if STOP in costs else 1 if costs & {LOST, CHANGED} else 0

    def __str__(self) -> str:
        return self.text()

    def text(self, shown: int | None = SHOWN) -> str:
        """Write the report; at most `shown` problems of each kind (None: all)."""
        lines = [
            f"{self.annotations}",
            f"  pictures in {self.images}",
            f"  {self.pictures} images, {self.objects} usable boxes, "
            f"{len(self.class_names)} classes",
        ]
        for cost, heading in HEADINGS.items():
            kinds = [kind for kind in self.counts if KINDS[kind][0] == cost]
            if kinds:
                lines += ["", heading]
            for kind in kinds:
                lines += self._about(kind, shown)
        return "\n".join([*lines, "", self._verdict()])

    def _about(self, kind: str, shown: int | None) -> Iterator[str]:
        yield f"  {kind}, {self.counts[kind]}x: {KINDS[kind][1]}"
        problems = [problem for problem in self.problems if problem.kind == kind]
        for problem in problems[:shown]:
            yield f"    {problem}"
        if shown is not None and len(problems) > shown:
            yield f"    … and {len(problems) - shown} more"

    def _verdict(self) -> str:
        verdicts = "All of it can be used.", "The rest can be used.", "Not usable yet."
        return verdicts[self.exit_status]


def check_folder(
    images: Path | str,
    annotations: Path | str,
    *,
    decode: bool = True,
    progress: bool = False,
) -> Report:
    """Look for everything in a COCO-format folder that training would trip over.

    `decode=False` reads only the headers of the pictures, which is fast and misses
    truncated files. Never raises for bad data: what is bad is in the report.
    """
    images, annotations = Path(images), Path(annotations)
    try:
        data = read_annotations(annotations, images, masks=False)
    except (OSError, ValueError) as error:
        problem = Problem("unreadable annotations", str(annotations), None, str(error))
        return Report(annotations, images, 0, 0, [], [problem])
    missing = missing_files(data)
    problems = data.problems
    problems += [Problem("missing file", file) for file in missing.values()]
    problems += _check_pictures(data, set(missing), decode, progress)
    bad = {p.file for p in problems if p.kind in _IMAGE_LOST}
    if all(file in bad for file in data.files):
        problems.append(Problem("no usable image", "", None, f"looked in {images}"))
    objects = int((~data.crowd).sum())
    names = list(data.names.values())
    return Report(annotations, images, len(data.files), objects, names, problems)


_IMAGE_LOST = {"missing file", "unreadable file", "wrong shape"}


def _check_pictures(
    data: Annotations, missing: set[int], decode: bool, progress: bool
) -> list[Problem]:
    present = [i for i in range(len(data.files)) if i not in missing]

    def check(image: int) -> Problem | None:
        size = tuple(data.sizes[image].tolist())
        return check_picture(data.path(image), data.files[image], size, decode)

    # Pillow decodes outside the interpreter's lock, so threads are enough
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(check, present)
        bar = tqdm(
            found, total=len(present), disable=not progress, desc="reading pictures"
        )
        return [problem for problem in bar if problem is not None]


def check_picture(
    path: Path, name: str, stored_size: tuple[int, int], decode: bool = True
) -> Problem | None:
    """Find what is wrong with, or worth knowing about, one picture file."""
    try:
        if decode:
            read_picture(path, stored_size)
        with Image.open(path) as picture:
            check_shape(picture, path, stored_size)
            return _note_picture(picture, name, stored_size)
    except BadPicture as bad:
        return Problem(bad.kind, name, None, bad.detail)
    except Exception as error:  # whatever a broken header makes Pillow raise
        return Problem("unreadable file", name, None, str(error))


def _note_picture(
    picture: Image.Image, name: str, stored: tuple[int, int]
) -> Problem | None:
    width, height = picture.size
    turned = turns(picture, stored)
    if turned:
        return Problem("turned picture", name, None, f"EXIF {orientation(picture)}")
    if orientation(picture) != 1:
        detail = f"EXIF {orientation(picture)}"
        return Problem("picture left turned", name, None, detail)
    if (height, width) != stored:
        detail = f"{width}x{height}, annotated as {stored[1]}x{stored[0]}"
        return Problem("other size", name, None, detail)
    return None


def check_path(path: Path | str, **options: Any) -> list[Report]:
    """Check every annotation file that `find_folders` finds in `path`.

    Raises: FileNotFoundError when there is none.
    """
    folders = find_folders(path)
    return [check_folder(images, file, **options) for images, file in folders]


def find_folders(path: Path | str) -> list[tuple[Path, Path]]:
    """Find (folder of pictures, annotation file) pairs in the usual layouts.

    `path` is an annotation file, or a folder: COCO 2017 (annotations/instances_*.json
    beside train2017/), images/ beside a JSON file, or a JSON file among its pictures.

    Raises: FileNotFoundError when there is nothing of the kind.
    """
    path = Path(path)
    if path.is_file():
        return [(_pictures_of(path), path)]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder or file")
    patterns = "*.json", "annotations/*.json", "*/*.json"
    found = {file: None for pattern in patterns for file in sorted(path.glob(pattern))}
    files = [file for file in found if _is_detection_file(file)]
    if not files:
        raise FileNotFoundError(
            f"{path}: no COCO-format annotation file here, in annotations/ or one "
            "folder below (a JSON file with 'images', 'annotations' and 'categories')"
        )
    return [(_pictures_of(file), file) for file in files]


_OTHER_TASKS = ("captions_", "panoptic", "person_keypoints_", "stuff_", "image_info_")


def _is_detection_file(file: Path) -> bool:
    if file.name.startswith(_OTHER_TASKS):
        return False
    start = _start_of(file).lstrip()
    return start.startswith("{") and bool(_FILE_NAME.search(start))


_FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def _start_of(file: Path, size: int = 1_000_000) -> str:
    """The first megabyte names enough pictures; the whole can be half a gigabyte.

    Files that list their annotations first are read whole.
    """
    with open(file, encoding="utf-8", errors="replace") as stream:
        start = stream.read(size)
        return start if _FILE_NAME.search(start) else start + stream.read()


def _pictures_of(file: Path) -> Path:
    """The folder in which most of the first pictures of an annotation file lie."""
    names = _FILE_NAME.findall(_start_of(file))[:20]
    names = [json.loads(name).replace("\\", "/") for name in names]
    folders = list(_candidates(file))
    hits = [sum((folder / name).is_file() for name in names) for folder in folders]
    return folders[hits.index(max(hits))]


def _candidates(file: Path) -> Iterator[Path]:
    split = file.stem.removeprefix("instances_")
    for base in (file.parent.parent, file.parent):
        yield base / "images"
        yield base / split
        yield base / "images" / split
        yield base
