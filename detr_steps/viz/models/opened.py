"""A model opened up on one image: what all figures of a model begin with."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...analysis.attention import (
    Extent,
    class_probabilities,
    extent,
    map_size,
    matched_objects,
    run_with_trace,
    without_crowds,
)
from ...data.scenes import SceneBatch, Scenes
from ...images import ImageBatch, denormalise
from ...nn.trace import Attended, SamplingPoints
from ...systems.output import Output
from ..engine.answers import Answers

Batch = ImageBatch | SceneBatch


class Opened(NamedTuple):
    """One image as a model sees it, cut to its real part.

    `seen` the Output with its trace, `rgb [3, H, W]`, `real` its extent on the
    `map_size`; `answers` of all queries after each decoder layer, and ground truth.
    """

    seen: Output
    rgb: Tensor
    real: Extent
    answers: Answers

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Rows and columns of each level that hold the picture, without padding."""
        trace = self.seen.trace
        shares = trace.valid[0].tolist()
        pairs = zip(trace.sizes, shares)
        return [(round(h * y), round(w * x)) for (h, w), (x, y) in pairs]


def open_up(
    source: nn.Module | Output,
    batch: Batch,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
) -> Opened:
    """Run a model on one image, if it was not yet, and cut the padding off.

    `source` the model, or its Output with a trace (only a model can say who is matched
    with whom); `batch` an ImageBatch, or a SceneBatch, which brings targets and class
    `names`. Raises: ValueError for an image beyond the batch, an Output without a
    trace, too few names or targets; TypeError for something else.
    """
    batch, targets, names = resolve(batch, targets, names)
    seen = run_with_trace(source, batch, image)
    real = extent(batch, image, map_size(seen.trace))
    pixels = batch.pixels[image, :, : real.height, : real.width].detach().float().cpu()
    probabilities = class_probabilities(seen)  # [Y, Q, classes]
    scores, labels = probabilities.max(-1)
    truth, matched = NOTHING, None
    if targets is not None:
        truth = without_crowds(targets[image])
        if isinstance(source, nn.Module):
            matched = matched_objects(source, seen, truth)
    answers = Answers(
        boxes=seen.boxes[:, 0],
        scores=scores,
        labels=labels,
        matched=matched,
        truth=truth["boxes"],
        truth_labels=truth["labels"],
        names=_names(names, probabilities.shape[-1]),
    )
    return Opened(seen, denormalise(pixels), real, answers)


NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def resolve(
    batch: Batch, targets: list[dict] | None, names: Sequence[str] | None
) -> tuple[ImageBatch, list[dict] | None, Sequence[str] | None]:
    """Take pictures, targets and class names out of whatever was given.

    Raises: TypeError for another kind of batch, ValueError for missing targets.
    """
    if isinstance(batch, SceneBatch):
        targets, names = targets or batch.targets, names or Scenes().class_names
        batch = batch.images
    if not isinstance(batch, ImageBatch):
        raise TypeError(
            f"expected an ImageBatch or a SceneBatch, got {type(batch).__name__}: use "
            "ImageBatch.from_list([normalise(rgb)])"
        )
    if targets is not None and len(targets) != len(batch):
        raise ValueError(f"{len(targets)} targets for {len(batch)} images: one each")
    return batch, targets, names


def _names(names: Sequence[str] | None, classes: int) -> Sequence[str]:
    names = names or [f"class {i}" for i in range(classes)]
    if len(names) < classes:
        raise ValueError(f"{len(names)} class names for a model of {classes} classes")
    return names


def samples(layers: Sequence[Attended]) -> bool:
    """Whether all of some layers sample points, so that these can be drawn."""
    return bool(layers) and all(isinstance(each, SamplingPoints) for each in layers)


def nearest(places: Tensor, answers: Answers) -> int:
    """Which of places `[n, 2]` is nearest to the middle of the largest object.

    (x, y) in shares of the picture; its own middle where no object is known.
    """
    middle, boxes = torch.tensor([0.5, 0.5]), answers.truth
    if len(boxes):
        middle = boxes[boxes[:, 2:].prod(-1).argmax(), :2]
    return int((places - middle).norm(dim=-1).argmin())
