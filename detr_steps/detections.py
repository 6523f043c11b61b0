"""What comes out of a detector, and two ways to choose it from predictions.

Built in chapters/02_detr.ipynb; `top_scoring_pairs` in chapters/08_multi_scale.ipynb.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import boxes as box_ops


class Detections(NamedTuple):
    """What was found in one image, best first: `boxes [n, 4]` xyxy pixels, `scores [n]`
    in [0, 1], `labels [n]`."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Instances(NamedTuple):
    """Detections of one image with their masks, best first: `boxes [n, 4]` xyxy pixels,
    `scores`, `labels [n]`, `masks [n, H, W]` bool, which may overlap."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


class Segment(NamedTuple):
    """One segment of a panoptic answer; `area` in pixels."""

    id: int
    label: int
    score: float
    area: int


class Panoptic(NamedTuple):
    """Every pixel of one image in one segment, or in none.

    `ids [H, W]` int64: the id of the segment, from 1; 0 for void. `segments` in the
    order of their ids, none of them empty. Built in chapters/03_panoptic.ipynb.
    """

    ids: Tensor
    segments: tuple[Segment, ...]


def best_class_per_query(
    probabilities: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]
) -> list[Detections]:
    """Every query answers with its best class; best first.

    `probabilities [B, Q, classes]` of real classes ("no object" must be dropped
    *before* the best is chosen, so that all Q queries answer), `boxes [B, Q, 4]` cxcywh
    in [0, 1]; `sizes` (H, W) in pixels. Source: Carion et al. 2020, official code.
    """
    return _in_pixels(rank_queries(probabilities, boxes), sizes)


def rank_queries(probabilities: Tensor, boxes: Tensor) -> Detections:
    """The same as tensors of the whole batch: `[B, Q, 4]` xyxy shares, `[B, Q]` twice.

    Built in chapters/02_detr.ipynb.
    """
    scores, labels = probabilities.max(-1)  # [B, Q]
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return Detections(
        _rows(box_ops.cxcywh_to_xyxy(boxes), order),
        scores.gather(1, order),
        labels.gather(1, order),
    )


def top_scoring_pairs(
    probabilities: Tensor,
    boxes: Tensor,
    sizes: list[tuple[int, int]],
    keep: int = 100,
) -> list[Detections]:
    """The `keep` best pairs of query and class; best first.

    `probabilities [B, Q, classes]`, `boxes [B, Q, 4]` cxcywh in [0, 1]. All pairs
    compete: a query may appear several times, with different labels.
    Source: Zhu et al. 2020, the official code; there 100 as well.
    """
    return _in_pixels(rank_pairs(probabilities, boxes, keep), sizes)


def rank_pairs(probabilities: Tensor, boxes: Tensor, keep: int = 100) -> Detections:
    """The same as tensors of the whole batch: `[B, n, 4]` xyxy shares, `[B, n]` twice.

    Built in chapters/08_multi_scale.ipynb.
    """
    classes = probabilities.shape[-1]
    flat = probabilities.flatten(1)  # [B, Q·classes]
    scores, best = flat.topk(min(keep, flat.shape[1]), dim=1)  # sorted
    corners = box_ops.cxcywh_to_xyxy(boxes)  # [B, Q, 4]
    return Detections(_rows(corners, best // classes), scores, best % classes)


def _rows(boxes: Tensor, index: Tensor) -> Tensor:
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def _in_pixels(found: Detections, sizes: list[tuple[int, int]]) -> list[Detections]:
    """One `Detections` for each image, boxes in its own pixels."""
    boxes, *rest = found
    scale = torch.tensor([(w, h, w, h) for h, w in sizes], device=boxes.device)
    return [Detections(*each) for each in zip(boxes * scale[:, None], *rest)]
