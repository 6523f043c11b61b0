"""Pictures with COCO's panoptic ground truth, to be scored on.

Chapters do not build it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..images import ImageBatch, normalise
from .dataset import Batches
from .panoptic_files import PanopticFiles
from .panoptic_scenes import boxes_of
from .pictures import picture_tensor, read_picture
from .transforms import Augment, Sample


class PanopticFolder:
    """The pictures of a panoptic file, in order, with masks of all true segments.

    `images` the folder of the pictures; `augment` scales them, masks stay as large as
    the file says; `labels[i]` what stands for label i of the file, if another numbering
    is wanted, with its `class_names` and the number of its `things`, which come first.
    Raises: FileNotFoundError; ValueError where the two numberings disagree on what is
    a thing; while reading as `PanopticFiles` and `read_picture`.
    """

    area_limits = (32.0, 96.0)  # sides in pixels that part small, medium and large

    def __init__(
        self,
        images: Path | str,
        files: PanopticFiles,
        *,
        augment: Augment | None = None,
        labels: Sequence[int | None] | None = None,
        class_names: Sequence[str] | None = None,
        things: int | None = None,
    ) -> None:
        self.folder, self.files = Path(images), files
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{images}: no such folder of pictures")
        self.augment = (augment or Augment.none()).still()
        self.labels = list(range(len(files.class_names)) if labels is None else labels)
        self.class_names = list(class_names or files.class_names)
        self.things = files.things if things is None else things
        for theirs, ours in enumerate(self.labels):
            one, other = theirs < files.things, ours is not None and ours < self.things
            if ours is not None and one != other:
                raise ValueError(
                    f"{files.file}: {files.class_names[theirs]!r} is "
                    f"{'a thing' if one else 'stuff'} there and not in the model: "
                    "mend its isthing"
                )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        """Normalised pixels `[3, H, W]` and the target of one picture."""
        ids, segments = self.files[index]
        listed = self.files.images[index]
        picture = read_picture(self.folder / listed.picture, ids.shape)
        sample = Sample.start(picture, np.zeros((0, 4)))
        sample = self.augment(sample, np.random.default_rng(0))
        numbers = np.array([*segments], dtype=np.int64)
        masks = torch.from_numpy(ids == numbers[:, None, None])
        labels = [self.labels[label] for label, _ in segments.values()]
        crowds = [crowd for _, crowd in segments.values()]
        target = {
            "boxes": boxes_of(masks),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "masks": masks,
            "area": masks.sum((1, 2)).float(),
            "iscrowd": torch.tensor(crowds, dtype=torch.bool),
            "image_id": listed.id,
            "size": tuple(ids.shape),
        }
        return normalise(picture_tensor(sample.picture)), target

    def evaluation_batches(
        self,
        batch: int,
        limit: int | None = None,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> Batches:
        """Yield each of the first `limit` images once, in order, without chance."""
        mine = range(rank, min(limit or len(self), len(self)), world)
        for begin in range(0, len(mine), batch):
            items = [self[index] for index in mine[begin : begin + batch]]
            pixels = [pixels.to(device) for pixels, _ in items]
            yield ImageBatch.from_list(pixels), [target for _, target in items]
