"""A COCO-format folder seen with the labels of a model that knows its categories."""

from collections.abc import Sequence

import numpy as np
import torch

from ..data.coco import CocoFolder
from ..data.dataset import Batches
from .names import match_names


class Relabelled:
    """The evaluation images of a folder, their labels those of a model.

    `class_names` of the model in label order: the folder's categories are matched to
    them by name, whatever their ids. `category_ids[label]` as the file writes them,
    None for a label without category; `image_ids` by what the targets carry. `unknown`
    are the names of categories without any object that the model does not know.

    Raises: ValueError as `match_names`, with the file's name.
    """

    def __init__(self, folder: CocoFolder, class_names: Sequence[str]) -> None:
        self.folder, self.class_names = folder, list(class_names)
        self.area_limits = folder.area_limits
        used = np.bincount(folder.labels, minlength=folder.classes) > 0
        try:
            labels = match_names(folder.class_names, self.class_names, used.tolist())
        except ValueError as error:
            raise ValueError(f"{folder.file}: {error}") from error
        self.labels = torch.tensor([-1 if n is None else n for n in labels])
        self.unknown = [
            name for name, label in zip(folder.class_names, labels) if label is None
        ]
        self.category_ids = [None] * len(self.class_names)
        for number, label in zip(folder.category_ids, labels):
            if label is not None:
                written = folder.annotations.written_categories
                self.category_ids[label] = written.get(number, number)
        numbers = folder.annotations.image_ids.tolist()
        self.image_ids = dict(zip(numbers, folder.annotations.written_ids))

    def __len__(self) -> int:
        return len(self.folder)

    def evaluation_batches(
        self, batch: int, limit: int | None = None, **options: object
    ) -> Batches:
        """As those of the folder, with the model's labels."""
        for images, targets in self.folder.evaluation_batches(batch, limit, **options):
            yield (
                images,
                [t | {"labels": self.labels[t["labels"].cpu()]} for t in targets],
            )
