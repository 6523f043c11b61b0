"""Looking through a COCO-format folder before training on it."""

import os
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .annotations import Annotations, read_annotations
from .coco_json import find_folders
from .pictures import BadPicture, look_at, look_at_header
from .problems import CHANGED, KINDS, LOST, NOTE, STOP, Problem, count, listed, one_line

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
    pictures: int  # listed
    usable: int  # of them
    objects: int  # on the usable ones, crowds not counted
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
            one_line(f"{self.annotations}"),
            one_line(f"  pictures in {self.images}"),
            f"  {self.usable} of {self.pictures} images, {self.objects} boxes and "
            f"{len(self.class_names)} classes can be used",
        ]
        for cost, heading in HEADINGS.items():
            kinds = [kind for kind in self.counts if KINDS[kind][0] == cost]
            if kinds:
                lines += ["", heading]
            for kind in kinds:
                lines += listed(self.problems, kind, shown)
        return "\n".join([*lines, "", *self._verdict()])

    def _verdict(self) -> Iterator[str]:
        verdicts = "All of it can be used.", "The rest can be used.", "Not usable yet."
        yield verdicts[self.exit_status]
        if self.exit_status < 2:
            places = shlex.join([str(self.images), str(self.annotations)])
            yield one_line(f"Train with --train {places}")


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

    Raises: OSError for a fault of the machine (too many open files, a drive gone).
    """
    images, annotations = Path(images), Path(annotations)
    try:
        data = read_annotations(annotations, images)
    except (OSError, ValueError) as error:
        problem = Problem("unreadable annotations", str(annotations), None, str(error))
        return Report(annotations, images, 0, 0, 0, [], [problem])
    found = _check_pictures(data, decode, progress)
    problems = data.problems + [problem for row in found for problem in row]
    lost = [any(problem.cost == LOST for problem in row) for row in found]
    usable = data.present[~np.array(lost, dtype=bool)]
    problems += data.verdict(usable)
    objects = sum(len(data.learnable(int(image))) for image in usable)
    names = list(data.names.values())
    pictures = len(data.files)
    return Report(annotations, images, pictures, len(usable), objects, names, problems)


def _check_pictures(
    data: Annotations, decode: bool, progress: bool
) -> list[list[Problem]]:
    def check(image: int) -> list[Problem]:
        path, name = data.path(image), data.files[image]
        return check_picture(path, name, data.size(image), decode)

    present = data.present.tolist()
    # Pillow decodes outside the interpreter's lock, so threads are enough
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(check, present)
        bar = tqdm(
            found, total=len(present), disable=not progress, desc="reading pictures"
        )
        return list(bar)


def check_picture(
    path: Path, name: str, annotated: tuple[int, int], decode: bool = True
) -> list[Problem]:
    """Find what is wrong with, or worth knowing about, one picture file.

    Raises: OSError for a fault of the machine.
    """
    try:
        if decode:
            notes = look_at(path, annotated)[1]
        else:
            notes = look_at_header(path, annotated)
    except BadPicture as bad:
        return [Problem(bad.kind, name, None, bad.detail)]
    return [Problem(kind, name, None, detail) for kind, detail in notes]


def check_path(
    path: Path | str, images: Path | str | None = None, **options: Any
) -> list[Report]:
    """Check every annotation file that `find_folders` finds in `path`.

    `images` is the folder of their pictures where it is not one of the usual.

    Raises: FileNotFoundError when there is none, or no folder `images`.
    """
    if images is not None and not os.path.isdir(images):
        raise FileNotFoundError(f"{images}: no such folder of pictures")
    return [
        check_folder(images or beside, file, **options)
        for beside, file in find_folders(path)
    ]
