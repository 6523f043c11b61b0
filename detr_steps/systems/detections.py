"""What goes into a detector and what comes out: checks, and two ways to choose.

Built in chapters/02_detr.ipynb; `top_detections` in chapters/08_multi_scale.ipynb.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import boxes as box_ops
from ..images import ImageBatch


class Detections(NamedTuple):
    """What was found in one image, best first: `boxes [n, 4]` xyxy pixels, `scores [n]`
    in [0, 1], `labels [n]`."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def detections(
    logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]
) -> list[Detections]:
    """Turn one layer's predictions into detections, best first.

    `logits [B, Q, classes + 1]`, `boxes [B, Q, 4]` cxcywh in [0, 1]. "No object" is
    dropped *before* the best class is chosen, so all Q queries answer.
    """
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # [B, Q]
    corners = _in_pixels(boxes, sizes)  # [B, Q, 4]
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return [
        Detections(corners[i][o], scores[i][o], labels[i][o])
        for i, o in enumerate(order)
    ]


def top_detections(
    logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]], keep: int = 100
) -> list[Detections]:
    """Turn one layer's yes-or-no answers into the `keep` best detections.

    `logits [B, Q, classes]`, `boxes [B, Q, 4]` cxcywh in [0, 1]. All queries and all
    classes compete: a query may appear several times, with different labels.
    Source: Zhu et al. 2020, the official code; there 100 as well.
    """
    classes = logits.shape[-1]
    scores = logits.sigmoid().flatten(1)  # [B, Q·classes]
    best = scores.topk(min(keep, scores.shape[1]), dim=1)  # sorted
    corners = _in_pixels(boxes, sizes)  # [B, Q, 4]
    return [
        Detections(corner[place // classes], score, place % classes)
        for corner, score, place in zip(corners, *best)
    ]


def _in_pixels(boxes: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    scale = torch.tensor([(w, h, w, h) for h, w in sizes], device=boxes.device)
    return box_ops.cxcywh_to_xyxy(boxes) * scale[:, None]


def check_batch(targets: int, images: int) -> None:
    """Raise ValueError unless there is one target for each image."""
    if targets != images:
        raise ValueError(f"{targets} targets for {images} images: give one per image")


def check_images(model: nn.Module, batch: ImageBatch, sizes: int) -> None:
    """Raise TypeError or ValueError, with the cure, unless a model can take a batch.

    The model says how many `tokens(height, width)` an image makes and how many it can
    take, `most_tokens`.
    """
    if not isinstance(batch, ImageBatch):
        raise TypeError(
            f"expected an ImageBatch, got {type(batch).__name__}: use "
            "ImageBatch.from_list([normalise(rgb)]) with rgb [3, H, W] in [0, 1]"
        )
    if batch.pixels.shape[1] != 3:
        raise ValueError(
            f"images of {batch.pixels.shape[1]} channels, the model needs 3: convert "
            "to RGB, or repeat gray with image.expand(3, -1, -1)"
        )
    if sizes != len(batch):
        raise ValueError(f"{sizes} sizes for {len(batch)} images: give one (H, W) each")
    height, width = batch.pixels.shape[-2:]
    tokens = model.tokens(height, width)
    if tokens > model.most_tokens:
        raise ValueError(
            f"{height} x {width} pixels make {tokens:,} tokens, more than the "
            f"{model.most_tokens:,} that fit in memory: shrink the image first, as "
            "detr-steps predict does (short side 800, long side 1333)"
        )
    if not batch.pixels.isfinite().all():
        raise ValueError("the pixels hold NaN or infinity: check how they were read")
