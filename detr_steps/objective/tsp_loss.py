"""The set loss of TSP-FCOS: one answer for each object, of points that may answer.

Sun et al. 2021, "Rethinking Transformer-based Set Prediction for Object Detection",
section 4.1; weights and divisors as the official code has them. For
chapters/04_why_slow.ipynb.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from .. import boxes as box_ops
from ..distributed import mean_over_processes
from . import points as rule
from .classification import Focal, focal_loss
from .losses import LossWeights
from .matching import CostWeights, NonFiniteCost, PaddedTargets
from .points import Points


class Settings(Protocol):
    """The numbers of a config that the loss needs."""

    classification: Focal
    cost: CostWeights
    loss: LossWeights
    radius: float
    spare: float


class Answers(Protocol):
    """What the model says beyond its class logits; see `systems.tsp.Chosen`."""

    at: Tensor
    distances: Tensor
    centerness: Tensor
    dense: Tensor
    extents: Tensor


class Judged(NamedTuple):
    """The Q features of interest, held against the objects.

    `owners [B, S]` the object that each point may answer for, -1 for none, and `mine
    [B, Q]` those of the features; `sides [B, Q, 4]` distances to its sides, in strides,
    and `middle [B, Q]` how near to its middle they are, all 0 without an object;
    `matched [B, N]` the feature that answers for each object, -1 where none may.
    """

    owners: Tensor
    mine: Tensor
    sides: Tensor
    middle: Tensor
    matched: Tensor


def owners(
    points: Points, targets: PaddedTargets, extents: Tensor, radius: float
) -> Tensor:
    """The object that each point may answer for, -1 for none: `[B, S]`.

    `extents [B, 2]` width and height of the images in pixels.
    """
    corners = _corners(targets, extents)
    each = [boxes[:count] for boxes, count in zip(corners, targets.counts)]
    return rule.objects_of_points(points, each, radius)


def _corners(targets: PaddedTargets, extents: Tensor) -> Tensor:
    """Objects in pixels, xyxy: `[B, N, 4]`."""
    corners = box_ops.cxcywh_to_xyxy(targets.boxes.to(extents.dtype))
    return corners * extents.repeat(1, 2)[:, None]


@torch.no_grad()
def judge(
    settings: Settings,
    points: Points,
    answers: Answers,
    logits: Tensor,
    targets: PaddedTargets,
) -> Judged:
    """Match each object with the cheapest feature that may answer for it.

    `logits [B, Q, classes]`. The cost is −p(class) · centerness of the truth, weighed,
    and 1 − GIoU in strides. Raises: NonFiniteCost for diverged predictions.
    Source: Sun et al. 2021, section 4.1.
    """
    whole = owners(points, targets, answers.extents, settings.radius)
    mine = whole.gather(1, answers.at)  # [B, Q]
    if not targets.labels.shape[1]:  # no image has an object
        nothing = torch.zeros_like(answers.distances)
        return Judged(whole, mine, nothing, nothing[..., 0], whole[:, :0])
    thing = mine.clamp(min=0)
    true = rule.take(_corners(targets, answers.extents), thing)  # [B, Q, 4]
    stride = points.stride[answers.at][..., None]
    some = mine >= 0
    sides = rule.distances(points.at[answers.at], true) / stride * some[..., None]
    middle = rule.centerness(sides)
    giou = rule.giou_of_distances(answers.distances, sides)
    label = targets.labels.gather(1, thing)
    p = logits.float().sigmoid().gather(2, label[..., None])[..., 0]  # [B, Q]
    weights = settings.cost
    cost = -weights.classification * p * (middle + 1e-6) + weights.giou * (1 - giou)
    if not cost[some].isfinite().all():
        raise NonFiniteCost(
            "the cost of a feature and its object is not finite: the predictions have "
            "diverged (the targets were checked). Lower the learning rate, clip "
            "gradients, or look for NaN in the pixels"
        )
    number = torch.arange(targets.labels.shape[1], device=mine.device)
    allowed = mine[..., None] == number  # [B, Q, N]
    matched = rule.cheapest_allowed(cost[..., None].expand_as(allowed), allowed)
    return Judged(whole, mine, sides, middle, matched)


def loss(
    settings: Settings,
    judged: Judged,
    answers: Answers,
    logits: Tensor,
    targets: PaddedTargets,
) -> dict[str, Tensor]:
    """Terms `class`, `giou`, `centerness`, `class_points` and their weighted `total`.

    Classes: focal loss, positive for the matched features alone; those that may answer
    and do not are told "no" with the weight `spare`. Boxes: 1 − GIoU of all that may
    answer, by their centerness. `class_points` is FCOS's focal loss of all points, for
    choosing features. Without objects all are zero but the focal losses' negatives.
    """
    logits, dense = logits.float(), answers.dense.float()
    some = judged.mine >= 0  # [B, Q]
    allowed = _at_least_one(some.sum())
    terms = {
        "class": _classes(settings, judged, logits, targets, allowed),
        "giou": _boxes(judged, answers.distances),
        "centerness": _centerness(judged, answers, allowed),
        "class_points": _points(settings, judged, dense, targets),
    }
    weights = settings.loss
    total = weights.classification * (terms["class"] + terms["class_points"])
    total = total + weights.giou * terms["giou"] + terms["centerness"]
    return terms | {"total": total}


def _classes(
    settings: Settings,
    judged: Judged,
    logits: Tensor,
    targets: PaddedTargets,
    allowed: Tensor,
) -> Tensor:
    labels = _labels(targets, judged.mine)  # [B, Q], 0 without an object
    chosen = _is_chosen(judged.matched, judged.mine)  # [B, Q]
    named = functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    positive = named * chosen[..., None]
    idle = (judged.mine >= 0) & ~chosen
    weight = 1 - (1 - settings.spare) * named * idle[..., None]
    focal = settings.classification
    each = focal_loss(logits, positive, focal.alpha, focal.gamma)
    found = _at_least_one((judged.matched >= 0).sum())
    return (each * weight).sum() / (2 * (found + settings.spare * allowed))


def _boxes(judged: Judged, distances: Tensor) -> Tensor:
    overlap = rule.giou_of_distances(distances, judged.sides)
    lost = (1 - overlap).where(judged.mine >= 0, 0.0)
    whole = mean_over_processes(judged.middle.sum()).clamp(min=1e-6)
    return (lost * judged.middle).sum() / whole


def _centerness(judged: Judged, answers: Answers, allowed: Tensor) -> Tensor:
    each = functional.binary_cross_entropy_with_logits(
        answers.centerness.float(), judged.middle.float(), reduction="none"
    )
    return (each * (judged.mine >= 0)).sum() / allowed


def _points(
    settings: Settings, judged: Judged, dense: Tensor, targets: PaddedTargets
) -> Tensor:
    some = judged.owners >= 0
    named = functional.one_hot(_labels(targets, judged.owners), dense.shape[-1])
    positive = (named * some[..., None]).to(dense.dtype)
    focal = settings.classification
    each = focal_loss(dense, positive, focal.alpha, focal.gamma)
    return each.sum() / _at_least_one(some.sum())


def _is_chosen(matched: Tensor, mine: Tensor) -> Tensor:
    """Which features answer for an object: `[B, N], [B, Q] -> [B, Q]`."""
    if not matched.shape[1]:
        return torch.zeros_like(mine, dtype=torch.bool)
    query = torch.arange(mine.shape[1], device=mine.device)
    return (matched[:, None] == query[:, None]).any(-1)


def _labels(targets: PaddedTargets, things: Tensor) -> Tensor:
    if not targets.labels.shape[1]:
        return torch.zeros_like(things)
    return targets.labels.gather(1, things.clamp(min=0))


def _at_least_one(count: Tensor) -> Tensor:
    return mean_over_processes(count.float()).clamp(min=1)
