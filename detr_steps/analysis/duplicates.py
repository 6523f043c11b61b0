"""How often is an object answered, and what does that cost?

Built in chapters/12_more_queries.ipynb.
"""

from typing import NamedTuple

from torch import Tensor

from ..boxes import cxcywh_to_xyxy, iou
from ..data.dataset import Dataset
from ..objective.classification import Classification
from .layers import ap_by_layer

SURE, ON_IT = 0.3, 0.5  # score and IoU from which a query answers an object


class Duplicates(NamedTuple):
    """AP in [0, 1], also with NMS; answers for each object that has any; its share."""

    ap: float
    ap_nms: float
    answers: float
    found: float


def duplicates(
    logits: Tensor,
    boxes: Tensor,
    targets: list[dict],
    data: Dataset,
    classification: Classification,
    threshold: float = 0.7,
) -> Duplicates:
    """Judge one layer's predictions with and without NMS at a `threshold`.

    `logits [n, Q, outputs]`, `boxes [n, Q, 4]`, as `predictions` collects them. An
    answer names the object's class with a score above 0.3 and has an IoU above 0.5.
    Source: Chen et al. 2022 (Group DETR), section 4.3, asks the same by AP alone.
    Built in chapters/12_more_queries.ipynb.
    """
    last = logits[None], boxes[None], targets, data
    ap, ap_nms = (
        ap_by_layer(*last, each, classification=classification)[0]
        for each in (None, threshold)
    )
    answers = found = objects = 0
    probabilities = classification.probabilities(logits)
    for p, box, target in zip(probabilities, boxes, targets):
        overlap = iou(cxcywh_to_xyxy(box), cxcywh_to_xyxy(target["boxes"]))  # [Q, N]
        hits = (overlap > ON_IT) & (p[:, target["labels"]] > SURE)
        answers += int(hits.sum())
        found += int(hits.any(0).sum())
        objects += len(target["labels"])
    return Duplicates(ap, ap_nms, answers / max(found, 1), found / max(objects, 1))
