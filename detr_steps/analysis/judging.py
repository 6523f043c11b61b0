"""Which predictions of every decoder layer are right: one image at a time.

Built in chapters/11_sqr.ipynb.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..boxes import TINY, cxcywh_to_xyxy
from ..objective.classification import Classification

RULES = ("winner", "greedy")


class Judged(NamedTuple):
    """The predictions of Y layers in one image, held against its n objects.

    `scores [Y, Q, classes]`; `said`, `best [Y, Q]` the most probable class and its
    score; `overlap [Y, Q, n]` IoU; `candidates [Y, Q, n]` of the right class and
    overlap; `hits [Y, Q, n]` true positives; `false [Y, Q]` those that hit nothing and
    lie on no crowd; `labels [n]`. Crowds are no objects.
    """

    scores: Tensor
    said: Tensor
    best: Tensor
    overlap: Tensor
    candidates: Tensor
    hits: Tensor
    false: Tensor
    labels: Tensor


def layers_of(
    scores: Sequence[Tensor], boxes: Sequence[Tensor], targets: Sequence[dict]
) -> int:
    """How many layers the images have: two at least, the same in all of them.

    Raises: ValueError.
    """
    if not len(scores) == len(boxes) == len(targets):
        raise ValueError(
            f"scores of {len(scores)} images, boxes of {len(boxes)}, {len(targets)} "
            "targets: give one of each per image"
        )
    if not len(scores):
        raise ValueError("no images, so nothing to compare: give at least one")
    counts = {each.shape[0] if each.dim() == 3 else None for each in scores}
    if len(counts) > 1 or None in counts:
        shapes = sorted({str(list(each.shape)) for each in scores})
        raise ValueError(
            f"scores of shapes {', '.join(shapes[:3])}: give [Y, Q, classes] for each "
            "image, with the same Y layers"
        )
    layers = counts.pop()
    if layers < 2:
        raise ValueError(
            f"{layers} layer has no earlier one to compare with: the rates are "
            "undefined, give what all decoder layers predict"
        )
    return layers


def as_corners(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[dict],
    classification: Classification,
) -> tuple[list[Tensor], list[Tensor], list[dict]]:
    """Predictions as `judge` and `fading.rates` take them, image by image.

    Of what `analysis.predictions` gives: `logits [Y, n, Q, outputs]`, `boxes
    [Y, n, Q, 4]` cxcywh and targets likewise, in [0, 1]; `classification` is
    `model.config.classification`.
    """
    scores = classification.probabilities(logits).transpose(0, 1)
    corners = cxcywh_to_xyxy(boxes).transpose(0, 1)
    true = [each | {"boxes": cxcywh_to_xyxy(each["boxes"])} for each in targets]
    return list(scores), list(corners), true


def judge(
    index: int, scores: Tensor, boxes: Tensor, target: dict, *, iou: float, rule: str
) -> Judged:
    """Hold the predictions of all layers against the objects of image `index`.

    `scores [Y, Q, classes]`, `boxes [Y, Q, 4]` and `target["boxes"] [n, 4]` xyxy in one
    unit, `labels [n]`, perhaps `iscrowd [n]`. `rule` "winner": of each object the
    best-scored query of its class with an IoU above `iou`; "greedy": COCO's, queries by
    score take the free object of most IoU, `iou` or more.
    Raises: ValueError that names the image and what is wrong.
    """
    scores, boxes, target = _on_cpu(scores, boxes, target)
    _check(index, scores, boxes, target)
    crowd = target["crowd"]
    labels, true = target["labels"][~crowd], target["boxes"][~crowd]
    # numpy's argmax of short rows is three times as fast as torch's
    said = torch.from_numpy(scores.numpy().argmax(-1))  # [Y, Q]
    best = scores.gather(-1, said[..., None])[..., 0]
    right = said[..., None] == labels
    overlap, _ = overlaps(boxes, true)  # [Y, Q, n]
    near = overlap >= iou if rule == "greedy" else overlap > iou
    candidates = right & near
    hits = (_greedy if rule == "greedy" else _winners)(best, candidates, overlap)
    false = ~hits.any(-1)
    if crowd.any():
        _, inside = overlaps(boxes, target["boxes"][crowd])
        on = inside >= iou if rule == "greedy" else inside > iou
        same = said[..., None] == target["labels"][crowd]
        false &= ~(on & same).any(-1)
    return Judged(scores, said, best, overlap, candidates, hits, false, labels)


def _winners(best: Tensor, candidates: Tensor, overlap: Tensor) -> Tensor:
    """The best-scored candidate of each object, the first of equals: `[Y, Q, n]`."""
    if not candidates.numel():
        return candidates
    score = best[..., None].where(candidates, -1.0)
    first = score.argmax(1, keepdim=True)  # [Y, 1, n]
    return torch.zeros_like(candidates).scatter_(1, first, True) & candidates


def _greedy(best: Tensor, candidates: Tensor, overlap: Tensor) -> Tensor:
    """COCO's matching in all layers at once, one query of each at a time.

    Of equal overlaps the last object is taken, of equal scores the first query, as
    pycocotools has it.
    """
    able, overlap = candidates.numpy(), overlap.numpy()
    hits, free = np.zeros_like(able), able.any(1)  # free [Y, n]: yet to be taken
    some = able.any(-1)  # [Y, Q]
    order = np.argsort(np.where(some, -best.numpy(), 1.0), axis=1, kind="stable")
    layer = np.arange(len(able))
    for query in order.T[: some.sum(1).max(initial=0)]:  # [Y]
        if not free.any():
            break
        row = np.where(able[layer, query] & free, overlap[layer, query], -1.0)
        thing = row.shape[1] - 1 - row[:, ::-1].argmax(1)
        hit = row[layer, thing] >= 0
        hits[layer[hit], query[hit], thing[hit]] = True
        free[layer[hit], thing[hit]] = False
    return torch.from_numpy(hits)


def overlaps(boxes: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of each box with each other one, and how much of the box lies in it.

    `boxes [Y, Q, 4], true [n, 4]` xyxy -> `[Y, Q, n]` twice. The same as `boxes.iou`,
    but in planes of one coordinate, which for few objects is three times as fast.
    """
    x0, y0, x1, y1 = boxes[..., None, :].unbind(-1)  # [Y, Q, 1]
    left, top, right, bottom = true.unbind(-1)  # [n]
    width = (torch.minimum(x1, right) - torch.maximum(x0, left)).clamp_(min=0)
    height = (torch.minimum(y1, bottom) - torch.maximum(y0, top)).clamp_(min=0)
    shared = width.mul_(height)
    own = (x1 - x0) * (y1 - y0)
    union = (own + (right - left) * (bottom - top)).sub_(shared)
    return shared / union.clamp_(min=TINY), shared / own.clamp(min=TINY)


def _on_cpu(
    scores: Tensor, boxes: Tensor, target: dict
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    labels = target["labels"].detach().cpu()
    if not len(labels):  # an empty tensor is float32 unless told otherwise
        labels = labels.long()
    crowd = torch.as_tensor(target.get("iscrowd", torch.zeros(len(labels)))).cpu()
    true = target["boxes"].detach().cpu().double()
    scores = scores.detach().cpu()
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    parts = {"boxes": true, "labels": labels, "crowd": crowd.bool()}
    return scores, boxes.detach().cpu().double(), parts


def _check(index: int, scores: Tensor, boxes: Tensor, target: dict) -> None:
    """Raise ValueError that names the image unless its parts belong together."""
    labels, true = target["labels"], target["boxes"]
    if boxes.shape != (*scores.shape[:2], 4):
        raise ValueError(
            f"image {index}: scores {list(scores.shape)} and boxes {list(boxes.shape)} "
            "do not belong together, expected [Y, Q, classes] and [Y, Q, 4]"
        )
    if true.shape != (len(labels), 4) or len(target["crowd"]) != len(labels):
        raise ValueError(
            f"image {index}: target boxes {list(true.shape)}, labels "
            f"{list(labels.shape)} and iscrowd do not belong together"
        )
    if not scores.numel():
        raise ValueError(f"image {index}: scores {list(scores.shape)} are empty")
    if labels.is_floating_point():
        raise ValueError(f"image {index}: labels are {labels.dtype}, not int64")
    if len(labels) and not (labels.min() >= 0 and labels.max() < scores.shape[-1]):
        raise ValueError(
            f"image {index}: labels {labels.tolist()} for {scores.shape[-1]} classes, "
            f"0 … {scores.shape[-1] - 1}"
        )
    _check_numbers(index, scores, boxes, true)


def _check_numbers(index: int, scores: Tensor, boxes: Tensor, true: Tensor) -> None:
    low, high = scores.aminmax()  # NaN goes through
    if not (low >= 0 and high <= 1):
        cause = "NaN" if low.isnan() else f"scores from {low:.3g} to {high:.3g}"
        raise ValueError(
            f"image {index}: {cause}: give probabilities in [0, 1], as "
            "config.classification.probabilities(logits) are"
        )
    for what, each in (("boxes", boxes), ("target boxes", true)):
        if not each.isfinite().all():
            raise ValueError(f"image {index}: {what} hold NaN or infinity")
        if (each[..., 2:] < each[..., :2]).any():
            raise ValueError(
                f"image {index}: {what} with x1 < x0 or y1 < y0: give xyxy, see "
                "detr_steps.boxes.cxcywh_to_xyxy"
            )
