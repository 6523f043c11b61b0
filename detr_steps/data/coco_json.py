"""A COCO-format annotation file as text and as JSON, in any of Unicode's encodings."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .locating import name_ends

_FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_OTHER_TASKS = ("captions_", "panoptic", "person_keypoints_", "stuff_", "image_info_")


def load_json(path: Path | str) -> dict[str, Any]:
    """Load a COCO-format JSON file: UTF-8, -16 or -32, with or without a mark.

    Raises: FileNotFoundError; ValueError that names what is wrong with the file.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, False for names too long
        raise FileNotFoundError(f"{path}: no such annotation file")
    try:
        raw = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not readable as JSON: {error}; save it as UTF-8"
        ) from error
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


def find_folders(path: Path | str) -> list[tuple[Path, Path]]:
    """Find (folder of pictures, annotation file) pairs in the usual layouts.

    `path` is an annotation file, or a folder: COCO 2017 (annotations/instances_*.json
    beside train2017/), images/ or data/ (FiftyOne) beside a JSON file, or a JSON file
    among its pictures; one folder a split, too.

    Raises: FileNotFoundError when there is nothing of the kind.
    """
    path = Path(path)
    if os.path.isfile(path):
        return [(_pictures_of(path), path)]
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{path}: no such folder or file")
    patterns = "*.json", "annotations/*.json", "*/*.json", "*/annotations/*.json"
    found = {file: None for pattern in patterns for file in sorted(path.glob(pattern))}
    files = [file for file in found if _is_detection_file(file)]
    if not files:
        raise FileNotFoundError(
            f"{path}: no COCO-format annotation file here, in annotations/ or one "
            "folder below (a JSON file with 'images', 'annotations' and 'categories')"
        )
    return [(_pictures_of(file), file) for file in files]


def _is_detection_file(file: Path) -> bool:
    if file.name.startswith(_OTHER_TASKS) or not os.path.isfile(file):
        return False
    start = _start_of(file).lstrip()
    return start.startswith("{") and bool(_FILE_NAME.search(start))


def _start_of(file: Path, size: int = 1_000_000) -> str:
    """The first megabyte names enough pictures; the whole can be half a gigabyte.

    Files that list their annotations first are read whole.
    """
    with open(file, "rb") as stream:
        encoding = json.detect_encoding(stream.read(4))  # as json.loads does
    with open(file, encoding=encoding, errors="replace") as stream:
        start = stream.read(size)
        return start if _FILE_NAME.search(start) else start + stream.read()


def _pictures_of(file: Path) -> Path:
    """The folder in which most of the first pictures of an annotation file lie."""
    names = [*_first_names(file)]
    folders = [*_candidates(file)]
    hits = [sum(_fits(base, name) for name in names) for base in folders]
    if any(hits):
        return folders[hits.index(max(hits))]
    return next(filter(os.path.isdir, folders), file.parent)


def _fits(folder: Path, name: str) -> int:
    """2 where the picture lies under its whole name, 1 under the end of it, else 0."""
    if os.path.isfile(folder / name):
        return 2
    return any(os.path.isfile(folder / end) for end in name_ends(name, folder))


def _first_names(file: Path) -> Iterator[str]:
    for name in _FILE_NAME.findall(_start_of(file))[:20]:
        try:
            yield json.loads(name, strict=False).replace("\\", "/")
        except ValueError:  # a broken escape: load_json will say so
            continue


def _candidates(file: Path) -> Iterator[Path]:
    split = file.stem.removeprefix("instances_")
    for base in (file.parent.parent, file.parent):
        yield base / "images"
        yield base / split
        yield base / "images" / split
        yield base / split / "images"
        yield base / "data"  # FiftyOne
        yield base
