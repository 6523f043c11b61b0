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


def best_class_per_query(
    probabilities: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]
) -> list[Detections]:
    """Every query answers with its best class; best first.

    `probabilities [B, Q, classes]` of real classes ("no object" must be dropped
    *before* the best is chosen, so that all Q queries answer), `boxes [B, Q, 4]` cxcywh
    in [0, 1]; `sizes` (H, W) in pixels. Source: Carion et al. 2020, official code.
    """
    scores, labels = probabilities.max(-1)  # [B, Q]
    corners = _in_pixels(boxes, sizes)  # [B, Q, 4]
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return [
        Detections(corners[i][o], scores[i][o], labels[i][o])
        for i, o in enumerate(order)
    ]


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
    classes = probabilities.shape[-1]
    scores = probabilities.flatten(1)  # [B, Q·classes]
    best = scores.topk(min(keep, scores.shape[1]), dim=1)  # sorted
    corners = _in_pixels(boxes, sizes)  # [B, Q, 4]
    return [
        Detections(corner[pair // classes], score, pair % classes)
        for corner, score, pair in zip(corners, *best)
    ]


def _in_pixels(boxes: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    scale = torch.tensor([(w, h, w, h) for h, w in sizes], device=boxes.device)
    return box_ops.cxcywh_to_xyxy(boxes) * scale[:, None]
