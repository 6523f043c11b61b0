"""Any COCO-format folder as training and evaluation data (chapters/02_detr.ipynb)."""

import itertools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..images import ImageBatch, normalise
from .annotations import missing_files, read_annotations
from .masks import draw_mask
from .pictures import BadPicture, picture_bytes, read_picture
from .problems import Problem, stopping
from .transforms import Augment, Sample

Batch = tuple[ImageBatch, list[dict[str, Any]]]
HIGHEST_ID = 100_000  # category ids above are no class numbers
NAMED_WARNINGS = 5  # files named in a warning each; later ones are only collected


class CocoFolder:
    """Pictures in a folder with COCO-format annotations; COCO 2017 or one's own.

    Category ids may have gaps: `labels="names"` numbers the classes 0, 1, … in the
    order of their ids (`category_ids[label]` leads back); `labels="ids"` keeps the
    ids, with classes = highest id + 1, as the official checkpoints with 91 classes
    need. A validation folder that must agree with a training folder takes
    `like=train`.

    Training leaves crowd boxes out, evaluation hands them over with `iscrowd`. Boxes
    are clipped to the picture; what cannot be used is left out and listed in
    `problems`. Files that turn out broken during training are left out too, with one
    warning each, and collected in `skipped`. `augment=None` only scales to 800 pixels
    (short side) and at most 1333; evaluation uses `augment.still()`. `workers`
    processes prepare batches (None: up to four); the batches do not depend on it.
    `masks=True` adds `masks` [n, H, W] bool to the targets.

    Raises: FileNotFoundError for a missing folder or file; ValueError for a file that
    is not COCO-format, has no usable image, or boxes in a wrong format.
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
        self.folder = Path(images)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{images}: no such folder of pictures")
        self.augment = augment or Augment.none()
        self.masks = masks
        self.workers = _default_workers() if workers is None else workers
        self.skipped: dict[str, str] = {}  # file -> why, found while reading
        self.annotations = read_annotations(annotations, self.folder, masks=masks)
        self.problems = self.annotations.problems
        self._number_labels(labels, like)
        missing = missing_files(self.annotations)
        self.problems += [Problem("missing file", file) for file in missing.values()]
        _raise_stopping(self.problems, annotations)
        usable = range(len(self.annotations.files))
        self.indices = np.array([i for i in usable if i not in missing], dtype=np.int64)
        if len(self.indices) == 0:
            raise ValueError(f"{annotations} lists no picture that lies in {images}")

    def _number_labels(self, labels: str, like: "CocoFolder | None") -> None:
        names = self.annotations.names
        if not names:
            raise ValueError("the annotation file has no category: nothing to learn")
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

    @property
    def classes(self) -> int:
        """Number of classes; labels are 0 to classes - 1."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.indices)

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

        Raises: ValueError when no image has a box; RuntimeError when no picture of
        the whole folder can be read.
        """
        if batch < world:
            raise ValueError(f"batch {batch} is smaller than {world} processes")
        if self.annotations.crowd.all():
            raise ValueError(f"{self.folder}: no image has a box to learn from")
        plan = _training_plan(batch, start, rank, world)
        return self._load(_TrainingItems(self, seed), plan, device)

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
        """
        count = len(self) if limit is None else min(limit, len(self))
        mine = range(rank, count, world)
        plan = (mine[begin : begin + batch] for begin in range(0, len(mine), batch))
        return self._load(_EvaluationItems(self), plan, device)

    def _load(self, items: "_Items", plan: Iterator, device: Any) -> Iterator[Batch]:
        loader = DataLoader(
            items,
            batch_sampler=plan,
            num_workers=self.workers,
            collate_fn=_collate,
            # its own, so that opening a loader leaves the run's random numbers alone
            generator=torch.Generator().manual_seed(0),
        )
        for pictures, targets, bad in loader:
            self._report(bad)
            if pictures:
                # bytes travel between processes and to the device, a quarter of floats
                pixels = [normalise(p.to(device).float() / 255) for p in pictures]
                yield ImageBatch.from_list(pixels), targets

    def _report(self, bad: list[BadPicture]) -> None:
        for picture in bad:
            if picture.path in self.skipped:
                continue
            self.skipped[picture.path] = f"{picture.kind}: {picture.detail}"
            if len(self.skipped) <= NAMED_WARNINGS:
                last = len(self.skipped) == NAMED_WARNINGS
                more = "; more are only listed in .skipped" if last else ""
                warnings.warn(f"left out {picture}{more}", stacklevel=3)


def _raise_stopping(problems: list[Problem], annotations: Path | str) -> None:
    for problem in stopping(problems):
        raise ValueError(f"{annotations}: {problem.kind} ({problem.detail})")


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


def _training_plan(
    batch: int, start: int, rank: int, world: int
) -> Iterator[list[int]]:
    """Positions in the endless row of epochs, one list a step."""
    for step in itertools.count(start):
        yield list(range(step * batch + rank, (step + 1) * batch, world))


Item = tuple[Tensor | None, dict[str, Any], list[BadPicture]]


class _Items(Dataset):
    """Reads single images; runs in the worker processes."""

    def __init__(self, folder: CocoFolder, augment: Augment) -> None:
        self.annotations, self.labels = folder.annotations, folder.labels
        self.indices, self.masks = folder.indices, folder.masks
        self.augment = augment

    def read(self, image: int, objects: np.ndarray) -> Sample:
        """One picture with some of its objects, as it is on the disk."""
        record = self.annotations
        height, width = record.sizes[image].tolist()
        picture = read_picture(record.path(image), (height, width))
        boxes, masks = record.boxes[objects], None
        if self.masks:
            shapes = [record.segmentations[i] for i in objects]
            drawn = [
                draw_mask(shape, box, (height, width))
                for shape, box in zip(shapes, boxes, strict=True)
            ]
            masks = np.array(drawn, dtype=bool).reshape(-1, height, width)
        # the file may have been scaled since it was annotated
        stored = Sample.start(picture, boxes, masks)
        return stored.stretched_from((height, width))

    def finish(self, sample: Sample, image: int, objects: np.ndarray) -> Item:
        """Turn a sample into a picture [3, H, W] of bytes and its target."""
        kept = objects[sample.kept]
        target = {
            "boxes": sample.relative_boxes(),
            "labels": torch.from_numpy(self.labels[kept].astype(np.int64)),
            "image_id": int(self.annotations.image_ids[image]),
            "size": tuple(self.annotations.sizes[image].tolist()),
        }
        if sample.masks is not None:
            target["masks"] = torch.from_numpy(sample.masks.copy())
        return picture_bytes(sample.picture), target, []


class _TrainingItems(_Items):
    def __init__(self, folder: CocoFolder, seed: int) -> None:
        super().__init__(folder, folder.augment)
        self.seed = seed % 2**63
        self.broken: dict[int, BadPicture] = {}  # only saves opening a file again
        self.order: tuple[int, np.ndarray] = (-1, self.indices)

    def __getitem__(self, position: int) -> Item:
        bad = []
        for image in self._candidates(position):
            try:
                picture, target, _ = self._draw(int(image), position)
                return picture, target, bad
            except BadPicture as error:
                self.broken[int(image)] = error.with_traceback(None)
                bad.append(error)
        raise RuntimeError(f"no picture can be read; the first: {bad[0]}")

    def _draw(self, image: int, position: int) -> Item:
        if image in self.broken:
            raise self.broken[image]
        rows = self.annotations.objects(image)
        objects = np.arange(rows.start, rows.stop)[~self.annotations.crowd[rows]]
        random = np.random.default_rng((self.seed, 1, position))
        sample = self.augment(self.read(image, objects), random)
        return self.finish(sample, image, objects)

    def _candidates(self, position: int) -> Iterator[int]:
        """The image at this position, then the ones that may stand in for it."""
        epoch, place = divmod(position, len(self.indices))
        if self.order[0] != epoch:
            random = np.random.default_rng((self.seed, 0, epoch))
            self.order = epoch, random.permutation(self.indices)
        order = self.order[1]
        yield order[place]
        for step in range(1, len(order)):
            yield order[(place + len(order) // 2 + step) % len(order)]


class _EvaluationItems(_Items):
    def __init__(self, folder: CocoFolder) -> None:
        super().__init__(folder, folder.augment.still())

    def __getitem__(self, position: int) -> Item:
        image = int(self.indices[position])
        rows = self.annotations.objects(image)
        objects = np.arange(rows.start, rows.stop)
        try:
            sample = self.read(image, objects)
        except BadPicture as error:
            return None, {}, [error]
        # no generator: an augmentation without chance must not ask for one
        sample = self.augment(sample, np.random.default_rng(0))
        picture, target, _ = self.finish(sample, image, objects)
        target["area"] = torch.from_numpy(self.annotations.areas[rows]).float()
        target["iscrowd"] = torch.from_numpy(self.annotations.crowd[rows].copy())
        return picture, target, []


def _collate(items: list[Item]) -> tuple[list[Tensor], list[dict], list[BadPicture]]:
    pictures = [picture for picture, _, _ in items if picture is not None]
    targets = [target for picture, target, _ in items if picture is not None]
    return pictures, targets, [error for _, _, bad in items for error in bad]
