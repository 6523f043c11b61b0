"""Any COCO-format folder as training and evaluation data (chapters/02_detr.ipynb)."""

import os
import shlex
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..images import ImageBatch, normalise
from .annotations import read_annotations
from .loading import (
    EvaluationImages,
    Images,
    TrainingImages,
    load,
    training_plan,
)
from .pictures import BadPicture, read_picture
from .problems import CHANGED, KINDS, LOST, STOP, Problem, count, listed, one_line
from .transforms import Augment

Batch = tuple[ImageBatch, list[dict[str, Any]]]
HIGHEST_ID = 100_000  # category ids above are no class numbers
NAMED_WARNINGS = 5  # files named in a warning each; later ones are only collected
NAMED_PROBLEMS = 3  # of each kind in `left_out`
TRAINING_ONLY = "no box to learn from"  # such a folder can still be evaluated on
_SAID = {kind for kind, (cost, _) in KINDS.items() if cost in (LOST, CHANGED)}
_SAID.add("crowd")  # no fault, and not trained on all the same


class CocoFolder:
    """Pictures in a folder with COCO-format annotations; COCO 2017 or one's own.

    Category ids may have gaps: `labels="names"` numbers the classes 0, 1, … in the
    order of their ids (`category_ids[label]` leads back); `labels="ids"` keeps the
    ids, with classes = highest id + 1, as the official checkpoints with 91 classes
    need. A validation folder that must agree with a training folder takes
    `like=train`.

    Training leaves crowd boxes out, evaluation hands them over with `iscrowd`. Boxes
    are clipped to the picture; what cannot be used is left out and listed in
    `problems`, by the same code as `detr-steps data check`. Files that turn out broken
    while they are read are left out too, with one warning each, and collected in
    `skipped`; `left_out()` says all of it. `augment=None` only scales to 800 pixels
    (short side) and at most 1333; evaluation uses `augment.still()`. `workers`
    processes prepare batches (None: up to four); the batches do not depend on it.
    `masks=True` adds `masks` [n, H, W] bool to the targets.

    Raises: FileNotFoundError for a missing folder or file; ValueError for a file that
    is not COCO-format, has no usable image, or boxes in a wrong format; ValueError when
    no picture can be read (the first one that can is opened).
    """

    area_limits = (32.0, 96.0)  # sides in pixels that part small, medium and large

    def __init__(
        self,
        images: Path | str,
        annotations: Path | str,
        *,
        augment: Augment | None = None,
        labels: Literal["names", "ids"] = "names",
        like: "CocoFolder | None" = None,
        masks: bool = False,
        workers: int | None = None,
    ) -> None:
        self.folder, self.file = Path(images), Path(annotations)
        if not os.path.isdir(images):
            raise FileNotFoundError(f"{images}: no such folder of pictures")
        self.augment = augment or Augment.none()
        self.masks = masks
        self.workers = _default_workers() if workers is None else workers
        if self.workers < 0:
            raise ValueError(f"workers={workers}: 0 reads in this process, or more")
        self.skipped: dict[str, BadPicture] = {}  # file -> why, found while reading
        self.annotations = read_annotations(annotations, self.folder, masks=masks)
        self.problems = self.annotations.problems
        self.problems += self.annotations.verdict(self.annotations.present)
        for problem in self.problems:
            if problem.cost == STOP and problem.kind != TRAINING_ONLY:
                raise self._stop(problem)
        self._number_labels(labels, like)
        self._require_readable(self.annotations.present.tolist(), "no picture")

    def _stop(self, problem: Problem) -> ValueError:
        return ValueError(one_line(f"{self.file}: {problem.kind} ({problem.detail})"))

    def _number_labels(self, labels: str, like: "CocoFolder | None") -> None:
        names = self.annotations.names
        if labels not in ("names", "ids"):
            raise ValueError(f"labels={labels!r}: choose 'names' or 'ids'")
        if like is not None:
            _check_same_categories(names, like)
            self.class_names, self.category_ids = like.class_names, like.category_ids
        elif labels == "ids":
            if max(names) > HIGHEST_ID:
                raise ValueError(
                    f"category id {max(names)} would make as many classes: use "
                    "labels='names'"
                )
            self.category_ids = list(range(max(names) + 1))
            self.class_names = [names.get(i, f"(no {i})") for i in self.category_ids]
        else:
            self.class_names, self.category_ids = list(names.values()), list(names)
        self.labels = np.searchsorted(self.category_ids, self.annotations.categories)

    def left_out(self) -> str:
        """Say what of the folder is not used, or not as it is; "" when all of it is.

        A few lines for people, printed by `detr-steps train` before its first step;
        after it they name the files in `skipped` as well.
        """
        broken = [Problem(b.kind, f, None, b.detail) for f, b in self.skipped.items()]
        problems = self.problems + broken
        kinds = [kind for kind in count(problems) if kind in _SAID]
        if not kinds:
            return ""
        lines = [one_line(f"{self.file}: not all of it is used as it is")]
        for kind in kinds:
            lines += listed(problems, kind, NAMED_PROBLEMS)
        command = ["detr-steps", "data", "check", self.file, "--images", self.folder]
        shown = shlex.join([*map(str, command), "--all"])
        return "\n".join([*lines, one_line(f"  Each one: {shown}")])

    @property
    def classes(self) -> int:
        """Number of classes; labels are 0 to classes - 1."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.annotations.present)

    def batches(
        self,
        batch: int,
        start: int = 0,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> Iterator[Batch]:
        """Yield shuffled, augmented batches for ever, from step `start`.

        Each step is a pure function of seed, step and rank, for any number of workers:
        a resumed run sees what an uninterrupted one would have seen. Process `rank` of
        `world` gets images rank, rank + world, … of the global batch of size `batch`.

        Raises: ValueError when no picture with a box can be read.
        """
        if batch < world:
            raise ValueError(f"batch {batch} is smaller than {world} processes")
        for problem in self.problems:
            if problem.kind == TRAINING_ONLY:
                raise self._stop(problem)
        present, learnable = self.annotations.present, self.annotations.learnable
        with_boxes = (image for image in present.tolist() if len(learnable(image)))
        self._require_readable(with_boxes, "no picture with a box")
        images = TrainingImages(
            self.annotations, self.labels, self.augment, masks=self.masks, seed=seed
        )
        return self._load(images, training_plan(batch, start, rank, world), device)

    def _require_readable(self, images: Iterable[int], what: str) -> None:
        """Refuse to start where none of these pictures can be read: opens the first."""
        first = None
        for image in images:
            try:
                read_picture(self.annotations.path(image), self.annotations.size(image))
                return
            except BadPicture as bad:
                first = first or bad
        raise ValueError(f"{what} can be read; the first: {first}")

    def evaluation_batches(
        self,
        batch: int,
        limit: int | None = None,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """Yield each of the first `limit` images once, in order, without chance.

        Targets carry `image_id`, `size` (H, W) and `area` in pixels of the original
        and `iscrowd`. Unreadable pictures are left out with a warning.

        Raises: ValueError for a batch or a limit below 1.
        """
        if batch < 1 or (limit is not None and limit < 1):
            raise ValueError(f"batch {batch}, limit {limit}: both at least 1")
        mine = range(rank, min(limit or len(self), len(self)), world)
        plan = (mine[begin : begin + batch] for begin in range(0, len(mine), batch))
        images = EvaluationImages(
            self.annotations, self.labels, self.augment.still(), masks=self.masks
        )
        return self._load(images, plan, device)

    def _load(self, images: Images, plan: Iterator, device: Any) -> Iterator[Batch]:
        for pictures, targets, bad in load(images, plan, self.workers):
            self._report(bad)
            if pictures:
                # bytes travel between processes and to the device, a quarter of floats
                pixels = [normalise(p.to(device).float() / 255) for p in pictures]
                yield ImageBatch.from_list(pixels), targets

    def _report(self, bad: list[BadPicture]) -> None:
        for picture in bad:
            if picture.path in self.skipped:
                continue
            self.skipped[picture.path] = picture
            if len(self.skipped) <= NAMED_WARNINGS:
                last = len(self.skipped) == NAMED_WARNINGS
                more = "; more are only listed in .skipped" if last else ""
                warnings.warn(f"left out {picture}{more}", stacklevel=3)


def _check_same_categories(names: dict[int, str], like: CocoFolder) -> None:
    known = dict(zip(like.category_ids, like.class_names, strict=True))
    for number, name in names.items():
        if known.get(number) != name:
            raise ValueError(
                f"category {number} is {name!r} here and {known.get(number)!r} in the "
                "folder given as like=: use the same categories in both files"
            )


def _default_workers() -> int:
    return max(0, min(4, (os.cpu_count() or 1) - 1))
