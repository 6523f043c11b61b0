"""Reading single images of a COCO-format folder, in the processes of a loader."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .annotations import Annotations
from .masks import draw_mask
from .pictures import BadPicture, picture_bytes, read_picture
from .transforms import Augment, Sample


class Item(NamedTuple):
    """One image `[3, H, W]` of bytes (or None) and its target.

    `bad` are the files left out on the way to it; `failed` says why reading has to
    end: it is raised in the process that asked, as one line.
    """

    picture: Tensor | None
    target: dict[str, Any]
    bad: list[BadPicture]
    failed: Exception | None = None


class Loaded(NamedTuple):
    """A batch as it comes from a loader."""

    pictures: list[Tensor]
    targets: list[dict[str, Any]]
    bad: list[BadPicture]


class Images(Dataset):
    """The images of a folder that can be read, one by one."""

    def __init__(
        self,
        annotations: Annotations,
        labels: np.ndarray,
        augment: Augment,
        *,
        masks: bool = False,
    ) -> None:
        self.annotations, self.labels = annotations, labels
        self.augment, self.masks = augment, masks

    def __getitem__(self, position: int) -> Item:
        """An item; a fault of the machine travels in it, without a traceback."""
        try:
            return self.item(position)
        except (OSError, MemoryError) as error:
            name = self.annotations.folder
            reason = str(error) or type(error).__name__
            return Item(None, {}, [], OSError(f"reading pictures of {name}: {reason}"))

    def item(self, position: int) -> Item:
        """The item at a position of the plan."""
        raise NotImplementedError

    def read(self, image: int, objects: np.ndarray) -> Sample:
        """One picture with some of its objects, as it is on the disk.

        Raises: BadPicture; OSError for a fault of the machine.
        """
        record = self.annotations
        annotated = record.size(image)
        picture = read_picture(record.path(image), annotated)
        # the file may have been scaled since it was annotated
        sample = Sample.start(picture, record.boxes[objects]).stretched_from(annotated)
        if not self.masks:
            return sample
        size = picture.height, picture.width
        drawn = [
            draw_mask(record.segmentations[i], record.boxes[i], annotated, size)
            for i in objects
        ]
        masks = np.array(drawn, dtype=bool).reshape(-1, *size)
        return Sample.start(picture, sample.boxes, masks)

    def finish(self, sample: Sample, image: int, objects: np.ndarray) -> Item:
        """Turn a sample into a picture [3, H, W] of bytes and its target."""
        kept = objects[sample.kept]
        target = {
            "boxes": sample.relative_boxes(),
            "labels": torch.from_numpy(self.labels[kept].astype(np.int64)),
            "image_id": int(self.annotations.image_ids[image]),
            "size": self.annotations.size(image),
        }
        if sample.masks is not None:
            target["masks"] = torch.from_numpy(sample.masks.copy())
        return Item(picture_bytes(sample.picture), target, [])


class TrainingImages(Images):
    """Position p of the endless row of epochs: shuffled, augmented, crowds left out."""

    def __init__(self, *images: Any, seed: int, **options: Any) -> None:
        super().__init__(*images, **options)
        self.seed = seed % 2**63
        self.broken: dict[int, BadPicture] = {}  # only saves opening a file again
        self.order: tuple[int, np.ndarray] = (-1, self.annotations.present)

    def item(self, position: int) -> Item:
        bad = []
        for image in self._candidates(position):
            try:
                return self._draw(int(image), position)._replace(bad=bad)
            except BadPicture as error:
                self.broken[int(image)] = error.with_traceback(None)
                bad.append(error)
        error = ValueError(f"no picture can be read; the first: {bad[0]}")
        return Item(None, {}, bad, error)

    def _draw(self, image: int, position: int) -> Item:
        if image in self.broken:
            raise self.broken[image]
        objects = self.annotations.learnable(image)
        random = np.random.default_rng((self.seed, 1, position))
        sample = self.augment(self.read(image, objects), random)
        return self.finish(sample, image, objects)

    def _candidates(self, position: int) -> Iterator[int]:
        """The image at this position, then all others, which may stand in for it."""
        images = self.annotations.present
        epoch, place = divmod(position, len(images))
        if self.order[0] != epoch:
            random = np.random.default_rng((self.seed, 0, epoch))
            self.order = epoch, random.permutation(images)
        order = self.order[1]
        yield order[place]
        for step in range(1, len(order) + 1):
            ahead = (len(order) // 2 + step) % len(order)
            if ahead:  # 0 would be the same image again
                yield order[(place + ahead) % len(order)]


class EvaluationImages(Images):
    """Every image once, in order, without chance, with its crowds."""

    def item(self, position: int) -> Item:
        image = int(self.annotations.present[position])
        rows = self.annotations.objects(image)
        objects = np.arange(rows.start, rows.stop)
        try:
            sample = self.read(image, objects)
        except BadPicture as error:
            return Item(None, {}, [error])
        # no generator: an augmentation without chance must not ask for one
        sample = self.augment(sample, np.random.default_rng(0))
        item = self.finish(sample, image, objects)
        areas, crowd = self.annotations.areas[rows], self.annotations.crowd[rows]
        item.target["area"] = torch.from_numpy(areas).float()
        item.target["iscrowd"] = torch.from_numpy(crowd.copy())
        return item


def training_plan(batch: int, start: int, rank: int, world: int) -> Iterator[list[int]]:
    """Positions in the endless row of epochs, one list a step."""
    for step in itertools.count(start):
        yield list(range(step * batch + rank, (step + 1) * batch, world))


def load(images: Images, plan: Iterable[list[int]], workers: int) -> Iterator[Loaded]:
    """Read batches in `workers` processes (0: in this one).

    Raises: what `Item.failed` holds; OSError when a process has died.
    """
    loader = DataLoader(
        images,
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=list,
        # its own, so that opening a loader leaves the run's random numbers alone
        generator=torch.Generator().manual_seed(0),
    )
    for items in _survivors(iter(loader)):
        for item in items:
            if item.failed:
                raise item.failed
        read = [item for item in items if item.picture is not None]
        yield Loaded(
            [item.picture for item in read],
            [item.target for item in read],
            [error for item in items for error in item.bad],
        )


def _survivors(batches: Iterator[list[Item]]) -> Iterator[list[Item]]:
    while True:
        try:
            items = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0].removesuffix(".")
            raise OSError(
                f"a process that reads pictures has died ({reason}). Out of memory? "
                "Use fewer workers, or 0"
            ) from error
        yield items
